"""Matrix products on the micro-kernel: the second factor is packed into panels, the first is read as it lies.

A panel holds PANEL_BYTES of columns for every row of the second factor, padded with zeros, one after the other:
panels (P, K, W). The reference of every function is the NumPy product in its first line.

Panels of words hold pairs of bfloat16 (``bf16``), (P, ⌈K/2⌉, W), or some rows of zeros more where the processor has tiles
of its own (``amx``); elsewhere the functions that only run tiles do not tell them apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import get_num_threads, prange
from numba.extending import overload
from numpy.typing import NDArray

from unrolled.engine.kernels import amx
from unrolled.engine.kernels.bf16 import (
    WORD,
    WORD_DTYPE,
    make_pairing,
    new_operand,
    operand,
    packed_depth,
    packed_words,
    word,
)
from unrolled.engine.kernels.kernel import compiled, compiled_parallel
from unrolled.engine.kernels.pool import empty
from unrolled.engine.kernels.tile import (
    PANEL_BYTES,
    STRIP,
    TILE_ROWS,
    VECTORS,
    WIDE_ROWS,
    copy_panel_row,
    copy_strip,
    copy_transposed,
    copy_words_transposed,
    prefetch,
    thin_1,
    thin_2,
    thin_4,
    thin_8,
    tile_1,
    tile_2,
    tile_4,
    tile_8,
    wide_1,
    wide_2,
    wide_4,
)

DEPTH_BLOCK = (
    512  # rows of a panel read at a time; more rows: sums are read and written less, but panels leave the L2 cache
)
ROW_BLOCK = 128  # rows of the first factor that all panels meet before the next: at a depth of 256, 128 KB of L2
PACK_ROWS = 16  # rows of a second factor packed at a time: as many lanes as a register has at the most, or a multiple
STRIPS = 16  # strips packed at a time: they share the reading of a panel
SUM_ROWS = 64  # of a first factor, whose sum is added to that of all
# Items from strip to strip. One line of the cache more than it takes, or all strips would be written to one set of lines.
AHEAD = 8  # rows: each is a piece of a line of its own page, which the processor does not foresee
STRIP_ITEMS = DEPTH_BLOCK * STRIP + 16

AMX_GROUP = 256  # columns of a first factor that are packed at a time for a processor's own tiles
AMX_STRIP = DEPTH_BLOCK + amx.LANES  # words from one of them to the next

_pair_strip, _pair_panel_row = make_pairing(STRIP), make_pairing(PANEL_BYTES // WORD_DTYPE.itemsize)


def panel_width(dtype: np.dtype) -> int:
    """W, the columns of a panel."""
    return PANEL_BYTES // dtype.itemsize


@compiled
def _put(b: NDArray, k: int, p: int, j: int, transposed: bool, panels: NDArray) -> None:
    """One number of ``b`` or ``b.T`` to row k and column j of panel p, of its dtype."""
    n = p * panels.shape[2] + j
    panels[p, k, j] = b[n, k] if transposed else b[k, n]


@compiled
def _put_word(b: NDArray, k: int, p: int, j: int, transposed: bool, panels: NDArray) -> None:
    """One number of ``b`` or ``b.T``, with the one behind it along the depth, to its place in a panel of words."""
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
    """A block's rows of a panel, of its dtype."""
    (_, K, W), N = panels.shape, b.shape[1]
    source, target = b.reshape(-1), panels.reshape(-1)
    for row in range(k, k + PACK_ROWS):
        copy_panel_row(source, row * N + p * W, target, (p * K + row) * W)


