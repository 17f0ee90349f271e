"""Copies between flat arrays, some registers or a block at a time; LLVM's own short loops check for overlap first.

Arrays come with an offset and strides in items.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numpy.typing import NDArray

from unrolled.engine.kernels.jit.compilation import compiled, intrinsic
from unrolled.engine.kernels.jit.numba_internals import array_data, cgutils
from unrolled.engine.kernels.jit.target import TARGET
from unrolled.engine.kernels.simd.bf16 import HAS_INSTRUCTION, WORD, emit_rounded, emit_words

_I32, _I64 = ir.IntType(32), ir.IntType(64)
ROUNDED = 32  # numbers of a row that are rounded at a time


class _Flat:
    """The flat arrays of an intrinsic that code is generated for, and places in them."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any) -> None:
        self._builder, self._args = builder, args
        self._data = [
            array_data(context, builder, kind, value) if isinstance(kind, types.Array) else None
            for kind, value in zip(signature.args, args, strict=True)
        ]

    def at(self, place: int, further: int = 0) -> Any:
        """``further`` items behind argument ``place``."""
        return self._builder.add(self._args[place], ir.Constant(_I64, further))

    def row(self, place: int, r: int) -> Any:
        """r rows behind argument ``place``; the next argument says how far they are apart."""
        return self._builder.add(self._args[place], self._builder.mul(self._args[place + 1], ir.Constant(_I64, r)))

    def load(self, array: int, at: Any, kind: Any) -> Any:
        value = self._builder.load(self._pointer(array, at, kind))
        value.align = _item_bytes(kind)
        return value

    def store(self, value: Any, array: int, at: Any) -> None:
        self._builder.store(value, self._pointer(array, at, value.type)).align = _item_bytes(value.type)

    def _pointer(self, array: int, at: Any, kind: Any) -> Any:
        return self._builder.bitcast(self._builder.gep(self._data[array], [at]), kind.as_pointer())


def _item_bytes(kind: Any) -> int:
    """The alignment of arrays."""
    return 8 if isinstance(kind.element, ir.DoubleType) else 4


