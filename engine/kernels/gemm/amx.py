"""Products of bfloat16 on the tiles of newer Intel processors (AMX): some 16 times the work a cycle of ``vdpbf16ps``.

A tile is a register of up to 16 rows of 64 bytes. One instruction adds a product of 16 rows by 32 numbers of depth by
16 columns to a tile of C in float32. Rows of words (``bf16``) are the first factor as they lie, and half a row of a
panel is a row of the second. Panels and the rows that meet them are filled up with zeros to whole tiles of depth.

Shapes of tiles are a state of the thread (``configure``), and a process requests them from the system once
(``target.has_tiles``). Every row is summed in one order whatever the others are, so results do not depend on rows (but for
numbers below 2⁻¹²⁶, which only tiles treat as 0); they differ from those of ``vdpbf16ps``, which sums pairs one after the
other, by rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numpy.typing import NDArray

from unrolled.engine.kernels.jit.compilation import compiled, intrinsic
from unrolled.engine.kernels.jit.numba_internals import array_data, cgutils
from unrolled.engine.kernels.simd.bf16 import emit_halves
from unrolled.engine.kernels.simd.copies import copy_block
from unrolled.engine.kernels.simd.registers import I32, I64, broadcast, call_llvm, load, number, pointer_to, store

ROWS = 16  # of a tile
DEPTH = 16  # words of a tile's row
LANES = 16  # columns of a tile of C

# tiles by number: C in 0 to 3; for up to 16 rows A in 4, B in 5 to 7; for more A in 4 and 5, B in 6 and 7
_A = 4
_I8 = ir.IntType(8)


def _configurations() -> bytes:
    """Return the operands of ``ldtilecfg`` for 0, 1, …, 32 rows: palette, then bytes a row and rows of each tile."""
    every = bytearray(64)
    for rows in range(1, 2 * ROWS + 1):
        first, second = min(rows, ROWS), rows - ROWS
        tile_rows = (
            [first, first, second, second, first, second, DEPTH, DEPTH] if second > 0 else [first] * 5 + [DEPTH] * 3
        )
        one = bytearray(64)
        one[0] = 1
        for tile, count in enumerate(tile_rows):
            one[16 + 2 * tile], one[48 + tile] = 64, count
        every += one
    return bytes(every)


def _call(builder: Any, name: str, values: list[Any]) -> None:
    """Call an instruction by its name in LLVM."""
    call_llvm(builder, f"llvm.x86.{name}", ir.VoidType(), values)


@intrinsic
def configure(typing_context, rows):  # type: ignore[no-untyped-def]
    """Shape the tiles for a block of 1 to 32 rows."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        table = cgutils.global_constant(builder, "unrolled_tiles", cgutils.make_bytearray(_configurations()))
        data = builder.bitcast(table, _I8.as_pointer())
        _call(builder, "ldtilecfg", [builder.gep(data, [builder.mul(args[0], number(64))])])
        return context.get_dummy_value()

    return types.void(types.intp), codegen