@compiled
def _copy_rows_words(b: NDArray, k: int, p: int, panels: NDArray) -> None:
    (_, K, W), N = panels.shape, b.shape[1]
    source, target = b.reshape(-1), panels.reshape(-1)
    for row in range(k, k + PACK_ROWS, 2):
        at = row * N + p * W
        _pair_panel_row(source, at, at + N, target, (p * K + row // 2) * W)


def _put_for(b, k, p, j, transposed, panels):  # type: ignore[no-untyped-def]
    """``_put`` or ``_put_word``; goes by the panels' dtype, as the next."""
    raise NotImplementedError("for compiled code only")


def _copy_rows_for(b, k, p, panels):  # type: ignore[no-untyped-def]
    raise NotImplementedError("for compiled code only")


@overload(_put_for)
def _put_overload(b, k, p, j, transposed, panels):  # type: ignore[no-untyped-def]
    put = _put_word if panels.dtype == WORD else _put
    return lambda b, k, p, j, transposed, panels: put(b, k, p, j, transposed, panels)


@overload(_copy_rows_for)
def _copy_rows_overload(b, k, p, panels):  # type: ignore[no-untyped-def]
    copy = _copy_rows_words if panels.dtype == WORD else _copy_rows
    return lambda b, k, p, panels: copy(b, k, p, panels)


@compiled_parallel
def _pack(b: NDArray, panels: NDArray, transposed: bool, paired: int, parts: int) -> None:
    """``paired`` rows make one of the packed ones. The depth is shared out in whole blocks of rows."""
    P, depth, W = panels.shape
    N, K = b.shape
    if not transposed:
        K, N = N, K
    lanes = W // VECTORS
    source, target = b.reshape(-1), panels.reshape(-1)
    blocks = K // PACK_ROWS
    for part in prange(parts):
        first, last = part * blocks // parts * PACK_ROWS, (part + 1) * blocks // parts * PACK_ROWS
        whole = N // W
        if transposed:
            # a register's lanes of rows at a time, the depth in pieces: both sides stay in the cache
            for k0 in range(first, last, 8 * PACK_ROWS):
                for n in range(0, N - lanes + 1, lanes):
                    at = (n // W * depth) * W + n % W
                    for k in range(k0, min(k0 + 8 * PACK_ROWS, last), lanes):
                        copy_transposed(source, n * K + k, K, target, at + k // paired * W, W)
            whole = N // lanes * lanes
        else:
            for k in range(first, last, PACK_ROWS):
                for p in range(whole):
                    _copy_rows_for(b, k, p, panels)
            whole *= W
        end = K if part == parts - 1 else last
        edge = (P - 1) * W
        for k in range(first, last):  # columns that fill no register or panel
            for j in range(whole - edge, N - edge):
                _put_for(b, k, P - 1, j, transposed, panels)
        for k in range(last, end):  # rows that fill no block
            for p in range(P):
                for j in range(min(W, N - p * W)):
                    _put_for(b, k, p, j, transposed, panels)
        packed_end = depth if part == parts - 1 else last // paired
        for k in range(first // paired, packed_end):
            for j in range(N - (P - 1) * W, W):
                panels[P - 1, k, j] = 0


def _packed(b: NDArray, transposed: bool, bf16: bool) -> NDArray:
    N, K = b.shape if transposed else b.shape[::-1]
    dtype = WORD_DTYPE if bf16 else b.dtype
    W, filled = panel_width(dtype), (K + 1) // 2 if bf16 else K
    panels = empty((-(-N // W), packed_depth(K) if bf16 else K, W), dtype)
    panels[:, filled:] = 0
    _pack(b, panels, transposed, 2 if bf16 else 1, get_num_threads())
    return panels


def pack(b: NDArray, bf16: bool = False) -> NDArray:
    """Panels of ``b`` (K, N), of its dtype or of words."""
    return _packed(b, False, bf16)


def pack_transposed(b: NDArray, bf16: bool = False) -> NDArray:
    """Panels of ``b.T`` for ``b`` (N, K), of its dtype or of words."""
    return _packed(b, True, bf16)


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
            tile_8(a, a_at, a_row, a_depth, panels, panel_at, 0, c, c_at, c_row, depth)
        elif left >= 4:
            n = 4
            tile_4(a, a_at, a_row, a_depth, panels, panel_at, 0, c, c_at, c_row, depth)
        elif left >= 2:
            n = 2
            tile_2(a, a_at, a_row, a_depth, panels, panel_at, 0, c, c_at, c_row, depth)
        else:
            n = 1
            tile_1(a, a_at, a_row, a_depth, panels, panel_at, 0, c, c_at, c_row, depth)
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
            thin_8(a, a_at, a_row, a_depth, panels, panel_at, 0, c, c_at, c_row, depth)
        elif left >= 4:
            n = 4
            thin_4(a, a_at, a_row, a_depth, panels, panel_at, 0, c, c_at, c_row, depth)
        elif left >= 2:
            n = 2
            thin_2(a, a_at, a_row, a_depth, panels, panel_at, 0, c, c_at, c_row, depth)
        else:
            n = 1
            thin_1(a, a_at, a_row, a_depth, panels, panel_at, 0, c, c_at, c_row, depth)
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
def _few_rows(
    a: NDArray, a_at: int, a_row: int, a_depth: int, panels: NDArray, K: int, first: int, c: NDArray, c_offset: int,
    c_row: int, rows: int, N: int, W: int, back: bool,
) -> None:  # fmt: skip
    """``add_product_part`` for one tile of rows: a panel is read once, so over its whole depth; ``back``: the last first."""
    count = (N + W - 1) // W
    edge = N - (count - 1) * W  # columns of the last panel
    whole = count if edge == W else count - 1
    pairs = 0 if rows == 3 or rows > WIDE_ROWS else whole // 2
    groups = count - pairs
    for i in range(groups):
        group = groups - 1 - i if back else i
        p = 2 * group if group < pairs else group + pairs
        panel_at, c_at = (first + p) * K * W, c_offset + p * W
        if group < pairs:
            if rows == 4:
                wide_4(a, a_at, a_row, a_depth, panels, panel_at, K * W, c, c_at, c_row, K)
            elif rows == 2:
                wide_2(a, a_at, a_row, a_depth, panels, panel_at, K * W, c, c_at, c_row, K)
            else:
                wide_1(a, a_at, a_row, a_depth, panels, panel_at, K * W, c, c_at, c_row, K)
        elif p < whole:
            _tiles(a, a_at, a_row, a_depth, panels, panel_at, c, c_at, c_row, rows, K)
        else:
            _edge(a, a_at, a_row, a_depth, panels, panel_at, c, c_at, c_row, rows, K, edge, W)


@compiled
def _add_part(
    a: NDArray, a_offset: int, a_row: int, a_depth: int, panels: NDArray, first: int, c: NDArray, c_offset: int,
    c_row: int, rows: int, N: int, back: bool,
) -> None:  # fmt: skip
    K, W = panels.shape[1], panels.shape[2]
    flat = panels.reshape(-1)
    if rows <= TILE_ROWS:
        _few_rows(a, a_offset, a_row, a_depth, flat, K, first, c, c_offset, c_row, rows, N, W, back)
        return
    last = first + (N - 1) // W
    edge = N - (last - first) * W  # columns of the last panel
    for k0 in range(0, K, DEPTH_BLOCK):
        depth = min(DEPTH_BLOCK, K - k0)
        a_at = a_offset + k0 * a_depth
        for p in range(first, last + 1):
            panel_at, c_at = (p * K + k0) * W, c_offset + (p - first) * W
            if p < last or edge == W:
                _tiles(a, a_at, a_row, a_depth, flat, panel_at, c, c_at, c_row, rows, depth)
            else:
                _edge(a, a_at, a_row, a_depth, flat, panel_at, c, c_at, c_row, rows, depth, edge, W)


@compiled
def _add_part_amx(
    a: NDArray, a_offset: int, a_row: int, a_depth: int, panels: NDArray, first: int, c: NDArray, c_offset: int,
    c_row: int, rows: int, N: int, back: bool,
) -> None:  # fmt: skip
    amx.add_product(
        a, a_offset, a_row, panels.reshape(-1), panels.shape[1], panels.shape[2], first, c, c_offset, c_row, rows, N, back
    )  # fmt: skip


def add_product_part(a, a_offset, a_row, a_depth, panels, first, c, c_offset, c_row, rows, N, back):  # type: ignore[no-untyped-def]
    """``add_product`` for the N columns from the start of panel ``first``; ``c_offset`` is that of its first column."""
    raise NotImplementedError("for compiled code only")


@overload(add_product_part)
def _add_product_part_for(a, a_offset, a_row, a_depth, panels, first, c, c_offset, c_row, rows, N, back):  # type: ignore[no-untyped-def]
    add = _add_part_amx if panels.dtype == WORD and amx.AVAILABLE else _add_part

    def run(a, a_offset, a_row, a_depth, panels, first, c, c_offset, c_row, rows, N, back):  # type: ignore[no-untyped-def]
        add(a, a_offset, a_row, a_depth, panels, first, c, c_offset, c_row, rows, N, back)

    return run


@compiled
def add_product(
    a: NDArray, a_offset: int, a_row: int, a_depth: int, panels: NDArray, c: NDArray, c_offset: int, c_row: int,
    rows: int, N: int, back: bool = False,
) -> None:  # fmt: skip
    """C += A @ B for ``rows`` rows, on one thread.

    ``a`` and ``c`` are flat, C-contiguous arrays with an offset and strides in items; element (r, k) of A lies at
    a_offset + r·a_row + k·a_depth, row r of C, N items long, at c_offset + r·c_row. A caller that comes again and again
    with few rows turns ``back`` every other time: what it read last is still in the cache.
    """
    for r in range(0, rows, ROW_BLOCK):
        some = min(ROW_BLOCK, rows - r)
        add_product_part(
            a, a_offset + r * a_row, a_row, a_depth, panels, 0, c, c_offset + r * c_row, c_row, some, N, back
        )  # fmt: skip


@compiled_parallel
def _product(
    a: NDArray, k0: int, k1: int, panels: NDArray, bias: NDArray, c: NDArray, fresh: bool, parts: int
) -> None:  # fmt: skip
    M, width, N = a.shape[0], a.shape[1], bias.shape[0]
    flat_a, flat_c = a.reshape(-1), c.reshape(-1)
    for part in prange(parts):
        first, last = part * M // parts, (part + 1) * M // parts
        memory = new_operand(panels, ROW_BLOCK)
        for m in range(first, last, ROW_BLOCK):
            some = min(ROW_BLOCK, last - m)
            if fresh:
                for r in range(m, m + some):
                    c[r] = bias
            factor, at, stride = operand(flat_a, m * width + k0, width, some, k1 - k0, panels, memory)
            add_product(factor, at, stride, 1, panels, flat_c, m * N, N, some, N)


def product(a: NDArray, panels: NDArray, bias: NDArray) -> NDArray:
    """a @ b + bias for ``a`` (M, K), the panels of ``b`` (K, N) and ``bias`` (N,); rows shared out to the threads."""
    return products(a, [(0, a.shape[1], panels)], bias)


def products(a: NDArray, factors: Sequence[tuple[int, int, NDArray]], bias: NDArray) -> NDArray:
    """Σ a[:, k0:k1] @ b + bias over ``factors`` (k0, k1, the panels of b), each b of as many columns as ``bias``."""
    c = empty((len(a), len(bias)), a.dtype)
    for n, (k0, k1, panels) in enumerate(factors):
        _product(a, k0, k1, panels, bias, c, n == 0, get_num_threads())
    return c


@compiled
def _add_rows(
    a: NDArray, k0: int, row: int, rows: int, m0: int, m1: int, sums: NDArray, places: NDArray, block: NDArray
) -> None:  # fmt: skip
    """Columns m0 … m1 of four rows of ``a``, from k0 + row on, to their places in ``sums``; of ``rows`` the last may be fewer.

    A long chain of additions gathers rounding errors, so where there is one place, four rows are added up first, and
    SUM_ROWS are a sum apart, in ``block`` (m1 - m0,), which is empty again behind the last.
    """
    first, last = k0 + row, k0 + min(row + 4, rows)
    if sums.shape[0] > 1:
        for k in range(first, last):
            values, some = a[k, m0:m1], sums[places[k], m0:m1]
            for m in range(m1 - m0):  # from 0: a start that might be negative keeps the loop scalar
                some[m] += values[m]
        return
    if last - first == 4:
        one, two, three, four = a[first, m0:m1], a[first + 1, m0:m1], a[first + 2, m0:m1], a[first + 3, m0:m1]
        for m in range(m1 - m0):
            block[m] += (one[m] + two[m]) + (three[m] + four[m])
    else:
        for k in range(first, last):
            values = a[k, m0:m1]
            for m in range(m1 - m0):
                block[m] += values[m]
    if (row + 4) % SUM_ROWS == 0 or row + 4 >= rows:
        total = sums[0, m0:m1]
        for m in range(m1 - m0):
            total[m] += block[m]
            block[m] = 0


@compiled
def _add_columns(a: NDArray, k0: int, rows: int, m0: int, m1: int, sums: NDArray, places: NDArray) -> None:
    """Columns m0 … m1 of ``rows`` rows of ``a`` from k0 on, added to ``sums`` and nothing else."""
    if m0 < m1:
        block = np.zeros(m1 - m0, a.dtype)
        for row in range(0, rows, 4):
            _add_rows(a, k0, row, rows, m0, m1, sums, places, block)


@compiled
def _pack_strips_as_they_are(
    a: NDArray, k0: int, depth: int, m0: int, m1: int, strips: NDArray, sums: NDArray, places: NDArray
) -> None:  # fmt: skip
    width = a.shape[1]
    flat = a.reshape(-1)
    whole = m0 + (m1 - m0) // STRIP * STRIP
    block = np.zeros(m1 - m0, a.dtype)
    for first in range(0, depth, 4):
        _add_rows(a, k0, first, depth, m0, m1, sums, places, block)
        for k in range(first, min(first + 4, depth)):
            row_at, at = (k0 + k) * width, k * STRIP
            for m in range(m0, whole, STRIP):
                prefetch(flat, row_at + m + AHEAD * width)
                copy_strip(flat, row_at + m, strips, at)
                at += STRIP_ITEMS
            for m in range(whole, m1):
                strips[at + m - whole] = flat[row_at + m]


@compiled
def _pack_strips_words(
    a: NDArray, k0: int, rows: int, m0: int, m1: int, strips: NDArray, sums: NDArray, places: NDArray
) -> None:  # fmt: skip
    width = a.shape[1]
    flat = a.reshape(-1)
    whole = m0 + (m1 - m0) // STRIP * STRIP
    zero, block = np.float32(0), np.zeros(m1 - m0, a.dtype)
    for k in range(0, rows, 2):
        if k % 4 == 0:
            _add_rows(a, k0, k, rows, m0, m1, sums, places, block)
        two = k + 1 < rows
        low_at, high_at = (k0 + k) * width, (k0 + k + 1) * width
        low = a[k0 + k, m0:m1]
        high = a[k0 + k + 1, m0:m1] if two else np.zeros(m1 - m0, a.dtype)
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
def _pack_strips_amx(
    a: NDArray, k0: int, rows: int, m0: int, m1: int, strips: NDArray, sums: NDArray, places: NDArray
) -> None:  # fmt: skip
    """A row of ``strips`` for each column, ``AMX_STRIP`` words apart."""
    width = a.shape[1]
    flat = a.reshape(-1)
    whole = m0 + (m1 - m0) // amx.LANES * amx.LANES
    zero, block = np.float32(0), np.zeros(m1 - m0, a.dtype)
    for k in range(0, rows, 2 * amx.DEPTH):
        for row in range(k, min(k + 2 * amx.DEPTH, rows), 4):
            _add_rows(a, k0, row, rows, m0, m1, sums, places, block)
        full = k + 2 * amx.DEPTH <= rows
        done = whole if full else m0
        for m in range(m0, done, amx.LANES):
            copy_words_transposed(
                flat, (k0 + k) * width + m, width, strips, (m - m0) * AMX_STRIP + k // 2, AMX_STRIP
            )  # fmt: skip
        for m in range(done, m1):
            at = (m - m0) * AMX_STRIP + k // 2
            for j in range(amx.DEPTH):
                low = a[k0 + k + 2 * j, m] if k + 2 * j < rows else zero
                high = a[k0 + k + 2 * j + 1, m] if k + 2 * j + 1 < rows else zero
                strips[at + j] = word(low, high)


def _pack_strips(a, k0, rows, m0, m1, strips, sums, places):  # type: ignore[no-untyped-def]
    """Columns m0 … m1 of ``rows`` rows of ``a`` from k0 on, strip by strip; adds row k of them to sums[places[k]]."""
    raise NotImplementedError("for compiled code only")


@overload(_pack_strips)
def _pack_strips_for(a, k0, rows, m0, m1, strips, sums, places):  # type: ignore[no-untyped-def]
    in_words = _pack_strips_amx if amx.AVAILABLE else _pack_strips_words
    pack = in_words if strips.dtype == WORD else _pack_strips_as_they_are
    return lambda a, k0, rows, m0, m1, strips, sums, places: pack(a, k0, rows, m0, m1, strips, sums, places)


@compiled
def _pack_rows_as_they_are(b: NDArray, k0: int, depth: int, panels: NDArray, W: int) -> int:
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
    return depth


@compiled
def _pack_rows_words(b: NDArray, k0: int, rows: int, panels: NDArray, W: int) -> int:
    N = b.shape[1]
    flat = b.reshape(-1)
    depth, filled = packed_words(rows), (rows + 1) // 2
    zero = np.float32(0)
    for p in range((N + W - 1) // W):
        panels[(p * depth + filled) * W : (p + 1) * depth * W] = 0
    for k in range(filled):
        two = 2 * k + 1 < rows
        low_at, high_at, at = (k0 + 2 * k) * N, (k0 + 2 * k + 1) * N, k * W
        for n in range(0, N, W):
            if two and n + W <= N:
                _pair_panel_row(flat, low_at + n, high_at + n, panels, at)
            else:
                for j in range(W):
                    some = n + j < N
                    low = flat[low_at + n + j] if some else zero
                    high = flat[high_at + n + j] if some and two else zero
                    panels[at + j] = word(low, high)
            at += depth * W
    return depth


def _pack_rows(b, k0, rows, panels, W):  # type: ignore[no-untyped-def]
    """``rows`` rows of ``b`` from k0 on as flat panels, padded with zeros; returns their depth."""
    raise NotImplementedError("for compiled code only")


@overload(_pack_rows)
def _pack_rows_for(b, k0, rows, panels, W):  # type: ignore[no-untyped-def]
    pack = _pack_rows_words if panels.dtype == WORD else _pack_rows_as_they_are
    return lambda b, k0, rows, panels, W: pack(b, k0, rows, panels, W)


@compiled
def _multiply_strips_as_they_are(
    strips: NDArray, panels: NDArray, depth: int, W: int, c: NDArray, c_at: int, rows: int, N: int
) -> None:  # fmt: skip
    for n0 in range(0, N, W):
        panel_at = n0 // W * depth * W
        for m in range(0, rows, STRIP):
            at, into, high = m // STRIP * STRIP_ITEMS, c_at + m * N + n0, min(STRIP, rows - m)
            if n0 + W <= N:
                _tiles(strips, at, 1, STRIP, panels, panel_at, c, into, N, high, depth)
            else:
                _edge(strips, at, 1, STRIP, panels, panel_at, c, into, N, high, depth, N - n0, W)


@compiled
def _multiply_strips_amx(
    strips: NDArray, panels: NDArray, depth: int, W: int, c: NDArray, c_at: int, rows: int, N: int
) -> None:  # fmt: skip
    amx.add_product(strips, 0, AMX_STRIP, panels, depth, W, 0, c, c_at, N, rows, N, False)


def _multiply_strips(strips, panels, depth, W, c, c_at, rows, N):  # type: ignore[no-untyped-def]
    """``rows`` rows of N items of the flat ``c``, from ``c_at`` on, += packed strips times packed panels of that depth."""
    raise NotImplementedError("for compiled code only")


@overload(_multiply_strips)
def _multiply_strips_for(strips, panels, depth, W, c, c_at, rows, N):  # type: ignore[no-untyped-def]
    multiply = _multiply_strips_amx if strips.dtype == WORD and amx.AVAILABLE else _multiply_strips_as_they_are
    return lambda strips, panels, depth, W, c, c_at, rows, N: multiply(strips, panels, depth, W, c, c_at, rows, N)


@compiled_parallel
def _add_transposed_product(
    a: NDArray, column: int, b: NDArray, c: NDArray, sums: NDArray, places: NDArray, strips: NDArray, panels: NDArray,
    W: int, block: int, group: int, unit: int, parts: int,
) -> None:  # fmt: skip
    """As much of the depth as ``block`` rows at a time, and ``group`` columns of ``a``, which are shared out in units."""
    (K, N), M = b.shape, c.shape[0]
    flat_c = c.reshape(-1)
    beyond = column + M
    more = max(sums.shape[1] - beyond, 0)  # columns that are only summed
    for part in prange(parts):
        first, last = part * M // parts // unit * unit, (part + 1) * M // parts // unit * unit
        if part == parts - 1:
            last = M
        own, own_panels = strips[part], panels[part]
        for k0 in range(0, K, block):
            rows = min(block, K - k0)
            depth = _pack_rows(b, k0, rows, own_panels, W) if first < last else 0
            for m0 in range(first, last, group):
                m1 = min(m0 + group, last)
                _pack_strips(a, k0, rows, column + m0, column + m1, own, sums, places)
                _multiply_strips(own, own_panels, depth, W, flat_c, m0 * N, m1 - m0, N)
            _add_columns(
                a, k0, rows, beyond + part * more // parts, beyond + (part + 1) * more // parts, sums, places
            )  # fmt: skip


def add_transposed_product(
    a: NDArray, b: NDArray, c: NDArray, sums: NDArray, places: NDArray, bf16: bool = False, column: int = 0
) -> None:  # fmt: skip
    """c += a[:, column:column + M].T @ b and np.add.at(sums, places, a) for ``a`` (K, ≥ M), ``b`` (K, N), ``c`` (M, N).

    ``sums`` (R, ≥ column + M) has rows for what is added up together, ``places`` (K,) says which: for one sum R is 1, for
    a table of tokens its rows. Both need every number of ``a``, which is read once. Columns of ``a`` before ``column``, or
    behind the last of ``sums``, are not read; those of ``sums`` behind the M of the product are only summed.

    M is shared out. With ``bf16`` the factors of the product are rounded, the sums are not.

    Both factors are packed a block of rows at a time, so that a tile reads neither across a page for every row: 112 to
    176 GFLOP/s on two cores at K = 2048, M = 1024, N = 256.
    """
    dtype, paired = (WORD_DTYPE, 2) if bf16 else (a.dtype, 1)
    parts, W, N = get_num_threads(), panel_width(dtype), b.shape[1]
    if bf16 and amx.AVAILABLE:
        unit, group, items = amx.ROWS, AMX_GROUP, AMX_GROUP * AMX_STRIP
    else:
        unit, group, items = STRIP, STRIPS * STRIP, STRIPS * STRIP_ITEMS
    rows = min(DEPTH_BLOCK * paired, len(a))
    depth = packed_depth(rows) if bf16 else rows
    strips, panels = empty((parts, items), dtype), empty((parts, depth * -(-N // W) * W), dtype)
    _add_transposed_product(
        a, column, b, c, sums, places, strips, panels, W, DEPTH_BLOCK * paired, group, unit, parts
    )  # fmt: skip
