"""From lines of measurements to tables, pictures and a comparison of two files."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unrolled.bench.peers import PEERS
from unrolled.bench.workloads import SUITES
from unrolled.engine.errors import ConfigError, ModelFileError
from unrolled.engine.plotting.figures import INK, dress, new_figure, save_figure

Line = dict[str, Any]
SIZES = ("cell", "layers", "hidden", "batch", "length", "vocab")
COLUMNS = ("workload", "peer", "ms", "±", "tokens/s", "GFLOP/s", "peak", "first s", "MB", "× torch")
SUBJECT = "numba"  # whose ratio to torch is summed up


OTHERS = ("batch", "memory")  # verbs whose lines have no peers to compare


def read_lines(paths: Iterable[Path]) -> list[Line]:
    """Return all measurements of steps and texts in some files, and of the machine; those of other verbs are left out.

    Raises:
        ModelFileError: a line is not what ``unrolled bench`` writes; says which.
    """
    paths = list(paths)
    lines = [line for path in paths for line in _lines_of(path) if line["suite"] not in OTHERS]
    if not any(line["suite"] in SUITES for line in lines):
        raise ModelFileError("no measurement of bench train or generate in " + ", ".join(map(str, paths)))
    return lines


def _lines_of(path: Path) -> Iterator[Line]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})") from error
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{path}: cannot be read ({error})") from error
    for number, row in enumerate(text.split("\n"), 1):
        if not row.strip():
            continue
        try:
            line = json.loads(row)
        except ValueError as error:
            raise ModelFileError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(line, dict) or line.get("suite") not in (*SUITES, *OTHERS, "machine"):
            raise ModelFileError(f"{path}, line {number}: not a line of unrolled bench; suite is missing or unknown")
        if line["suite"] in SUITES and (missing := [key for key in (*SIZES, "peer", "parity") if key not in line]):
            raise ModelFileError(f"{path}, line {number}: {', '.join(missing)} missing")
        yield line


def machine_name(line: Mapping[str, Any]) -> str:
    """Return what tells a machine from another, of its line or of ``system_info``."""
    return f"{line.get('processor')}, {line.get('cores')} cores"


def check_machine(path: Path, machine: Mapping[str, Any]) -> None:
    """Check that measurements of this machine may be added to a file.

    Raises:
        ConfigError: it holds those of another one, which its tables and means would mix with these.
    """
    known = measured(_lines_of(path), "machine") if path.is_file() else []
    if others := {machine_name(line) for line in known} - {machine_name(machine)}:
        raise ConfigError(
            f"{path}: holds measurements of {'; '.join(sorted(others))}, and this machine is {machine_name(machine)}; "
            "name another file"
        )


def other_machine(old: Iterable[Line], new: Iterable[Line]) -> str:
    """Return what to say of a comparison whose files are of different machines; "" where they are of one."""
    before, after = ({machine_name(line) for line in measured(lines, "machine")} for lines in (old, new))
    if before == after or not before or not after:
        return ""
    return f"measured on {'; '.join(sorted(before))}, now on {'; '.join(sorted(after))}"


def measured(lines: Iterable[Line], suite: str) -> list[Line]:
    return [line for line in lines if line["suite"] == suite]


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def ratios(lines: Iterable[Line], peer: str = SUBJECT) -> list[float]:
    """How many times faster than torch a peer is, workload by workload."""
    return [line["ratio_to_torch"] for line in lines if line["peer"] == peer and "ratio_to_torch" in line]


def _number(value: float | None, form: str, factor: float = 1.0) -> str:
    return "–" if value is None else format(value * factor, form)


def workload_name(line: Line) -> str:
    """What was measured, as short as it can be said: cell, layers × hidden size, batch, and what is not as usual."""
    usual = {"length": 64, "vocab": 65 if line["suite"] == "train" else 100, "embedding": 128, "optimizer": "adam"}
    unusual = {key: line[key] for key in usual if line.get(key, usual[key]) != usual[key]}
    rest = [value if key == "optimizer" else f"{key[0].upper()} {value}" for key, value in unusual.items()]
    return ", ".join([f"{line['cell']} {line['layers']}×{line['hidden']}", f"B {line['batch']}", *rest])


def _share(line: Line) -> str:
    """Of the limit that binds: the FMA peak, or the bandwidth where one stream reads all weights at every step."""
    if "bandwidth_fraction" in line:
        return f"{line['bandwidth_fraction']:.0%} bw"
    return _number(line.get("peak_fraction"), ".0%")


def cells(line: Line) -> list[str]:
    """A line as the texts of ``COLUMNS``; one that failed says so. ± is half the distance of the quartiles."""
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
    """Median time, with half the distance of the quartiles as a share of it."""
    value = line["median_s"] * 1e3
    text = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return text if "spread_s" not in line else f"{text} ±{line['spread_s'] / 2 / line['median_s']:.0%}"


class Figure(NamedTuple):
    """A figure of measurements that has a table of its own, a peer a column and a workload a row."""

    title: str
    cell: Callable[[Line], str]  # "–" where it was not measured


FIGURES = (
    Figure("ms; ± half the distance of the quartiles", _milliseconds),
    Figure("times as fast as torch", lambda line: _number(line.get("ratio_to_torch"), ".2f")),
    Figure("tokens/s", lambda line: _number(line.get("tokens_per_s"), ",.0f")),
    Figure("share of the FMA peak, or of the bandwidth (bw)", lambda line: _share(line)),
    Figure("peak memory, MB", lambda line: _number(line.get("peak_rss_mb"), ",.0f")),
    Figure("set-up, compilation and first call, s", lambda line: _number(line.get("first_call_s"), ".2f")),
)


def by_workload(lines: Sequence[Line], figure: Figure) -> tuple[list[str], list[list[str]]]:
    """Return the names of the peers that were measured, and the rows of a figure's table: a workload's name and a cell a peer.

    Repeats of a measurement have a row each. There are no rows where no line has the figure.
    """
    there = {line["peer"] for line in lines if line["parity"] == "ok"}
    peers = [peer for peer in dict.fromkeys([*PEERS, *sorted(there)]) if peer in there]
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
    """What a table must not be read without: that nothing was measured, or not every setting, and why."""
    about, failed = f"{line['peer']}, {workload_name(line)}", line.get("failed_settings", {})
    if line["parity"] != "ok":
        # the only setting's reason is that of the line
        more = [f"{about}, {setting}: {why}" for setting, why in failed.items()] if len(failed) > 1 else []
        return [f"{about}: {line['parity']}", *more]
    return [f"{about}: without its setting {setting!r}, which failed: {why}" for setting, why in failed.items()]


def summary(lines: Sequence[Line], suite: str) -> str:
    """One sentence over all workloads of a suite."""
    found = ratios(measured(lines, suite))
    if not found:
        return ""
    won = sum(ratio >= 1 for ratio in found)
    return (
        f"{SUBJECT} against torch at its best setting: geometric mean {geometric_mean(found):.2f}, "
        f"from {min(found):.2f} to {max(found):.2f}; ahead in {won} of {len(found)} workloads."
    )


def machine_text(line: Line) -> str:
    """A machine in one paragraph: what it is and what it can."""
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
    """All suites as Markdown tables."""
    parts = [machine_text(line) for line in measured(lines, "machine")]
    for suite in SUITES:
        rows = measured(lines, suite)
        if not rows:
            continue
        head = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"
        parts.append(head + "".join(f"\n| {' | '.join(cells(row))} |" for row in rows))
        if notes := [f"- {note}" for row in rows if row["parity"] == "ok" for note in remarks(row)]:
            parts.append("\n".join(notes))
        if text := summary(lines, suite):
            parts.append(text)
    return "\n\n".join(parts) + "\n"


class Change(NamedTuple):
    """One workload and peer that two files measured."""

    name: str
    old_s: float
    new_s: float
    slower: bool  # beyond the spread of both, and 5%

    @property
    def ratio(self) -> float:
        """New time over old."""
        return self.new_s / self.old_s


NOTICED = 0.05  # changes below this are noise on most machines


class Comparison(NamedTuple):
    """What became of the measurements of an old file in a new one."""

    changes: list[Change]  # the largest slowdown first
    lost: dict[str, str]  # workload and peer that only the old one has a time of -> why


def compare(old: Sequence[Line], new: Sequence[Line]) -> Comparison:
    """Hold what ``old`` measured against ``new``; of several lines about one workload and peer the last counts.

    Raises:
        ConfigError: ``new`` has no line about anything that ``old`` measured.
    """

    def by_name(lines: Sequence[Line]) -> dict[str, Line]:
        return {
            f"{line['suite']}, {workload_name(line)}, {line.get('threads')} threads: {line['peer']}": line
            for line in lines
            if line["suite"] in SUITES
        }

    after = by_name(new)
    before = {name: line for name, line in by_name(old).items() if line["parity"] == "ok"}
    if not before.keys() & after.keys():
        raise ConfigError("the new file has no workload, peer and number of threads that the old one measured")
    changes, lost = [], {}
    for name, one in before.items():
        two = after.get(name, {"parity": "missing"})
        if two["parity"] != "ok":
            lost[name] = two["parity"]
            continue
        margin = max(NOTICED * one["median_s"], one.get("spread_s", 0.0) + two.get("spread_s", 0.0))
        changes.append(
            Change(name, one["median_s"], two["median_s"], two["median_s"] > one["median_s"] + margin)
        )  # fmt: skip
    return Comparison(sorted(changes, key=lambda change: -change.ratio), lost)


# in the order of the peers; a second shape of points where there are more peers than colours
PALETTE = (
    "#6b7280", "#2563eb", "#06b6d4", "#d97706", "#dc2626", "#78350f", "#7c3aed", "#059669", "#84cc16", "#db2777",
)  # fmt: skip
MARKERS = "os^D"


def _styles(groups: Iterable[dict[str, dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """How each peer that was measured is drawn; one of the registry looks the same in every picture."""
    there = {peer for suite in groups for workload in suite.values() for peer in workload}
    known = [*PEERS, *sorted(there - set(PEERS))]
    return {
        peer: {"color": PALETTE[n % len(PALETTE)], "marker": MARKERS[n // len(PALETTE) % len(MARKERS)]}
        for n, peer in enumerate(known)
        if peer in there
    }


def draw(lines: Sequence[Line], output: Path) -> None:
    """GFLOP/s of every peer that was measured, workload by workload, under the machine's peak; a panel a suite.

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
        axes.set_title("training step" if suite == "train" else "generation", loc="left", fontsize=11)
        dress(axes)
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    save_figure(figure, output)


def _groups(rows: Sequence[Line]) -> dict[str, dict[str, float]]:
    """Workload to peer to GFLOP/s, in the order of the lines."""
    groups: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["parity"] == "ok":
            groups.setdefault(workload_name(row), {})[row["peer"]] = row["gflops"]
    return groups
