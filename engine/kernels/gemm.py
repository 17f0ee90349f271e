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
from unrolled.engine.kernels.tile import PANEL_BYTES, TILE_ROWS, tile_1, tile_2, tile_4, tile_8

DEPTH_BLOCK = 256  # rows of a panel read at a time: 256 × 128 bytes, which the L1 cache holds


@compiled
def _pack(b: NDArray, panels: NDArray) -> None:
    K, N = b.shape
    P, _, W = panels.shape
    for p in range(P):
        n = min(W, N - p * W)
        for k in range(K):
            row, source = panels[p, k], b[k]
            for j in range(n):
                row[j] = source[p * W + j]
            for j in range(n, W):
                row[j] = 0


@compiled
def _pack_transposed(b: NDArray, panels: NDArray) -> None:
    N, K = b.shape
    P, _, W = panels.shape
    for p in range(P):
        n = min(W, N - p * W)
        for j in range(n):
            for k in range(K):
                panels[p, k, j] = b[p * W + j, k]
        for k in range(K):
            for j in range(n, W):
                panels[p, k, j] = 0


def _panels(K: int, N: int, dtype: np.dtype) -> NDArray:
    W = PANEL_BYTES // dtype.itemsize
    return empty((-(-N // W), K, W), dtype)


def pack(b: NDArray) -> NDArray:
    """Panels of ``b`` (K, N)."""
    K, N = b.shape
    panels = _panels(K, N, b.dtype)
    _pack(b, panels)
    return panels


def pack_transposed(b: NDArray) -> NDArray:
    """Panels of ``b.T`` for ``b`` (N, K)."""
    N, K = b.shape
    panels = _panels(K, N, b.dtype)
    _pack_transposed(b, panels)
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
def add_product(
    a: NDArray, a_offset: int, a_row: int, a_depth: int, panels: NDArray, c: NDArray, c_offset: int, c_row: int,
    rows: int, N: int,
) -> None:  # fmt: skip
    """C += A @ B for ``rows`` rows, on one thread.

    ``a`` and ``c`` are flat, C-contiguous arrays with an offset and strides in items; element (r, k) of A lies at
    a_offset + r·a_row + k·a_depth, row r of C, N items long, at c_offset + r·c_row.
    """
    P, K, W = panels.shape
    flat = panels.reshape(-1)
    edge = N - (P - 1) * W  # columns of the last panel
    narrow = np.zeros(rows * W if edge < W else 0, c.dtype)
    for k0 in range(0, K, DEPTH_BLOCK):
        depth = min(DEPTH_BLOCK, K - k0)
        for p in range(P):
            a_start, panel = a_offset + k0 * a_depth, (p * K + k0) * W
            if p < P - 1 or edge == W:
                _tiles(a, a_start, a_row, a_depth, flat, panel, c, c_offset + p * W, c_row, rows, depth)
            else:
                # the tile is wider than what is left of C: it goes by way of a block of its own
                for r in range(rows):
                    for j in range(edge):
                        narrow[r * W + j] = c[c_offset + r * c_row + p * W + j]
                _tiles(a, a_start, a_row, a_depth, flat, panel, narrow, 0, W, rows, depth)
                for r in range(rows):
                    for j in range(edge):
                        c[c_offset + r * c_row + p * W + j] = narrow[r * W + j]


@compiled_parallel
def _product(a: NDArray, panels: NDArray, bias: NDArray, c: NDArray, parts: int) -> None:
    M, K, N = a.shape[0], a.shape[1], bias.shape[0]
    flat_a, flat_c = a.reshape(-1), c.reshape(-1)
    for part in prange(parts):
        first, last = part * M // parts, (part + 1) * M // parts
        for m in range(first, last):
            c[m] = bias
        add_product(flat_a, first * K, K, 1, panels, flat_c, first * N, N, last - first, N)


def product(a: NDArray, panels: NDArray, bias: NDArray) -> NDArray:
    """a @ b + bias for ``a`` (M, K), the panels of ``b`` (K, N) and ``bias`` (N,); rows shared out to the threads."""
    c = empty((len(a), len(bias)), a.dtype)
    _product(a, panels, bias, c, get_num_threads())
    return c


@compiled_parallel
def _add_transposed_product(a: NDArray, panels: NDArray, c: NDArray, parts: int) -> None:
    M, N = c.shape
    flat_a, flat_c = a.reshape(-1), c.reshape(-1)
    for part in prange(parts):
        first, last = part * M // parts, (part + 1) * M // parts
        add_product(flat_a, first, 1, M, panels, flat_c, first * N, N, last - first, N)


def add_transposed_product(a: NDArray, panels: NDArray, c: NDArray) -> None:
    """c += a.T @ b for ``a`` (K, M), the panels of ``b`` (K, N) and ``c`` (M, N); rows of c shared out to the threads."""
    _add_transposed_product(a, panels, c, get_num_threads())
