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
from unrolled.engine.kernels.simd.copies import (
    copy_part_transposed,
    copy_transposed,
    make_copy,
    make_padded_copy,
    make_pairing,
)
from unrolled.engine.kernels.threads.buffer_pool import empty
from unrolled.engine.kernels.threads.recording import writes
from unrolled.engine.kernels.threads.thread_pool import compiled_on_all_threads

PACK_ROWS = 16  # rows of a panel that a thread packs together: the most lanes that a register has

_copy_row, _copy_last = make_copy(PANEL_BYTES), make_padded_copy(PANEL_BYTES)
_pair_row = make_pairing(PANEL_BYTES // WORD_DTYPE.itemsize)


def panel_width(dtype: np.dtype) -> int:
    """Return W, the columns of a panel."""
    return PANEL_BYTES // dtype.itemsize


def padded_columns(columns: int, dtype: np.dtype) -> int:
    """Return ``columns`` rounded up to whole registers, so that no tile is wider than its row."""
    lanes = panel_width(dtype) // VECTORS
    return -(-columns // lanes) * lanes


@compiled
def _put_row_full(
    b: NDArray, low_at: int, high_at: int, N: int, panels: NDArray, at: int, far: int, W: int
) -> None:  # fmt: skip
    """Put a row for ``Packing.FULL``."""
    whole = N // W
    for p in range(whole):
        _copy_row(b, low_at + p * W, panels, at + p * far)
    if whole * W < N:
        _copy_last(b, low_at + whole * W, N - whole * W, panels, at + whole * far)


@compiled
def _put_row_words(
    b: NDArray, low_at: int, high_at: int, N: int, panels: NDArray, at: int, far: int, W: int
) -> None:  # fmt: skip
    """Put the words of two rows; the second one may be missing."""
    zero = np.float32(0)
    for n in range(0, N, W):
        if high_at >= 0 and n + W <= N:
            _pair_row(b, low_at + n, high_at + n, panels, at)
        else:
            for j in range(W):
                some = n + j < N
                low = b[low_at + n + j] if some else zero
                high = b[high_at + n + j] if some and high_at >= 0 else zero
                panels[at + j] = word(low, high)
        at += far


_put_row = by_packing("panels", _put_row_full, _put_row_words)
"""Put N numbers of the flat ``b`` from ``low_at`` on, and the row at ``high_at``, -1 for none, into a row of each panel.

The row of the first panel is at ``at``, and those of the others ``far`` apart; what N does not fill becomes zero.
"""


@compiled
def _pack_columns(b: NDArray, k0: int, k1: int, N: int, K: int, panels: NDArray, far: int, W: int, paired: int) -> None:
    """Pack the columns k0 … k1 of the flat ``b`` (N, K) as rows of panels, which are ``far`` apart."""
    lanes = W // VECTORS
    # as many rows of b as a register has lanes at a time, and the depth in pieces, so that both sides stay in the cache
    for first in range(k0, k1, 8 * PACK_ROWS):
        last = min(first + 8 * PACK_ROWS, k1)
        for n in range(0, N, lanes):
            at = n // W * far + n % W
            for k in range(first, last, lanes):
                into = at + k // paired * W
                if n + lanes <= N and k + lanes <= last:
                    copy_transposed(b, n * K + k, K, panels, into, W)
                else:
                    copy_part_transposed(b, n * K + k, K, panels, into, W, N - n, last - k)
    used = (N + lanes - 1) // lanes * lanes % W
    if used > 0:  # registers of the last panel that have no column
        for k in range(k0 // paired, (k1 + paired - 1) // paired):
            at = N // W * far + k * W
            panels[at + used : at + W] = 0


@writes(2)
@compiled_on_all_threads
def _pack(part: int, parts: int, b: NDArray, panels: NDArray, transposed: bool, paired: int) -> None:
    """Pack ``b`` or ``b.T``; ``paired`` rows make a packed one. Threads share the depth in blocks of rows."""
    _, depth, W = panels.shape
    N, K = b.shape
    if not transposed:
        K, N = N, K
    source, target, far = b.reshape(-1), panels.reshape(-1), depth * W
    blocks = (K + PACK_ROWS - 1) // PACK_ROWS
    first, last = part * blocks // parts * PACK_ROWS, min((part + 1) * blocks // parts * PACK_ROWS, K)
    if transposed:
        _pack_columns(source, first, last, N, K, target, far, W, paired)
        return
    for k in range(first, last, paired):
        second = (k + 1) * N if paired > 1 and k + 1 < K else -1
        _put_row(source, k * N, second, N, target, k // paired * W, far, W)


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
    N, flat = b.shape[1], b.reshape(-1)
    for k in range(rows):
        _put_row(flat, row_of(runs, k0 + k) * N, -1, N, panels, k * W, rows * W, W)
    return rows


@compiled
def _pack_row_words(
    b: NDArray, runs: Runs, k0: int, rows: int, panels: NDArray, W: int, depth: int
) -> None:  # fmt: skip
    """Round rows to panels of words of ``depth`` rows; what they do not fill becomes zero."""
    N, flat = b.shape[1], b.reshape(-1)
    filled = (rows + 1) // 2
    for p in range((N + W - 1) // W):
        panels[(p * depth + filled) * W : (p + 1) * depth * W] = 0
    for k in range(filled):
        low_at = row_of(runs, k0 + 2 * k) * N
        _put_row(flat, low_at, low_at + N if 2 * k + 1 < rows else -1, N, panels, k * W, depth * W, W)


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
