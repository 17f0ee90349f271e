"""Limits of the machine, to which measurements are compared: FMA peak, and bandwidth of caches and memory."""

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
from unrolled.engine.kernels.simd.pointers import pointer
from unrolled.engine.kernels.threads.thread_pool import compiled_parallel

FACTOR_DEPTH = 64  # of a product whose factors stay in the L1 cache
_W = panel_width(np.dtype(np.float32))
# floats of A, of two panels, and of C; a tile covers WIDE of the four registers in a row of two panels
_SIZES = (TILE_ROWS * FACTOR_DEPTH, 2 * FACTOR_DEPTH * _W, 2 * TILE_ROWS * _W)
_FLOP = 2 * TILE_ROWS * FACTOR_DEPTH * WIDE * _W // VECTORS
DEFAULT_CACHES = {"L1": 32 << 10, "L2": 1 << 20, "L3": 16 << 20}


@compiled
def _run_core(a: NDArray, panel: NDArray, c: NDArray, rounds: int) -> None:
    for _ in range(rounds):
        multiply_tile(
            TILE_ROWS, WIDE, pointer(a, 0), FACTOR_DEPTH, 1, pointer(panel, 0), _W // VECTORS, FACTOR_DEPTH * _W,
            pointer(c, 0), 2 * _W, pointer(c, 0), 2 * _W, FACTOR_DEPTH, _W // VECTORS,
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
    """Have every part read its own row of ``values`` again and again."""
    for _ in range(rounds):
        sums[part, 0] += _total(values[part])


class TimingPlan(NamedTuple):
    """Number and length of the timings of one measurement."""

    seconds: float = 0.05  # of one timing
    repeats: int = 15
    pause: float = 0.1  # seconds between timings: on a shared machine some fall in a quiet moment


THOROUGH, BRIEF = TimingPlan(), TimingPlan(0.001, 60, 0.001)  # 2.5 s, 0.15 s


def _best(run: Callable[[int], None], plan: TimingPlan = THOROUGH) -> float:
    """Return the seconds of one round at the machine's best: the shortest of several timings."""
    run(1)
    rounds, elapsed = 1, 0.0
    while elapsed < plan.seconds / 4:
        rounds *= 4
        # the shortest of three: a timing that had to wait would make the rounds too few
        elapsed = min(_seconds(run, rounds) for _ in range(3))
    rounds = max(1, int(rounds * plan.seconds / elapsed))
    times = []
    for _ in range(plan.repeats):
        times.append(_seconds(run, rounds))
        time.sleep(plan.pause)
    return min(times) / rounds


def _seconds(run: Callable[[int], None], rounds: int) -> float:
    started = time.perf_counter()
    run(rounds)
    return time.perf_counter() - started


def fma_peak(threads: int) -> float:
    """Return GFLOP/s in float32 of the microkernel on factors that stay in the L1 cache."""
    factors = [np.zeros((threads, size), np.float32) for size in _SIZES]
    seconds = _best(lambda rounds: _run_tiles(threads, *factors, rounds))
    return threads * _FLOP / seconds / 1e9


def core_peak() -> float:
    """Return the FMA peak of one core, measured in a fraction of a second.

    Its bursts fit into one time slice of the scheduler, so that it is right on a busy machine too, where a parallel region
    waits for its last thread.
    """
    factors = [np.zeros(size, np.float32) for size in _SIZES]
    seconds = _best(lambda rounds: _run_core(*factors, rounds), BRIEF)
    return _FLOP / seconds / 1e9


def read_bandwidth(size: int, threads: int) -> float:
    """Return GB/s of reading ``size`` bytes again and again, each thread its own."""
    values, sums = np.zeros((threads, size // 4), np.float32), np.zeros((threads, 16), np.float32)
    return threads * size / _best(lambda rounds: _read(threads, values, sums, rounds)) / 1e9


def cache_sizes() -> dict[str, int]:
    """Return the bytes of each cache level as one core sees them; ``DEFAULT_CACHES`` where the system does not report them."""
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
    """Return FMA peaks (GFLOP/s) and bandwidths (GB/s) by number of threads, and the bytes of the caches."""
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
