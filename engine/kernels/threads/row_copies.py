"""Rows of an array at given places, compiled: the embedding's look-up, and packing of rows of different lengths."""

from __future__ import annotations

from numpy.typing import NDArray

from unrolled.engine.kernels.simd.copies import copy_row
from unrolled.engine.kernels.threads.buffer_pool import empty
from unrolled.engine.kernels.threads.thread_pool import compiled_on_all_threads


@compiled_on_all_threads
def _take(part: int, parts: int, source: NDArray, places: NDArray, rows: NDArray) -> None:
    """rows = source[places], zeros where a place is -1; threads share the places."""
    N = len(places)
    for n in range(part * N // parts, (part + 1) * N // parts):
        if places[n] >= 0:
            copy_row(source[places[n]], rows[n])
        else:
            rows[n, :] = 0


def take_rows(source: NDArray, places: NDArray) -> NDArray:
    """Return the rows (N, F) of ``source`` (R, F) at ``places`` (N,) int64, and rows of zeros where a place is -1."""
    rows = empty((len(places), source.shape[1]), source.dtype)
    _take(source, places, rows)
    return rows
