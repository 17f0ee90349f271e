"""Weight gradients: products with a transposed first factor, whose rows are added up in the same pass.

Short rows of both factors are read where they lie (``transposed_microkernel``). Long ones are packed a block of rows at a
time, so that a tile reads consecutive memory instead of one page a row: columns of the first factor in strips, which the
micro-kernel reads as rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.kernels.gemm.matmul import NO_LIMIT, limited
from unrolled.engine.kernels.gemm.microkernel import VECTORS
from unrolled.engine.kernels.gemm.packing import FULL, Packing, by_packing
from unrolled.engine.kernels.gemm.rhs_packing import Runs, pack_rows, panel_width, row_of
from unrolled.engine.kernels.gemm.strips import STRIP_SIZES, add_columns, multiply_strips, pack_strips
from unrolled.engine.kernels.gemm.transposed_microkernel import add_transposed_rows
from unrolled.engine.kernels.jit.compilation import compiled
from unrolled.engine.kernels.simd.row_sums import add_row_at
from unrolled.engine.kernels.threads.buffer_pool import empty
from unrolled.engine.kernels.threads.thread_pool import compiled_on_all_threads, compiled_parallel, get_num_threads

# Longest rows, in bytes, of the two factors that are not packed: 160 × 40 columns of 1,536 rows take 224 µs instead of 298
# packed, 256 × 64 of 400 rows 135 instead of 144, 65 × 128 of 4,096 rows 656 instead of 760. With longer rows a tile waits
# for a page a row: 1,024 × 256 columns take up to 1.4 times as long as packed.
LONGEST_A, LONGEST_B = 2048, 512
UNPACKED_ROWS = 512  # rows that all tiles read before the next ones, so that these stay in the L2 cache


class ProductPlan(NamedTuple):
    """Choices of a weight gradient; compiled code reads them."""

    W: int  # columns of a panel
    block: int  # rows of both factors that are read at a time
    group: int  # columns of the first factor that are packed at a time; 0: nothing is packed
    unit: int  # columns of the first factor that one thread takes together
    turned: bool  # compute the transposed result where nothing is packed, because it fills registers better
    pieces: int  # of the depth
    ranges: int  # ranges of rows of equal length, of each of which a piece has its share


@compiled
def _add_part_packed(
    a: NDArray, column: int, b: NDArray, runs: Runs, K: int, c: NDArray, first: int, last: int, begin: int, end: int,
    sums: NDArray, places: NDArray, strips: NDArray, panels: NDArray, plan: ProductPlan,
) -> None:  # fmt: skip
    """Compute ``_add_part`` with packed factors."""
    N, flat_c = b.shape[1], c.reshape(-1)
    for k0 in range(0, K, plan.block):
        rows = min(plan.block, K - k0)
        depth = pack_rows(b, runs, k0, rows, panels, plan.W) if first < last else 0
        for m0 in range(first, last, plan.group):
            m1 = min(m0 + plan.group, last)
            pack_strips(a, runs, k0, rows, column + m0, column + m1, strips, sums, places)
            multiply_strips(strips, panels, depth, plan.W, flat_c, m0 * N, m1 - m0, N)
        add_columns(a, runs, k0, rows, begin, end, sums, places)


@compiled
def _add_part_full(
    a: NDArray, column: int, b: NDArray, runs: Runs, K: int, c: NDArray, first: int, last: int, begin: int, end: int,
    sums: NDArray, places: NDArray, strips: NDArray, panels: NDArray, plan: ProductPlan,
) -> None:  # fmt: skip
    """Compute ``_add_part`` for factors in their own dtype, which are read where they lie unless ``plan`` packs them.

    A turned product is added up in ``strips``.
    """
    if plan.group > 0:
        _add_part_packed(a, column, b, runs, K, c, first, last, begin, end, sums, places, strips, panels, plan)
        return
    width, N, M, lanes = a.shape[1], b.shape[1], last - first, plan.W // VECTORS
    flat_a, flat_b, flat_c = a.reshape(-1), b.reshape(-1), c.reshape(-1)
    block = plan.block if runs.length >= K else max(plan.block // runs.length, 1) * runs.length  # else whole runs
    if plan.turned:
        strips[: M * N] = 0
    for k0 in range(0, K, block):
        rows = min(block, K - k0)
        row, length = row_of(runs, k0), min(rows, runs.length)
        add_columns(a, runs, k0, rows, column + first, column + last, sums, places)
        add_columns(a, runs, k0, rows, begin, end, sums, places)
        at, b_at, some = row * width + column + first, row * N, Runs(0, length, runs.stride)
        if M > 0 and plan.turned:
            add_transposed_rows(flat_b, b_at, N, flat_a, at, width, strips, 0, M, N, M, lanes, some, rows)
        elif M > 0:
            add_transposed_rows(flat_a, at, width, flat_b, b_at, N, flat_c, first * N, N, M, N, lanes, some, rows)
    if plan.turned:
        for m in range(M):
            for n in range(N):
                flat_c[(first + m) * N + n] += strips[n * M + m]


_add_part = by_packing("strips", _add_part_full, _add_part_packed)
"""Add the product of K rows of both factors to rows first … last of ``c``; columns begin … end of ``a`` are only summed."""


@compiled_parallel
def _add_transposed_product(
    part: int, parts: int, limit: NDArray, a: NDArray, column: int, b: NDArray, c: NDArray, sums: NDArray, places: NDArray,
    strips: NDArray, panels: NDArray, W: int, block: int, group: int, unit: int, turned: bool, pieces: int, count: int,
    c_more: NDArray, sums_more: NDArray,
) -> None:  # fmt: skip
    """Compute ``add_transposed_product`` with the depth in one piece or two; threads share the columns of ``a`` in units.

    Each piece has one half of every range of rows. The second piece is left in ``c_more`` and ``sums_more``. An even number
    of threads works on both pieces at once, half on each; an odd number works on one after the other.
    """
    K, M, plan = limited(len(b), limit), len(c), ProductPlan(W, block, group, unit, turned, pieces, count)
    stride, beyond = K // count, column + M
    more = max(sums.shape[1] - beyond, 0)  # columns that are only summed
    at_once = pieces if parts % pieces == 0 else 1
    slots = parts // at_once
    slot = part % slots
    first, last = slot * M // slots // unit * unit, (slot + 1) * M // slots // unit * unit
    if slot == slots - 1:
        last = M
    begin, end = beyond + slot * more // slots, beyond + (slot + 1) * more // slots
    for piece in range(part // slots, pieces, at_once):
        row = piece * stride // pieces
        length = (piece + 1) * stride // pieces - row
        own_c, own_sums = (c_more, sums_more) if piece > 0 else (c, sums)
        if piece > 0:
            own_c[first:last] = 0
            own_sums[:, column + first : column + last] = 0
            own_sums[:, begin:end] = 0
        _add_part(
            a, column, b, Runs(row, length, stride), length * count, own_c, first, last, begin, end, own_sums, places,
            strips[part], panels[part], plan,
        )  # fmt: skip


@compiled_on_all_threads
def _add_piece(
    part: int, parts: int, c: NDArray, c_more: NDArray, sums: NDArray, sums_more: NDArray, column: int
) -> None:  # fmt: skip
    """Add the second piece to the first: c += c_more, and sums += sums_more from ``column`` on."""
    M, R = len(c), len(sums)
    for m in range(part * M // parts, (part + 1) * M // parts):
        add_row_at(c_more[m], 0, 0, c[m], 0, c.shape[1])
    for r in range(part * R // parts, (part + 1) * R // parts):
        add_row_at(sums_more[r], column, 0, sums[r], column, sums.shape[1] - column)


class Depth(NamedTuple):
    """The rows over which a weight gradient is summed.

    Args:
        batch: B, if they are those of time steps with B rows each; 1 otherwise.
        limit: (1,), a number of rows, which may be known only while kernels run: those after them take no part. It goes with
            ``batch`` = 1. (0,): all take part.
    """

    batch: int = 1
    limit: NDArray[np.int64] = NO_LIMIT


ALL_ROWS = Depth()


def add_transposed_product(
    a: NDArray, b: NDArray, c: NDArray, sums: NDArray, places: NDArray, packing: Packing = Packing.FULL,
    column: int = 0, depth: Depth = ALL_ROWS,
) -> None:  # fmt: skip
    """c += a[:, column:column + M].T @ b and np.add.at(sums, places, a) for ``a`` (K, ≥ M), ``b`` (K, N), ``c`` (M, N).

    ``sums`` (R, ≥ column + M) has a row for each place that rows are added to, and ``places`` (K,) holds the place of each
    row: all 0 for one sum (R = 1), the tokens for a table of them. Both results need every number of ``a``, which is read
    once. Columns of ``a`` before ``column``, or beyond the last of ``sums``, are not read; columns beyond the M of the
    product are only summed.

    All arrays are C-contiguous and, but for ``places``, of one dtype. ``packing`` may round the factors of the product; sums
    are not rounded.

    Threads share M. Where K is large beside M and R, the depth is added up in two pieces, whatever the number of threads, so
    that results do not depend on it: each of two threads then packs half of both factors instead of all of ``b``. If rows
    are those of time steps with ``depth.batch`` rows each, a piece has the rows of half a batch, provided that these come in
    groups that packing can use. Each of two threads had just these rows in the recurrence: a training step of an RNN with
    H = 128 and 256, B = 64, is 1.06 times as fast.
    """
    dtype, (K, N), M, parts = packing.dtype(a.dtype), b.shape, len(c), get_num_threads()
    pieces, count, sizes = 1, 1, STRIP_SIZES[packing]
    if 2 * max(M, len(sums)) <= K:
        pieces = 2
        if K % depth.batch == 0 and depth.batch % (2 * sizes.together) == 0:
            count = K // depth.batch
    plan = ProductPlan(panel_width(dtype), sizes.rows, sizes.columns, sizes.unit, False, pieces, count)
    if packing is FULL and a.shape[1] * a.itemsize <= LONGEST_A and N * b.itemsize <= LONGEST_B:
        plan = plan._replace(block=UNPACKED_ROWS, group=0, turned=_turned(M, N, K // pieces, plan.W // VECTORS))
        packed, panels = empty((parts, M * N if plan.turned else 0), dtype), empty((parts, 0), dtype)
    else:
        packed = empty((parts, sizes.items), dtype)
        panels = empty((parts, packing.depth(min(sizes.rows, K)) * -(-N // plan.W) * plan.W), dtype)
    c_more, sums_more = (empty(((pieces - 1) * len(one), one.shape[1]), one.dtype) for one in (c, sums))
    _add_transposed_product(parts, depth.limit, a, column, b, c, sums, places, packed, panels, *plan, c_more, sums_more)
    if pieces > 1:
        _add_piece(c, c_more, sums, sums_more, column)


def _turned(M: int, N: int, K: int, lanes: int) -> bool:
    """Return whether the transposed product of K rows saves more than it takes to add it, by a third of a cycle a register.

    160 × 40 columns are 40 rows of 10 registers, or 160 of 3, the last of which is half empty.
    """
    saved = M * -(-N // lanes) - N * -(-M // lanes)
    return 10 * saved > M * -(-N // lanes) and K * saved > 4 * M * N
