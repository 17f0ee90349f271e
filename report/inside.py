"""Sections on the inside of networks: text tinted by surprise, gate activations, and gradients over distances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from unrolled.engine.data.corpus import Corpus
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.report.charts import COLOR_COUNT, Axis, ChartLine, data_block, histogram, line_chart, scatter
from unrolled.report.heldout import HeldOut, try_held_out
from unrolled.report.image import heat_map
from unrolled.report.markup import text_of
from unrolled.report.probe import Gate, TextProbe, gradient_reach, parameter_gradients, read_rows, windows
from unrolled.report.runs import Run
from unrolled.report.tables import name_of, scrolling

READ_TOKENS = 700  # for text and gates
GRADIENT_TOKENS = 6_500
MAP_COLUMNS, MAP_UNITS = 120, 48  # of a heat map
SHADES = 7
TITLES = {"i": "input gate", "f": "forget gate", "o": "output gate", "g": "candidate", "r": "reset gate",
          "z": "update gate", "n": "candidate", "h": "output"}  # fmt: skip


class RunProbe(NamedTuple):
    """Results of probing one run, or in ``text`` the reason why there are none."""

    text: HeldOut | str
    reading: TextProbe | None = None
    reach: np.ndarray | None = None
    norms: dict[str, tuple[float, float]] | None = None


def probe_run(run: Run, corpus: Corpus | None) -> RunProbe:
    """Read the held-out text of a run, and compute gradients on it."""
    text = try_held_out(run.checkpoint, run.path, corpus, GRADIENT_TOKENS)
    if isinstance(text, str):
        return RunProbe(text)
    ids = windows(text.rows)
    return RunProbe(
        text, read_rows(run.checkpoint, _leading_rows(text, READ_TOKENS)), gradient_reach(run.checkpoint, ids),
        parameter_gradients(run.checkpoint, ids),
    )  # fmt: skip


def _leading_rows(text: HeldOut, most: int) -> list[np.ndarray]:
    rows = []
    for row in text.rows:
        if most <= 0:
            break
        rows.append(row[: most + 1])
        most -= len(row) - 1
    return rows


def reading_sections(runs: Sequence[Run], probes: Sequence[RunProbe]) -> str:
    """Return the text, tinted by the surprise of each run."""
    sections = "".join(
        f'<div class="reading"><h3>{name_of(run, color)}</h3>{_tinted_text(run, probe)}</div>'
        for color, (run, probe) in enumerate(zip(runs, probes, strict=True))
    )
    return f'<div class="columns readings">{sections}</div>'


def _left_out_note(reason: str) -> str:
    return f'<p class="note">Left out: {text_of(reason)}.</p>'


def pieces(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[str]:
    """Return what each token adds to the text; a part of a character is added with the token that completes it."""
    streamer = tokenizer.streamer()
    added = [streamer.feed(token) for token in tokens]
    if added:
        added[-1] += streamer.flush()
    return added


def _tinted_text(run: Run, probe: RunProbe) -> str:
    if isinstance(probe.text, str) or probe.reading is None:
        return _left_out_note(str(probe.text))
    tokenizer, reading = run.checkpoint.tokenizer, probe.reading
    blind = math.log(run.checkpoint.config.vocab_size)
    shown = pieces(tokenizer, [surprise.token for surprise in reading.surprises])
    spans, details = [], []
    for place, (surprise, piece) in enumerate(zip(reading.surprises, shown, strict=True)):
        shade = min(SHADES, round(SHADES * surprise.nats / blind)) if blind > 0 else 0
        border = "<br>" if place in reading.starts[1:] else ""
        visible = text_of(piece).replace("\n", '<span class="end">⏎</span>\n') or '<span class="end">·</span>'
        hint = f"{surprise.nats:.2f} nats, p = {math.exp(-surprise.nats):.1%}"
        spans.append(f'{border}<span class="s{shade}" title="{hint}">{visible}</span>')
        likely = [[tokenizer.vocabulary[token], round(p, 4)] for token, p in surprise.likely]
        details.append([tokenizer.vocabulary[surprise.token], round(surprise.nats, 3), likely])
    mean = float(np.mean([surprise.nats for surprise in reading.surprises]))
    scale = "".join(f'<i class="s{shade}"></i>' for shade in range(SHADES + 1))
    return (
        f'<p class="note">{len(spans)} tokens at {mean:.3f} nats each: {text_of(probe.text.source)}.</p>'
        f'<div class="text" tabindex="0" role="group" aria-label="Text tinted by surprise. Arrow keys read the tokens.">'
        f'{"".join(spans)}</div><div class="under"><output class="readout" aria-live="polite">'
        "Point at a token, or use the arrow keys in the text.</output>"
        f'<span class="scale"><span>0</span>{scale}<span>{blind:.2f} nats, a blind guess</span></span></div>'
        f"{data_block(details)}"
    )


def gate_sections(runs: Sequence[Run], probes: Sequence[RunProbe]) -> str:
    """Return the gates of each run, folded except for the first run."""
    sections = []
    for color, (run, probe) in enumerate(zip(runs, probes, strict=True)):
        if isinstance(probe.text, str) or probe.reading is None:
            inner = _left_out_note(str(probe.text))
        else:
            letters = _column_letters(run, probe.reading)
            inner = "".join(_gate_section(gate, letters) for gate in probe.reading.gates)
        opened = " open" if color == 0 else ""
        sections.append(
            f"<details class='gates'{opened}><summary>{name_of(run, color)} {text_of(run.title)}</summary>{inner}</details>"
        )
    return "".join(sections)


def _column_letters(run: Run, reading: TextProbe) -> list[str] | None:
    """Return the character that is read at each column of the heat maps; None if tokens are no characters."""
    if run.checkpoint.tokenizer.level != "char":
        return None
    tokens = [surprise.token for surprise in reading.surprises]
    read = [None, *tokens[: MAP_COLUMNS - 1]]  # the first token read has no surprise
    words = ["" if token is None else run.checkpoint.tokenizer.vocabulary[token] for token in read]
    for start in reading.starts:
        if start < len(words):
            words[start] = ""
    return [{"\n": "⏎", " ": "\u2423"}.get(word, word if len(word) == 1 else "") for word in words]


def _gate_section(gate: Gate, letters: list[str] | None) -> str:
    name = f"{TITLES.get(gate.name, 'gate')} <var>{text_of(gate.name)}</var>, layer {gate.layer + 1}"
    low, high = gate.low, gate.high
    signed = gate.kind == "tanh"
    limit = 1.0 if high is not None else max(float(gate.values.max()), 1e-6)
    if high is None:
        words = f"off {low.mean():.0%} of the time; {int((low == 1).sum())} of {len(low)} units always"
    elif signed:
        words = f"near 1 {high.mean():.0%} of the time, near −1 {low.mean():.0%}"
    else:
        words = f"open {high.mean():.0%} of the time, shut {low.mean():.0%}"
    label = f"{TITLES.get(gate.name, 'gate')} {gate.name} of layer {gate.layer + 1}"
    order = np.argsort(gate.values.mean(axis=0), kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, min(MAP_UNITS, len(order))).round().astype(int)][::-1]
    shown = gate.values[:MAP_COLUMNS, chosen].T  # (units, steps)
    ends = "−1" if signed else "0"
    spread = histogram(gate.values, -1.0 if signed else 0.0, limit, f"Histogram of the {label}: {words}")
    dots = "" if high is None else scatter(
        high, low, "share near 1" if signed else "share open", "near −1" if signed else "shut",
        f"Each unit of the {label}: share of the text at which it is saturated at either end",
    )  # fmt: skip
    T = shown.shape[1]
    columns = "" if letters is None else "".join(f"<b>{text_of(letter)}</b>" for letter in letters[:T])
    row = f'<div class="letters" aria-hidden="true">{columns}</div>' if columns else ""
    described = (
        f"{len(chosen)} of {len(order)} units, ordered by their mean, over {T} tokens; from {ends} to {limit:.3g}"
    )
    image = f'<img alt="Activations of {described}" src="{heat_map(shown, limit)}">'
    return (
        f'<section class="gate"><h4>{name} <span>{words}</span></h4><div class="shapes">{spread}{dots}</div>'
        f'<div class="map" tabindex="0" role="region" aria-label="Heat map of the {text_of(label)}" style="--n:{T}">'
        f"{row}{image}</div></section>"
    )


def gradient_section(runs: Sequence[Run], probes: Sequence[RunProbe]) -> str:
    """Return the reach of gradients, all runs and layers in one figure, and a table of norms by parameter."""
    lines = []
    for color, (run, probe) in enumerate(zip(runs, probes, strict=True)):
        if probe.reach is None:
            continue
        for layer, norms in enumerate(probe.reach):
            label = run.label if len(probe.reach) == 1 else f"{run.label}, layer {layer + 1}"
            lines.append(ChartLine(label, color, np.arange(len(norms), dtype=float), norms))
    if not lines:
        return _left_out_note(str(probes[0].text))
    highest = max(float(line.y.max()) for line in lines)
    low = max(min(float(line.y[line.y > 0].min(initial=highest)) for line in lines), highest * 1e-12)
    chart = line_chart(
        "How far back gradients reach", lines, Axis("T − t, tokens back", low=0.0),
        Axis("‖∂L(T) / ∂h(t)‖, median over pieces of text, logarithmic", low / 1.5, highest * 1.5, log=True), "wide",
    )  # fmt: skip
    tables = "".join(
        _norm_table(run, color, probe) for color, (run, probe) in enumerate(zip(runs, probes, strict=True))
    )
    return chart + f'<div class="columns">{tables}</div>'


def _norm_table(run: Run, color: int, probe: RunProbe) -> str:
    if probe.norms is None:
        return f"<div><h3>{name_of(run, color)}</h3>{_left_out_note(str(probe.text))}</div>"
    top = max(gradient for _, gradient in probe.norms.values()) or 1.0
    rows = "".join(
        f'<tr><th scope="row">{text_of(name)}</th><td class="bar"><i class="c{color % COLOR_COUNT}" '
        f'style="width:{gradient / top:.1%}"></i></td><td class="number">{gradient:.2e}</td>'
        f'<td class="number">{weight:.3g}</td></tr>'
        for name, (weight, gradient) in probe.norms.items()
    )
    head = (
        '<th scope="col">parameter</th><th scope="col" colspan="2">gradient norm</th><th scope="col">weight norm</th>'
    )
    table = f'<table class="norms"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return f"<div><h3>{name_of(run, color)}</h3>{scrolling(table, f'Gradient norms of {run.label}')}</div>"
