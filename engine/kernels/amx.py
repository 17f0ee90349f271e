"""Products of bfloat16 on the tiles of newer Intel processors (AMX): some 16 times the work a cycle of ``vdpbf16ps``.

A tile is a register of up to 16 rows of 64 bytes. One instruction adds a product of 16 rows by 32 numbers of depth by
16 columns to a tile of C in float32. Rows of words (``bf16``) are the first factor as they lie, and half a row of a
panel is a row of the second. The depth of a panel and of the rows that meet it is filled up with zeros to whole tiles.

Shapes of tiles are a state of the thread (``configure``), and a process asks the system for them once. Every row is
summed in one order whatever the others are, so results do not depend on rows (but for numbers below 2⁻¹²⁶, which only
tiles take for 0); they differ from those of ``vdpbf16ps``, which sums pairs one after the other, by rounding.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numpy.typing import NDArray

from unrolled.engine.kernels.kernel import compiled, intrinsic
from unrolled.engine.kernels.target import TARGET

ROWS = 16  # of a tile
DEPTH = 16  # words of a tile's row
LANES = 16  # columns of a tile of C
_REQUEST, _TILE_DATA = 0x1023, 18  # arch_prctl's ARCH_REQ_XCOMP_PERM for XFEATURE_XTILEDATA (Linux 5.16)
_ARCH_PRCTL = 158  # x86-64


def _permitted() -> bool:
    """Whether the system lets this process use tiles; its threads and forked children may, too."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        return ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST, _TILE_DATA) == 0
    except (OSError, AttributeError):
        return False


AVAILABLE = TARGET.amx_bf16 and _permitted()

# tiles by number: C in 0 to 3; of up to 16 rows A in 4, B in 5 to 7; of more A in 4 and 5, B in 6 and 7
_A = 4


def _configurations() -> bytes:
    """What ``ldtilecfg`` takes for 0, 1, …, 32 rows, one after the other: palette, then bytes a row and rows of each tile."""
    every = bytearray(64)
    for rows in range(1, 2 * ROWS + 1):
        first, second = min(rows, ROWS), rows - ROWS
        of_tile = (
            [first, first, second, second, first, second, DEPTH, DEPTH] if second > 0 else [first] * 5 + [DEPTH] * 3
        )
        one = bytearray(64)
        one[0] = 1
        for tile, count in enumerate(of_tile):
            one[16 + 2 * tile], one[48 + tile] = 64, count
        every += one
    return bytes(every)


def _call(builder: Any, name: str, kinds: list[Any], arguments: list[Any]) -> None:
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), kinds), f"llvm.x86.{name}")
    builder.call(function, arguments)


_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_BYTES = _I8.as_pointer()


@intrinsic
def configure(typing_context, rows):  # type: ignore[no-untyped-def]
    """Shape the tiles for a block of 1 to 32 rows."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        table = cgutils.global_constant(builder, "unrolled_tiles", cgutils.make_bytearray(_configurations()))
        offset = builder.mul(args[0], ir.Constant(_I64, 64))
        _call(builder, "ldtilecfg", [_BYTES], [builder.gep(builder.bitcast(table, _BYTES), [offset])])
        return context.get_dummy_value()

    return types.void(types.intp), codegen


@intrinsic
def release(typing_context):  # type: ignore[no-untyped-def]
    """Leave the tiles: what the system keeps of a thread is small again."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        _call(builder, "tilerelease", [], [])
        return context.get_dummy_value()

    return types.void(), codegen


def _make(emit: Callable[..., None], *shape: int) -> Any:
    """An intrinsic for a block of C: += words times panels, by ``emit``; flat arrays, offsets and strides in items.

    ``panel_far`` is the way from a panel to the next, for blocks that are wider than one.
    """

    @intrinsic
    def block(  # type: ignore[no-untyped-def]
        typing_context, a, a_at, a_row, panel, panel_at, panel_row, panel_far, c, c_at, c_row, depth
    ):
        if not a.dtype == panel.dtype == types.int32 or c.dtype != types.float32:
            return None
        i = types.intp

        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            data = [context.make_array(signature.args[n])(context, builder, args[n]).data for n in (0, 3, 7)]
            emit(builder, *shape, *data, args)
            return context.get_dummy_value()

        return types.void(a, i, i, panel, i, i, i, c, i, i, i), codegen

    return block


