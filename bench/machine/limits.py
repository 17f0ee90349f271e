"""The machine's own limits, against which every measurement is held: FMA peak, and bandwidth of caches and memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import set_num_threads
from numpy.typing import NDArray

from unrolled.engine.kernels.gemm.microkernel import TILE_ROWS, VECTORS, WIDE, multiply_tile
from unrolled.engine.kernels.gemm.rhs_packing import panel_width
from unrolled.engine.kernels.jit.compilation import compiled, compiled_sum
from unrolled.engine.kernels.threads.thread_pool import compiled_parallel

DEPTH = 64  # of the product whose factors stay in the L1 cache
_W = panel_width(np.dtype(np.float32))
# of A, two panels and C: three registers of their four
_SIZES = (TILE_ROWS * DEPTH, 2 * DEPTH * _W, 2 * TILE_ROWS * _W)
_FLOP = 2 * TILE_ROWS * DEPTH * WIDE * _W // VECTORS
DEFAULT_CACHES = {"L1": 32 << 10, "L2": 1 << 20, "L3": 16 << 20}


@compiled
def _run_core(a: NDArray, panel: NDArray, c: NDArray, rounds: int) -> None:
    for _ in range(rounds):
        multiply_tile(
            TILE_ROWS, WIDE, a, 0, DEPTH, 1, panel, 0, _W // VECTORS, DEPTH * _W, c, 0, 2 * _W, c, 0, 2 * _W, DEPTH
        )  # fmt: skip


@compiled_parallel
def _run_tiles(part: int, parts: int, a: NDArray, panel: NDArray, c: NDArray, rounds: int) -> None:
    _run_core(a[part], panel[part], c[part], rounds)


@compiled_sum
def _total(values: NDArray) -> Any:
    total = np.float32(0)
    for i in range(values.shape[0]):
        total += values[i]
    return total


@compiled_parallel
def _read(part: int, parts: int, values: NDArray, sums: NDArray, rounds: int) -> None:
    """Every part reads its own row of ``values`` again and again."""
    for _ in range(rounds):
        sums[part, 0] += _total(values[part])


class Effort(NamedTuple):
    """How long is measured."""

    seconds: float = 0.05  # of one measurement
    repeats: int = 15
    pause: float = 0.1  # seconds between them: on a shared machine some fall in a quiet moment


THOROUGH, BRIEF = Effort(), Effort(0.001, 60, 0.001)  # 2.5 s, 0.15 s


def _best(run: Callable[[int], None], effort: Effort = THOROUGH) -> float:
    """Seconds of one round at the machine's best: the shortest of some measurements."""
    run(1)
    rounds, elapsed = 1, 0.0
    while elapsed < effort.seconds / 4:
        rounds *= 4
        elapsed = min(_seconds(run, rounds) for _ in range(3))  # one that had to wait would make the rounds too few
    rounds = max(1, int(rounds * effort.seconds / elapsed))
    times = []
    for _ in range(effort.repeats):
        times.append(_seconds(run, rounds))
        time.sleep(effort.pause)
    return min(times) / rounds


def _seconds(run: Callable[[int], None], rounds: int) -> float:
    started = time.perf_counter()
    run(rounds)
    return time.perf_counter() - started


def fma_peak(threads: int) -> float:
    """GFLOP/s in float32 of the micro-kernel on factors that stay in the L1 cache."""
    factors = [np.zeros((threads, size), np.float32) for size in _SIZES]
    seconds = _best(lambda rounds: _run_tiles(threads, *factors, rounds))
    return threads * _FLOP / seconds / 1e9


def core_peak() -> float:
    """The same of one core, in a fraction of a second.

    Its bursts fit into one turn of the scheduler, so that it comes out right on a busy machine too, where a parallel region
    waits for its last thread.
    """
    factors = [np.zeros(size, np.float32) for size in _SIZES]
    seconds = _best(lambda rounds: _run_core(*factors, rounds), BRIEF)
    return _FLOP / seconds / 1e9


def read_bandwidth(size: int, threads: int) -> float:
    """GB/s of reading ``size`` bytes, each thread its own, again and again."""
    values, sums = np.zeros((threads, size // 4), np.float32), np.zeros((threads, 16), np.float32)
    return threads * size / _best(lambda rounds: _read(threads, values, sums, rounds)) / 1e9


def cache_sizes() -> dict[str, int]:
    """Bytes of each level as one core sees them, where the system tells."""
    sizes = dict(DEFAULT_CACHES)
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            level, kind = (index / "level").read_text().strip(), (index / "type").read_text().strip()
            text = (index / "size").read_text().strip()
            if kind != "Instruction":
                sizes[f"L{level}"] = int(text[:-1]) << {"K": 10, "M": 20, "G": 30}[text[-1]]
        except (OSError, ValueError, KeyError):
            continue
    return sizes


def measure_limits(threads: int) -> dict[str, Any]:
    """FMA peaks (GFLOP/s) and bandwidths (GB/s), by number of threads; caches in bytes."""
    caches = cache_sizes()
    counts = sorted({1, threads})
    limits: dict[str, Any] = {"caches": caches, "fma_gflops": {}, "read_gb_per_s": {}}
    for count in counts:
        set_num_threads(count)
        limits["fma_gflops"][str(count)] = fma_peak(count)
        # half of a private cache, so that it all stays there; a quarter of the shared one for each thread
        levels = {name: size // (4 if name == "L3" else 2) for name, size in caches.items()}
        levels["memory"] = 4 * max(caches.values())
        limits["read_gb_per_s"][str(count)] = {name: read_bandwidth(size, count) for name, size in levels.items()}
    return limits
