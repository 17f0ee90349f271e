"""Compile functions for tests like the kernels, but without a disk cache: changes of called functions would outdate it."""

from __future__ import annotations

from numba import njit

compiled = njit(error_model="numpy", fastmath={"contract"})
