"""Panels: the second factor of a matrix product as the micro-kernel reads it.

A panel holds PANEL_BYTES of columns for every row of the second factor, padded with zeros, one row after the other:
panels (P, K, W). The readable form, for ``b`` (K, P·W), is ``b.reshape(K, P, W).transpose(1, 0, 2)``.

Panels of words hold pairs of bfloat16 (``bf16``), (P, ⌈K/2⌉, W), and up to a whole AMX tile of rows of zeros where the
processor has tiles (``amx``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.kernels.gemm import amx
from unrolled.engine.kernels.gemm.microkernel import PANEL_BYTES, VECTORS
from unrolled.engine.kernels.gemm.packing import FULL, Packing, by_packing
from unrolled.engine.kernels.jit.compilation import compiled
from unrolled.engine.kernels.simd.bf16 import WORD_DTYPE, word
from unrolled.engine.kernels.simd.copies import copy_transposed, make_copy, make_pairing
from unrolled.engine.kernels.threads.buffer_pool import empty
from unrolled.engine.kernels.threads.recording import writes
from unrolled.engine.kernels.threads.thread_pool import compiled_on_all_threads

PACK_ROWS = 16  # rows of a second factor packed at a time: the most lanes that a register has

_copy_row = make_copy(PANEL_BYTES)
_pair_row = make_pairing(PANEL_BYTES // WORD_DTYPE.itemsize)


def panel_width(dtype: np.dtype) -> int:
    """Return W, the columns of a panel."""
    return PANEL_BYTES // dtype.itemsize


def padded_columns(columns: int, dtype: np.dtype) -> int:
    """Return ``columns`` rounded up to whole registers, so that no tile is wider than its row."""
    lanes = panel_width(dtype) // VECTORS
    return -(-columns // lanes) * lanes


@compiled
def _put(b: NDArray, k: int, p: int, j: int, transposed: bool, panels: NDArray) -> None:
    """Put one number of ``b`` or ``b.T`` into row k and column j of panel p."""
    n = p * panels.shape[2] + j
    panels[p, k, j] = b[n, k] if transposed else b[k, n]


@compiled
def _put_word(b: NDArray, k: int, p: int, j: int, transposed: bool, panels: NDArray) -> None:
    """Put one number of ``b`` or ``b.T``, with the next along the depth, into its word; an odd k is already there."""
    n, K = p * panels.shape[2] + j, b.shape[1] if transposed else b.shape[0]
    if k % 2:
        return
    low = b[n, k] if transposed else b[k, n]
    high = np.float32(0)
    if k + 1 < K:
        high = b[n, k + 1] if transposed else b[k + 1, n]
    panels[p, k // 2, j] = word(low, high)


@compiled
def _copy_rows(b: NDArray, k: int, p: int, panels: NDArray) -> None:
    """Copy PACK_ROWS rows of ``b`` from row k on into panel p."""
    (_, K, W), N = panels.shape, b.shape[1]
    source, target = b.reshape(-1), panels.reshape(-1)
    for row in range(k, k + PACK_ROWS):
        _copy_row(source, row * N + p * W, target, (p * K + row) * W)


@compiled
def _copy_rows_words(b: NDArray, k: int, p: int, panels: NDArray) -> None:
    """Round PACK_ROWS rows of ``b`` from row k on into a panel of words."""
    (_, K, W), N = panels.shape, b.shape[1]
    source, target = b.reshape(-1), panels.reshape(-1)
    for row in range(k, k + PACK_ROWS, 2):
        at = row * N + p * W
        _pair_row(source, at, at + N, target, (p * K + row // 2) * W)


_put_number = by_packing("panels", _put, _put_word)
_copy_block = by_packing("panels", _copy_rows, _copy_rows_words)


@writes(2)
@compiled_on_all_threads
def _pack(part: int, parts: int, b: NDArray, panels: NDArray, transposed: bool, paired: int) -> None:
    """Pack ``b`` or ``b.T``; ``paired`` rows make a packed one. Threads share the depth in whole blocks of rows."""
    P, depth, W = panels.shape
    N, K = b.shape
    if not transposed:
        K, N = N, K
    lanes = W // VECTORS
    source, target = b.reshape(-1), panels.reshape(-1)
    blocks = K // PACK_ROWS
    first, last = part * blocks // parts * PACK_ROWS, (part + 1) * blocks // parts * PACK_ROWS
    whole = N // W
    if transposed:
        # as many rows of b as a register has lanes at a time, and the depth in pieces, so that both sides stay in the cache
        for k0 in range(first, last, 8 * PACK_ROWS):
            for n in range(0, N - lanes + 1, lanes):
                at = (n // W * depth) * W + n % W
                for k in range(k0, min(k0 + 8 * PACK_ROWS, last), lanes):
                    copy_transposed(source, n * K + k, K, target, at + k // paired * W, W)
        whole = N // lanes * lanes
    else:
        for k in range(first, last, PACK_ROWS):
            for p in range(whole):
                _copy_block(b, k, p, panels)
        whole *= W
    end = K if part == parts - 1 else last
    edge = (P - 1) * W
    for k in range(first, last):  # columns that fill no register or panel
        for j in range(whole - edge, N - edge):
            _put_number(b, k, P - 1, j, transposed, panels)
    for k in range(last, end):  # rows that fill no block
        for p in range(P):
            for j in range(min(W, N - p * W)):
                _put_number(b, k, p, j, transposed, panels)
    packed_end = depth if part == parts - 1 else last // paired
    for k in range(first // paired, packed_end):
        for j in range(N - (P - 1) * W, W):
            panels[P - 1, k, j] = 0


def _packed(b: NDArray, transposed: bool, packing: Packing) -> NDArray:
    """Return the panels of ``b`` or ``b.T``."""
    N, K = b.shape if transposed else b.shape[::-1]
    dtype, depth, paired = packing.dtype(b.dtype), packing.depth(K), 1 if packing is FULL else 2
    W = panel_width(dtype)
    panels = empty((-(-N // W), depth, W), dtype)
    if packing is not FULL:
        panels[:, (K + 1) // 2 :] = 0
    _pack(b, panels, transposed, paired)
    return panels


def pack(b: NDArray, packing: Packing = Packing.FULL) -> NDArray:
    """Return the panels of ``b`` (K, N)."""
    return _packed(b, False, packing)


def pack_transposed(b: NDArray, packing: Packing = Packing.FULL) -> NDArray:
    """Return the panels of ``b.T`` for ``b`` (N, K)."""
    return _packed(b, True, packing)


class Runs(NamedTuple):
    """Rows of a matrix in runs: ``length`` rows from ``first`` on, ``length`` rows from ``first + stride`` on, …"""

    first: int
    length: int
    stride: int


@compiled
def row_of(runs: Runs, k: int) -> int:
    """Return the index of the k-th row of the runs."""
    return runs.first + k // runs.length * runs.stride + k % runs.length


@compiled
def _pack_rows_full(b: NDArray, runs: Runs, k0: int, rows: int, panels: NDArray, W: int) -> int:
    """Pack rows for ``Packing.FULL``."""
    N = b.shape[1]
    flat = b.reshape(-1)
    for k in range(rows):
        row_at, at = row_of(runs, k0 + k) * N, k * W
        for n in range(0, N - W + 1, W):
            _copy_row(flat, row_at + n, panels, at)
            at += rows * W
        rest = N % W
        if rest:
            for j in range(W):
                panels[at + j] = flat[row_at + N - rest + j] if j < rest else 0
    return rows


@compiled
def _pack_row_words(
    b: NDArray, runs: Runs, k0: int, rows: int, panels: NDArray, W: int, depth: int
) -> None:  # fmt: skip
    """Round rows to panels of words of ``depth`` rows; what they do not fill becomes zero."""
    N = b.shape[1]
    flat = b.reshape(-1)
    filled = (rows + 1) // 2
    zero = np.float32(0)
    for p in range((N + W - 1) // W):
        panels[(p * depth + filled) * W : (p + 1) * depth * W] = 0
    for k in range(filled):
        two = 2 * k + 1 < rows
        low_at, at = row_of(runs, k0 + 2 * k) * N, k * W
        high_at = low_at + N
        for n in range(0, N, W):
            if two and n + W <= N:
                _pair_row(flat, low_at + n, high_at + n, panels, at)
            else:
                for j in range(W):
                    some = n + j < N
                    low = flat[low_at + n + j] if some else zero
                    high = flat[high_at + n + j] if some and two else zero
                    panels[at + j] = word(low, high)
            at += depth * W


@compiled
def _pack_rows_pairs(b: NDArray, runs: Runs, k0: int, rows: int, panels: NDArray, W: int) -> int:
    """Pack rows for ``Packing.PAIRS``."""
    depth = (rows + 1) // 2
    _pack_row_words(b, runs, k0, rows, panels, W, depth)
    return depth


@compiled
def _pack_rows_tiles(b: NDArray, runs: Runs, k0: int, rows: int, panels: NDArray, W: int) -> int:
    """Pack rows for ``Packing.TILES``: with rows of zeros up to whole tiles."""
    depth = ((rows + 1) // 2 + amx.DEPTH - 1) // amx.DEPTH * amx.DEPTH
    _pack_row_words(b, runs, k0, rows, panels, W, depth)
    return depth


pack_rows = by_packing("panels", _pack_rows_full, _pack_rows_pairs, _pack_rows_tiles)
"""Pack ``rows`` rows of ``b``, from the k0-th of ``runs`` on, as flat panels padded with zeros; return their depth."""
