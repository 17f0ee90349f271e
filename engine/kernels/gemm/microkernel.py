"""The micro-kernel of all matrix products, written as vector IR: a tile of C stays in registers over the whole depth.

C[rows, width] = start[rows, width] + A[rows, depth] · panel[depth, width], with a width of one to four registers. LLVM
does not find this form from loops; written out it runs near the FMA peak. The sum over the depth runs in one order
whatever ``rows`` and the width are, so a row's result does not depend on which rows it is computed with.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from unrolled.engine.kernels.jit.compilation import intrinsic
from unrolled.engine.kernels.jit.numba_internals import array_data, cgutils
from unrolled.engine.kernels.jit.target import TARGET
from unrolled.engine.kernels.simd import bf16
from unrolled.engine.kernels.simd.copies import emit_prefetch
from unrolled.engine.kernels.simd.vectors import broadcast

_I64 = ir.IntType(64)
VECTORS = 2  # registers a row of a panel
VECTOR_BYTES = TARGET.vector_bytes
# 8 rows × 3 registers of sums fill 28 of 32 registers with what they are made of (AVX-512, NEON), 4 × 3 all of 16 (where
# an FMA needs none of its own).
TILE_ROWS = 8 if TARGET.registers == 32 else 4
PANEL_BYTES = VECTORS * VECTOR_BYTES  # width of a panel

# A tile is one to four registers wide, of panels that lie side by side. Three panels are two tiles of three registers: as
# many broadcasts of A as a tile of two has, for half as many sums more. Few rows wait for their own sums and for what they
# load: two panels at once keep twice as many going.
WIDE = 3  # registers of the tiles that most of a product is made of
FEW_ROWS = TILE_ROWS // 2  # of a tile of four registers: as many as there are registers for
# rows of a panel that are asked for before they are needed: 5 to 25% faster, the more the larger the weights
AHEAD = 16
_LINE = 64  # bytes


@intrinsic
def multiply_tile(  # type: ignore[no-untyped-def]
    typing_context, rows, width, a, a_at, a_row, a_depth, panel, panel_at, second, far, start, start_at, start_row, c,
    c_at, c_row, depth,
):  # fmt: skip
    """C = start + A · panel for a tile of 1, 2, 4 or TILE_ROWS rows and 1 to 4 registers (4: FEW_ROWS at the most).

    Flat arrays come with an offset and strides in elements; a row of a panel is VECTORS registers wide. The second register
    lies ``second`` behind the first, and the next two ``far`` behind these two.
    """
    dtype = c.dtype
    in_pairs = a.dtype == panel.dtype == bf16.WORD and dtype == types.float32
    if not in_pairs and not (a.dtype == panel.dtype == dtype and dtype in (types.float32, types.float64)):
        return None
    if start.dtype != dtype:
        return None
    i = types.intp
    signature = types.void(i, i, a, i, i, i, panel, i, i, i, start, i, i, c, i, i, i)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        array = {
            name: array_data(context, builder, signature.args[n], args[n])
            for name, n in (("a", 2), ("panel", 6), ("start", 10), ("c", 13))
        }
        item, scalar = context.get_value_type(a.dtype), context.get_value_type(dtype)
        done = builder.append_basic_block("tile_done")
        choice = builder.switch(builder.add(builder.mul(args[0], ir.Constant(_I64, 8)), args[1]), done)
        for height in sorted({1, 2, 4, TILE_ROWS}):
            for width in (1, 2, 3, 4) if height <= FEW_ROWS else (1, 2, 3):
                with builder.goto_block(builder.append_basic_block("tile")):
                    choice.add_case(ir.Constant(_I64, 8 * height + width), builder.block)
                    _emit(builder, item, scalar, height, width, array, args)
                    builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return signature, codegen


def _emit(
    builder: Any, item: Any, scalar: Any, rows: int, width: int, array: dict[str, Any], args: Any
) -> None:  # fmt: skip
    """The loop over the depth: one load a register of the panels, one broadcast a row of A, one FMA for the two.

    ``item`` is the type of the factors, ``scalar`` that of C.
    """
    _, _, _, a_at, a_row, a_depth, _, panel_at, second, far, _, start_at, start_row, _, c_at, c_row, depth = args
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
    columns = [number(v * lanes) for v in range(width)]
    before = [[load(row, column, vector) for column in columns] for row in rows_of("start", start_at, start_row)]
    first = builder.gep(array["panel"], [panel_at])
    panels = [first, *(builder.gep(first, [at]) for at in (second, far, builder.add(far, second)))][:width]

    entry, loop, done = builder.block, builder.append_basic_block("depth"), builder.append_basic_block("done")
    builder.branch(loop)  # the depth is at least 1
    builder.position_at_end(loop)
    k = builder.phi(_I64)
    k.add_incoming(number(0), entry)
    sums = [[builder.phi(vector) for _ in columns] for _ in range(rows)]
    panel_row = builder.mul(k, number(VECTORS * lanes))
    b = [load(panel, panel_row, items) for panel in panels]
    if rows >= 4:  # fewer do not keep up with what comes in any case
        further = builder.add(panel_row, number(AHEAD * VECTORS * lanes))
        for panel in panels if VECTOR_BYTES == _LINE else panels[::2]:  # of narrower ones two share a line
            emit_prefetch(builder, builder.gep(panel, [further]))
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
