"""The processor's cores, and the variables by which a new process is told how many of them are its own."""

from __future__ import annotations

import os

# read by Numba, OpenMP, MKL, OpenBLAS and Accelerate when they are loaded
THREAD_VARIABLES = (
    "NUMBA_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
