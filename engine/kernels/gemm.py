"""Matrix products on the micro-kernel: the second factor is packed into panels, the first is read as it lies.

A panel holds PANEL_BYTES of columns for every row of the second factor, padded with zeros, one after the other:
panels (P, K, W). The reference of every function is the NumPy product in its first line.
"""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, prange
from numpy.typing import NDArray

from unrolled.engine.kernels.kernel import compiled, compiled_parallel
from unrolled.engine.kernels.pool import empty
from unrolled.engine.kernels.tile import (
    PANEL_BYTES,
    STRIP,
    TILE_ROWS,
    VECTORS,
    copy_panel_row,
    copy_strip,
    thin_1,
    thin_2,
    thin_4,
    thin_8,
    tile_1,
    tile_2,
    tile_4,
    tile_8,
    wide_1,
)

DEPTH_BLOCK = 256  # rows of a panel read at a time: 256 × 128 bytes, which the L1 cache holds
ROW_BLOCK = 128  # rows of the first factor that all panels meet before the next: at a depth of 256, 128 KB of L2
STRIPS = 16  # strips packed at a time: they share the reading of a panel


def panel_width(dtype: np.dtype) -> int:
    """W, the columns of a panel."""
    return PANEL_BYTES // dtype.itemsize


@compiled
def _pack_panel(b: NDArray, p: int, panels: NDArray) -> None:
    K, N = b.shape
    W = panels.shape[2]
    n = min(W, N - p * W)
    for k in range(K):
        row, source = panels[p, k], b[k]
        for j in range(n):
            row[j] = source[p * W + j]
        for j in range(n, W):
            row[j] = 0


@compiled
def _pack_panel_transposed(b: NDArray, p: int, panels: NDArray) -> None:
    N, K = b.shape
    W = panels.shape[2]
    n = min(W, N - p * W)
    for first in range(0, K, 64):  # a block of the panel stays in the L1 cache while its columns arrive one by one
        last = min(first + 64, K)
        for j in range(n):
            source = b[p * W + j]
            for k in range(first, last):
                panels[p, k, j] = source[k]
        for k in range(first, last):
            for j in range(n, W):
                panels[p, k, j] = 0


