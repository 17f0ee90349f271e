"""Numbers taken as the bits that they are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import overload

from unrolled.engine.kernels.kernel import compiled, intrinsic


def _from_bits(kind: Any, bits_kind: Any, number: Any) -> Any:
    @intrinsic
    def from_bits(typing_context, bits):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            return builder.bitcast(args[0], number)

        return kind(bits_kind), codegen

    return from_bits


float32_from_bits = _from_bits(types.float32, types.int32, ir.FloatType())
float64_from_bits = _from_bits(types.float64, types.int64, ir.DoubleType())


def _make_largest(bits_type: Any, from_bits: Any) -> Any:
    limits = np.iinfo(bits_type)
    least, most, sign = bits_type(limits.min), bits_type(limits.max), bits_type(limits.bits - 1)

    @compiled
    def largest(values):  # type: ignore[no-untyped-def]
        bits = values.view(bits_type)
        found = least
        for i in range(bits.shape[0]):
            ordered = bits_type(bits[i] ^ ((bits[i] >> sign) & most))
            found = ordered if ordered > found else found
        return from_bits(found ^ ((found >> sign) & most))

    return largest


_largest_float32 = _make_largest(np.int32, float32_from_bits)
_largest_float64 = _make_largest(np.int64, float64_from_bits)


def largest(values):  # type: ignore[no-untyped-def]
    """The maximum of float32 or float64 numbers (n,), n ≥ 1; where a NaN is among them, that or the maximum of the others.

    A loop over the numbers stays scalar, because a maximum of floats is not one in any order; one of integers is. Bits order
    as their numbers do once those of a negative number, but for the sign, are turned around.
    """
    raise NotImplementedError("for compiled code only")


@overload(largest, inline="always")
def _largest_for(values):  # type: ignore[no-untyped-def]
    if values.dtype == types.float32:
        return lambda values: _largest_float32(values)
    return lambda values: _largest_float64(values)