def make_copy(size: int) -> Any:
    """An intrinsic that copies ``size`` bytes."""

    @intrinsic
    def copy(typing_context, source, source_at, target, target_at):  # type: ignore[no-untyped-def]
        if source.dtype != target.dtype:
            return None
        i = types.intp

        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            flat = _Flat(context, builder, signature, args)
            kind = ir.VectorType(context.get_value_type(target.dtype), size * 8 // target.dtype.bitwidth)
            flat.store(flat.load(0, flat.at(1), kind), 2, flat.at(3))
            return context.get_dummy_value()

        return types.void(source, i, target, i), codegen

    return copy


def make_copy_and_add(rows: int, count: int) -> Any:
    """An intrinsic that copies ``count`` items of ``rows`` rows, and adds them, summed up in pairs, to those of ``total``.

    The rows of the target follow each other.
    """

    @intrinsic
    def copy_and_add(  # type: ignore[no-untyped-def]
        typing_context, source, source_at, source_row, target, target_at, total, total_at
    ):
        if not source.dtype == target.dtype == total.dtype:
            return None
        i = types.intp

        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            flat = _Flat(context, builder, signature, args)
            kind = ir.VectorType(context.get_value_type(target.dtype), count)
            values = [flat.load(0, flat.row(1, r), kind) for r in range(rows)]
            for r, value in enumerate(values):
                flat.store(value, 3, flat.at(4, r * count))
            while len(values) > 1:
                values = [builder.fadd(*values[n : n + 2]) for n in range(0, len(values), 2)]
            flat.store(builder.fadd(flat.load(5, flat.at(6), kind), values[0]), 5, flat.at(6))
            return context.get_dummy_value()

        return types.void(source, i, i, target, i, total, i), codegen

    return copy_and_add


@compiled
def copy_row(source: NDArray, target: NDArray) -> None:
    """target[:] = source, without Numba's code for shapes that do not fit, which takes long to compile."""
    for j in range(len(source)):
        target[j] = source[j]


@compiled
def add_row(source: NDArray, target: NDArray) -> None:
    """target[:] += source."""
    for j in range(len(source)):
        target[j] += source[j]


@compiled
def copy_block(
    source: NDArray, source_at: int, source_row: int, target: NDArray, target_at: int, target_row: int, rows: int,
    columns: int,
) -> None:  # fmt: skip
    """Some rows of few columns."""
    for r in range(rows):
        for j in range(columns):
            target[target_at + r * target_row + j] = source[source_at + r * source_row + j]


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """The columns of as many registers as each has lanes.

    Interleaving the first half of the rows with the second as many times as it takes to halve them to one transposes.
    """
    lanes = len(rows)
    half, numbers = lanes // 2, ir.VectorType(_I32, lanes)
    low = ir.Constant(numbers, [n // 2 + n % 2 * lanes for n in range(lanes)])
    high = ir.Constant(numbers, [half + n // 2 + n % 2 * lanes for n in range(lanes)])
    for _ in range(half.bit_length()):
        rows = [builder.shuffle_vector(rows[n // 2], rows[n // 2 + half], high if n % 2 else low) for n in range(lanes)]
    return rows


@intrinsic
def copy_transposed(typing_context, source, source_at, source_row, target, target_at, target_row):  # type: ignore[no-untyped-def]
    """A square of as many rows and columns as a register has lanes; a target of words takes the words of two rows each."""
    words = target.dtype == WORD and source.dtype == types.float32
    if not words and source.dtype != target.dtype:
        return None
    i = types.intp

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        flat = _Flat(context, builder, signature, args)
        lanes = TARGET.vector_bytes * 8 // source.dtype.bitwidth
        kind = ir.VectorType(_I32 if words else context.get_value_type(source.dtype), lanes)
        rows = _transposed(builder, [flat.load(0, flat.row(1, r), kind) for r in range(lanes)])
        if words:
            rows = [emit_words(builder, rows[n], rows[n + 1], kind) for n in range(0, lanes, 2)]
        for r, row in enumerate(rows):
            flat.store(row, 3, flat.row(4, r))
        return context.get_dummy_value()

    return types.void(source, i, i, target, i, i), codegen


@intrinsic
def copy_words_transposed(typing_context, source, source_at, source_row, target, target_at, target_row):  # type: ignore[no-untyped-def]
    """Words of two rows each of the source, of as many pairs as a register has lanes, as rows of one column each."""
    if source.dtype != types.float32 or target.dtype != WORD:
        return None
    i = types.intp

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        flat = _Flat(context, builder, signature, args)
        lanes = TARGET.vector_bytes // 4
        kind = ir.VectorType(_I32, lanes)
        rows = [flat.load(0, flat.row(1, r), kind) for r in range(2 * lanes)]
        words = [emit_words(builder, rows[2 * n], rows[2 * n + 1], kind) for n in range(lanes)]
        for r, column in enumerate(_transposed(builder, words)):
            flat.store(column, 3, flat.row(4, r))
        return context.get_dummy_value()

    return types.void(source, i, i, target, i, i), codegen


def make_pairing(count: int) -> Any:
    """An intrinsic that writes the words of ``count`` neighbours of two rows."""
    lanes = min(count, 16)  # a whole register at a time has an instruction

    @intrinsic
    def pair(typing_context, source, low_at, high_at, target, target_at):  # type: ignore[no-untyped-def]
        i = types.intp

        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            kind = ir.VectorType(_I32, lanes)
            flat = _Flat(context, builder, signature, args)
            for further in range(0, count, lanes):
                low, high = (flat.load(0, flat.at(place, further), kind) for place in (1, 2))
                flat.store(emit_words(builder, low, high, kind), 3, flat.at(4, further))
            return context.get_dummy_value()

        return types.void(source, i, i, target, i), codegen

    return pair


@intrinsic
def round_some(typing_context, source, source_at, target, target_at):  # type: ignore[no-untyped-def]
    """The words of ROUNDED numbers that follow each other."""
    if source.dtype != types.float32 or target.dtype != WORD:
        return None
    i = types.intp

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        flat = _Flat(context, builder, signature, args)
        half = ir.VectorType(_I32, ROUNDED // 2)
        first, second = (flat.load(0, flat.at(1, further), half) for further in (0, ROUNDED // 2))
        if HAS_INSTRUCTION:
            words = builder.bitcast(emit_rounded(builder, first, second), half)
        else:
            low, high = (
                builder.shuffle_vector(first, second, ir.Constant(half, list(range(odd, ROUNDED, 2)))) for odd in (0, 1)
            )
            words = emit_words(builder, low, high, half)
        flat.store(words, 2, flat.at(3))
        return context.get_dummy_value()

    return types.void(source, i, target, i), codegen


def emit_prefetch(builder: Any, pointer: Any) -> None:
    """Ask for a line of memory; places outside an array do no harm."""
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32])
    ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    to_read_to_all_caches_data = [ir.Constant(_I32, value) for value in (0, 3, 1)]
    builder.call(ask, [builder.bitcast(pointer, byte), *to_read_to_all_caches_data])


@intrinsic
def prefetch(typing_context, source, at):  # type: ignore[no-untyped-def]
    """Ask for the cache line of an item of a flat array."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        data = array_data(context, builder, source, args[0])
        emit_prefetch(builder, builder.gep(data, [args[1]]))
        return context.get_dummy_value()

    return types.void(source, types.intp), codegen
