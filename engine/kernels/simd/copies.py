"""Copies between flat arrays, some registers or a block at a time; LLVM's own short loops check for overlap first.

Arrays come with an offset and strides in items.
"""

from __future__ import annotations

import contextlib
from typing import Any

from llvmlite import ir
from numba import types
from numpy.typing import NDArray

from unrolled.engine.kernels.jit.compilation import compiled, intrinsic
from unrolled.engine.kernels.jit.numba_internals import array_data
from unrolled.engine.kernels.jit.target import TARGET
from unrolled.engine.kernels.simd import registers
from unrolled.engine.kernels.simd.bf16 import HAS_INSTRUCTION, WORD, emit_rounded, emit_words
from unrolled.engine.kernels.simd.registers import I32, mask_of_first, number, prefetch_line

ROUNDED = 32  # numbers of a row that are rounded at a time


class _FlatArrays:
    """Flat arrays among an intrinsic's arguments, and places in them, in generated code."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any) -> None:
        self._builder, self._args = builder, args
        self._data = [
            array_data(context, builder, kind, value) if isinstance(kind, types.Array) else None
            for kind, value in zip(signature.args, args, strict=True)
        ]

    def at(self, place: int, further: int = 0) -> Any:
        """Return the offset ``further`` items after argument ``place``."""
        return self._builder.add(self._args[place], number(further))

    def row(self, place: int, r: int) -> Any:
        """Return the offset r rows after argument ``place``; the next argument is the stride of the rows."""
        return self._builder.add(self._args[place], self._builder.mul(self._args[place + 1], number(r)))

    def load(self, array: int, at: Any, kind: Any, mask: Any = None) -> Any:
        return registers.load(self._builder, self._data[array], at, kind, mask)

    def store(self, value: Any, array: int, at: Any) -> None:
        registers.store(self._builder, value, self._data[array], at)


def make_copy(size: int) -> Any:
    """Return an intrinsic that copies ``size`` bytes.

    Its readable form, for n items: ``target[target_at : target_at + n] = source[source_at : source_at + n]``.
    """

    @intrinsic
    def copy(typing_context, source, source_at, target, target_at):  # type: ignore[no-untyped-def]
        if source.dtype != target.dtype:
            return None
        i = types.intp

        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            flat = _FlatArrays(context, builder, signature, args)
            kind = ir.VectorType(context.get_value_type(target.dtype), size * 8 // target.dtype.bitwidth)
            flat.store(flat.load(0, flat.at(1), kind), 2, flat.at(3))
            return context.get_dummy_value()

        return types.void(source, i, target, i), codegen

    return copy


def make_padded_copy(size: int) -> Any:
    """Return an intrinsic that copies ``count`` numbers, and writes zeros after them up to ``size`` bytes.

    Its readable form, for n items: ``target[target_at : target_at + n] = [*source[source_at : source_at + count], 0, 0, …]``.
    """

    @intrinsic
    def copy(typing_context, source, source_at, count, target, target_at):  # type: ignore[no-untyped-def]
        if source.dtype != target.dtype:
            return None
        i = types.intp

        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            flat = _FlatArrays(context, builder, signature, args)
            lanes = TARGET.vector_bytes * 8 // target.dtype.bitwidth
            kind = ir.VectorType(context.get_value_type(target.dtype), lanes)
            for further in range(0, size * 8 // target.dtype.bitwidth, lanes):
                mask = mask_of_first(builder, flat.at(2, -further), lanes)
                flat.store(flat.load(0, flat.at(1, further), kind, mask), 3, flat.at(4, further))
            return context.get_dummy_value()

        return types.void(source, i, i, target, i), codegen

    return copy


def make_copy_and_add(rows: int, count: int) -> Any:
    """Return an intrinsic that copies ``count`` items of ``rows`` rows, and adds the rows' sum to those of ``total``.

    The rows of the target follow each other; the sum is of pairs, then of pairs of pairs. The readable form, for two rows
    ``a`` and ``b`` of the source:

        target[:count], target[count : 2 * count] = a, b
        total += a + b
    """

    @intrinsic
    def copy_and_add(  # type: ignore[no-untyped-def]
        typing_context, source, source_at, source_row, target, target_at, total, total_at
    ):
        if not source.dtype == target.dtype == total.dtype:
            return None
        i = types.intp

        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            flat = _FlatArrays(context, builder, signature, args)
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
def copy_block(
    source: NDArray, source_at: int, source_row: int, target: NDArray, target_at: int, target_row: int, rows: int,
    columns: int,
) -> None:  # fmt: skip
    """Copy some rows of few columns."""
    for r in range(rows):
        for j in range(columns):
            target[target_at + r * target_row + j] = source[source_at + r * source_row + j]


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Return the columns of a square: as many registers as each has lanes.

    Interleaving the first half of the rows with the second as many times as halving takes to reach one row transposes.
    """
    lanes = len(rows)
    half, numbers = lanes // 2, ir.VectorType(I32, lanes)
    low = ir.Constant(numbers, [n // 2 + n % 2 * lanes for n in range(lanes)])
    high = ir.Constant(numbers, [half + n // 2 + n % 2 * lanes for n in range(lanes)])
    for _ in range(half.bit_length()):
        rows = [builder.shuffle_vector(rows[n // 2], rows[n // 2 + half], high if n % 2 else low) for n in range(lanes)]
    return rows


@intrinsic
def copy_transposed(typing_context, source, source_at, source_row, target, target_at, target_row):  # type: ignore[no-untyped-def]
    """Copy a square of as many rows and columns as a register has lanes, transposed.

    A target of words takes the words of two rows each. The readable form, for squares: ``target[...] = source.T``.
    """
    i = types.intp
    return _transposing(source, target, types.void(source, i, i, target, i, i))


@intrinsic
def copy_part_transposed(  # type: ignore[no-untyped-def]
    typing_context, source, source_at, source_row, target, target_at, target_row, rows, columns
):
    """Copy the first rows and columns of a square as ``copy_transposed`` does, with zeros for the other rows."""
    i = types.intp
    return _transposing(source, target, types.void(source, i, i, target, i, i, i, i))


def _transposing(source: Any, target: Any, signature: Any) -> Any:
    """Return the signature and code of a transposing copy, or None if the arrays do not fit."""
    words = target.dtype == WORD and source.dtype == types.float32
    if not words and source.dtype != target.dtype:
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        flat = _FlatArrays(context, builder, signature, args)
        lanes = TARGET.vector_bytes * 8 // source.dtype.bitwidth
        kind = ir.VectorType(I32 if words else context.get_value_type(source.dtype), lanes)
        part = len(args) > 6

        def has(place: int, n: int) -> Any:
            return builder.icmp_signed(">", args[place], number(n))

        def row(r: int) -> Any:
            if not part:
                return flat.load(0, flat.row(1, r), kind)
            lanes_of_row = builder.select(has(6, r), args[7], number(0))
            return flat.load(0, flat.row(1, r), kind, mask_of_first(builder, lanes_of_row, lanes))

        rows = _transposed(builder, [row(r) for r in range(lanes)])
        together = 2 if words else 1
        if words:
            rows = [emit_words(builder, rows[n], rows[n + 1], kind) for n in range(0, lanes, 2)]
        for r, values in enumerate(rows):
            with builder.if_then(has(7, r * together)) if part else contextlib.nullcontext():
                flat.store(values, 3, flat.row(4, r))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def copy_words_transposed(typing_context, source, source_at, source_row, target, target_at, target_row):  # type: ignore[no-untyped-def]
    """Copy columns as rows of words: of as many pairs of rows as a register has lanes, a row for each of as many columns."""
    if source.dtype != types.float32 or target.dtype != WORD:
        return None
    i = types.intp

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        flat = _FlatArrays(context, builder, signature, args)
        lanes = TARGET.vector_bytes // 4
        kind = ir.VectorType(I32, lanes)
        rows = [flat.load(0, flat.row(1, r), kind) for r in range(2 * lanes)]
        words = [emit_words(builder, rows[2 * n], rows[2 * n + 1], kind) for n in range(lanes)]
        for r, column in enumerate(_transposed(builder, words)):
            flat.store(column, 3, flat.row(4, r))
        return context.get_dummy_value()

    return types.void(source, i, i, target, i, i), codegen


def make_pairing(count: int) -> Any:
    """Return an intrinsic that writes the words of ``count`` columns of two rows.

    Its readable form: ``for j in range(count): target[target_at + j] = word(source[low_at + j], source[high_at + j])``.
    """
    lanes = min(count, 16)  # a whole register at a time has an instruction

    @intrinsic
    def pair(typing_context, source, low_at, high_at, target, target_at):  # type: ignore[no-untyped-def]
        i = types.intp

        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            kind = ir.VectorType(I32, lanes)
            flat = _FlatArrays(context, builder, signature, args)
            for further in range(0, count, lanes):
                low, high = (flat.load(0, flat.at(place, further), kind) for place in (1, 2))
                flat.store(emit_words(builder, low, high, kind), 3, flat.at(4, further))
            return context.get_dummy_value()

        return types.void(source, i, i, target, i), codegen

    return pair


@intrinsic
def round_some(typing_context, source, source_at, target, target_at):  # type: ignore[no-untyped-def]
    """Write the words of ROUNDED numbers that follow each other.

    The readable form, from places 0: ``for j in range(ROUNDED // 2): target[j] = word(source[2 * j], source[2 * j + 1])``.
    """
    if source.dtype != types.float32 or target.dtype != WORD:
        return None
    i = types.intp

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        flat = _FlatArrays(context, builder, signature, args)
        half = ir.VectorType(I32, ROUNDED // 2)
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


@intrinsic
def prefetch(typing_context, source, at):  # type: ignore[no-untyped-def]
    """Prefetch the cache line of an item of a flat array; ``at`` may lie outside it."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        prefetch_line(builder, builder.gep(array_data(context, builder, source, args[0]), [args[1]]))
        return context.get_dummy_value()

    return types.void(source, types.intp), codegen
