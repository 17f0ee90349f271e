"""Curves of training runs: loss, learning rate and gradient norm against steps and against seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from unrolled.engine.plotting.figures import split_groups
from unrolled.engine.storage.json_text import object_in
from unrolled.report.charts import Axis, ChartLine, line_chart
from unrolled.report.markup import text_of
from unrolled.report.runs import Run

MOST_POINTS = 240  # of the longest line
ACROSS = {"step": "training step", "seconds": "seconds of training"}


def _smoothed_line(run: Run, color: int, key: str, across: str, size: int) -> ChartLine:
    """Return the means of groups of steps, in a band from the smallest to the largest value of each group."""
    x = np.array([part.mean() for part in split_groups(run.steps[across], size)])
    parts = split_groups(run.steps[key], size)
    low, mean, high = (np.array([f(part) for part in parts]) for f in (np.min, np.mean, np.max))
    return ChartLine(run.label, color, x, mean, low, high)


def _validation_points(run: Run, color: int, across: str) -> ChartLine:
    x, y = (np.array([float(line[key]) for line in run.validations]) for key in (across, "loss"))
    return ChartLine(f"{run.label}, validation", color, x, y, points=True)


def _loss_range(lines: Sequence[ChartLine]) -> tuple[float | None, float | None]:
    """Return the range of the losses without the first 4%, whose fall would flatten the rest of the curve."""
    settled = [line.y[len(line.y) // 25 :] for line in lines]
    values = np.concatenate(settled) if settled else np.zeros(0)
    values = values[np.isfinite(values)]
    if not len(values):
        return None, None
    room = 0.04 * (values.max() - values.min()) or 0.1
    return float(values.min() - room), float(values.max() + room)


def curves(runs: Sequence[Run]) -> str:
    """Return the figures of all runs together."""
    # One group size for all runs, so that equal losses give equal lines.
    size = max(1, math.ceil(max(len(run.steps["step"]) for run in runs) / MOST_POINTS))
    figures = []
    label_of_loss = " / ".join(dict.fromkeys(run.head.metrics[0].label for run in runs))
    for across, label in ACROSS.items():
        x = Axis(label, low=0.0)
        losses = [_smoothed_line(run, color, "loss", across, size) for color, run in enumerate(runs)]
        losses += [_validation_points(run, color, across) for color, run in enumerate(runs) if run.validations]
        low, high = _loss_range(losses)
        figures.append(
            f'<div class="by by-{across}">'
            + line_chart("Loss", losses, x, Axis(label_of_loss, low, high), "wide")
            + _small_chart("Gradient norm", "before clipping, logarithmic", runs, "grad_norm", across, size, log=True)
            + _small_chart("Learning rate", "after schedule and warm-up", runs, "learning_rate", across, size, low=0.0)
            + "</div>"
        )
    note = "Lines are the training loss of every step; "
    if size > 1:
        note = (
            f"Lines are the training loss, each point the mean of {size} steps, "
            "in a band between the smallest and the largest of them; "
        )
    return (
        '<fieldset class="switch"><legend>Against</legend>'
        '<label><input type="radio" name="across" id="by-step" checked>steps</label>'
        '<label><input type="radio" name="across" id="by-seconds">seconds</label></fieldset>'
        f'{"".join(figures)}<p class="note">{note}dots are the validation loss.{_clipping_note(runs)}</p>'
    )


def _small_chart(
    title: str,
    label: str,
    runs: Sequence[Run],
    key: str,
    across: str,
    size: int,
    log: bool = False,
    low: float | None = None,
) -> str:
    lines = [_smoothed_line(run, color, key, across, size) for color, run in enumerate(runs)]
    if key == "learning_rate":
        lines = [line._replace(low=None, high=None) for line in lines]
        top = max((float(np.nanmax(line.y)) for line in lines if np.isfinite(line.y).any()), default=1.0)
        return line_chart(title, lines, Axis(ACROSS[across], low=0.0), Axis(label, low, top * 1.08 or None))
    return line_chart(title, lines, Axis(ACROSS[across], low=0.0), Axis(label, log=log))


def _clipping_note(runs: Sequence[Run]) -> str:
    """Return a note on the share of clipped steps of each run whose record has a clipping norm."""
    notes = []
    for run in runs:
        limit = object_in(run.record, "optimizer").get("clip_norm")
        if isinstance(limit, int | float):
            share = float((run.steps["grad_norm"] > limit).mean())
            notes.append(f"{run.label}: above {limit:g}, {share:.0%} of the steps")
    return text_of(f" Gradients were clipped by their norm: {'; '.join(notes)}.") if notes else ""
