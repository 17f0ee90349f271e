"""Functions on the bits of floating-point numbers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from unrolled.engine.kernels.jit.compilation import intrinsic
from unrolled.engine.kernels.jit.numba_internals import array_data, array_length, cgutils
from unrolled.engine.kernels.jit.target import TARGET
from unrolled.engine.kernels.simd.registers import (
    I32,
    I64,
    broadcast,
    call_llvm,
    item_of,
    lanes_of,
    load,
    number,
)


@intrinsic
def float64_from_bits(typing_context, bits):  # type: ignore[no-untyped-def]
    """Return the float64 with the bits of an int64."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.int64), codegen


@intrinsic
def largest(typing_context, values):  # type: ignore[no-untyped-def]
    """Return the maximum of float32 or float64 numbers (n,), n ≥ 1, C-contiguous.

    A NaN with its sign bit set counts as less than all numbers, any other as more.

    The readable form is ``values.max()``. A loop over floats stays scalar, because their maximum depends on the order where
    there is a NaN; the maximum of integers does not. So the bits are compared as integers (``_ordered``).
    """
    if values.dtype not in (types.float32, types.float64) or values.ndim != 1 or values.layout != "C":
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        data, count = (get(context, builder, values, args[0]) for get in (array_data, array_length))
        integer = ir.IntType(values.dtype.bitwidth)
        highest = _emit_largest(builder, builder.bitcast(data, integer.as_pointer()), count, integer)
        return builder.bitcast(highest, context.get_value_type(values.dtype))

    return values.dtype(values), codegen


def _emit_largest(builder: Any, data: Any, count: Any, integer: Any) -> Any:
    """Emit the maximum of ``count`` numbers whose bits are integers at ``data``; return its bits."""
    bits = integer.width
    lanes = TARGET.vector_bytes * 8 // bits
    kind, indices = ir.VectorType(integer, lanes), ir.VectorType(I32, lanes)
    found = cgutils.alloca_once_value(builder, ir.Constant(kind, [-(2 ** (bits - 1))] * lanes))

    def compare(at: Any, mask: Any) -> None:
        value, before = _ordered(builder, load(builder, data, at, kind, mask)), builder.load(found)
        value = builder.select(mask, value, before) if mask is not None else value
        builder.store(builder.select(builder.icmp_signed(">", value, before), value, before), found)

    whole = builder.and_(count, number(-lanes))
    with cgutils.for_range_slice(builder, number(0), whole, number(lanes), I64) as (at, _):
        compare(at, None)
    with builder.if_then(builder.icmp_signed("<", whole, count)):
        rest = broadcast(builder, builder.trunc(builder.sub(count, whole), I32), indices)
        compare(whole, builder.icmp_signed("<", ir.Constant(indices, list(range(lanes))), rest))
    name = f"llvm.vector.reduce.smax.v{lanes}i{bits}"
    return _ordered(builder, call_llvm(builder, name, integer, [builder.load(found)]))


def _ordered(builder: Any, value: Any) -> Any:
    """Return the bits of floats as integers that order as the floats do, or such integers as bits.

    Bits order as their numbers do once those of a negative number, but for the sign, are inverted.
    """
    lanes, bits = lanes_of(value.type), item_of(value.type).width
    sign_shift, all_but_sign = (
        ir.Constant(value.type, [constant] * lanes if lanes > 1 else constant)
        for constant in (bits - 1, 2 ** (bits - 1) - 1)
    )
    return builder.xor(value, builder.and_(builder.ashr(value, sign_shift), all_but_sign))
