"""Timed rounds of settings, and the lines of measurements that are made of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from unrolled.bench.peers.workloads import Workload

Failures = dict[str, dict[str, str]]  # peer -> setting -> reason


class TimedSetting(NamedTuple):
    """One setting of a peer and the seconds of a step or text in each round."""

    peer: str
    setting: str
    first: dict[str, Any]  # its figures before the rounds
    rounds: list[float]

    @property
    def median(self) -> float:
        """Return the median seconds of its rounds."""
        return float(np.median(self.rounds))


def fastest_settings(settings: Iterable[TimedSetting]) -> dict[str, TimedSetting]:
    """Return the setting with the smallest median of each peer, peers in the order of their first setting."""
    best: dict[str, TimedSetting] = {}
    for one in settings:
        if one.peer not in best or one.median < best[one.peer].median:
            best[one.peer] = one
    return best


def measured_lines(
    base: Mapping[str, Any],
    work: Workload,
    best: Mapping[str, TimedSetting],
    failures: Failures,
    limits: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:
    """Yield the lines that ``runner.measure`` describes: of peers none of whose settings passed, then of the others.

    Args:
        base: fields of every line, ``threads`` among them.
        work: the workload that was measured.
        best: from ``fastest_settings``.
        failures: settings that failed, with their reasons.
        limits: limits of the machine.
    """
    for name, settings in failures.items():
        if name not in best:
            parity = f"failed: {next(iter(settings.values()))}"
            yield {**base, "peer": name, "parity": parity, "failed_settings": settings}
    torch = best.get("torch")
    for name, one in best.items():
        figures = _figures(work, one, limits["fma_gflops"][str(base["threads"])])
        line = {**base, "peer": name, "setting": one.setting, **figures, **one.first, "parity": "ok"}
        if name in failures:
            line["failed_settings"] = failures[name]
        if work.suite == "generate" and work.batch == 1:
            read = work.weight_bytes / line["median_s"] * work.length / 1e9
            line["bandwidth_fraction"] = read / _bandwidth(work, limits)
        if torch is not None:
            # round by round, because a slow spell of the machine slows both peers
            pairs = zip(torch.rounds, one.rounds, strict=True)
            line["ratio_to_torch"] = float(np.median([reference / own for reference, own in pairs]))
        yield line


def _figures(work: Workload, one: TimedSetting, peak: float) -> dict[str, Any]:
    median = one.median
    gflops = work.flops / median / 1e9
    low, high = np.percentile(one.rounds, [25, 75])
    return {
        "median_s": median,
        "spread_s": float(high - low),
        "rounds": len(one.rounds),
        "tokens_per_s": work.tokens / median,
        "gflops": gflops,
        "peak_fraction": gflops / peak,
    }


def _bandwidth(work: Workload, limits: Mapping[str, Any]) -> float:
    """Return GB/s of one core from the smallest cache that holds the weights: one stream reads all of them at every step."""
    bandwidth = limits["read_gb_per_s"]["1"]
    for name, size in sorted(limits["caches"].items(), key=lambda item: item[1]):
        if work.weight_bytes <= size:
            return float(bandwidth[name])
    return float(bandwidth["memory"])
