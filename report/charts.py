"""Charts as HTML: lines as stretched SVG, all labels around them as text, so that these keep their size on any screen.

Coordinates inside an SVG are 0 … 1000 from left to right and from top to bottom. Colours are the classes ``c0`` … ``c5``,
which the page's style sheet defines for light and dark mode.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.storage.json_text import to_json
from unrolled.report.markup import text_of

COLOR_COUNT = 6
SIZE = 1000.0
TICKS = 5


class ChartLine(NamedTuple):
    """A curve, or points, in the colour of its run; ``low`` and ``high`` bound a band around the curve."""

    label: str
    color: int
    x: NDArray[np.float64]  # (n,)
    y: NDArray[np.float64]  # (n,)
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None
    points: bool = False


class Axis(NamedTuple):
    """Label and range of an axis; the range of the lines is used where ``low`` or ``high`` is None."""

    label: str
    low: float | None = None
    high: float | None = None
    log: bool = False


class _Scale(NamedTuple):
    """Map from values to 0 … 1."""

    low: float
    high: float
    log: bool

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return (np.log(np.maximum(values, 1e-300)) - low) / (high - low)
        return (values - self.low) / (self.high - self.low)

    @property
    def ticks(self) -> list[float]:
        if not self.log:
            return nice_ticks(self.low, self.high)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        steps = (1, 2, 5) if last - first <= 2 else (1,)
        every = max(1, (last - first) // TICKS)
        found = [float(f"{m}e{k}") for k in range(first, last + 1, every) for m in steps]
        found = [value for value in found if self.low <= value <= self.high]
        return found if len(found) > 2 else [tick for tick in nice_ticks(self.low, self.high) if tick > 0]


def nice_ticks(low: float, high: float) -> list[float]:
    """Return about ``TICKS`` round numbers from ``low`` to ``high``."""
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    return [round(k * step, 12) for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def tick_label(value: float) -> str:
    """Return the label of a number on an axis."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:g}M"
    if size >= 1e4:
        return f"{value / 1e3:g}k"
    if 0 < size < 1e-3:
        mantissa, _, exponent = f"{value:.0e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:g}"


def _make_scale(axis: Axis, values: Sequence[NDArray[np.float64]]) -> _Scale:
    found = np.concatenate([part.ravel() for part in values]) if values else np.zeros(0)
    found = found[np.isfinite(found) & ((found > 0) if axis.log else True)]
    low = axis.low if axis.low is not None else float(found.min(initial=math.inf))
    high = axis.high if axis.high is not None else float(found.max(initial=-math.inf))
    if not (math.isfinite(low) and math.isfinite(high)):
        low, high = (0.1, 1.0) if axis.log else (0.0, 1.0)
    if not high > low:
        low, high = (low / 2, low * 2) if axis.log else (low - 0.5, low + 0.5)
    return _Scale(low, high, axis.log)


