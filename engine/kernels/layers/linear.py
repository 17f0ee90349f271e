"""Linear layers, compiled; contract and formulas in ``unrolled.engine.models.layers``.

A gradient may be given as ranges of columns of a wider array (``ColumnRanges``), which the products read where they lie.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.kernels.gemm.matmul import NO_LIMIT, product, products
from unrolled.engine.kernels.gemm.packing import Packing
from unrolled.engine.kernels.gemm.rhs_packing import pack, pack_transposed
from unrolled.engine.kernels.gemm.weight_gradient import Depth, add_transposed_product
from unrolled.engine.kernels.recurrent.layouts import ColumnRanges
from unrolled.engine.kernels.threads.array_copies import add, as_rows
from unrolled.engine.kernels.threads.buffer_pool import zeros


def as_columns(dy: NDArray | ColumnRanges) -> ColumnRanges:
    """Return a gradient as ranges of columns of an array; a plain one is all columns of itself."""
    return dy if isinstance(dy, ColumnRanges) else ColumnRanges(dy, ((0, dy.shape[-1]),))


def batch_rows(x: NDArray) -> int:
    """Return B of an array (T, B, N), or 1 for an array without a time axis."""
    return x.shape[1] if x.ndim == 3 else 1


def one_sum(dbias: NDArray, dy: NDArray) -> tuple[NDArray, NDArray]:
    """Return ``sums`` and ``places`` of ``add_transposed_product`` that add all rows of ``dy`` to ``dbias``."""
    return dbias.reshape(1, -1), np.zeros(dy.size // dy.shape[-1], np.int64)


def linear_forward(x: NDArray, weight: NDArray, bias: NDArray, packing: Packing = Packing.FULL) -> NDArray:
    """Return x·Wᵀ + b over the last axis: (..., in) to (..., out), with ``weight`` (out, in)."""
    return product(as_rows(x), pack_transposed(weight, packing), bias).reshape(*x.shape[:-1], len(bias))


def input_gradient(
    dy: ColumnRanges, weight: NDArray, start: NDArray, packing: Packing, into: NDArray | None = None,
    limit: NDArray[np.int64] = NO_LIMIT,
) -> NDArray:  # fmt: skip
    """Return ``start`` plus the gradient of the input of ``linear_forward``; ``into`` and ``limit`` as in ``products``."""
    return products(as_rows(dy.array), _factors(dy, weight, packing), start, into, limit)


def _factors(dy: ColumnRanges, weight: NDArray, packing: Packing) -> list[tuple[int, int, NDArray]]:
    """Return the ranges of the columns of a gradient with the packed rows of the weight that belong to each."""
    factors, first = [], 0
    for k0, k1 in dy.ranges:
        factors.append((k0, k1, pack(weight[first : first + k1 - k0], packing)))
        first += k1 - k0
    return factors


def linear_backward_input(
    dy: NDArray | ColumnRanges, weight: NDArray, dx: NDArray | None = None, packing: Packing = Packing.FULL
) -> NDArray:  # fmt: skip
    """Return the gradient of the input of ``linear_forward``, (..., out) to (..., in), added to ``dx``."""
    dy = as_columns(dy)
    start = np.zeros(weight.shape[1], weight.dtype) if dx is None else as_rows(dx)
    return input_gradient(dy, weight, start, packing).reshape(*dy.array.shape[:-1], -1)


def linear_backward_weight(
    dy: NDArray | ColumnRanges, x: NDArray, dweight: NDArray, dbias: NDArray, packing: Packing = Packing.FULL
) -> None:  # fmt: skip
    """Add the gradients of weight (out, in) and bias (out,), summed over all leading axes."""
    dy = as_columns(dy)
    add_weight_gradient(dy, as_rows(x), dweight, dbias, packing, Depth(batch_rows(dy.array)))


def add_weight_gradient(
    dy: ColumnRanges, x: NDArray, dweight: NDArray, dbias: NDArray, packing: Packing, depth: Depth
) -> None:  # fmt: skip
    """Add the gradients of weight and bias over the rows of x (M, in) that ``depth`` describes."""
    rows, first = as_rows(dy.array), 0
    for k0, k1 in dy.ranges:
        last = first + k1 - k0
        own = dbias[first:last] if k0 == 0 else zeros(k1, rows.dtype)
        sums, places = one_sum(own, rows)
        add_transposed_product(rows, x, dweight[first:last], sums, places, packing, k0, depth)
        if k0 > 0:
            add(own[k0:], dbias[first:last])
        first = last
