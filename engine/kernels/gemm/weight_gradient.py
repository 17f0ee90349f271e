"""Weight gradients: products with a transposed first factor, whose rows are added up in the same pass.

Both factors are packed a block of rows at a time, so that a tile reads consecutive memory instead of one page a row.
Columns of the first factor are packed in strips, which the micro-kernel reads as rows.
"""

from __future__ import annotations

from numpy.typing import NDArray

from unrolled.engine.kernels.gemm.packing import Packing
from unrolled.engine.kernels.gemm.rhs_packing import Runs, pack_rows, panel_width
from unrolled.engine.kernels.gemm.strips import STRIP_SIZES, add_columns, multiply_strips, pack_strips
from unrolled.engine.kernels.jit.compilation import compiled
from unrolled.engine.kernels.simd.copies import add_row
from unrolled.engine.kernels.threads.buffer_pool import empty
from unrolled.engine.kernels.threads.thread_pool import compiled_on_all_threads, compiled_parallel, get_num_threads


@compiled
def _add_part(
    a: NDArray, column: int, b: NDArray, runs: Runs, K: int, c: NDArray, first: int, last: int, begin: int, end: int,
    sums: NDArray, places: NDArray, strips: NDArray, panels: NDArray, W: int, block: int, group: int,
) -> None:  # fmt: skip
    """Add the product of K rows of both factors to rows first … last of ``c``; columns begin … end of ``a`` are only summed.

    ``block`` rows and ``group`` columns of ``a`` are packed at a time.
    """
    N, flat_c = b.shape[1], c.reshape(-1)
    for k0 in range(0, K, block):
        rows = min(block, K - k0)
        depth = pack_rows(b, runs, k0, rows, panels, W) if first < last else 0
        for m0 in range(first, last, group):
            m1 = min(m0 + group, last)
            pack_strips(a, runs, k0, rows, column + m0, column + m1, strips, sums, places)
            multiply_strips(strips, panels, depth, W, flat_c, m0 * N, m1 - m0, N)
        add_columns(a, runs, k0, rows, begin, end, sums, places)


@compiled_parallel
def _add_transposed_product(
    part: int, parts: int, a: NDArray, column: int, b: NDArray, c: NDArray, sums: NDArray, places: NDArray,
    strips: NDArray, panels: NDArray, W: int, block: int, group: int, unit: int, pieces: int, count: int,
    c_more: NDArray, sums_more: NDArray,
) -> None:  # fmt: skip
    """Compute ``add_transposed_product`` with the depth in one piece or two; threads share the columns of ``a`` in units.

    The rows are ``count`` ranges of equal length, and each piece has one half of every range. The second piece is left in
    ``c_more`` and ``sums_more``. An even number of threads works on both pieces at once, half on each; an odd number works
    on one after the other.
    """
    K, M = len(b), len(c)
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
            strips[part], panels[part], W, block, group,
        )  # fmt: skip


@compiled_on_all_threads
def _add_piece(
    part: int, parts: int, c: NDArray, c_more: NDArray, sums: NDArray, sums_more: NDArray, column: int
) -> None:  # fmt: skip
    """Add the second piece to the first: c += c_more, and sums += sums_more from ``column`` on."""
    M, R = len(c), len(sums)
    for m in range(part * M // parts, (part + 1) * M // parts):
        add_row(c_more[m], c[m])
    for r in range(part * R // parts, (part + 1) * R // parts):
        add_row(sums_more[r, column:], sums[r, column:])


def add_transposed_product(
    a: NDArray, b: NDArray, c: NDArray, sums: NDArray, places: NDArray, packing: Packing = Packing.FULL,
    column: int = 0, batch: int = 1,
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
    are those of time steps with ``batch`` rows each, a piece has the rows of half a batch, provided that these come in
    groups that packing can use. Each of two threads had just these rows in the recurrence: a training step of an RNN with
    H = 128 and 256, B = 64, is 1.06 times as fast.
    """
    dtype, strips = packing.dtype(a.dtype), STRIP_SIZES[packing]
    (K, N), M, parts, W = b.shape, len(c), get_num_threads(), panel_width(dtype)
    rows = min(strips.rows, K)
    packed = empty((parts, strips.items), dtype)
    panels = empty((parts, packing.depth(rows) * -(-N // W) * W), dtype)
    pieces, count = 1, 1
    if 2 * max(M, len(sums)) <= K:
        pieces = 2
        if K % batch == 0 and batch % (2 * strips.together) == 0:
            count = K // batch
    c_more, sums_more = (empty(((pieces - 1) * len(one), one.shape[1]), one.dtype) for one in (c, sums))
    _add_transposed_product(
        parts, a, column, b, c, sums, places, packed, panels, W, strips.rows, strips.columns, strips.unit, pieces, count,
        c_more, sums_more,
    )  # fmt: skip
    if pieces > 1:
        _add_piece(c, c_more, sums, sums_more, column)
