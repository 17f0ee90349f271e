"""Timed rounds of settings, and the lines of measurements that are made of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from unrolled.bench.peers.workloads import Workload
from unrolled.engine.cores import usable_cores

Failures = dict[str, dict[str, str]]  # peer -> setting -> reason


class TimedSetting(NamedTuple):
    """One setting of a peer and the seconds of a step, text or call in each round."""

    peer: str
    setting: str
    threads: int
    first: dict[str, Any]  # its figures before the rounds
    rounds: list[float]
    busy_rounds: list[float]  # beside busy neighbours

    @property
    def median(self) -> float:
        """Return the median seconds of its rounds."""
        return float(np.median(self.rounds))

    @property
    def busy_median(self) -> float:
        """Return the median seconds of its rounds beside busy neighbours."""
        return float(np.median(self.busy_rounds))


def fastest_settings(settings: Iterable[TimedSetting], busy: bool = False) -> dict[str, TimedSetting]:
    """Return the setting with the smallest median of each peer, peers in the order of their first setting.

    Args:
        busy: whether the rounds beside busy neighbours count.
    """
    best: dict[str, TimedSetting] = {}
    for one in settings:
        known = best.get(one.peer)
        if known is None or (one.busy_median < known.busy_median if busy else one.median < known.median):
            best[one.peer] = one
    return best


def fair_share(cores: int, threads: int, neighbours: int) -> float:
    """Return the share of its idle speed that a process gets if all busy threads of a machine get equal time.

    With n threads and N neighbours on c cores it gets c·n / (n + N) of the min(c, n) cores that it has alone, at most all.
    """
    return min(1.0, cores * threads / (threads + neighbours) / min(cores, threads))


def measured_lines(
    base: Mapping[str, Any],
    work: Workload,
    settings: Sequence[TimedSetting],
    failures: Failures,
    limits: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:
    """Yield the lines that ``runner.measure`` describes: of peers none of whose settings passed, then of the others.

    Args:
        base: fields of every line, ``threads`` and ``busy`` among them.
        work: the workload that was measured.
        settings: those that passed, with their rounds.
        failures: settings that failed, with their reasons.
        limits: limits of the machine.
    """
    best = fastest_settings(settings)
    for name, reasons in failures.items():
        if name not in best:
            parity = f"failed: {next(iter(reasons.values()))}"
            yield {**base, "peer": name, "parity": parity, "failed_settings": reasons}
    torch = best.get("torch")
    beside = fastest_settings(settings, busy=True) if base["busy"] else {}
    for name, one in best.items():
        figures = _figures(work, one, limits["fma_gflops"][str(base["threads"])])
        line = {**base, "peer": name, "setting": one.setting, **figures, **one.first, "parity": "ok"}
        if name in failures:
            line["failed_settings"] = failures[name]
        if work.suite == "stream":
            line["calls_per_s"] = 1 / line["median_s"]
        if work.suite != "train" and work.batch == 1:
            read = work.weight_bytes / line["median_s"] * work.length / 1e9
            line["bandwidth_fraction"] = read / _bandwidth(work, limits)
        if torch is not None:
            line["ratio_to_torch"] = _ratio(torch.rounds, one.rounds)
        if name in beside:
            line |= _busy_figures(work, one, beside[name], base["busy"])
            if torch is not None:
                line["busy_ratio_to_torch"] = _ratio(beside["torch"].busy_rounds, beside[name].busy_rounds)
        yield line


def _ratio(reference: Sequence[float], own: Sequence[float]) -> float:
    """Return the median of the rounds' ratios: a slow spell of the machine slows both peers of a round."""
    return float(np.median([of_torch / mine for of_torch, mine in zip(reference, own, strict=True)]))


def _busy_figures(work: Workload, alone: TimedSetting, beside: TimedSetting, neighbours: int) -> dict[str, Any]:
    """Return the figures of a peer's fastest setting beside busy neighbours, where ``alone`` is its fastest without them."""
    low, high = np.percentile(beside.busy_rounds, [25, 75])
    kept = alone.median / beside.busy_median
    return {
        "busy_setting": beside.setting,
        "busy_median_s": beside.busy_median,
        "busy_spread_s": float(high - low),
        "busy_tokens_per_s": work.tokens / beside.busy_median,
        "share_of_fair": kept / fair_share(usable_cores(), alone.threads, neighbours),
    }


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
