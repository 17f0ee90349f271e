"""The processor's cores, and the variables by which a new process is told how many of them are its own."""

from __future__ import annotations

import os

from unrolled.engine.errors import ConfigError

ONNXRUNTIME_THREADS = "UNROLLED_ONNXRUNTIME_THREADS"  # of this package: onnxruntime itself reads no variable
MOST_THREADS = 1024  # onnxruntime makes as many as it is told to

# all but the last are read by Numba, OpenMP (also torch's), MKL, OpenBLAS and Accelerate when they are loaded
THREAD_VARIABLES = (
    "NUMBA_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    ONNXRUNTIME_THREADS,
)


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def onnxruntime_threads() -> int | None:
    """Threads that a run of onnxruntime shares its work out to, as the environment says; None: as many as it likes.

    Raises:
        ConfigError: what the environment says is no number of threads.
    """
    value = os.environ.get(ONNXRUNTIME_THREADS, "").strip()
    if not value:
        return None
    if not value.isdecimal() or len(value) > len(str(MOST_THREADS)) or not 1 <= int(value) <= MOST_THREADS:
        raise ConfigError(f"{ONNXRUNTIME_THREADS}: got {value!r}, needs a whole number from 1 to {MOST_THREADS}")
    return int(value)