def _path_data(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    """Return the data of an SVG path through points (n,) in 0 … 1, origin at the bottom; y is clipped just outside."""
    y = np.clip(1 - y, -0.1, 1.1)
    return "M" + "L".join(f"{SIZE * a:.1f} {SIZE * b:.1f}" for a, b in zip(x, y, strict=True))


def _line_svg(line: ChartLine, x: _Scale, y: _Scale) -> str:
    color = f"c{line.color % COLOR_COUNT}" + (" dashed" if line.color >= COLOR_COUNT else "")
    kept = np.isfinite(line.x) & np.isfinite(line.y) & ((line.y > 0) if y.log else True)
    across, up = x(line.x[kept]), y(line.y[kept])
    if not len(across):
        return ""
    if line.points:
        inside = (up >= -0.02) & (up <= 1.02)
        dots = "".join(_path_data(across[i : i + 1], up[i : i + 1]) + "h0" for i in np.flatnonzero(inside))
        return f'<path class="dot {color}" d="{dots}"/>' if dots else ""
    drawn = ""
    if line.low is not None and line.high is not None:
        border = np.concatenate([y(line.low[kept]), y(line.high[kept])[::-1]])
        drawn = f'<path class="band {color}" d="{_path_data(np.concatenate([across, across[::-1]]), border)}Z"/>'
    return drawn + f'<path class="line {color}" d="{_path_data(across, up)}"/>'


def _tick_labels(scale: _Scale, side: str) -> str:
    """Return the labels of an axis; those at its ends are aligned to stay inside."""
    labels = []
    for value in scale.ticks:
        place = float(scale(np.array([value]))[0])
        end = " first" if place < 0.03 else " last" if place > 0.97 else ""
        position = f"left:{place:.2%}" if side == "x" else f"bottom:{place:.2%}"
        labels.append(f'<span class="tick {side}{end}" style="{position}">{tick_label(value)}</span>')
    return "".join(labels)


def _grid_svg(y: _Scale) -> str:
    across = (SIZE * (1 - float(y(np.array([value]))[0])) for value in y.ticks)
    return f'<path class="grid" d="{"".join(f"M0 {place:.1f}H{SIZE:g}" for place in across)}"/>'


def line_chart(title: str, lines: Sequence[ChartLine], x: Axis, y: Axis, kind: str = "") -> str:
    """Return a figure of lines and points over one pair of axes, with a readout that follows pointer and arrow keys."""
    scales = _make_scale(x, [line.x for line in lines]), _make_scale(y, [line.y for line in lines])
    drawn = "".join(_line_svg(line, *scales) for line in lines)
    data = [
        {"label": line.label, "color": line.color % COLOR_COUNT, "x": _rounded(line.x), "y": _rounded(line.y)}
        for line in lines
    ]
    described = {"x": x.label, "low": scales[0].low, "high": scales[0].high, "lines": data}
    label = f"{title}: {y.label} against {x.label}, of {', '.join(dict.fromkeys(line.label for line in lines))}"
    return (
        f'<figure class="chart {kind}"><figcaption><b>{text_of(title)}</b> <span>{text_of(y.label)}</span></figcaption>'
        f'<div class="plot" tabindex="0" role="group" aria-label="{text_of(label)}. Arrow keys read its values.">'
        f'<svg viewBox="0 0 {SIZE:g} {SIZE:g}" preserveAspectRatio="none" role="img" aria-label="{text_of(label)}">'
        f"{_grid_svg(scales[1])}{drawn}</svg>{_tick_labels(scales[1], 'y')}{_tick_labels(scales[0], 'x')}"
        f'<i class="cursor" hidden></i></div><p class="axis">{text_of(x.label)}</p>'
        f'<output class="readout" aria-live="polite"></output>'
        f"{data_block(described)}</figure>"
    )


def data_block(values: object) -> str:
    """Return JSON for inside the page, escaped so that no text can end the block."""
    text = to_json(values, ascii=True).replace("<", "\\u003c").replace("&", "\\u0026")
    return f'<script type="application/json">{text}</script>'


def _rounded(values: NDArray[np.float64]) -> list[float | None]:
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values]


def histogram(values: NDArray, low: float, high: float, label: str, bins: int = 40) -> str:
    """Return a small histogram of ``values``.

    Heights are square roots of counts: otherwise the peaks of a saturated gate would hide everything else.
    """
    counts, edges = np.histogram(values, bins, (low, high))
    counts = np.sqrt(counts)
    top = max(float(counts.max()), 1.0)
    width = SIZE / bins
    bars = "".join(
        f'<rect x="{b * width:.1f}" y="{SIZE * (1 - n / top):.1f}" width="{width * 0.9:.1f}" height="{SIZE * n / top:.1f}"/>'
        for b, n in enumerate(counts.tolist())
        if n
    )
    return (
        f'<div class="small"><svg class="bars" viewBox="0 0 {SIZE:g} {SIZE:g}" preserveAspectRatio="none" role="img" '
        f'aria-label="{text_of(label)}">{bars}</svg><span class="from">{tick_label(edges[0])}</span>'
        f'<span class="mid">activation</span><span class="to">{tick_label(edges[-1])}</span></div>'
    )


def scatter(x: NDArray, y: NDArray, x_label: str, y_label: str, label: str) -> str:
    """Return a scatter plot of shares, 0 … 1 on both axes; on the diagonal the two add up to 1."""
    dots = "".join(f"M{SIZE * a:.0f} {SIZE * (1 - b):.0f}h0" for a, b in zip(x, y, strict=True))
    return (
        f'<div class="small"><svg class="scatter" viewBox="0 0 {SIZE:g} {SIZE:g}" preserveAspectRatio="none" role="img" '
        f'aria-label="{text_of(label)}"><path class="grid" d="M0 0L{SIZE:g} {SIZE:g}"/><path class="dot" d="{dots}"/></svg>'
        f'<span class="up">{text_of(y_label)}</span><span class="from">0</span><span class="mid">{text_of(x_label)}</span>'
        f'<span class="to">1</span></div>'
    )
