"""Tables and texts of the page: key figures, settings, samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from unrolled.engine.storage.json_text import object_in, to_json
from unrolled.report.charts import COLORS
from unrolled.report.markup import text_of
from unrolled.report.runs import Run, differences

SHOWN = 6  # samples that are seen without a click


def name_of(run: Run, color: int) -> str:
    dashed = " dashed" if color >= COLORS else ""
    return f'<span class="run"><i class="key c{color % COLORS}{dashed}"></i>{text_of(run.label)}</span>'


def _best(key: str) -> Callable[[Run], float | None]:
    def find(run: Run) -> float | None:
        value = object_in(dict(run.result), "best").get(key)
        return float(value) if isinstance(value, int | float) else None

    return find


def _result(key: str) -> Callable[[Run], float | None]:
    def find(run: Run) -> float | None:
        value = run.result.get(key)
        return float(value) if isinstance(value, int | float) else None

    return find


# column: value of a run, how it is written, and which of all is the best one; as many as fit beside each other
FIGURES: dict[str, tuple[Callable[[Run], float | None], str, Callable[[list[float]], float] | None]] = {
    "validation loss": (_best("loss"), "{:.4f}", min),
    "perplexity": (_best("perplexity"), "{:.2f}", min),
    "accuracy": (_best("accuracy"), "{:.1%}", max),
    "at step": (_result("best_step"), "{:,.0f}", None),
    "steps": (_result("steps"), "{:,.0f}", None),
    "epochs": (_result("epochs"), "{:.2f}", None),
    "seconds": (_result("seconds"), "{:,.0f}", None),
    "tokens/s": (_result("tokens_per_s"), "{:,.0f}", max),
    "parameters": (lambda run: float(run.parameters), "{:,.0f}", None),
}


def key_figures(runs: Sequence[Run]) -> str:
    """A row a run; the best of a column stands out where there is something to compare."""
    head = "".join(f'<th scope="col">{name}</th>' for name in ("run", "network", *FIGURES))
    columns = []
    for value, form, choose in FIGURES.values():
        found = [value(run) for run in runs]
        known = [one for one in found if one is not None and math.isfinite(one)]
        best = choose(known) if choose and known and len(runs) > 1 else None
        columns.append([_cell(one, form, one is not None and one == best) for one in found])
    rows = "".join(
        f'<tr><th scope="row">{name_of(run, color)}</th><td>{text_of(run.title)}</td>'
        f"{''.join(column[color] for column in columns)}</tr>"
        for color, run in enumerate(runs)
    )
    return scrolling(f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>", "Key figures")


def _cell(value: float | None, form: str, best: bool) -> str:
    text = "–" if value is None or not math.isfinite(value) else form.format(value)
    return f'<td class="number{" best" if best else ""}">{text}</td>'


def scrolling(table: str, label: str) -> str:
    """A table that scrolls inside itself on a narrow screen."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{text_of(label)}">{table}</div>'


def _value(value: Any) -> str:
    return "–" if value is None else text_of(value if isinstance(value, str) else to_json(value))


def settings(runs: Sequence[Run]) -> str:
    """What differs between the runs as a table, what they share folded away."""
    differing, common = differences(runs)
    shared = "".join(
        f"<tr><th scope='row'>{text_of(name)}</th><td>{_value(value)}</td></tr>" for name, value in common.items()
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
        f'<tr><th scope="row">{text_of(name)}</th>{"".join(f"<td>{_value(value)}</td>" for value in values)}</tr>'
        for name, values in differing.items()
    )
    table = f'<table><thead><tr><th scope="col">setting</th>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return scrolling(table, "Settings that differ") + folded


def samples(runs: Sequence[Run]) -> str:
    """What each run wrote as it learned, a few of its samples evenly chosen, all of them behind a click."""
    return f'<div class="columns">{"".join(_samples_of(run, color) for color, run in enumerate(runs))}</div>'


def _samples_of(run: Run, color: int) -> str:
    title = f"<h3>{name_of(run, color)}</h3>"
    if not run.samples:
        return (
            f'<div>{title}<p class="note">No samples were recorded (train without --no-samples records them).</p></div>'
        )
    losses = {line["step"]: float(line["loss"]) for line in run.validations}
    items = [_sample(line, losses.get(line["step"])) for line in run.samples]
    last = len(items) - 1
    chosen = sorted({round(i * last / max(SHOWN - 1, 1)) for i in range(SHOWN)})
    seen = f"<ol class='samples'>{''.join(items[i] for i in chosen)}</ol>"
    if len(chosen) == len(items):
        return f"<div>{title}{seen}</div>"
    rest = "".join(item for i, item in enumerate(items) if i not in chosen)
    more = f"<details><summary>{len(items) - len(chosen)} more</summary><ol class='samples'>{rest}</ol></details>"
    return f"<div>{title}{seen}{more}</div>"


def _sample(line: dict[str, Any], loss: float | None) -> str:
    at = f"step {line['step']:,}" + ("" if loss is None else f" · loss {loss:.3f}")
    return f"<li><span>{at}</span><blockquote>{text_of(line['text'])}</blockquote></li>"
