"""The micro-kernel of all matrix products, written as vector IR: a tile of C stays in registers over the whole depth.

C[rows, width] += A[rows, depth] · panel[depth, width], with width = VECTORS registers, or one where less is left of C
than one register holds. LLVM does not find this form from
loops; written out it runs near the FMA peak. The sum over the depth runs in one order whatever ``rows`` is, so a row's
result does not depend on which rows it is computed with.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from unrolled.engine.kernels import bf16
from unrolled.engine.kernels.kernel import intrinsic
from unrolled.engine.kernels.target import TARGET

VECTORS = 2  # registers a row of the tile
VECTOR_BYTES = TARGET.vector_bytes
# 8 rows × 2 vectors fill 16 of 32 registers (AVX-512, NEON) and hide the FMA's latency; of 16 registers 4 × 2 leave some.
TILE_ROWS = 8 if TARGET.registers == 32 else 4
PANEL_BYTES = VECTORS * VECTOR_BYTES  # width of a panel


def _make_tile(rows: int, vectors: int = VECTORS) -> Any:
    """An intrinsic for a tile of ``rows`` rows and ``vectors`` registers a row.

    Arrays come with an offset and strides in elements; a row of the panel is always VECTORS registers wide. A tile that
    is wider goes on in the panels behind the first, ``panel_far`` apart.
    """

    @intrinsic
    def tile(  # type: ignore[no-untyped-def]
        typing_context, a, a_offset, a_row, a_depth, panel, panel_offset, panel_far, c, c_offset, c_row, depth
    ):
        dtype = c.dtype
        in_pairs = a.dtype == panel.dtype == bf16.WORD and dtype == types.float32
        if not in_pairs and not (a.dtype == panel.dtype == dtype and dtype in (types.float32, types.float64)):
            return None
        lanes = VECTOR_BYTES // (dtype.bitwidth // 8)
        i = types.intp
        signature = types.void(a, i, i, i, panel, i, i, c, i, i, i)

        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            array = {
                name: context.make_array(signature.args[n])(context, builder, args[n]).data
                for name, n in (("a", 0), ("panel", 4), ("c", 7))
            }
            item = context.get_value_type(a.dtype)
            _emit(builder, item, context.get_value_type(dtype), lanes, rows, vectors, array, args)
            return context.get_dummy_value()

        return signature, codegen

    return tile


def _emit(
    builder: Any, item: Any, scalar: Any, lanes: int, rows: int, vectors: int, array: dict[str, Any], args: Any
) -> None:  # fmt: skip
    """The loop over the depth: one load a vector of the panel, one broadcast a row of A, one FMA for the two.

    ``item`` is the type of the factors, ``scalar`` that of C.
    """
    _, a_offset, a_row, a_depth, _, panel_offset, panel_far, _, c_offset, c_row, depth = args
    vector, items = ir.VectorType(scalar, lanes), ir.VectorType(item, lanes)
    i64, i32 = ir.IntType(64), ir.IntType(32)
    item_bytes = 4 if isinstance(scalar, ir.FloatType) else 8
    # one FMA, or a multiplication and an addition where there is none: llvm.fma would call the C library for each number
    multiply_add = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{lanes}f{item_bytes * 8}"
    )

    def add_product(x: Any, y: Any, total: Any) -> Any:
        return bf16.add_product(builder, x, y, total) if item != scalar else builder.call(multiply_add, [x, y, total])

    def number(value: int) -> Any:
        return ir.Constant(i64, value)

    def at(pointer: Any, offset: Any, kind: Any) -> Any:
        return builder.bitcast(builder.gep(pointer, [offset]), kind.as_pointer())

    def load(pointer: Any, offset: Any, kind: Any) -> Any:
        value = builder.load(at(pointer, offset, kind))
        value.align = item_bytes  # arrays are aligned to their items only
        return value

    undefined, zeros = ir.Constant(items, ir.Undefined), ir.Constant(ir.VectorType(i32, lanes), [0] * lanes)

    def broadcast(value: Any) -> Any:
        return builder.shuffle_vector(builder.insert_element(undefined, value, ir.Constant(i32, 0)), undefined, zeros)

    a_start = [builder.gep(array["a"], [builder.add(a_offset, builder.mul(a_row, number(r)))]) for r in range(rows)]
    c_start = [builder.gep(array["c"], [builder.add(c_offset, builder.mul(c_row, number(r)))]) for r in range(rows)]
    panel_start = builder.gep(array["panel"], [panel_offset])
    sums = [[load(c_start[r], number(v * lanes), vector) for v in range(vectors)] for r in range(rows)]

    entry, loop, done = builder.block, builder.append_basic_block("depth"), builder.append_basic_block("done")
    builder.branch(loop)  # the depth is at least 1
    builder.position_at_end(loop)
    k = builder.phi(i64)
    k.add_incoming(number(0), entry)
    running = [[builder.phi(vector) for _ in range(vectors)] for _ in range(rows)]
    row = builder.mul(k, number(VECTORS * lanes))
    b = [
        load(
            builder.gep(panel_start, [builder.mul(panel_far, number(v // VECTORS))]) if v >= VECTORS else panel_start,
            builder.add(row, number(v % VECTORS * lanes)),
            items,
        )
        for v in range(vectors)
    ]
    position = builder.mul(k, a_depth)
    following = []
    for r in range(rows):
        value = broadcast(builder.load(builder.gep(a_start[r], [position])))
        following.append([add_product(value, b[v], running[r][v]) for v in range(vectors)])
    k_next = builder.add(k, number(1))
    k.add_incoming(k_next, loop)
    builder.cbranch(builder.icmp_signed("<", k_next, depth), loop, done)
    builder.position_at_end(done)
    for r in range(rows):
        for v in range(vectors):
            running[r][v].add_incoming(sums[r][v], entry)
            running[r][v].add_incoming(following[r][v], loop)
            store = builder.store(following[r][v], at(c_start[r], number(v * lanes), vector))
            store.align = item_bytes


tile_8, tile_4, tile_2, tile_1 = (_make_tile(rows) for rows in (8, 4, 2, 1))
# few rows wait for their own sums and for what they load: two panels at once keep twice as many going
WIDE_ROWS = TILE_ROWS // 2  # as many as the registers hold
wide_4, wide_2, wide_1 = (_make_tile(rows, 2 * VECTORS) for rows in (4, 2, 1))
thin_8, thin_4, thin_2, thin_1 = (_make_tile(rows, 1) for rows in (8, 4, 2, 1))


def _make_copy(size: Any) -> Any:
    """An intrinsic that copies ``size(item_bytes)`` items between flat arrays: LLVM's own short loop checks for overlap."""

    @intrinsic
    def copy(typing_context, source, source_at, target, target_at):  # type: ignore[no-untyped-def]
        if source.dtype != target.dtype:
            return None
        i = types.intp

        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            item_bytes = target.dtype.bitwidth // 8
            vector = ir.VectorType(context.get_value_type(target.dtype), size(item_bytes)).as_pointer()

            def place(n: int, at: int) -> Any:
                data = context.make_array(signature.args[n])(context, builder, args[n]).data
                return builder.bitcast(builder.gep(data, [args[at]]), vector)

            value = builder.load(place(0, 1))
            value.align = item_bytes
            builder.store(value, place(2, 3)).align = item_bytes
            return context.get_dummy_value()

        return types.void(source, i, target, i), codegen

    return copy


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """The columns of as many registers as each has lanes."""
    lanes = len(rows)
    half, numbers = lanes // 2, ir.VectorType(ir.IntType(32), lanes)
    low = ir.Constant(numbers, [n // 2 + n % 2 * lanes for n in range(lanes)])
    high = ir.Constant(numbers, [half + n // 2 + n % 2 * lanes for n in range(lanes)])
    for _ in range(half.bit_length()):
        rows = [builder.shuffle_vector(rows[n // 2], rows[n // 2 + half], high if n % 2 else low) for n in range(lanes)]
    return rows


@intrinsic
def copy_words_transposed(typing_context, source, source_at, source_row, target, target_at, target_row):  # type: ignore[no-untyped-def]
    """Words of two rows each of the flat ``source``, of as many pairs as a register has lanes, as rows of one column each."""
    if source.dtype != types.float32 or target.dtype != bf16.WORD:
        return None
    i = types.intp

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        lanes = VECTOR_BYTES // 4
        kind = ir.VectorType(ir.IntType(32), lanes)

        def place(n: int, r: int) -> Any:
            data = context.make_array(signature.args[n])(context, builder, args[n]).data
            at = builder.add(args[n + 1], builder.mul(args[n + 2], ir.Constant(ir.IntType(64), r)))
            return builder.bitcast(builder.gep(data, [at]), kind.as_pointer())

        def row(r: int) -> Any:
            value = builder.load(place(0, r))
            value.align = 4
            return value

        words = [bf16.emit_words(builder, row(2 * n), row(2 * n + 1), kind) for n in range(lanes)]
        for r, column in enumerate(_transposed(builder, words)):
            builder.store(column, place(3, r)).align = 4
        return context.get_dummy_value()

    return types.void(source, i, i, target, i, i), codegen


@intrinsic
def copy_transposed(typing_context, source, source_at, source_row, target, target_at, target_row):  # type: ignore[no-untyped-def]
    """A square of as many rows and columns as a register has lanes, between flat arrays, its rows so far apart.

    A target of words takes the words of two rows each. Interleaving the first half of the rows with the second as many
    times as it takes to halve them to one transposes a square.
    """
    words = target.dtype == bf16.WORD and source.dtype == types.float32
    if not words and source.dtype != target.dtype:
        return None
    i = types.intp

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        item_bytes = source.dtype.bitwidth // 8
        lanes = VECTOR_BYTES // item_bytes
        kind = ir.VectorType(context.get_value_type(source.dtype), lanes)
        numbers = ir.VectorType(ir.IntType(32), lanes)
        kinds = {0: kind, 3: numbers if words else kind}

        def place(n: int, r: int) -> Any:
            data = context.make_array(signature.args[n])(context, builder, args[n]).data
            at = builder.add(args[n + 1], builder.mul(args[n + 2], ir.Constant(ir.IntType(64), r)))
            return builder.bitcast(builder.gep(data, [at]), kinds[n].as_pointer())

        rows = [builder.load(place(0, r)) for r in range(lanes)]
        for row in rows:
            row.align = item_bytes
        rows = _transposed(builder, rows)
        if words:
            bits = [builder.bitcast(row, numbers) for row in rows]
            rows = [bf16.emit_words(builder, bits[n], bits[n + 1], numbers) for n in range(0, lanes, 2)]
        for r, row in enumerate(rows):
            builder.store(row, place(3, r)).align = item_bytes
        return context.get_dummy_value()

    return types.void(source, i, i, target, i, i), codegen


STRIP = 8  # columns of a transposed first factor that lie together once packed, one tile high
copy_strip = _make_copy(lambda item_bytes: STRIP)
copy_panel_row = _make_copy(lambda item_bytes: PANEL_BYTES // item_bytes)


@intrinsic
def prefetch(typing_context, source, at):  # type: ignore[no-untyped-def]
    """Ask for the cache line of an item of a flat array; places outside it do no harm."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        i32, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, i32, i32, i32])
        ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        place = builder.bitcast(builder.gep(data, [args[1]]), pointer)
        builder.call(ask, [place, *(ir.Constant(i32, value) for value in (0, 3, 1))])  # to read, to all caches, data
        return context.get_dummy_value()

    return types.void(source, types.intp), codegen
