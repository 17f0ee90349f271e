"""Pictures of a study and of a range test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unrolled.engine.plotting.figures import FAINT, INK, PALETTE, new_figure, save_figure, style_axes
from unrolled.tuning.outcomes import Trial
from unrolled.tuning.range_test import RangeTest
from unrolled.tuning.space import Choices, Domain, Space, written

PANELS_A_ROW = 3
JITTER = 0.16  # horizontal spread of a choice, so that trials with the same choice do not overlap


def draw_study(trials: Sequence[Trial], space: Space, output: Path, title: str = "") -> None:
    """Draw the loss against each searched setting: complete trials, pruned ones at their last loss, the best one.

    Trials without a loss are drawn at the upper edge.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    columns = 2 if len(space) == 4 else min(len(space), PANELS_A_ROW)
    rows = -(-len(space) // columns)
    figure = new_figure(max(4 * columns, 5), 3.4 * rows + 0.6)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    limits = _loss_limits(trials)
    for place, axes in enumerate(panels.flat):
        if place >= len(space):
            axes.set_visible(False)
            continue
        name = list(space)[place]
        _draw_setting(axes, trials, name, space[name], limits)
        axes.set_ylim(*limits)
        if place % columns == 0:
            axes.set_ylabel("validation loss, nats a token")
    handles, labels = panels.flat[0].get_legend_handles_labels()
    note = "at the upper edge: higher, or without a loss" if any(_height(t, limits)[1] for t in trials) else None
    legend = {"frameon": False, "ncols": len(labels), "fontsize": 9, "title_fontsize": 8, "title": note}
    figure.legend(handles, labels, loc="outside lower center", **legend)
    if title:
        figure.suptitle(title, parse_math=False, fontsize=11)
    save_figure(figure, output)


def _loss_limits(trials: Sequence[Trial]) -> tuple[float, float]:
    """Return limits around the complete trials, with a margin; the others are drawn at the edge."""
    losses = [t.loss for t in trials if t.loss is not None and t.state == "complete"]
    losses = losses or [t.loss for t in trials if t.loss is not None] or [0.0, 1.0]
    low, high = min(losses), max(losses)
    median = float(np.median(losses))
    high = min(high, median + 6 * max(median - low, 0.02 * abs(median)))  # one bad trial must not flatten the others
    room = max(high - low, 0.02)
    return low - 0.12 * room, high + 0.25 * room


def _height(trial: Trial, limits: tuple[float, float]) -> tuple[float, bool]:
    """Return the height of a trial, and whether it is the edge instead of its loss."""
    edge = limits[1] - 0.03 * (limits[1] - limits[0])
    if trial.loss is None or trial.state not in ("complete", "pruned") or trial.loss > edge:
        return edge, True
    return trial.loss, False


# label, states, and the style of the mark
MARKS: tuple[tuple[str, tuple[str, ...], dict[str, Any]], ...] = (
    ("complete", ("complete",), {"marker": "o", "color": PALETTE[0], "s": 30}),
    ("given up", ("pruned",), {"marker": "x", "color": FAINT, "s": 26, "linewidths": 1.4}),
    ("diverged or failed", ("diverged", "refused", "failed"), {"marker": "^", "color": PALETTE[3], "s": 28}),
)


def _draw_setting(axes: Any, trials: Sequence[Trial], name: str, domain: Domain, limits: tuple[float, float]) -> None:
    best = next((t for t in trials if t.state == "complete"), None)
    for label, states, look in MARKS:
        shown = [t for t in trials if t.state in states and name in t.params]
        x = [_place(domain, t) for t in shown]
        y = [_height(t, limits)[0] for t in shown]
        if shown or label == "complete":
            axes.scatter([place[name] for place in x], y, label=label, zorder=3, alpha=0.9, **look)
    if best is not None:
        axes.scatter(
            [_place(domain, best)[name]], [best.loss], s=130, facecolors="none", edgecolors=INK, linewidths=1.5,
            label="best", zorder=4,
        )  # fmt: skip
    style_axes(axes)
    axes.set_xlabel(name.replace("_", "-"))
    if isinstance(domain, Choices):
        axes.set_xticks(range(len(domain.values)), [written(value) for value in domain.values])
        axes.set_xlim(-0.6, len(domain.values) - 0.4)
    elif domain.log:
        axes.set_xscale("log")


def _place(domain: Domain, trial: Trial) -> dict[str, float]:
    """Return the place of a trial on the axis of each setting; trials of a choice are spread, each by a fixed amount."""
    shift = JITTER * math.sin(2.4 * trial.number)
    return {
        name: domain.values.index(value) + shift if isinstance(domain, Choices) and value in domain.values else value
        for name, value in trial.params.items()
    }


def draw_range_test(test: RangeTest, output: Path, title: str = "") -> None:
    """Draw the loss over the learning rate: of each step, smoothed, and the rates that are suggested.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    figure = new_figure()
    axes = figure.add_subplot()
    axes.plot(test.rates, test.losses, color=FAINT, linewidth=0.9, alpha=0.7, label="a step's loss")
    axes.plot(test.rates, test.smoothed, color=PALETTE[0], linewidth=2, label="smoothed")
    for rate, color, text in (
        (test.suggestion, PALETTE[2], "a tenth of the minimum's"),
        (test.steepest, PALETTE[1], "steepest descent"),
    ):
        if rate is not None:
            suggested = color == PALETTE[2]
            label = f"{text}: {rate:.2g}" + (", suggested" if suggested else "")
            axes.axvline(rate, color=color, linewidth=1.8 if suggested else 1.2, linestyle="-" if suggested else "--")
            axes.plot([rate], [test.smoothed_at(rate)], "o", color=color, markersize=8, label=label)
    smoothed = np.array(test.smoothed)
    low = float(min(smoothed.min(), min(test.losses)))
    high = float(np.max(smoothed[: max(10, int(smoothed.argmin()) + 1)]))
    room = max(high - low, 0.05)
    axes.set_ylim(low - 0.08 * room, high + 0.35 * room)  # the explosion is cut off
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss, nats a token")
    axes.set_title(title, parse_math=False)
    style_axes(axes)
    axes.legend(loc="upper left", framealpha=1, edgecolor="none")  # over the lines of the rates
    save_figure(figure, output)
