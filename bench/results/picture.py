"""The picture of measurements: GFLOP/s of every peer under the machine's peak."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from unrolled.bench.peers.registry import PEERS
from unrolled.bench.peers.workloads import SUITE_TITLES, SUITES
from unrolled.bench.results.lines import Line, measured, workload_name
from unrolled.engine.plotting.figures import INK, new_figure, save_figure, style_axes

# in the order of the peers; the next marker where there are more peers than colours
PEER_COLORS = (
    "#6b7280", "#2563eb", "#06b6d4", "#d97706", "#dc2626", "#78350f", "#7c3aed", "#059669", "#84cc16", "#db2777",
)  # fmt: skip
PEER_MARKERS = "os^D"


def _styles(groups: Iterable[dict[str, dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """Return the style of each peer that was measured; a peer of the registry has the same style in every picture."""
    there = {peer for suite in groups for workload in suite.values() for peer in workload}
    known = [*PEERS, *sorted(there - set(PEERS))]
    return {
        peer: {
            "color": PEER_COLORS[n % len(PEER_COLORS)],
            "marker": PEER_MARKERS[n // len(PEER_COLORS) % len(PEER_MARKERS)],
        }
        for n, peer in enumerate(known)
        if peer in there
    }


def draw(lines: Sequence[Line], output: Path) -> None:
    """Draw GFLOP/s of every peer that was measured, workload by workload, with the machine's peak; a panel a suite.

    Of several measurements of one workload and peer the last is drawn.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    suites = [suite for suite in SUITES if measured(lines, suite)]
    groups = {suite: _groups(measured(lines, suite)) for suite in suites}
    styles = _styles(groups.values())
    legend = 0.3 + 0.19 * (len(styles) + 1)
    heights = [max(0.9 + 0.24 * len(groups[suite]), legend) for suite in suites]
    figure = new_figure(height=sum(heights))
    panels = figure.subplots(len(suites), 1, squeeze=False, height_ratios=heights)[:, 0]
    peak = max(
        (line["limits"]["fma_gflops"][str(line["threads"])] for line in measured(lines, "machine")), default=None
    )
    for axes, suite in zip(panels, suites, strict=True):
        names = list(groups[suite])
        for peer, style in styles.items():
            points = [
                (groups[suite][name][peer], place) for place, name in enumerate(names) if peer in groups[suite][name]
            ]
            if points:
                x, y = zip(*points, strict=True)
                axes.plot(x, y, linestyle="", markersize=6, label=peer, **style)
        if peak:
            axes.axvline(peak, color=INK, linewidth=1, linestyle="--", label="FMA peak")
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xscale("log")
        axes.set_xlabel("GFLOP/s of useful work")
        axes.set_title(SUITE_TITLES[suite].lower(), loc="left", fontsize=11)
        style_axes(axes)
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    save_figure(figure, output)


def _groups(rows: Sequence[Line]) -> dict[str, dict[str, float]]:
    """Return GFLOP/s by workload and peer, in the order of the lines."""
    groups: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["parity"] == "ok":
            groups.setdefault(workload_name(row), {})[row["peer"]] = row["gflops"]
    return groups