@compiled_parallel
def _pack(b: NDArray, panels: NDArray, transposed: bool, parts: int) -> None:
    P = panels.shape[0]
    for part in prange(parts):
        for p in range(part * P // parts, (part + 1) * P // parts):
            if transposed:
                _pack_panel_transposed(b, p, panels)
            else:
                _pack_panel(b, p, panels)


def _panels(K: int, N: int, dtype: np.dtype) -> NDArray:
    W = panel_width(dtype)
    return empty((-(-N // W), K, W), dtype)


def pack(b: NDArray) -> NDArray:
    """Panels of ``b`` (K, N)."""
    panels = _panels(*b.shape, b.dtype)
    _pack(b, panels, False, get_num_threads())
    return panels


def pack_transposed(b: NDArray) -> NDArray:
    """Panels of ``b.T`` for ``b`` (N, K)."""
    panels = _panels(b.shape[1], b.shape[0], b.dtype)
    _pack(b, panels, True, get_num_threads())
    return panels


@compiled
def _tiles(
    a: NDArray, a_at: int, a_row: int, a_depth: int, panels: NDArray, panel_at: int, c: NDArray, c_at: int, c_row: int,
    rows: int, depth: int,
) -> None:  # fmt: skip
    """All rows of one panel, in tiles of 8, 4, 2 and 1; arguments as of the micro-kernel."""
    left = rows
    while left > 0:
        if TILE_ROWS == 8 and left >= 8:
            n = 8
            tile_8(a, a_at, a_row, a_depth, panels, panel_at, c, c_at, c_row, depth)
        elif left >= 4:
            n = 4
            tile_4(a, a_at, a_row, a_depth, panels, panel_at, c, c_at, c_row, depth)
        elif left >= 2:
            n = 2
            tile_2(a, a_at, a_row, a_depth, panels, panel_at, c, c_at, c_row, depth)
        else:
            n = 1
            tile_1(a, a_at, a_row, a_depth, panels, panel_at, c, c_at, c_row, depth)
        a_at, c_at, left = a_at + n * a_row, c_at + n * c_row, left - n


@compiled
def _thin_tiles(
    a: NDArray, a_at: int, a_row: int, a_depth: int, panels: NDArray, panel_at: int, c: NDArray, c_at: int, c_row: int,
    rows: int, depth: int,
) -> None:  # fmt: skip
    """``_tiles`` for the first register of a panel only."""
    left = rows
    while left > 0:
        if TILE_ROWS == 8 and left >= 8:
            n = 8
            thin_8(a, a_at, a_row, a_depth, panels, panel_at, c, c_at, c_row, depth)
        elif left >= 4:
            n = 4
            thin_4(a, a_at, a_row, a_depth, panels, panel_at, c, c_at, c_row, depth)
        elif left >= 2:
            n = 2
            thin_2(a, a_at, a_row, a_depth, panels, panel_at, c, c_at, c_row, depth)
        else:
            n = 1
            thin_1(a, a_at, a_row, a_depth, panels, panel_at, c, c_at, c_row, depth)
        a_at, c_at, left = a_at + n * a_row, c_at + n * c_row, left - n


@compiled
def _edge(
    a: NDArray, a_at: int, a_row: int, a_depth: int, panels: NDArray, panel_at: int, c: NDArray, c_at: int, c_row: int,
    rows: int, depth: int, edge: int, W: int,
) -> None:  # fmt: skip
    """The last panel, of whose columns ``edge`` < W are C's: by way of a block of its own where a tile is wider."""
    lanes = W // VECTORS
    if edge == lanes:
        _thin_tiles(a, a_at, a_row, a_depth, panels, panel_at, c, c_at, c_row, rows, depth)
        return
    narrow = np.zeros(rows * W, c.dtype)
    for r in range(rows):
        for j in range(edge):
            narrow[r * W + j] = c[c_at + r * c_row + j]
    if edge < lanes:
        _thin_tiles(a, a_at, a_row, a_depth, panels, panel_at, narrow, 0, W, rows, depth)
    else:
        _tiles(a, a_at, a_row, a_depth, panels, panel_at, narrow, 0, W, rows, depth)
    for r in range(rows):
        for j in range(edge):
            c[c_at + r * c_row + j] = narrow[r * W + j]


@compiled
def add_product_part(
    a: NDArray, a_offset: int, a_row: int, a_depth: int, panels: NDArray, first: int, c: NDArray, c_offset: int,
    c_row: int, rows: int, N: int,
) -> None:  # fmt: skip
    """``add_product`` for the N columns from the start of panel ``first``; ``c_offset`` is that of its first column."""
    K, W = panels.shape[1], panels.shape[2]
    flat = panels.reshape(-1)
    last = first + (N - 1) // W
    edge = N - (last - first) * W  # columns of the last panel
    for k0 in range(0, K, DEPTH_BLOCK):
        depth = min(DEPTH_BLOCK, K - k0)
        a_at = a_offset + k0 * a_depth
        start = first
        if rows == 1:
            while start + 1 < last:
                wide_1(a, a_at, 0, a_depth, flat, (start * K + k0) * W, c, c_offset + (start - first) * W, K * W, depth)
                start += 2
        for p in range(start, last + 1):
            panel_at, c_at = (p * K + k0) * W, c_offset + (p - first) * W
            if p < last or edge == W:
                _tiles(a, a_at, a_row, a_depth, flat, panel_at, c, c_at, c_row, rows, depth)
            else:
                _edge(a, a_at, a_row, a_depth, flat, panel_at, c, c_at, c_row, rows, depth, edge, W)


@compiled
def add_product(
    a: NDArray, a_offset: int, a_row: int, a_depth: int, panels: NDArray, c: NDArray, c_offset: int, c_row: int,
    rows: int, N: int,
) -> None:  # fmt: skip
    """C += A @ B for ``rows`` rows, on one thread.

    ``a`` and ``c`` are flat, C-contiguous arrays with an offset and strides in items; element (r, k) of A lies at
    a_offset + r·a_row + k·a_depth, row r of C, N items long, at c_offset + r·c_row.
    """
    for r in range(0, rows, ROW_BLOCK):
        some = min(ROW_BLOCK, rows - r)
        add_product_part(
            a, a_offset + r * a_row, a_row, a_depth, panels, 0, c, c_offset + r * c_row, c_row, some, N
        )  # fmt: skip


@compiled_parallel
def _product(a: NDArray, panels: NDArray, bias: NDArray, c: NDArray, parts: int) -> None:
    M, K, N = a.shape[0], a.shape[1], bias.shape[0]
    flat_a, flat_c = a.reshape(-1), c.reshape(-1)
    for part in prange(parts):
        first, last = part * M // parts, (part + 1) * M // parts
        for m in range(first, last, ROW_BLOCK):
            some = min(ROW_BLOCK, last - m)
            for r in range(m, m + some):
                c[r] = bias
            add_product(flat_a, m * K, K, 1, panels, flat_c, m * N, N, some, N)


def product(a: NDArray, panels: NDArray, bias: NDArray) -> NDArray:
    """a @ b + bias for ``a`` (M, K), the panels of ``b`` (K, N) and ``bias`` (N,); rows shared out to the threads."""
    c = empty((len(a), len(bias)), a.dtype)
    _product(a, panels, bias, c, get_num_threads())
    return c


@compiled
def _pack_strips(a: NDArray, k0: int, depth: int, m0: int, m1: int, strips: NDArray, sums: NDArray) -> None:
    """Columns m0 … m1 of rows k0 … k0 + depth of ``a``, strip by strip; adds each column's sum to ``sums``."""
    width = a.shape[1]
    flat = a.reshape(-1)
    whole = m0 + (m1 - m0) // STRIP * STRIP
    for k in range(depth):
        row_at, row, some = (k0 + k) * width, a[k0 + k, m0:m1], sums[m0:m1]
        for m in range(m1 - m0):  # from 0: a start that might be negative keeps the loop scalar
            some[m] += row[m]
        at = k * STRIP
        for m in range(m0, whole, STRIP):
            copy_strip(flat, row_at + m, strips, at)
            at += DEPTH_BLOCK * STRIP
        for m in range(whole, m1):
            strips[at + m - whole] = row[m - m0]


@compiled
def _pack_rows(b: NDArray, k0: int, depth: int, panels: NDArray, W: int) -> None:
    """Rows k0 … k0 + depth of ``b`` as flat panels of that depth, padded with zeros."""
    N = b.shape[1]
    flat = b.reshape(-1)
    for k in range(depth):
        row_at, at = (k0 + k) * N, k * W
        for n in range(0, N - W + 1, W):
            copy_panel_row(flat, row_at + n, panels, at)
            at += depth * W
        rest = N % W
        if rest:
            for j in range(W):
                panels[at + j] = flat[row_at + N - rest + j] if j < rest else 0


@compiled_parallel
def _add_transposed_product(
    a: NDArray, b: NDArray, c: NDArray, sums: NDArray, strips: NDArray, panels: NDArray, W: int, parts: int
) -> None:
    (K, N), M = b.shape, c.shape[0]
    flat_c = c.reshape(-1)
    for part in prange(parts):
        first, last = part * M // parts // STRIP * STRIP, (part + 1) * M // parts // STRIP * STRIP
        if part == parts - 1:
            last = M
        own, own_panels = strips[part], panels[part]
        for k0 in range(0, K, DEPTH_BLOCK):
            depth = min(DEPTH_BLOCK, K - k0)
            _pack_rows(b, k0, depth, own_panels, W)
            for m0 in range(first, last, STRIPS * STRIP):
                m1 = min(m0 + STRIPS * STRIP, last)
                _pack_strips(a, k0, depth, m0, m1, own, sums)
                for n0 in range(0, N, W):
                    panel_at = n0 // W * depth * W
                    for m in range(m0, m1, STRIP):
                        at, rows = (m - m0) * DEPTH_BLOCK, min(STRIP, m1 - m)
                        if n0 + W <= N:
                            _tiles(own, at, 1, STRIP, own_panels, panel_at, flat_c, m * N + n0, N, rows, depth)
                        else:
                            _edge(
                                own, at, 1, STRIP, own_panels, panel_at, flat_c, m * N + n0, N, rows, depth, N - n0, W
                            )  # fmt: skip


def add_transposed_product(a: NDArray, b: NDArray, c: NDArray, sums: NDArray) -> None:
    """c += a.T @ b and sums += a.sum(0) for ``a`` (K, M), ``b`` (K, N), ``c`` (M, N), ``sums`` (M,); M is shared out.

    ``a`` may have more columns than the M of ``c``; they are not read.

    Both factors are packed a block of rows at a time, so that a tile reads neither across a page for every row: 112 to
    176 GFLOP/s on two cores at K = 2048, M = 1024, N = 256.
    """
    parts, W = get_num_threads(), panel_width(a.dtype)
    depth = min(DEPTH_BLOCK, len(a))
    strips = empty((parts, STRIPS * STRIP * DEPTH_BLOCK), a.dtype)
    panels = empty((parts, depth * -(-b.shape[1] // W) * W), a.dtype)
    _add_transposed_product(a, b, c, sums, strips, panels, W, parts)
