"""Copies, dropout masks and columns of arrays, compiled.

The readable forms are in ``unrolled.engine.models.layers.functions``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.kernels.simd.copies import copy_row
from unrolled.engine.kernels.simd.row_sums import add_row_at
from unrolled.engine.kernels.threads.buffer_pool import empty
from unrolled.engine.kernels.threads.recording import writes
from unrolled.engine.kernels.threads.thread_pool import compiled_on_all_threads, compiled_parallel


@writes(2)
@compiled_parallel
def _copy(part: int, parts: int, source: NDArray, target: NDArray) -> None:
    """target[: len(source)] = source, for flat arrays."""
    copy_row(source, target)


def copy(source: NDArray, target: NDArray) -> None:
    """Copy an array to one of the same shape, whose last axis is contiguous in both."""
    if source.flags.c_contiguous and target.flags.c_contiguous:
        _copy(1, source.reshape(-1), target.reshape(-1))
    elif source.ndim > 1:
        for one, other in zip(source, target, strict=True):
            copy(one, other)
    else:
        raise ValueError("copy: needs arrays whose last axis is contiguous")


@compiled_parallel
def _add(part: int, parts: int, source: NDArray, target: NDArray) -> None:
    """target += source, for flat arrays."""
    add_row_at(source, 0, 0, target, 0, len(source))


def add(source: NDArray, target: NDArray) -> None:
    """Add an array (N,) to another."""
    _add(1, source, target)


def padded(vector: NDArray, width: int) -> NDArray:
    """Return a vector (N,) followed by zeros to ``width``."""
    whole = np.zeros(width, vector.dtype)
    _copy(1, vector, whole)
    return whole


def stacked(vectors: Sequence[NDArray]) -> NDArray:
    """Return vectors (N,) as rows of an array."""
    if len(vectors) == 1:
        return vectors[0][None]
    rows = np.empty((len(vectors), len(vectors[0])), vectors[0].dtype)
    for vector, row in zip(vectors, rows, strict=True):
        _copy(1, vector, row)
    return rows


@compiled_on_all_threads
def _mask(part: int, parts: int, x: NDArray, factors: NDArray, y: NDArray) -> None:
    """y = x * factors for flat arrays; the factors begin again where they end."""
    N, M = len(x), len(factors)
    n, end = part * N // parts, (part + 1) * N // parts
    while n < end:
        first = n % M
        count = min(end - n, M - first)
        own, some, result = x[n : n + count], factors[first : first + count], y[n : n + count]
        for i in range(count):
            result[i] = own[i] * some[i]
        n += count


def mask(x: NDArray, factors: NDArray) -> NDArray:
    """Return x (T, B, F), or (N, F), times the factors of a dropout mask of the same shape, or of one time step (1, B, F)."""
    y = empty(x.shape, x.dtype)
    _mask(x.reshape(-1), factors.reshape(-1), y.reshape(-1))
    return y


@compiled_on_all_threads
def _copy_columns(
    part: int, parts: int, source: NDArray, first: int, target: NDArray, to: int, columns: int
) -> None:  # fmt: skip
    """target[:, to : to + columns] = source[:, first : first + columns]; threads share the rows."""
    N = len(source)
    for n in range(part * N // parts, (part + 1) * N // parts):
        copy_row(source[n, first : first + columns], target[n, to : to + columns])


def as_rows(x: NDArray) -> NDArray:
    """Return an array (..., N) as rows (M, N)."""
    return x.reshape(-1, x.shape[-1])


def join_columns(arrays: Sequence[NDArray]) -> NDArray:
    """Return the columns of arrays (T, B, ·) side by side."""
    joined, to = empty((*arrays[0].shape[:-1], sum(array.shape[-1] for array in arrays)), arrays[0].dtype), 0
    for array in arrays:
        _copy_columns(as_rows(array), 0, as_rows(joined), to, array.shape[-1])
        to += array.shape[-1]
    return joined


def take_columns(x: NDArray, first: int, last: int) -> NDArray:
    """Return columns ``first`` to ``last`` of x (T, B, F)."""
    if last - first == x.shape[-1]:
        return x
    taken = empty((*x.shape[:-1], last - first), x.dtype)
    _copy_columns(as_rows(x), first, as_rows(taken), 0, last - first)
    return taken
