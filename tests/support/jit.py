"""Compilation for tests: as of the kernels, but nothing is kept on disk, where it would outlive changes of what it calls."""

from __future__ import annotations

from numba import njit

compiled = njit(error_model="numpy", fastmath={"contract"})
