"""Cores of the processor, and the environment variables that limit the threads of a new process."""

from __future__ import annotations

import os

from unrolled.engine.errors import ConfigError

ONNXRUNTIME_THREADS = "UNROLLED_ONNXRUNTIME_THREADS"  # read by this package: onnxruntime itself reads no variable
MOST_THREADS = 1024  # onnxruntime creates as many threads as requested

# All but the last are read by Numba, OpenMP (including torch's), MKL, OpenBLAS and Accelerate when they are loaded.
THREAD_VARIABLES = (
    "NUMBA_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    ONNXRUNTIME_THREADS,
)


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def onnxruntime_threads() -> int | None:
    """Return the number of threads of an onnxruntime session that the environment sets; None: onnxruntime chooses.

    Raises:
        ConfigError: the variable holds no valid number of threads.
    """
    value = os.environ.get(ONNXRUNTIME_THREADS, "").strip()
    if not value:
        return None
    if not value.isdecimal() or len(value) > len(str(MOST_THREADS)) or not 1 <= int(value) <= MOST_THREADS:
        raise ConfigError(f"{ONNXRUNTIME_THREADS}: got {value!r}, needs a whole number from 1 to {MOST_THREADS}")
    return int(value)
