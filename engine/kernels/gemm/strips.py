"""Strips: the first factor of a weight gradient, transposed, as the micro-kernel reads it.

A strip holds STRIP columns of a block of rows, so that a tile of the transposed factor reads consecutive memory. While the
rows are in cache they are also added up: the bias gradient, or a gradient a token, needs no pass of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.kernels.gemm import amx
from unrolled.engine.kernels.gemm.matmul import multiply_columns
from unrolled.engine.kernels.gemm.microkernel import TILE_ROWS
from unrolled.engine.kernels.gemm.packing import Packing, by_packing
from unrolled.engine.kernels.gemm.rhs_packing import Runs, row_of
from unrolled.engine.kernels.jit.compilation import compiled
from unrolled.engine.kernels.jit.target import TARGET
from unrolled.engine.kernels.simd.bf16 import word
from unrolled.engine.kernels.simd.copies import (
    copy_words_transposed,
    make_copy_and_add,
    make_pairing,
    prefetch,
)
from unrolled.engine.kernels.simd.row_sums import add_row_at, make_add_rows

# rows packed at a time; with fewer, strips stay in a nearer cache, but sums are read and written more often
DEPTH = 512
COLUMNS = 128  # of the first factor, packed at a time
SUM_ROWS = 64  # rows that are summed apart before their sum is added to that of all
AHEAD = 8  # rows by which prefetches run ahead: rows lie on different pages, which defeats the hardware prefetcher
STRIP = max(TILE_ROWS, TARGET.vector_bytes // 4)  # columns of a strip: whole tiles and registers
# Items from strip to strip: a cache line more than a strip has, or all strips would share one set of the cache.
STRIP_ITEMS = DEPTH * STRIP + 16

AMX_COLUMNS = 256
AMX_STRIP = DEPTH + amx.LANES  # words from one strip to the next

_SUMMED = 4  # rows that are added up first
_copy_and_add = make_copy_and_add(1, STRIP)
_copy_and_sum = make_copy_and_add(_SUMMED, STRIP)
_add_four_rows = make_add_rows(_SUMMED)
_pair_strip = make_pairing(STRIP)


@compiled
def _add_rows(
    a: NDArray, width: int, first: int, row: int, rows: int, m0: int, m1: int, sums: NDArray, table_width: int,
    places: NDArray, block: NDArray, block_at: int,
) -> None:  # fmt: skip
    """Add columns m0 … m1 of the next four of ``rows``, the rows of ``a`` from ``first`` on, to their places in ``sums``.

    ``a`` and ``sums`` are flat, of rows of ``width`` and ``table_width`` items. ``row`` counts the rows before; the last may
    be fewer than four. A long chain of additions gathers rounding errors, so where there is one place, four rows are added
    up first, and SUM_ROWS are summed apart in ``block``, from ``block_at`` on, which is zero again after the last of them.
    """
    count, some = m1 - m0, min(_SUMMED, rows - row)
    if len(sums) > table_width:
        for k in range(first, first + some):
            add_row_at(a, k * width + m0, 0, sums, places[k] * table_width + m0, count)
    else:
        if some == _SUMMED:
            _add_four_rows(a, first * width + m0, width, block, block_at, count)
        else:
            for k in range(first, first + some):
                add_row_at(a, k * width + m0, 0, block, block_at, count)
        _close_block(row, rows, m0, m1, sums, block, block_at)


@compiled
def _close_block(row: int, rows: int, m0: int, m1: int, sums: NDArray, block: NDArray, block_at: int) -> None:
    """Add ``block`` to the one sum and clear it, if ``row`` is the last four of SUM_ROWS or of all."""
    if (row + _SUMMED) % SUM_ROWS == 0 or row + _SUMMED >= rows:
        add_row_at(block, block_at, 0, sums, m0, m1 - m0)
        for m in range(block_at, block_at + m1 - m0):
            block[m] = 0


@compiled
def add_columns(
    a: NDArray, runs: Runs, k0: int, rows: int, m0: int, m1: int, sums: NDArray, places: NDArray
) -> None:  # fmt: skip
    """Add columns m0 … m1 of ``rows`` rows of ``a``, from the k0-th of ``runs`` on, to ``sums`` without packing them."""
    if m0 >= m1:
        return
    width, table_width = a.shape[1], sums.shape[1]
    flat, flat_sums, block = a.reshape(-1), sums.reshape(-1), np.zeros(m1 - m0, a.dtype)
    first, left = row_of(runs, k0), runs.length - k0 % runs.length
    for row in range(0, rows, _SUMMED):
        _add_rows(flat, width, first, row, rows, m0, m1, flat_sums, table_width, places, block, 0)
        first, left = first + _SUMMED, left - _SUMMED
        if left <= 0:
            first, left = first + runs.stride - runs.length, runs.length


@compiled
def _pack_strips_full(
    a: NDArray, runs: Runs, k0: int, rows: int, m0: int, m1: int, strips: NDArray, sums: NDArray,
    places: NDArray,
) -> None:  # fmt: skip
    """Pack for ``Packing.FULL``; whole strips of four rows are copied and added up in one pass."""
    width, table_width = a.shape[1], sums.shape[1]
    flat, flat_sums = a.reshape(-1), sums.reshape(-1)
    whole, one_sum = m0 + (m1 - m0) // STRIP * STRIP, sums.shape[0] == 1
    block = np.zeros(m1 - m0, a.dtype)
    for row in range(0, rows, _SUMMED):
        fours = row + _SUMMED <= rows
        first, copied = row_of(runs, k0 + row), m0
        if fours and one_sum:
            for m in range(m0, whole, STRIP):
                at = first * width + m
                for r in range(_SUMMED):
                    prefetch(flat, at + (AHEAD + r) * width)
                _copy_and_sum(flat, at, width, strips, (m - m0) // STRIP * STRIP_ITEMS + row * STRIP, block, m - m0)
            _close_block(row, rows, m0, whole, flat_sums, block, 0)
            copied = whole
        elif fours:
            for r in range(_SUMMED):
                at, table_at = (first + r) * width, places[first + r] * table_width
                for m in range(m0, whole, STRIP):
                    prefetch(flat, at + m + AHEAD * width)
                    strip = (m - m0) // STRIP * STRIP_ITEMS + (row + r) * STRIP
                    _copy_and_add(flat, at + m, width, strips, strip, flat_sums, table_at + m)
            copied = whole
        if copied < m1:
            _add_rows(flat, width, first, row, rows, copied, m1, flat_sums, table_width, places, block, copied - m0)
        for r in range(min(_SUMMED, rows - row)):
            for m in range(copied - m0, m1 - m0):
                strips[m // STRIP * STRIP_ITEMS + (row + r) * STRIP + m % STRIP] = a[first + r, m0 + m]


@compiled
def _pack_strips_pairs(
    a: NDArray, runs: Runs, k0: int, rows: int, m0: int, m1: int, strips: NDArray, sums: NDArray,
    places: NDArray,
) -> None:  # fmt: skip
    """Pack for ``Packing.PAIRS``: words of two rows."""
    width, table_width = a.shape[1], sums.shape[1]
    flat, flat_sums = a.reshape(-1), sums.reshape(-1)
    whole = m0 + (m1 - m0) // STRIP * STRIP
    zero, block = np.float32(0), np.zeros(m1 - m0, a.dtype)
    for k in range(0, rows, 2):
        first = row_of(runs, k0 + k)
        if k % _SUMMED == 0:
            _add_rows(flat, width, first, k, rows, m0, m1, flat_sums, table_width, places, block, 0)
        two = k + 1 < rows
        low_at, high_at = first * width, (first + 1) * width
        low = a[first, m0:m1]
        high = a[first + 1, m0:m1] if two else np.zeros(m1 - m0, a.dtype)
        at = k // 2 * STRIP
        for m in range(m0, whole, STRIP):
            prefetch(flat, high_at + m + (AHEAD - 1) * width)
            prefetch(flat, high_at + m + AHEAD * width)
            if two:
                _pair_strip(flat, low_at + m, high_at + m, strips, at)
            else:
                for j in range(STRIP):
                    strips[at + j] = word(flat[low_at + m + j], zero)
            at += STRIP_ITEMS
        for m in range(whole, m1):
            strips[at + m - whole] = word(low[m - m0], high[m - m0])


@compiled
def _pack_strips_tiles(
    a: NDArray, runs: Runs, k0: int, rows: int, m0: int, m1: int, strips: NDArray, sums: NDArray,
    places: NDArray,
) -> None:  # fmt: skip
    """Pack for ``Packing.TILES``: a row of ``strips`` for each column, ``AMX_STRIP`` words apart."""
    width, table_width = a.shape[1], sums.shape[1]
    flat, flat_sums = a.reshape(-1), sums.reshape(-1)
    whole = m0 + (m1 - m0) // amx.LANES * amx.LANES
    zero, block = np.float32(0), np.zeros(m1 - m0, a.dtype)
    for k in range(0, rows, 2 * amx.DEPTH):
        first = row_of(runs, k0 + k)
        for row in range(k, min(k + 2 * amx.DEPTH, rows), _SUMMED):
            _add_rows(
                flat, width, first + row - k, row, rows, m0, m1, flat_sums, table_width, places, block, 0
            )  # fmt: skip
        full = k + 2 * amx.DEPTH <= rows
        done = whole if full else m0
        for m in range(m0, done, amx.LANES):
            copy_words_transposed(
                flat, first * width + m, width, strips, (m - m0) * AMX_STRIP + k // 2, AMX_STRIP
            )  # fmt: skip
        for m in range(done, m1):
            at = (m - m0) * AMX_STRIP + k // 2
            for j in range(amx.DEPTH):
                low = a[first + 2 * j, m] if k + 2 * j < rows else zero
                high = a[first + 2 * j + 1, m] if k + 2 * j + 1 < rows else zero
                strips[at + j] = word(low, high)


@compiled
def _multiply_strips_full(
    strips: NDArray, panels: NDArray, depth: int, W: int, c: NDArray, c_at: int, rows: int, N: int
) -> None:  # fmt: skip
    """Multiply strip by strip on the micro-kernel, alternating the direction."""
    for m in range(0, rows, STRIP):
        at, into, high = m // STRIP * STRIP_ITEMS, c_at + m * N, min(STRIP, rows - m)
        back = m // STRIP % 2 == 1
        multiply_columns(strips, at, 1, STRIP, panels, 0, depth * W, W, c, into, N, c, into, N, high, N, depth, back)


@compiled
def _multiply_strips_tiles(
    strips: NDArray, panels: NDArray, depth: int, W: int, c: NDArray, c_at: int, rows: int, N: int
) -> None:  # fmt: skip
    """Multiply on AMX tiles."""
    amx.multiply(strips, 0, AMX_STRIP, panels, depth, W, 0, c, c_at, N, c, c_at, N, rows, N, False)


pack_strips = by_packing("strips", _pack_strips_full, _pack_strips_pairs, _pack_strips_tiles)
"""Pack columns m0 … m1 of ``rows`` rows of ``a``, from the k0-th of ``runs`` on, and add row k to sums[places[k]]."""

multiply_strips = by_packing("strips", _multiply_strips_full, _multiply_strips_full, _multiply_strips_tiles)
"""Add the product of strips and panels of ``depth`` rows to ``rows`` rows of N items of the flat ``c``, from ``c_at`` on."""


class StripSizes(NamedTuple):
    """Sizes of the part of a first factor that is packed at a time."""

    rows: int  # of both factors
    together: int  # rows that must be consecutive in memory
    columns: int  # of the first factor
    unit: int  # columns that one thread packs together
    items: int  # of packed memory a thread


_FULL = StripSizes(DEPTH, _SUMMED, COLUMNS, STRIP, COLUMNS // STRIP * STRIP_ITEMS)
STRIP_SIZES = {
    Packing.FULL: _FULL,
    Packing.PAIRS: _FULL._replace(rows=2 * DEPTH),
    Packing.TILES: StripSizes(2 * DEPTH, 2 * amx.DEPTH, AMX_COLUMNS, amx.ROWS, AMX_COLUMNS * AMX_STRIP),
}
