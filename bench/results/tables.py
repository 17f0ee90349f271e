"""Tables of measurements: one for each figure with a peer a column, and Markdown with all figures in a row."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from unrolled.bench.peers.registry import PEERS
from unrolled.bench.peers.workloads import SUITES
from unrolled.bench.results.lines import Line, measured, workload_name

MARKDOWN_COLUMNS = ("workload", "peer", "ms", "±", "tokens/s", "GFLOP/s", "peak", "first s", "MB", "× torch")
SUBJECT = "numba"  # the peer whose ratios to torch are summarised


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of positive values."""
    return math.exp(sum(map(math.log, values)) / len(values))


def ratios(lines: Iterable[Line], peer: str = SUBJECT) -> list[float]:
    """Return how many times faster than torch a peer is, workload by workload."""
    return [line["ratio_to_torch"] for line in lines if line["peer"] == peer and "ratio_to_torch" in line]


def _number(value: float | None, form: str, factor: float = 1.0) -> str:
    return "–" if value is None else format(value * factor, form)


def _share(line: Line) -> str:
    """Return the share of the limit that binds: the FMA peak, or, for one stream, the bandwidth."""
    if "bandwidth_fraction" in line:
        return f"{line['bandwidth_fraction']:.0%} bw"
    return _number(line.get("peak_fraction"), ".0%")


def cells(line: Line) -> list[str]:
    """Return a line as the texts of ``MARKDOWN_COLUMNS``, or its failure; ± is half the distance of the quartiles."""
    name = workload_name(line)
    if line["parity"] != "ok":
        return [name, line["peer"], str(line["parity"]), *[""] * 7]
    ratio = line.get("ratio_to_torch")
    lost = " (slower)" if ratio is not None and ratio < 1 and line["peer"] == SUBJECT else ""
    return [
        name,
        line["peer"],
        _number(line.get("median_s"), ".3g", 1e3),
        _number(line.get("spread_s"), ".2g", 0.5e3),
        _number(line.get("tokens_per_s"), ",.0f"),
        _number(line.get("gflops"), ".1f"),
        _share(line),
        _number(line.get("first_call_s"), ".2f"),
        _number(line.get("peak_rss_mb"), ".0f"),
        _number(ratio, ".2f") + lost,
    ]


def _milliseconds(line: Line) -> str:
    """Return the median time, with half the distance of the quartiles as a share of it."""
    value = line["median_s"] * 1e3
    text = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return text if "spread_s" not in line else f"{text} ±{line['spread_s'] / 2 / line['median_s']:.0%}"


class Figure(NamedTuple):
    """A figure with a table of its own: a peer a column, a workload a row."""

    title: str
    cell: Callable[[Line], str]  # "–" where it was not measured


def with_ragged_shares(lines: Sequence[Line]) -> list[Line]:
    """Return the lines; those of ragged rows with the share of the time of full rows, where it was measured."""
    full = {(workload_name(line), line["peer"]): line for line in lines if not line.get("ragged")}

    def share(line: Line) -> Line:
        beside = full.get((workload_name({**line, "ragged": False}), line["peer"]), {}) if line.get("ragged") else {}
        if "median_s" not in line or "median_s" not in beside:
            return line
        return {**line, "share_of_full_rows": line["median_s"] / beside["median_s"]}

    return [share(line) for line in lines]


FIGURES = (
    Figure("ms; ± half the distance of the quartiles", _milliseconds),
    Figure("times as fast as torch", lambda line: _number(line.get("ratio_to_torch"), ".2f")),
    Figure("time of ragged rows over that of full ones", lambda line: _number(line.get("share_of_full_rows"), ".2f")),
    Figure("tokens/s", lambda line: _number(line.get("tokens_per_s"), ",.0f")),
    Figure("share of the FMA peak, or of the bandwidth (bw)", lambda line: _share(line)),
    Figure("peak memory, MB", lambda line: _number(line.get("peak_rss_mb"), ",.0f")),
    Figure("set-up, compilation and first call, s", lambda line: _number(line.get("first_call_s"), ".2f")),
)


