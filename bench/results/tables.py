"""Tables of measurements: one for each figure with a peer a column, and Markdown with all figures in a row."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from unrolled.bench.peers.registry import PEERS
from unrolled.bench.peers.workloads import SUITES
from unrolled.bench.results.lines import Line, measured, workload_name

# columns of Markdown, and those of measurements beside busy neighbours
MARKDOWN_COLUMNS = ("workload", "peer", "ms", "±", "tokens/s", "GFLOP/s", "peak", "first s", "MB", "× torch")
BUSY_COLUMNS = ("busy: tokens/s", "of the fair share", "busy: × torch")
SUBJECT = "numba"  # the peer whose ratios to torch are summarised


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of positive values."""
    return math.exp(sum(map(math.log, values)) / len(values))


def ratios(lines: Iterable[Line], name: str = "ratio_to_torch") -> list[float]:
    """Return how many times faster than torch ``SUBJECT`` is, workload by workload, from the figure ``name``."""
    return [line[name] for line in lines if line["peer"] == SUBJECT and name in line]


def _number(value: float | None, form: str, factor: float = 1.0) -> str:
    return "–" if value is None else format(value * factor, form)


def _share(line: Line) -> str:
    """Return the share of the limit that binds: the FMA peak, or, for one stream, the bandwidth."""
    if "bandwidth_fraction" in line:
        return f"{line['bandwidth_fraction']:.0%} bw"
    return _number(line.get("peak_fraction"), ".0%")


def cells(line: Line) -> list[str]:
    """Return a line as the texts of the columns that ``markdown`` gives it, or its failure.

    ± is half the distance of the quartiles. Times of calls are in microseconds.
    """
    name, calls = workload_name(line), line["suite"] == "stream"
    columns = columns_of([line])
    if line["parity"] != "ok":
        return [name, line["peer"], str(line["parity"]), *[""] * (len(columns) - 3)]
    ratio, unit = line.get("ratio_to_torch"), 1e6 if calls else 1e3
    lost = " (slower)" if ratio is not None and ratio < 1 and line["peer"] == SUBJECT else ""
    busy = [
        _number(line.get("busy_tokens_per_s"), ",.0f"),
        _number(line.get("share_of_fair"), ".0%"),
        _number(line.get("busy_ratio_to_torch"), ".2f"),
    ]
    return [
        name,
        line["peer"],
        _number(line.get("median_s"), ".3g", unit),
        _number(line.get("spread_s"), ".2g", unit / 2),
        _number(line.get("calls_per_s" if calls else "tokens_per_s"), ",.0f"),
        _number(line.get("gflops"), ".1f"),
        _share(line),
        _number(line.get("first_call_s"), ".2f"),
        _number(line.get("peak_rss_mb"), ".0f"),
        _number(ratio, ".2f") + lost,
        *(busy if line.get("busy") else []),
    ]


def columns_of(lines: Sequence[Line]) -> tuple[str, ...]:
    """Return the columns of the Markdown table of lines of one suite, all with busy neighbours or all without."""
    columns: tuple[str, ...] = MARKDOWN_COLUMNS
    if lines[0]["suite"] == "stream":
        columns = tuple({"ms": "µs", "tokens/s": "calls/s"}.get(name, name) for name in columns)
    return columns + BUSY_COLUMNS if lines[0].get("busy") else columns


def _three_digits(value: float | None) -> str:
    """Return a number with at least three digits."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _thousands(value: float | None) -> str:
    return _three_digits(None if value is None else value / 1e3)


class Figure(NamedTuple):
    """A figure with a table of its own: a peer a column, a workload a row.

    Args:
        title: its name and its unit.
        cell: its text; "–" where it was not measured.
        suites: those that have it.
    """

    title: str
    cell: Callable[[Line], str]
    suites: tuple[str, ...] = SUITES


def with_ragged_shares(lines: Sequence[Line]) -> list[Line]:
    """Return the lines; those of ragged rows with the share of the time of full rows, where it was measured."""
    full = {(workload_name(line), line["peer"]): line for line in lines if not line.get("ragged")}

    def share(line: Line) -> Line:
        beside = full.get((workload_name({**line, "ragged": False}), line["peer"]), {}) if line.get("ragged") else {}
        if "median_s" not in line or "median_s" not in beside:
            return line
        return {**line, "share_of_full_rows": line["median_s"] / beside["median_s"]}

    return [share(line) for line in lines]


def _spread(line: Line) -> str:
    return "–" if "spread_s" not in line else f"{line['spread_s'] / 2 / line['median_s']:.0%}"


_STEPS = ("train", "generate")
FIGURES = (
    Figure("ms", lambda line: _three_digits(line["median_s"] * 1e3), _STEPS),
    Figure("µs", lambda line: _three_digits(line["median_s"] * 1e6), ("stream",)),
    Figure("± half the distance of the quartiles", _spread),
    Figure("times as fast as torch", lambda line: _number(line.get("ratio_to_torch"), ".2f")),
    Figure("time of ragged rows over that of full ones", lambda line: _number(line.get("share_of_full_rows"), ".2f")),
    Figure("thousand tokens/s", lambda line: _thousands(line.get("tokens_per_s")), _STEPS),
    Figure("thousand calls/s", lambda line: _thousands(line.get("calls_per_s")), ("stream",)),
    Figure("thousand tokens/s beside busy neighbours", lambda line: _thousands(line.get("busy_tokens_per_s")), _STEPS),
    Figure("speed beside busy neighbours, % of a fair share", lambda line: _number(line.get("share_of_fair"), ".0%")),
    Figure(
        "times as fast as torch, both beside busy neighbours",
        lambda line: _number(line.get("busy_ratio_to_torch"), ".2f"),
    ),
    Figure("share of the FMA peak, or of the bandwidth (b)", lambda line: _share(line).replace("bw", "b")),
    Figure("peak memory, MB", lambda line: _number(line.get("peak_rss_mb"), ",.0f")),
    Figure("set-up, compilation and first call, s", lambda line: _three_digits(line.get("first_call_s"))),
)


def by_workload(lines: Sequence[Line], figure: Figure) -> tuple[list[str], list[list[str]]]:
    """Return the names of the peers that were measured, and the rows of a figure's table: the workload's name, a cell a peer.

    Repeats of a measurement have a row each. There are no rows if no line has the figure.
    """
    lines = [line for line in lines if line["suite"] in figure.suites]
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
    for name, where in (("ratio_to_torch", ""), ("busy_ratio_to_torch", " beside busy neighbours")):
        if found := ratios(rows, name):
            won = sum(ratio >= 1 for ratio in found)
            sentences.append(
                f"{SUBJECT} against torch at its best setting{where}: geometric mean {geometric_mean(found):.2f}, "
                f"from {min(found):.2f} to {max(found):.2f}; ahead in {won} of {len(found)} workloads."
            )
    if fair := [line["share_of_fair"] for line in rows if line["peer"] == SUBJECT and "share_of_fair" in line]:
        sentences.append(
            f"Beside busy neighbours {SUBJECT} reaches {min(fair):.0%} to {max(fair):.0%} of the speed that a fair share of "
            "the processor allows."
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
        for group in ([row for row in rows if not row.get("busy")], [row for row in rows if row.get("busy")]):
            if group:
                columns = columns_of(group)
                head = f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"
                parts.append(head + "".join(f"\n| {' | '.join(cells(row))} |" for row in group))
        if notes := [f"- {note}" for row in rows if row["parity"] == "ok" for note in remarks(row)]:
            parts.append("\n".join(notes))
        if text := summary(lines, suite):
            parts.append(text)
    return "\n\n".join(parts) + "\n"
