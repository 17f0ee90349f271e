"""Numbers taken as the bits that they are made of."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from unrolled.engine.kernels.jit.compilation import intrinsic
from unrolled.engine.kernels.jit.numba_internals import array_data, array_length, cgutils
from unrolled.engine.kernels.jit.target import TARGET
from unrolled.engine.kernels.simd.vectors import broadcast, load

_I32, _I64 = ir.IntType(32), ir.IntType(64)


@intrinsic
def float64_from_bits(typing_context, bits):  # type: ignore[no-untyped-def]
    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.int64), codegen


@intrinsic
def largest(typing_context, values):  # type: ignore[no-untyped-def]
    """The maximum of float32 or float64 numbers (n,), n ≥ 1, C-contiguous.

    A NaN with its sign bit set counts as less than all numbers, any other as more.

    A loop over the numbers stays scalar, because a maximum of floats is not one in any order; one of integers is. Bits order
    as their numbers do once those of a negative number, but for the sign, are turned around.
    """
    if values.dtype not in (types.float32, types.float64) or values.ndim != 1 or values.layout != "C":
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        bits = values.dtype.bitwidth
        lanes, integer = TARGET.vector_bytes * 8 // bits, ir.IntType(bits)
        kind, places = ir.VectorType(integer, lanes), ir.VectorType(_I32, lanes)
        count = array_length(context, builder, values, args[0])
        data = builder.bitcast(array_data(context, builder, values, args[0]), integer.as_pointer())

        def ordered(value: Any) -> Any:
            """Bits as an integer that orders as the number does, or such an integer as bits; of one or of a register."""
            many = isinstance(value.type, ir.VectorType)
            sign, most = (
                ir.Constant(value.type, [number] * lanes if many else number)
                for number in (bits - 1, 2 ** (bits - 1) - 1)
            )
            return builder.xor(value, builder.and_(builder.ashr(value, sign), most))

        found = cgutils.alloca_once_value(builder, ir.Constant(kind, [-(2 ** (bits - 1))] * lanes))

        def look_at(at: Any, mask: Any) -> None:
            pointer = builder.bitcast(builder.gep(data, [at]), kind.as_pointer())
            value, before = ordered(load(builder, pointer, kind, bits // 8, mask)), builder.load(found)
            value = builder.select(mask, value, before) if mask is not None else value
            builder.store(builder.select(builder.icmp_signed(">", value, before), value, before), found)

        whole = builder.and_(count, ir.Constant(_I64, -lanes))
        step = ir.Constant(_I64, lanes)
        with cgutils.for_range_slice(builder, ir.Constant(_I64, 0), whole, step, _I64) as (at, _):
            look_at(at, None)
        with builder.if_then(builder.icmp_signed("<", whole, count)):
            left = broadcast(builder, builder.trunc(builder.sub(count, whole), _I32), places)
            look_at(whole, builder.icmp_signed("<", ir.Constant(places, list(range(lanes))), left))
        maximum = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(integer, [kind]), f"llvm.vector.reduce.smax.v{lanes}i{bits}"
        )
        highest = ordered(builder.call(maximum, [builder.load(found)]))
        return builder.bitcast(highest, context.get_value_type(values.dtype))

    return values.dtype(values), codegen