def by_workload(lines: Sequence[Line], figure: Figure) -> tuple[list[str], list[list[str]]]:
    """Return the names of the peers that were measured, and the rows of a figure's table: the workload's name, a cell a peer.

    Repeats of a measurement have a row each. There are no rows if no line has the figure.
    """
    there = {line["peer"] for line in lines if line["parity"] == "ok"}
    peers = [peer for peer in dict.fromkeys([*PEERS, *sorted(there)]) if peer in there]
    lines = with_ragged_shares(lines)
    found: dict[tuple[str, int], dict[str, str]] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for line in lines:
        if line["parity"] == "ok":
            name, peer = workload_name(line), line["peer"]
            found.setdefault((name, seen[name, peer]), {})[peer] = figure.cell(line)
            seen[name, peer] += 1
    if all(cell == "–" for row in found.values() for cell in row.values()):
        return peers, []
    return peers, [[name, *(row.get(peer, "") for peer in peers)] for (name, _), row in found.items()]


def remarks(line: Line) -> list[str]:
    """Return the remarks that belong below a table: that nothing was measured, or not every setting, and why."""
    about, failed = f"{line['peer']}, {workload_name(line)}", line.get("failed_settings", {})
    if line["parity"] != "ok":
        # the only setting's reason is that of the line
        more = [f"{about}, {setting}: {why}" for setting, why in failed.items()] if len(failed) > 1 else []
        return [f"{about}: {line['parity']}", *more]
    return [f"{about}: without its setting {setting!r}, which failed: {why}" for setting, why in failed.items()]


def summary(lines: Sequence[Line], suite: str) -> str:
    """Return a sentence about all workloads of a suite, and one about those of ragged rows; "" for what was not measured."""
    rows = measured(lines, suite)
    sentences = []
    if found := ratios(rows):
        won = sum(ratio >= 1 for ratio in found)
        sentences.append(
            f"{SUBJECT} against torch at its best setting: geometric mean {geometric_mean(found):.2f}, "
            f"from {min(found):.2f} to {max(found):.2f}; ahead in {won} of {len(found)} workloads."
        )
    shares: dict[str, list[float]] = {}
    for line in with_ragged_shares(rows):
        if "share_of_full_rows" in line:
            shares.setdefault(line["peer"], []).append(line["share_of_full_rows"])
    if shares:
        ranges = ", ".join(f"{min(some):.2f} to {max(some):.2f} on {peer}" for peer, some in shares.items())
        sentences.append(f"Ragged rows, half of whose time steps are padding, take {ranges} of the time of full rows.")
    return " ".join(sentences)


def machine_text(line: Line) -> str:
    """Return a paragraph about a machine: its description and its limits."""
    limits = line["limits"]
    peaks = ", ".join(f"{value:.0f} with {n} thread{'s' * (n != '1')}" for n, value in limits["fma_gflops"].items())
    reading = ", ".join(f"{level} {value:.0f}" for level, value in limits["read_gb_per_s"]["1"].items())
    versions = ", ".join(
        f"{name} {version}"
        for name, version in line.get("versions", {}).items()
        if version and name in ("unrolled", "numpy", "numba", "torch", "onnxruntime")
    )
    return (
        f"{line['processor']}, {line['cores']} cores, {line['threads']} threads. Measured limits: float32 FMA {peaks} "
        f"GFLOP/s; one core reads, in GB/s: {reading}. Python {line['python']}, {versions}. {line['date']}."
    )


def markdown(lines: Sequence[Line]) -> str:
    """Return all suites as Markdown tables."""
    parts = [machine_text(line) for line in measured(lines, "machine")]
    for suite in SUITES:
        rows = measured(lines, suite)
        if not rows:
            continue
        head = f"| {' | '.join(MARKDOWN_COLUMNS)} |\n|{'---|' * len(MARKDOWN_COLUMNS)}"
        parts.append(head + "".join(f"\n| {' | '.join(cells(row))} |" for row in rows))
        if notes := [f"- {note}" for row in rows if row["parity"] == "ok" for note in remarks(row)]:
            parts.append("\n".join(notes))
        if text := summary(lines, suite):
            parts.append(text)
    return "\n\n".join(parts) + "\n"
