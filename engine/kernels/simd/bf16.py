"""Products of numbers in bfloat16 with sums in float32: twice the work an instruction, half the bytes of the weights.

bfloat16 is the upper half of a float32: its range, 8 bits of its precision. The instruction (vdpbf16ps) takes pairs that
follow each other along the depth of a product, x₀·y₀ + x₁·y₁ a lane, so both factors lie in memory as 32-bit words of
two numbers, the earlier one in the lower half. To all other code a product of words is a product of half the depth.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types

from unrolled.engine.errors import ConfigError
from unrolled.engine.kernels.jit.compilation import intrinsic
from unrolled.engine.kernels.jit.numba_internals import BFLOAT
from unrolled.engine.kernels.jit.target import TARGET
from unrolled.engine.kernels.simd.registers import call_llvm, lanes_of

WORD = types.int32
WORD_DTYPE = np.dtype(np.int32)
# before LLVM 16 the instruction's operands had another type
HAS_INSTRUCTION = TARGET.avx512_bf16 and binding.llvm_version_info[0] >= 16


def available() -> bool:
    """Return whether this processor has the instruction, and Numba may use it."""
    return HAS_INSTRUCTION


def check_available() -> None:
    """Check that this processor has the instruction.

    Raises:
        ConfigError: this processor does not have it.
    """
    if not available():
        raise ConfigError(
            "precision: bf16 needs a processor with AVX512-BF16 (AMD since Zen 4, Intel Xeon since Cooper Lake), "
            "which this one is not; leave it out for float32"
        )


def add_product(builder: Any, x: Any, y: Any, total: Any) -> Any:
    """Emit ``total`` (a register of float32) plus the products of the pairs in ``x`` and ``y`` (as many words).

    Without the instruction two FMAs compute the same, slower than in float32: it lets tests run everywhere and is refused
    to users.
    """
    sums = total.type
    if HAS_INSTRUCTION:
        pairs = ir.VectorType(BFLOAT, 2 * sums.count)
        factors = [builder.bitcast(x, pairs), builder.bitcast(y, pairs)]
        return call_llvm(builder, "llvm.x86.avx512bf16.dpbf16ps.512", sums, [total, *factors])
    for one, other in zip(emit_halves(builder, x), emit_halves(builder, y), strict=True):
        total = call_llvm(builder, f"llvm.fmuladd.v{sums.count}f32", sums, [one, other, total])
    return total


def emit_halves(builder: Any, words: Any) -> list[Any]:
    """Emit the first and the second numbers of a register of words as float32."""
    lanes = words.type.count
    sixteen, upper = ir.Constant(words.type, [16] * lanes), ir.Constant(words.type, [-0x10000] * lanes)
    floats = ir.VectorType(ir.FloatType(), lanes)
    return [builder.bitcast(half, floats) for half in (builder.shl(words, sixteen), builder.and_(words, upper))]


def emit_rounded(builder: Any, first: Any, second: Any) -> Any:
    """Emit 32 bfloat16 from two registers with the bits of 16 float32 each, those of ``first`` before those of ``second``."""
    floats, result = ir.VectorType(ir.FloatType(), 16), ir.VectorType(BFLOAT, 32)
    values = [builder.bitcast(second, floats), builder.bitcast(first, floats)]
    return call_llvm(builder, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", result, values)


def emit_words(builder: Any, low: Any, high: Any, kind: Any) -> Any:
    """Emit words of float32 ``low`` and ``high``, given as bits of the integer type ``kind``; ties are rounded to even.

    The processor's own rounding, of whole registers, takes a number below 2⁻¹²⁶ for 0, as most of its products do.
    """
    if HAS_INSTRUCTION and lanes_of(kind) == 16:
        halves = ir.VectorType(ir.IntType(16), 32)
        both = builder.bitcast(emit_rounded(builder, low, high), halves)
        order = ir.Constant(ir.VectorType(ir.IntType(32), 32), [n // 2 + n % 2 * 16 for n in range(32)])
        return builder.bitcast(builder.shuffle_vector(both, ir.Constant(halves, ir.Undefined), order), kind)

    def constant(value: int) -> Any:
        return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)

    def rounded(bits: Any) -> Any:  # a lower half below the middle does not carry into the upper half
        odd = builder.and_(builder.lshr(bits, constant(16)), constant(1))
        return builder.add(bits, builder.add(odd, constant(0x7FFF)))

    upper = builder.and_(rounded(high), constant(-0x10000))
    return builder.or_(upper, builder.lshr(rounded(low), constant(16)))


@intrinsic
def _word_intrinsic(typing_context, low, high):  # type: ignore[no-untyped-def]
    """Return the word of two float32."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        i32 = ir.IntType(32)
        return emit_words(builder, builder.bitcast(args[0], i32), builder.bitcast(args[1], i32), i32)

    return WORD(types.float32, types.float32), codegen


word: Any = _word_intrinsic