def _emit_block(builder: Any, high: int, wide: int, a: Any, panel: Any, c: Any, args: Any) -> None:
    """``high`` × ``wide`` tiles."""
    _, a_at, a_row, _, panel_at, panel_row, panel_far, _, c_at, c_row, depth = args

    def number(value: int) -> Any:
        return ir.Constant(_I64, value)

    def tile(value: int) -> Any:
        return ir.Constant(_I8, value)

    def in_bytes(items: Any) -> Any:
        return builder.shl(items, number(2))  # words and float32 are 4 bytes

    def place(data: Any, at: Any) -> Any:
        return builder.bitcast(builder.gep(data, [at]), _BYTES)

    def move(name: str, which: int, pointer: Any, stride: Any) -> None:
        _call(builder, name, [_I8, _BYTES, _I64], [tile(which), pointer, stride])

    c_stride, a_stride, panel_stride = in_bytes(c_row), in_bytes(a_row), in_bytes(panel_row)
    sums = {
        (m, n): place(c, builder.add(c_at, builder.add(builder.mul(c_row, number(ROWS * m)), number(LANES * n))))
        for m in range(high)
        for n in range(wide)
    }

    def of_c(m: int, n: int) -> int:
        return (4 // high) * m + n

    for (m, n), pointer in sums.items():
        move("tileloadd64", of_c(m, n), pointer, c_stride)
    entry, loop, done = builder.block, builder.append_basic_block("depth"), builder.append_basic_block("done")
    builder.branch(loop)  # the depth is at least one tile
    builder.position_at_end(loop)
    k = builder.phi(_I64)
    k.add_incoming(number(0), entry)
    for m in range(high):
        at = builder.add(builder.add(a_at, k), builder.mul(a_row, number(ROWS * m)))
        move("tileloadd64", _A + m, place(a, at), a_stride)
    row = builder.add(panel_at, builder.mul(k, panel_row))
    for n in range(wide):
        which = _A + high + n % (4 - high)
        at = builder.add(row, number(LANES * (n % 2)))
        if n >= 2:
            at = builder.add(at, panel_far)
        move("tileloadd64", which, place(panel, at), panel_stride)
        for m in range(high):
            _call(builder, "tdpbf16ps", [_I8] * 3, [tile(of_c(m, n)), tile(_A + m), tile(which)])
    following = builder.add(k, number(DEPTH))
    k.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, depth), loop, done)
    builder.position_at_end(done)
    for (m, n), pointer in sums.items():
        move("tilestored64", of_c(m, n), pointer, c_stride)


block_2x2, block_2x1 = _make(_emit_block, 2, 2), _make(_emit_block, 2, 1)
block_1x4, block_1x2, block_1x1 = (_make(_emit_block, 1, wide) for wide in (4, 2, 1))


def _emit_row(builder: Any, wide: int, a: Any, panel: Any, c: Any, args: Any) -> None:
    """One row of ``wide`` tiles without tiles, but as they sum it.

    Over the depth of a tile the first numbers of the pairs are summed from 0 on, and the second; C takes both sums.
    """
    _, a_at, _, _, panel_at, panel_row, panel_far, _, c_at, _, depth = args
    words, floats = ir.VectorType(ir.IntType(32), LANES), ir.VectorType(ir.FloatType(), LANES)
    fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(floats, [floats] * 3), "llvm.fma.v16f32")
    sixteen, upper = ir.Constant(words, [16] * LANES), ir.Constant(words, [-0x10000] * LANES)
    undefined, firsts = ir.Constant(words, ir.Undefined), ir.Constant(words, [0] * LANES)

    def number(value: int) -> Any:
        return ir.Constant(_I64, value)

    def load(data: Any, at: Any, kind: Any) -> Any:
        value = builder.load(builder.bitcast(builder.gep(data, [at]), kind.as_pointer()))
        value.align = 4
        return value

    def halves(word: Any) -> list[Any]:
        """The first and the second numbers of words as float32."""
        return [builder.bitcast(half, floats) for half in (builder.shl(word, sixteen), builder.and_(word, upper))]

    def everywhere(word: Any) -> Any:
        return builder.shuffle_vector(builder.insert_element(undefined, word, ir.Constant(_I32, 0)), undefined, firsts)

    places = [builder.add(c_at, number(LANES * n)) for n in range(wide)]
    before = [load(c, place, floats) for place in places]
    entry, loop, done = builder.block, builder.append_basic_block("depth"), builder.append_basic_block("done")
    builder.branch(loop)  # the depth is at least that of a tile
    builder.position_at_end(loop)
    k0 = builder.phi(_I64)
    k0.add_incoming(number(0), entry)
    sums = [builder.phi(floats) for _ in range(wide)]
    parts = [[ir.Constant(floats, None)] * 2 for _ in range(wide)]
    for k in range(DEPTH):
        x = halves(everywhere(load(a, builder.add(builder.add(a_at, k0), number(k)), ir.IntType(32))))
        at = builder.add(panel_at, builder.mul(builder.add(k0, number(k)), panel_row))
        for n in range(wide):
            there = builder.add(at, number(LANES * (n % 2)))
            y = halves(load(panel, builder.add(there, panel_far) if n >= 2 else there, words))
            parts[n] = [builder.call(fma, [x[half], y[half], parts[n][half]]) for half in (0, 1)]
    following = [builder.fadd(sums[n], builder.fadd(*parts[n])) for n in range(wide)]
    k_next = builder.add(k0, number(DEPTH))
    k0.add_incoming(k_next, loop)
    builder.cbranch(builder.icmp_signed("<", k_next, depth), loop, done)
    builder.position_at_end(done)
    for n in range(wide):
        sums[n].add_incoming(before[n], entry)
        sums[n].add_incoming(following[n], loop)
        pointer = builder.bitcast(builder.gep(c, [places[n]]), floats.as_pointer())
        builder.store(following[n], pointer).align = 4


