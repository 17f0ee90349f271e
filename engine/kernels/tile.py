"""The micro-kernel of all matrix products, written as vector IR: a tile of C stays in registers over the whole depth.

C[rows, width] = start[rows, width] + A[rows, depth] · panel[depth, width], with a width of one to four registers. LLVM
does not find this form from loops; written out it runs near the FMA peak. The sum over the depth runs in one order
whatever ``rows`` and the width are, so a row's result does not depend on which rows it is computed with.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from unrolled.engine.kernels import bf16
from unrolled.engine.kernels.copies import emit_prefetch
from unrolled.engine.kernels.kernel import intrinsic
from unrolled.engine.kernels.target import TARGET
from unrolled.engine.kernels.vectors import broadcast

_I32, _I64 = ir.IntType(32), ir.IntType(64)
VECTORS = 2  # registers a row of a panel
VECTOR_BYTES = TARGET.vector_bytes
# 8 rows × 3 registers of sums fill 28 of 32 registers with what they are made of (AVX-512, NEON), 4 × 3 all of 16.
TILE_ROWS = 8 if TARGET.registers == 32 else 4
PANEL_BYTES = VECTORS * VECTOR_BYTES  # width of a panel


# Tiles by shape: the registers that one takes of the panels that lie side by side. Three panels are two tiles of three
# registers: as many broadcasts of A as a tile of two has, for half as many sums more. Few rows wait for their own sums
# and for what they load: two panels at once keep twice as many going.
ONE, TWO, LOWER, UPPER, FOUR = range(5)
_REGISTERS = {ONE: (0,), TWO: (0, 1), LOWER: (0, 1, 2), UPPER: (3, 4, 5), FOUR: (0, 1, 2, 3)}
WIDE_ROWS = TILE_ROWS // 2  # of a tile of FOUR: as many as the registers hold
AHEAD = 16  # rows of a panel that are asked for before they are needed: on an Intel Xeon 5 to 25% faster, the more rows
_LINE = 64  # bytes


@intrinsic
def multiply_tile(  # type: ignore[no-untyped-def]
    typing_context, rows, shape, a, a_at, a_row, a_depth, panel, panel_at, panel_far, start, start_at, start_row, c, c_at,
    c_row, depth,
):  # fmt: skip
    """C = start + A · panel for a tile of 1, 2, 4 or TILE_ROWS rows of one shape (FOUR: WIDE_ROWS at the most).

    Flat arrays come with an offset and strides in elements; a row of a panel is VECTORS registers wide, and panels lie
    ``panel_far`` apart. ``c_at`` and ``start_at`` are the places of the first panel's first column, whatever the shape.
    """
    dtype = c.dtype
    in_pairs = a.dtype == panel.dtype == bf16.WORD and dtype == types.float32
    if not in_pairs and not (a.dtype == panel.dtype == dtype and dtype in (types.float32, types.float64)):
        return None
    if start.dtype != dtype:
        return None
    i = types.intp
    signature = types.void(i, i, a, i, i, i, panel, i, i, start, i, i, c, i, i, i)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        array = {
            name: context.make_array(signature.args[n])(context, builder, args[n]).data
            for name, n in (("a", 2), ("panel", 6), ("start", 9), ("c", 12))
        }
        item, scalar = context.get_value_type(a.dtype), context.get_value_type(dtype)
        heights = sorted({1, 2, 4, TILE_ROWS})
        done = builder.append_basic_block("tile_done")
        which = builder.add(builder.mul(args[0], ir.Constant(_I64, len(_REGISTERS))), args[1])
        choice = builder.switch(which, done)
        for shape, registers in _REGISTERS.items():
            for height in heights if shape != FOUR else [n for n in heights if n <= WIDE_ROWS]:
                with builder.goto_block(builder.append_basic_block("tile")):
                    choice.add_case(ir.Constant(_I64, height * len(_REGISTERS) + shape), builder.block)
                    _emit(builder, item, scalar, height, registers, array, args)
                    builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return signature, codegen


def _emit(
    builder: Any, item: Any, scalar: Any, rows: int, registers: tuple[int, ...], array: dict[str, Any], args: Any
) -> None:  # fmt: skip
    """The loop over the depth: one load a register of the panels, one broadcast a row of A, one FMA for the two.

    ``item`` is the type of the factors, ``scalar`` that of C.
    """
    _, _, _, a_at, a_row, a_depth, _, panel_at, panel_far, _, start_at, start_row, _, c_at, c_row, depth = args
    item_bytes = 4 if isinstance(scalar, ir.FloatType) else 8
    lanes = VECTOR_BYTES // item_bytes
    vector, items = ir.VectorType(scalar, lanes), ir.VectorType(item, lanes)
    # one FMA, or a multiplication and an addition where there is none: llvm.fma would call the C library for each number
    multiply_add = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{lanes}f{item_bytes * 8}"
    )

    def add_product(x: Any, y: Any, total: Any) -> Any:
        return bf16.add_product(builder, x, y, total) if item != scalar else builder.call(multiply_add, [x, y, total])

    def number(value: int) -> Any:
        return ir.Constant(_I64, value)

    def place(pointer: Any, offset: Any, kind: Any) -> Any:
        return builder.bitcast(builder.gep(pointer, [offset]), kind.as_pointer())

    def load(pointer: Any, offset: Any, kind: Any) -> Any:
        value = builder.load(place(pointer, offset, kind))
        value.align = item_bytes  # arrays are aligned to their items only
        return value

    def rows_of(name: str, at: Any, stride: Any) -> list[Any]:
        return [builder.gep(array[name], [builder.add(at, builder.mul(stride, number(r)))]) for r in range(rows)]

    a_rows, c_rows = rows_of("a", a_at, a_row), rows_of("c", c_at, c_row)
    columns = [number(v * lanes) for v in registers]
    before = [[load(row, column, vector) for column in columns] for row in rows_of("start", start_at, start_row)]
    panels = {
        p: builder.gep(array["panel"], [builder.add(panel_at, builder.mul(panel_far, number(p)))])
        for p in {v // VECTORS for v in registers}
    }

    entry, loop, done = builder.block, builder.append_basic_block("depth"), builder.append_basic_block("done")
    builder.branch(loop)  # the depth is at least 1
    builder.position_at_end(loop)
    k = builder.phi(_I64)
    k.add_incoming(number(0), entry)
    sums = [[builder.phi(vector) for _ in registers] for _ in range(rows)]
    panel_row = builder.mul(k, number(VECTORS * lanes))
    b = [load(panels[v // VECTORS], builder.add(panel_row, number(v % VECTORS * lanes)), items) for v in registers]
    if rows >= 4:  # fewer do not keep up with what comes in any case
        for p, line in sorted({(v // VECTORS, v % VECTORS * VECTOR_BYTES // _LINE) for v in registers}):
            further = number(AHEAD * VECTORS * lanes + line * _LINE // item_bytes)
            emit_prefetch(builder, builder.gep(panels[p], [builder.add(panel_row, further)]))
    position = builder.mul(k, a_depth)
    following = []
    for row, totals in zip(a_rows, sums, strict=True):
        x = broadcast(builder, builder.load(builder.gep(row, [position])), items)
        following.append([add_product(x, y, total) for y, total in zip(b, totals, strict=True)])
    k_next = builder.add(k, number(1))
    k.add_incoming(k_next, loop)
    builder.cbranch(builder.icmp_signed("<", k_next, depth), loop, done)
    builder.position_at_end(done)
    for r in range(rows):
        for v, column in enumerate(columns):
            sums[r][v].add_incoming(before[r][v], entry)
            sums[r][v].add_incoming(following[r][v], loop)
            builder.store(following[r][v], place(c_rows[r], column, vector)).align = item_bytes