@intrinsic
def release(typing_context):  # type: ignore[no-untyped-def]
    """Release the tiles, so that the system saves little when the thread is switched."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        _call(builder, "tilerelease", [])
        return context.get_dummy_value()

    return types.void(), codegen


def _make(emit: Callable[..., None], *shape: int) -> Any:
    """Return an intrinsic for a block of C = start + words · panels; flat arrays, offsets and strides in items.

    ``panel_far`` is the distance from a panel to the next, for blocks that are wider than one.
    """

    @intrinsic
    def block(  # type: ignore[no-untyped-def]
        typing_context, a, a_at, a_row, panel, panel_at, panel_row, panel_far, start, start_at, start_row, c, c_at, c_row,
        depth,
    ):  # fmt: skip
        if not a.dtype == panel.dtype == types.int32 or not start.dtype == c.dtype == types.float32:
            return None
        i = types.intp

        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            data = [array_data(context, builder, signature.args[n], args[n]) for n in (0, 3, 7, 10)]
            emit(builder, *shape, data, args)
            return context.get_dummy_value()

        return types.void(a, i, i, panel, i, i, i, start, i, i, c, i, i, i), codegen

    return block


def _emit_loop(builder: Any, depth: Any, emit_step: Callable[[Any], None]) -> Any:
    """Emit a loop over the depth, a tile at a time; it is at least one tile. Return the block inside the loop."""
    entry, loop, done = builder.block, builder.append_basic_block("depth"), builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(I64)
    k.add_incoming(number(0), entry)
    emit_step(k)
    following = builder.add(k, number(DEPTH))
    k.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, depth), loop, done)
    builder.position_at_end(done)
    return loop


def _emit_block(builder: Any, high: int, wide: int, data: list[Any], args: Any) -> None:
    """Emit a block of ``high`` × ``wide`` tiles."""
    a, panel, start, c = data
    _, a_at, a_row, _, panel_at, panel_row, panel_far, _, start_at, start_row, _, c_at, c_row, depth = args

    def tile(value: int) -> Any:
        return ir.Constant(_I8, value)

    def in_bytes(items: Any) -> Any:
        return builder.shl(items, number(2))  # words and float32 are 4 bytes

    def move(name: str, which: int, pointer: Any, stride: Any) -> None:
        _call(builder, name, [tile(which), pointer, stride])

    def tile_of_c(m: int, n: int) -> int:
        return (4 // high) * m + n

    def move_sums(name: str, data: Any, first: Any, row: Any) -> None:
        for m in range(high):
            for n in range(wide):
                at = builder.add(first, builder.add(builder.mul(row, number(ROWS * m)), number(LANES * n)))
                move(name, tile_of_c(m, n), pointer_to(builder, data, at, _I8), in_bytes(row))

    a_stride, panel_stride = in_bytes(a_row), in_bytes(panel_row)

    def emit_step(k: Any) -> None:
        for m in range(high):
            at = builder.add(builder.add(a_at, k), builder.mul(a_row, number(ROWS * m)))
            move("tileloadd64", _A + m, pointer_to(builder, a, at, _I8), a_stride)
        row = builder.add(panel_at, builder.mul(k, panel_row))
        for n in range(wide):
            which = _A + high + n % (4 - high)
            at = _panel_column(builder, row, n, panel_far)
            move("tileloadd64", which, pointer_to(builder, panel, at, _I8), panel_stride)
            for m in range(high):
                _call(builder, "tdpbf16ps", [tile(tile_of_c(m, n)), tile(_A + m), tile(which)])

    move_sums("tileloadd64", start, start_at, start_row)
    _emit_loop(builder, depth, emit_step)
    move_sums("tilestored64", c, c_at, c_row)


def _panel_column(builder: Any, row: Any, n: int, panel_far: Any) -> Any:
    """Return the place of tile n in a row of the panels, each of which is two tiles wide."""
    at = builder.add(row, number(LANES * (n % 2)))
    return builder.add(at, panel_far) if n >= 2 else at


block_2x2, block_2x1 = _make(_emit_block, 2, 2), _make(_emit_block, 2, 1)
block_1x4, block_1x2, block_1x1 = (_make(_emit_block, 1, wide) for wide in (4, 2, 1))


def _emit_row(builder: Any, wide: int, data: list[Any], args: Any) -> None:
    """Emit one row of ``wide`` tiles without tiles, but summed as they sum it.

    Over the depth of a tile the first numbers of the pairs are summed from 0 on, and the second; C takes both sums.
    """
    a, panel, start, c = data
    _, a_at, _, _, panel_at, panel_row, panel_far, _, start_at, _, _, c_at, _, depth = args
    words, floats = ir.VectorType(I32, LANES), ir.VectorType(ir.FloatType(), LANES)
    before = [load(builder, start, builder.add(start_at, number(LANES * n)), floats) for n in range(wide)]
    entry = builder.block
    sums: list[Any] = []
    following: list[Any] = []

    def emit_step(k0: Any) -> None:
        sums.extend(builder.phi(floats) for _ in range(wide))
        parts = [[ir.Constant(floats, None)] * 2 for _ in range(wide)]
        for k in range(DEPTH):
            word = load(builder, a, builder.add(builder.add(a_at, k0), number(k)), I32)
            x = emit_halves(builder, broadcast(builder, word, words))
            row = builder.add(panel_at, builder.mul(builder.add(k0, number(k)), panel_row))
            for n in range(wide):
                y = emit_halves(builder, load(builder, panel, _panel_column(builder, row, n, panel_far), words))
                parts[n] = [
                    call_llvm(builder, "llvm.fma.v16f32", floats, [x[half], y[half], parts[n][half]]) for half in (0, 1)
                ]
        following.extend(builder.fadd(sums[n], builder.fadd(*parts[n])) for n in range(wide))

    loop = _emit_loop(builder, depth, emit_step)
    for n in range(wide):
        sums[n].add_incoming(before[n], entry)
        sums[n].add_incoming(following[n], loop)
        store(builder, following[n], c, builder.add(c_at, number(LANES * n)))


row_4, row_2, row_1 = (_make(_emit_row, wide) for wide in (4, 2, 1))


@compiled
def _columns(
    a: NDArray, a_at: int, a_row: int, panels: NDArray, K: int, W: int, p: int, start: NDArray, start_at: int,
    start_row: int, c: NDArray, c_at: int, c_row: int, rows: int, columns: int,
) -> None:  # fmt: skip
    """Multiply with panel p, 32 rows at a time; writes 16 columns, or 32 if ``columns`` is more. Tiles are configured."""
    panel_at = p * K * W
    wide, high = columns > LANES, rows > ROWS
    for r in range(0, rows, 2 * ROWS):
        r_at, from_at, into = a_at + r * a_row, start_at + r * start_row, c_at + r * c_row
        if rows == 1 and wide:
            row_2(a, r_at, a_row, panels, panel_at, W, 0, start, from_at, start_row, c, into, c_row, K)
        elif rows == 1:
            row_1(a, r_at, a_row, panels, panel_at, W, 0, start, from_at, start_row, c, into, c_row, K)
        elif high and wide:
            block_2x2(a, r_at, a_row, panels, panel_at, W, 0, start, from_at, start_row, c, into, c_row, K)
        elif high:
            block_2x1(a, r_at, a_row, panels, panel_at, W, 0, start, from_at, start_row, c, into, c_row, K)
        elif wide:
            block_1x2(a, r_at, a_row, panels, panel_at, W, 0, start, from_at, start_row, c, into, c_row, K)
        else:
            block_1x1(a, r_at, a_row, panels, panel_at, W, 0, start, from_at, start_row, c, into, c_row, K)


@compiled
def _rows(
    a: NDArray, a_at: int, a_row: int, panels: NDArray, K: int, W: int, first: int, start: NDArray, start_at: int,
    start_row: int, c: NDArray, c_at: int, c_row: int, rows: int, N: int, back: bool,
) -> None:  # fmt: skip
    """Multiply up to 32 rows, or a multiple of 32, with all panels."""
    if rows > 1:
        configure(min(rows, 2 * ROWS))
    whole, edge = N // W, N % W
    # few rows wait for their own sums: two panels at once keep twice as many in flight
    pairs = whole // 2 if rows <= ROWS else 0
    pieces = whole - pairs + (1 if edge > 0 else 0)
    for i in range(pieces):
        piece = pieces - 1 - i if back else i
        p = 2 * piece if piece < pairs else piece + pairs
        at, from_at, into = (first + p) * K * W, start_at + p * W, c_at + p * W
        if piece < pairs and rows == 1:
            row_4(a, a_at, a_row, panels, at, W, K * W, start, from_at, start_row, c, into, c_row, K)
        elif piece < pairs:
            block_1x4(a, a_at, a_row, panels, at, W, K * W, start, from_at, start_row, c, into, c_row, K)
        elif p < whole or edge == LANES:
            columns = W if p < whole else edge
            _columns(a, a_at, a_row, panels, K, W, first + p, start, from_at, start_row, c, into, c_row, rows, columns)
        else:
            narrow = np.zeros(rows * W, c.dtype)
            copy_block(start, from_at, start_row, narrow, 0, W, rows, edge)
            _columns(a, a_at, a_row, panels, K, W, first + p, narrow, 0, W, narrow, 0, W, rows, edge)
            copy_block(narrow, 0, W, c, into, c_row, rows, edge)


@compiled
def multiply(
    a: NDArray, a_at: int, a_row: int, panels: NDArray, K: int, W: int, first: int, start: NDArray, start_at: int,
    start_row: int, c: NDArray, c_at: int, c_row: int, rows: int, N: int, back: bool,
) -> None:  # fmt: skip
    """C = start + A @ B for ``rows`` rows of words and the N columns from panel ``first`` on, on one thread.

    All arrays are flat: rows of A, ``start`` and C are ``a_row``, ``start_row`` and ``c_row`` items apart, panels have K words
    and W columns. ``back`` multiplies the last columns first.

    A single row is multiplied without tiles (``_emit_row``): while other work runs on the same core, a tile takes four times
    as long to load, so tiles read 25 GB/s of weights and FMAs 50 (67 and 105 on a core without other work; Emerald Rapids,
    512 KB).
    """
    many = rows // (2 * ROWS) * (2 * ROWS)
    if many > 0:
        _rows(a, a_at, a_row, panels, K, W, first, start, start_at, start_row, c, c_at, c_row, many, N, back)
    if many < rows:
        a_at, start_at, c_at = a_at + many * a_row, start_at + many * start_row, c_at + many * c_row
        _rows(a, a_at, a_row, panels, K, W, first, start, start_at, start_row, c, c_at, c_row, rows - many, N, back)
    if rows > 1:
        release()
