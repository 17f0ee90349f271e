"""Matrix products on the micro-kernel: the first factor is read as it lies, the second from panels (``rhs_packing``).

The readable form of every function is the NumPy product in its first line. Panels of words are products of bfloat16, which
run on the processor's AMX tiles where it has some (``amx``); ``multiply_part`` makes that choice, by the panels' dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.kernels.gemm import amx
from unrolled.engine.kernels.gemm.lhs_packing import new_operand, operand
from unrolled.engine.kernels.gemm.microkernel import FEW_ROWS, TILE_ROWS, VECTORS, WIDE, multiply_tile
from unrolled.engine.kernels.gemm.packing import by_packing
from unrolled.engine.kernels.jit.compilation import compiled
from unrolled.engine.kernels.simd.pointers import further, pointer
from unrolled.engine.kernels.threads.buffer_pool import empty
from unrolled.engine.kernels.threads.recording import writes
from unrolled.engine.kernels.threads.thread_pool import compiled_on_all_threads

# rows of a panel read at a time; with more, sums are read and written less often, but panels leave the L2 cache
DEPTH_BLOCK = 512
ROW_BLOCK = 128  # rows of the first factor multiplied with all panels before the next: at a depth of 256, 128 KB of L2
NO_LIMIT = np.empty(0, np.int64)  # of the rows of a product, all of which are computed


@compiled
def _multiply_columns(
    a: Any, a_row: int, a_depth: int, panel: Any, far: int, start: Any, start_row: int, c: Any, c_row: int, rows: int, N: int,
    lanes: int, depth: int, back: bool,
) -> None:  # fmt: skip
    """Multiply as ``multiply_columns``, from pointers; panels have registers of ``lanes`` lanes.

    There is one call of a tile, with heights and widths that are not constants, because all heights and widths are compiled for
    each call.
    """
    # three rows are two tiles, and only one of them is so few
    most = 2 * VECTORS if rows <= FEW_ROWS and rows != 3 else WIDE
    left = registers = (N + lanes - 1) // lanes
    while left > 0:
        width = min(left, most)
        if most < left <= 2 * most - 2:  # two tiles of about the same width
            width = (left + 1) // 2
        first = left - width if back else registers - left
        edge = N - (registers - 1) * lanes if first + width == registers else lanes
        at, second = first // VECTORS * far, lanes
        if first % VECTORS > 0:  # the tile begins in the middle of a panel
            at, second = at + lanes, far - lanes
        own = further(panel, at)
        factor, before, into = a, further(start, first * lanes), further(c, first * lanes)
        rest = rows
        while rest > 0:
            if TILE_ROWS == 8 and rest >= 8:
                n = 8
            elif rest >= 4:
                n = 4
            else:
                n = 2 if rest >= 2 else 1
            multiply_tile(
                n, width, factor, a_row, a_depth, own, second, far, before, start_row, into, c_row, depth, edge
            )  # fmt: skip
            factor, before, into = (
                further(factor, n * a_row), further(before, n * start_row), further(into, n * c_row),
            )  # fmt: skip
            rest -= n
        left -= width


@compiled
def multiply_columns(
    a: NDArray, a_at: int, a_row: int, a_depth: int, panels: NDArray, panel_at: int, far: int, W: int, start: NDArray,
    start_at: int, start_row: int, c: NDArray, c_at: int, c_row: int, rows: int, N: int, depth: int, back: bool,
) -> None:  # fmt: skip
    """C = start + A @ B for the N columns and ``depth`` rows of panels of W columns from ``panel_at`` on, ``far`` apart."""
    _multiply_columns(
        pointer(a, a_at), a_row, a_depth, pointer(panels, panel_at), far, pointer(start, start_at), start_row,
        pointer(c, c_at), c_row, rows, N, W // VECTORS, depth, back,
    )  # fmt: skip


@compiled
def _multiply_part(
    a: NDArray, a_at: int, a_row: int, a_depth: int, panels: NDArray, first: int, start: NDArray, start_at: int,
    start_row: int, c: NDArray, c_at: int, c_row: int, rows: int, N: int, back: bool,
) -> None:  # fmt: skip
    """Run ``multiply_part`` on the micro-kernel, DEPTH_BLOCK rows of the panels at a time."""
    K, W = panels.shape[1], panels.shape[2]
    depth = K if rows <= TILE_ROWS else DEPTH_BLOCK  # a single tile of rows reads each panel once
    panel = pointer(panels, first * K * W)
    for r in range(0, rows, ROW_BLOCK):
        factor, into = pointer(a, a_at + r * a_row), pointer(c, c_at + r * c_row)
        before, before_row = pointer(start, start_at + r * start_row), start_row
        for k in range(0, K, depth):
            _multiply_columns(
                further(factor, k * a_depth), a_row, a_depth, further(panel, k * W), K * W, before, before_row, into, c_row,
                min(ROW_BLOCK, rows - r), N, W // VECTORS, min(depth, K - k), back,
            )  # fmt: skip
            before, before_row = into, c_row


@compiled
def _multiply_part_amx(
    a: NDArray, a_at: int, a_row: int, a_depth: int, panels: NDArray, first: int, start: NDArray, start_at: int,
    start_row: int, c: NDArray, c_at: int, c_row: int, rows: int, N: int, back: bool,
) -> None:  # fmt: skip
    """Run ``multiply_part`` on AMX tiles."""
    flat, depth, W = panels.reshape(-1), panels.shape[1], panels.shape[2]
    for r in range(0, rows, ROW_BLOCK):
        amx.multiply(
            a, a_at + r * a_row, a_row, flat, depth, W, first, start, start_at + r * start_row, start_row, c,
            c_at + r * c_row, c_row, min(ROW_BLOCK, rows - r), N, back,
        )  # fmt: skip


multiply_part = by_packing("panels", _multiply_part, _multiply_part, _multiply_part_amx)
"""Multiply as ``multiply`` for the N columns from panel ``first`` on, the first of which is at ``start_at`` and ``c_at``."""


@compiled
def multiply(
    a: NDArray, a_at: int, a_row: int, a_depth: int, panels: NDArray, start: NDArray, start_at: int, start_row: int,
    c: NDArray, c_at: int, c_row: int, rows: int, N: int, back: bool,
) -> None:  # fmt: skip
    """C = start + A @ B for ``rows`` rows, on one thread; the depth of the product is 1 or more.

    ``a``, ``start`` and ``c`` are flat, C-contiguous arrays with an offset and strides in items; element (r, k) of A lies at
    a_at + r·a_row + k·a_depth, row r of C, N items long, at c_at + r·c_row, and row r of ``start`` at start_at +
    r·start_row (0: all rows start from the same one). ``back`` multiplies the last columns first: a caller that multiplies
    with the same panels repeatedly alternates it, so that it begins with the panels that are still in the cache.
    """
    multiply_part(a, a_at, a_row, a_depth, panels, 0, start, start_at, start_row, c, c_at, c_row, rows, N, back)


@compiled
def add_product(
    a: NDArray, a_at: int, a_row: int, a_depth: int, panels: NDArray, c: NDArray, c_at: int, c_row: int,
    rows: int, N: int, back: bool,
) -> None:  # fmt: skip
    """C += A @ B; arguments as in ``multiply``."""
    multiply(a, a_at, a_row, a_depth, panels, c, c_at, c_row, c, c_at, c_row, rows, N, back)


@compiled
def limited(rows: int, limit: NDArray) -> int:
    """Return a number of rows, or the limit (1,), which may be known only while kernels run, if it is lower; (0,): none."""
    return rows if len(limit) == 0 else min(rows, limit[0])


@writes(8)
@compiled_on_all_threads
def _product(
    part: int, parts: int, limit: NDArray, a: NDArray, k0: int, k1: int, panels: NDArray, start: NDArray, start_row: int,
    c: NDArray,
) -> None:  # fmt: skip
    """c = start + a[:, k0:k1] @ b for rows up to the limit; those of the flat ``start`` lie ``start_row`` items apart."""
    M, width, N = limited(a.shape[0], limit), a.shape[1], c.shape[1]
    flat_a, flat_c = a.reshape(-1), c.reshape(-1)
    first, last = part * M // parts, (part + 1) * M // parts
    memory = new_operand(panels, ROW_BLOCK)
    for m in range(first, last, ROW_BLOCK):
        some = min(ROW_BLOCK, last - m)
        factor, at, stride = operand(flat_a, m * width + k0, width, some, k1 - k0, panels, memory)
        multiply(factor, at, stride, 1, panels, start, m * start_row, start_row, flat_c, m * N, N, some, N, False)


def product(a: NDArray, panels: NDArray, bias: NDArray, limit: NDArray[np.int64] = NO_LIMIT) -> NDArray:
    """Return a @ b + bias for ``a`` (M, K), the panels of ``b`` (K, N) and ``bias`` (N,); threads share the rows.

    ``limit`` is as in ``products``.
    """
    return products(a, [(0, a.shape[1], panels)], bias, limit=limit)


def products(
    a: NDArray, factors: Sequence[tuple[int, int, NDArray]], start: NDArray, c: NDArray | None = None,
    limit: NDArray[np.int64] = NO_LIMIT,
) -> NDArray:  # fmt: skip
    """Return Σ a[:, k0:k1] @ b + start over ``factors`` (k0, k1, panels of b), for ``start`` (N,) or (M, N).

    The result is written to ``c``, which may be ``start``; None: to a new array. ``limit`` (1,) holds a number of rows; those
    after them are not computed.
    """
    N = start.shape[-1]
    c = empty((len(a), N), a.dtype) if c is None else c
    flat, start_row = start.reshape(-1), 0 if start.ndim == 1 else N
    for k0, k1, panels in factors:
        _product(limit, a, k0, k1, panels, flat, start_row, c)
        flat, start_row = c.reshape(-1), N
    return c