row_4, row_2, row_1 = (_make(_emit_row, wide) for wide in (4, 2, 1))


@compiled
def _add_columns(
    a: NDArray, a_at: int, a_row: int, panels: NDArray, K: int, W: int, p: int, c: NDArray, c_at: int, c_row: int,
    rows: int, columns: int,
) -> None:  # fmt: skip
    """``rows`` rows from the start of panel p on; 16 columns are written, or 32 where there are more. Shapes are set."""
    panel_at = p * K * W
    wide, high = columns > LANES, rows > ROWS
    for r in range(0, rows, 2 * ROWS):
        r_at, into = a_at + r * a_row, c_at + r * c_row
        if rows == 1 and wide:
            row_2(a, r_at, a_row, panels, panel_at, W, 0, c, into, c_row, K)
        elif rows == 1:
            row_1(a, r_at, a_row, panels, panel_at, W, 0, c, into, c_row, K)
        elif high and wide:
            block_2x2(a, r_at, a_row, panels, panel_at, W, 0, c, into, c_row, K)
        elif high:
            block_2x1(a, r_at, a_row, panels, panel_at, W, 0, c, into, c_row, K)
        elif wide:
            block_1x2(a, r_at, a_row, panels, panel_at, W, 0, c, into, c_row, K)
        else:
            block_1x1(a, r_at, a_row, panels, panel_at, W, 0, c, into, c_row, K)


@compiled
def _add_rows(
    a: NDArray, a_at: int, a_row: int, panels: NDArray, K: int, W: int, first: int, c: NDArray, c_at: int, c_row: int,
    rows: int, N: int, back: bool,
) -> None:  # fmt: skip
    """Up to 32 rows, or a multiple of 32."""
    if rows > 1:
        configure(min(rows, 2 * ROWS))
    count = (N + W - 1) // W
    edge = N - (count - 1) * W  # columns of the last panel
    whole = count if edge == W else count - 1
    # few rows wait for their own sums: two panels at once keep twice as many going
    pairs = whole // 2 if rows <= ROWS else 0
    groups = count - pairs
    for i in range(groups):
        group = groups - 1 - i if back else i
        p = 2 * group if group < pairs else group + pairs
        into = c_at + p * W
        if group < pairs and rows == 1:
            row_4(a, a_at, a_row, panels, (first + p) * K * W, W, K * W, c, into, c_row, K)
        elif group < pairs:
            block_1x4(a, a_at, a_row, panels, (first + p) * K * W, W, K * W, c, into, c_row, K)
        elif p < whole:
            _add_columns(a, a_at, a_row, panels, K, W, first + p, c, into, c_row, rows, W)
        elif edge == LANES:
            _add_columns(a, a_at, a_row, panels, K, W, first + p, c, into, c_row, rows, edge)
        else:
            narrow = np.zeros(rows * W, c.dtype)
            for r in range(rows):
                for j in range(edge):
                    narrow[r * W + j] = c[into + r * c_row + j]
            _add_columns(a, a_at, a_row, panels, K, W, first + p, narrow, 0, W, rows, edge)
            for r in range(rows):
                for j in range(edge):
                    c[into + r * c_row + j] = narrow[r * W + j]


@compiled
def add_product(
    a: NDArray, a_at: int, a_row: int, panels: NDArray, K: int, W: int, first: int, c: NDArray, c_at: int, c_row: int,
    rows: int, N: int, back: bool,
) -> None:  # fmt: skip
    """C += A @ B for ``rows`` rows of words and the N columns from the start of panel ``first`` on, on one thread.

    All flat: A's rows ``a_row`` apart, panels of K words and W columns, C's rows ``c_row`` apart. ``back``: the last first.

    One row goes without tiles: while other work runs on the same core a tile takes four times as long to fill, 25 GB/s of
    weights, and the FMA does the same at 50 (67 and 105 on a core of one's own; Emerald Rapids, 512 KB).
    """
    many = rows // (2 * ROWS) * (2 * ROWS)
    if many > 0:
        _add_rows(a, a_at, a_row, panels, K, W, first, c, c_at, c_row, many, N, back)
    if many < rows:
        a_at, c_at = a_at + many * a_row, c_at + many * c_row
        _add_rows(a, a_at, a_row, panels, K, W, first, c, c_at, c_row, rows - many, N, back)
    if rows > 1:
        release()
