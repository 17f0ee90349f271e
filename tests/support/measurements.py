"""Lines of measurements as the benchmark writes them, for tests of reports and verbs."""

from __future__ import annotations

from typing import Any

from unrolled.bench.peers.workloads import Workload

LIMITS = {
    "fma_gflops": {"1": 100.0, "2": 200.0},
    "read_gb_per_s": {"1": {"L1": 100.0, "L2": 50.0, "memory": 10.0}},
    "caches": {"L1": 32 << 10, "L2": 1 << 20},
}


MACHINE = {
    "suite": "machine",
    "date": "2026-01-01",
    "threads": 2,
    "processor": "a processor",
    "cores": 2,
    "python": "3.11",
    "versions": {"numpy": "2.0", "torch": None},
    "limits": LIMITS,
}


def line(peer: str, median: float, **values: Any) -> dict[str, Any]:
    work = Workload("train", "lstm", 1, 128, 32).to_dict()
    measured = {"median_s": median, "spread_s": 0.0001, "gflops": 1 / median, "threads": 2, "parity": "ok"}
    return {**work, "peer": peer, **measured, **values}
