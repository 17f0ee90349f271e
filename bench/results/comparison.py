"""Comparison of two files of measurements: workloads that got slower, and measurements that are missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from unrolled.bench.peers.workloads import SUITES
from unrolled.bench.results.lines import Line, machine_name, measured, workload_name
from unrolled.engine.errors import ConfigError

NOTICED = 0.05  # changes below this are noise on most machines


class Change(NamedTuple):
    """Times of one workload and peer that two files measured."""

    name: str
    old_s: float
    new_s: float
    slower: bool  # by more than the spread of both, and 5%

    @property
    def ratio(self) -> float:
        """Return the new time divided by the old one."""
        return self.new_s / self.old_s


class Comparison(NamedTuple):
    """Measurements of an old file, compared with those of a new one."""

    changes: list[Change]  # the largest slowdown first
    lost: dict[str, str]  # workload and peer that only the old file has a time of -> reason


def other_machine(old: Iterable[Line], new: Iterable[Line]) -> str:
    """Return a warning if two files were measured on different machines, else ""."""
    before, after = ({machine_name(line) for line in measured(lines, "machine")} for lines in (old, new))
    if before == after or not before or not after:
        return ""
    return f"measured on {'; '.join(sorted(before))}, now on {'; '.join(sorted(after))}"


def _measurements(line: Line) -> list[Line]:
    """Return a line for each measurement: that without busy neighbours, and, if there were any, the one beside them."""
    if not line.get("busy"):
        return [line]
    times = {key: line[f"busy_{key}"] for key in ("median_s", "spread_s") if f"busy_{key}" in line}
    return [{**line, "busy": 0}, {**line, **times}]


def compare(old: Sequence[Line], new: Sequence[Line]) -> Comparison:
    """Compare the measurements of ``old`` with those of ``new``; of several lines about one workload and peer the last counts.

    Raises:
        ConfigError: ``new`` has no line about any workload and peer that ``old`` measured.
    """

    def by_name(lines: Sequence[Line]) -> dict[str, Line]:
        return {
            f"{one['suite']}, {workload_name(one)}, {one.get('threads')} threads: {one['peer']}": one
            for line in lines
            if line["suite"] in SUITES
            for one in _measurements(line)
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
