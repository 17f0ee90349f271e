"""Products of numbers in bfloat16 with sums in float32: twice the work an instruction, half the bytes of the weights.

bfloat16 is the upper half of a float32: its range, 8 bits of its precision. The instruction (vdpbf16ps) takes pairs that
follow each other along the depth of a product, x₀·y₀ + x₁·y₁ a lane, so both factors lie in memory as 32-bit words of
two numbers, the earlier one in the lower half. To all else a product of words is one of half the depth, filled up with
zeros to whole tiles where the processor has those (``amx``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import overload
from numpy.typing import NDArray

from unrolled.engine.errors import ConfigError
from unrolled.engine.kernels import amx
from unrolled.engine.kernels.kernel import compiled, intrinsic
from unrolled.engine.kernels.target import TARGET

WORD = types.int32
WORD_DTYPE = np.dtype(np.int32)
# before LLVM 16 the instruction's operands had another type
_HAS_INSTRUCTION = TARGET.avx512_bf16 and binding.llvm_version_info[0] >= 16


class _BFloat(ir.types._BaseFloatType):  # llvmlite knows the type's name only when told
    null, intrinsic_name = "0.0", "bf16"

    def __str__(self) -> str:
        return "bfloat"

    def format_constant(self, value: float) -> str:
        return str(value)


_BFloat._create_instance()


def available() -> bool:
    """Whether this processor has the instruction, and Numba may use it."""
    return _HAS_INSTRUCTION


def check_available() -> None:
    """Check that this processor has the instruction.

    Raises:
        ConfigError: it has not.
    """
    if not available():
        raise ConfigError(
            "precision: bf16 needs a processor with AVX512-BF16 (AMD since Zen 4, Intel Xeon since Cooper Lake), "
            "which this one is not; leave it out for float32"
        )


def add_product(builder: Any, x: Any, y: Any, total: Any) -> Any:
    """``total`` (a register of float32) plus the products of the pairs in ``x`` and ``y`` (as many words).

    Without the instruction two FMAs do the same, slower than in float32: so that tests run everywhere, not for users.
    """
    sums = total.type
    if _HAS_INSTRUCTION:
        pairs = ir.VectorType(_BFloat(), 2 * sums.count)
        dot = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(sums, [sums, pairs, pairs]), "llvm.x86.avx512bf16.dpbf16ps.512"
        )
        return builder.call(dot, [total, builder.bitcast(x, pairs), builder.bitcast(y, pairs)])
    multiply_add = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(sums, [sums] * 3), f"llvm.fmuladd.v{sums.count}f32"
    )
    upper = ir.Constant(x.type, [-0x10000] * sums.count)
    sixteen = ir.Constant(x.type, [16] * sums.count)
    for half in (lambda word: builder.shl(word, sixteen), lambda word: builder.and_(word, upper)):
        total = builder.call(multiply_add, [*(builder.bitcast(half(word), sums) for word in (x, y)), total])
    return total


def _emit_rounded(builder: Any, first: Any, second: Any) -> Any:
    """32 bfloat16 from two registers of the bits of 16 float32, one after the other."""
    floats, result = ir.VectorType(ir.FloatType(), 16), ir.VectorType(_BFloat(), 32)
    convert = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(result, [floats] * 2), "llvm.x86.avx512bf16.cvtne2ps2bf16.512"
    )
    return builder.call(convert, [builder.bitcast(second, floats), builder.bitcast(first, floats)])


def emit_words(builder: Any, low: Any, high: Any, kind: Any) -> Any:
    """Words of float32 ``low`` and ``high``, given as bits of the integer type ``kind``; rounded to nearest, ties to even.

    The processor's own rounding, of whole registers, takes a number below 2⁻¹²⁶ for 0, as most of its products do.
    """
    if _HAS_INSTRUCTION and getattr(kind, "count", 1) == 16:
        halves = ir.VectorType(ir.IntType(16), 32)
        both = builder.bitcast(_emit_rounded(builder, low, high), halves)
        order = ir.Constant(ir.VectorType(ir.IntType(32), 32), [n // 2 + n % 2 * 16 for n in range(32)])
        return builder.bitcast(builder.shuffle_vector(both, ir.Constant(halves, ir.Undefined), order), kind)

    def number(value: int) -> Any:
        lanes = getattr(kind, "count", 0)
        return ir.Constant(kind, [value] * lanes if lanes else value)

    def rounded(bits: Any) -> Any:  # what is below the middle does not carry into the upper half
        odd = builder.and_(builder.lshr(bits, number(16)), number(1))
        return builder.add(bits, builder.add(odd, number(0x7FFF)))

    upper = builder.and_(rounded(high), number(-0x10000))
    return builder.or_(upper, builder.lshr(rounded(low), number(16)))


@intrinsic
def _word_intrinsic(typing_context, low, high):  # type: ignore[no-untyped-def]
    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        i32 = ir.IntType(32)
        return emit_words(builder, builder.bitcast(args[0], i32), builder.bitcast(args[1], i32), i32)

    return WORD(types.float32, types.float32), codegen


word: Any = _word_intrinsic


def make_pairing(count: int) -> Any:
    """An intrinsic that writes the words of ``count`` neighbours of two rows, for flat arrays."""
    lanes = min(count, 16)  # a whole register at a time has an instruction

    @intrinsic
    def pair(typing_context, source, low_at, high_at, target, target_at):  # type: ignore[no-untyped-def]
        i = types.intp

        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            kind = ir.VectorType(ir.IntType(32), lanes)

            def place(n: int, at: int, further: int) -> Any:
                data = context.make_array(signature.args[n])(context, builder, args[n]).data
                there = builder.add(args[at], ir.Constant(ir.IntType(64), further))
                return builder.bitcast(builder.gep(data, [there]), kind.as_pointer())

            for further in range(0, count, lanes):
                low, high = (builder.load(place(0, at, further)) for at in (1, 2))
                low.align = high.align = 4
                builder.store(emit_words(builder, low, high, kind), place(3, 4, further)).align = 4
            return context.get_dummy_value()

        return types.void(source, i, i, target, i), codegen

    return pair


# words from the end of a row of a first factor to the next: rows a power of two apart would share few sets of the cache
GAP = amx.LANES if amx.AVAILABLE else 0


_UNIT = amx.DEPTH if amx.AVAILABLE else 1


def packed_depth(K: int) -> int:
    """Words of K numbers along the depth of a product."""
    return ((K + 1) // 2 + _UNIT - 1) // _UNIT * _UNIT


packed_words = compiled(packed_depth)


ROUNDED = 32  # numbers of a row that are rounded at a time


@intrinsic
def _round_some(typing_context, source, source_at, target, target_at):  # type: ignore[no-untyped-def]
    """The words of ROUNDED numbers that follow each other, for flat arrays."""
    if source.dtype != types.float32 or target.dtype != WORD:
        return None
    i = types.intp

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        half = ir.VectorType(ir.IntType(32), ROUNDED // 2)

        def place(n: int, further: int) -> Any:
            data = context.make_array(signature.args[n])(context, builder, args[n]).data
            at = builder.add(args[n + 1], ir.Constant(ir.IntType(64), further))
            return builder.bitcast(builder.gep(data, [at]), half.as_pointer())

        first, second = builder.load(place(0, 0)), builder.load(place(0, ROUNDED // 2))
        first.align = second.align = 4
        if _HAS_INSTRUCTION:
            words = builder.bitcast(_emit_rounded(builder, first, second), half)
        else:
            low, high = (
                builder.shuffle_vector(first, second, ir.Constant(half, list(range(odd, ROUNDED, 2)))) for odd in (0, 1)
            )
            words = emit_words(builder, low, high, half)
        builder.store(words, place(2, 0)).align = 4
        return context.get_dummy_value()

    return types.void(source, i, target, i), codegen


@compiled
def _round_rows(x: NDArray, at: int, stride: int, rows: int, K: int, words: NDArray, width: int) -> None:
    """``width`` words of each of ``rows`` rows of K float32 from ``at`` on in the flat ``x``; zeros follow the last.

    Rows of ``words`` are ``width`` + GAP apart.
    """
    pairs, whole = K // 2, K // ROUNDED * ROUNDED
    for r in range(rows):
        to = r * (width + GAP)
        for j in range(0, whole, ROUNDED):
            _round_some(x, at + r * stride + j, words, to + j // 2)
        row, into = x[at + r * stride : at + r * stride + K], words[to : to + width]
        for j in range(whole // 2, pairs):
            into[j] = word(row[2 * j], row[2 * j + 1])
        if K % 2:
            into[pairs] = word(row[K - 1], np.float32(0))
        for j in range((K + 1) // 2, width):
            into[j] = 0


# Names for compiled code to call, the same for both kinds of product; the implementation goes by the panels' dtype.
# Without annotations, because an overload must have the signature to the letter.


def new_operand(panels, rows):  # type: ignore[no-untyped-def]
    """Memory for ``operand``."""
    raise NotImplementedError("for compiled code only")


def operand(x, at, stride, rows, K, panels, memory):  # type: ignore[no-untyped-def]
    """Rows of K numbers, ``stride`` apart from ``at`` on in the flat ``x``, as a first factor for ``panels``.

    Returns the array, the offset and the stride to give to a product: those of ``x`` itself where the panels are of its
    dtype; where they are of words, the rows are rounded into ``memory``.
    """
    raise NotImplementedError("for compiled code only")


@overload(new_operand, inline="always")
def _new_operand_for(panels, rows):  # type: ignore[no-untyped-def]
    if panels.dtype == WORD:
        return lambda panels, rows: np.empty(rows * (panels.shape[1] + GAP), np.int32)
    return lambda panels, rows: np.empty(0, panels.dtype)


@overload(operand, inline="always")
def _operand_for(x, at, stride, rows, K, panels, memory):  # type: ignore[no-untyped-def]
    if panels.dtype == WORD:

        def rounded(x, at, stride, rows, K, panels, memory):  # type: ignore[no-untyped-def]
            _round_rows(x, at, stride, rows, K, memory, panels.shape[1])
            return memory, 0, panels.shape[1] + GAP

        return rounded
    return lambda x, at, stride, rows, K, panels, memory: (x, at, stride)
