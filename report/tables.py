"""Tables and texts of the page: key figures, settings and samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from unrolled.engine.storage.json_text import object_in, to_json
from unrolled.report.charts import COLOR_COUNT
from unrolled.report.markup import text_of
from unrolled.report.runs import Run, differences

OPEN_SAMPLES = 6  # samples that are shown without a click


def name_of(run: Run, color: int) -> str:
    dashed = " dashed" if color >= COLOR_COUNT else ""
    return f'<span class="run"><i class="key c{color % COLOR_COUNT}{dashed}"></i>{text_of(run.label)}</span>'


def _best_metric(key: str) -> Callable[[Run], float | None]:
    """Return a function that finds a figure of the best validation of a run, if its result has one."""

    def find(run: Run) -> float | None:
        value = object_in(dict(run.result), "best").get(key)
        return float(value) if isinstance(value, int | float) else None

    return find


def _result_value(key: str) -> Callable[[Run], float | None]:
    def find(run: Run) -> float | None:
        value = run.result.get(key)
        return float(value) if isinstance(value, int | float) else None

    return find


class KeyFigure(NamedTuple):
    """A column of the table of key figures.

    Args:
        of: its value in a run; None for a run without one.
        form: the format of a value.
        choose: the choice of the best run, if there is a better and a worse.
    """

    of: Callable[[Run], float | None]
    form: str
    choose: Callable[[list[float]], float] | None = None


def _figures_of(runs: Sequence[Run]) -> dict[str, KeyFigure]:
    """Return the columns by their titles, with the metrics of all heads of the runs; as many as fit on the page."""
    metrics = dict.fromkeys(metric for run in runs for metric in run.head.metrics if not metric.detail)
    losses = {run.head.metrics[0] for run in runs}
    found = {
        f"validation {metric.title}" if metric in losses else metric.title: KeyFigure(
            _best_metric(metric.name), f"{{:{metric.form}}}", max if metric.higher_is_better else min
        )
        for metric in metrics
    }
    speeds = {
        f"{counts}/s": KeyFigure(_result_value(f"{counts}_per_s"), "{:,.0f}", max)
        for counts in dict.fromkeys(run.head.counts for run in runs)
    }
    return {
        **found,
        "at step": KeyFigure(_result_value("best_step"), "{:,.0f}"),
        "steps": KeyFigure(_result_value("steps"), "{:,.0f}"),
        "epochs": KeyFigure(_result_value("epochs"), "{:.2f}"),
        "seconds": KeyFigure(_result_value("seconds"), "{:,.0f}"),
        **speeds,
        "parameters": KeyFigure(lambda run: float(run.parameters), "{:,.0f}"),
    }


def key_figures(runs: Sequence[Run]) -> str:
    """Return the table of key figures, a row a run; the best value of a column is marked if there are several runs."""
    figures = _figures_of(runs)
    head = "".join(f'<th scope="col">{text_of(name)}</th>' for name in ("run", "network", *figures))
    columns = []
    for figure in figures.values():
        found = [figure.of(run) for run in runs]
        known = [value for value in found if value is not None and math.isfinite(value)]
        best = figure.choose(known) if figure.choose and known and len(runs) > 1 else None
        columns.append([_figure_cell(value, figure.form, value is not None and value == best) for value in found])
    rows = "".join(
        f'<tr><th scope="row">{name_of(run, color)}</th><td>{text_of(run.title)}</td>'
        f"{''.join(column[color] for column in columns)}</tr>"
        for color, run in enumerate(runs)
    )
    return scrolling(f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>", "Key figures")


def _figure_cell(value: float | None, form: str, best: bool) -> str:
    text = "–" if value is None or not math.isfinite(value) else form.format(value)
    return f'<td class="number{" best" if best else ""}">{text}</td>'


def scrolling(table: str, label: str) -> str:
    """Return a table in a region that scrolls on a narrow screen."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{text_of(label)}">{table}</div>'


def _setting_text(value: Any) -> str:
    return "–" if value is None else text_of(value if isinstance(value, str) else to_json(value))


def settings(runs: Sequence[Run]) -> str:
    """Return a table of the settings that differ between the runs, and a folded one of those that are equal."""
    differing, common = differences(runs)
    shared = "".join(
        f"<tr><th scope='row'>{text_of(name)}</th><td>{_setting_text(value)}</td></tr>"
        for name, value in common.items()
    )
    title = "The settings" if len(runs) == 1 else f"The {len(common)} settings that are the same"
    folded = (
        f"<details><summary>{title}</summary>{scrolling(f'<table>{shared}</table>', title)}</details>" if common else ""
    )
    if len(runs) == 1:
        return folded
    if not differing:
        return f'<p class="note">All settings are the same.</p>{folded}'
    head = "".join(f'<th scope="col">{name_of(run, color)}</th>' for color, run in enumerate(runs))
    rows = "".join(
        f'<tr><th scope="row">{text_of(name)}</th>{"".join(f"<td>{_setting_text(value)}</td>" for value in values)}</tr>'
        for name, values in differing.items()
    )
    table = f'<table><thead><tr><th scope="col">setting</th>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return scrolling(table, "Settings that differ") + folded


def samples(runs: Sequence[Run]) -> str:
    """Return the samples of each run during training: a few, evenly spaced, and the others folded."""
    return f'<div class="columns">{"".join(_run_samples(run, color) for color, run in enumerate(runs))}</div>'


def _run_samples(run: Run, color: int) -> str:
    title = f"<h3>{name_of(run, color)}</h3>"
    if not run.samples:
        return (
            f'<div>{title}<p class="note">No samples were recorded (train without --no-samples records them).</p></div>'
        )
    losses = {line["step"]: float(line["loss"]) for line in run.validations}
    items = [_sample_item(line, losses.get(line["step"])) for line in run.samples]
    last = len(items) - 1
    chosen = sorted({round(i * last / max(OPEN_SAMPLES - 1, 1)) for i in range(OPEN_SAMPLES)})
    seen = f"<ol class='samples'>{''.join(items[i] for i in chosen)}</ol>"
    if len(chosen) == len(items):
        return f"<div>{title}{seen}</div>"
    rest = "".join(item for i, item in enumerate(items) if i not in chosen)
    more = f"<details><summary>{len(items) - len(chosen)} more</summary><ol class='samples'>{rest}</ol></details>"
    return f"<div>{title}{seen}{more}</div>"


def _sample_item(line: dict[str, Any], loss: float | None) -> str:
    at = f"step {line['step']:,}" + ("" if loss is None else f" · loss {loss:.3f}")
    return f"<li><span>{at}</span><blockquote>{text_of(line['text'])}</blockquote></li>"
