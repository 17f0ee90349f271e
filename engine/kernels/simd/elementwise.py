"""Formulas over arrays as vector IR: a formula for one number runs on whole registers, in one pass over the arrays.

LLVM leaves a loop over eight or more arrays scalar, and chooses narrower registers than there are on some processors.
Here the last numbers, which fill no register, go through the same instructions as all others, so a number's result does
not depend on its place in the array or on the array's length.

The readable form of ``elementwise(f)(inputs, outputs, numbers, count)`` is the loop

    for i in range(count):
        outputs[0][i], outputs[1][i], … = f(inputs[0][i], inputs[1][i], …, *numbers)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types

from unrolled.engine.kernels.jit.compilation import intrinsic
from unrolled.engine.kernels.jit.numba_internals import array_data, cgutils
from unrolled.engine.kernels.jit.target import TARGET
from unrolled.engine.kernels.simd.registers import I64, broadcast, load, mask_of_first, number, store
from unrolled.engine.kernels.simd.vectors import Vector

REGISTERS = 2  # of each vector; with twice as many the constants would leave no room

Pointers = tuple[list[Any], list[Any]]  # to the first items of the inputs and of the outputs


def elementwise(formula: Callable[..., Any]) -> Any:
    """Return a function for compiled code that runs a formula over arrays: (inputs, outputs, numbers, count).

    ``inputs`` and ``outputs`` are tuples of C-contiguous arrays (≥ count,) of one dtype, float32 or float64, which may be
    the same arrays; ``numbers`` is a tuple of numbers of that dtype. The formula takes a Vector for each of the inputs and
    numbers and returns one, or a constant, for each of the outputs.
    """

    @intrinsic
    def run(typing_context, inputs, outputs, numbers, count):  # type: ignore[no-untyped-def]
        arrays = [*inputs.types, *outputs.types]
        dtype = arrays[0].dtype
        if dtype not in (types.float32, types.float64):
            return None
        if any(array.dtype != dtype or array.ndim != 1 or array.layout != "C" for array in arrays):
            return None
        if any(number != dtype for number in numbers.types):
            return None

        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            def data(n: int) -> list[Any]:
                return [
                    array_data(context, builder, kind, builder.extract_value(args[n], place))
                    for place, kind in enumerate(signature.args[n].types)
                ]

            constants = [builder.extract_value(args[2], place) for place in range(len(numbers.types))]
            pointers = data(0), data(1)
            emit_formula(
                builder, formula, context.get_value_type(dtype), lambda _: pointers, number(1), args[3], constants
            )  # fmt: skip
            return context.get_dummy_value()

        return types.void(inputs, outputs, numbers, types.intp), codegen

    return run


def emit_formula(
    builder: Any, formula: Callable[..., Any], item: Any, pointers: Callable[[Any], Pointers], rows: Any, count: Any,
    constants: Sequence[Any] = (),
) -> None:  # fmt: skip
    """Emit loops that run a formula over ``count`` items of type ``item`` of each of some rows.

    The first loop runs REGISTERS at a time over all rows, and three more one register, half a register, and the first lanes of
    half a register, as far as rows have them beyond that. An LSTM's rows of 40 units take 0.45 of the time that they take with
    one rest in as many registers as the loop, under masks (AVX-512). The rest of all rows is a loop of its own, because
    right after a store a load that overlaps with it, and goes beyond it, waits until it has reached the cache.

    Args:
        pointers: emits the pointers to a row; an output whose result is None is not written.
    """
    lanes = TARGET.vector_bytes // 4 if isinstance(item, ir.FloatType) else 1
    registers, half = (REGISTERS, lanes // 2) if lanes > 1 else (1, 0)

    def run(row: Any, at: Any, registers: int, lanes: int, mask: Any = None) -> None:
        kind = ir.VectorType(item, lanes) if lanes > 1 else item
        inputs, outputs = pointers(row)
        places = [builder.add(at, number(r * lanes)) for r in range(registers)]
        loaded = [Vector(builder, [load(builder, data, place, kind, mask) for place in places]) for data in inputs]
        everywhere = [Vector(builder, [broadcast(builder, value, kind)] * registers) for value in constants]
        found = formula(*loaded, *everywhere)
        for data, result in zip(outputs, found if isinstance(found, tuple) else (found,), strict=True):
            if result is None:
                continue
            vector = result if isinstance(result, Vector) else loaded[0].constant(result)
            for value, place in zip(vector.values, places, strict=True):
                store(builder, value, data, place, mask)

    whole = builder.and_(count, number(-lanes * registers))
    with (
        cgutils.for_range(builder, rows, intp=I64) as loop,
        cgutils.for_range_slice(builder, number(0), whole, number(lanes * registers), I64) as (at, _),
    ):
        run(loop.index, at, registers, lanes)
    for size in (lanes, half) if half else ():
        has = builder.icmp_signed("!=", builder.and_(count, number(size)), number(0))
        with builder.if_then(has), cgutils.for_range(builder, rows, intp=I64) as loop:
            run(loop.index, builder.and_(count, number(-2 * size)), 1, size)
    if half == 0:
        return
    rest = builder.and_(count, number(half - 1))
    with builder.if_then(builder.icmp_signed("!=", rest, number(0))):
        at, mask = builder.sub(count, rest), mask_of_first(builder, rest, half)
        with cgutils.for_range(builder, rows, intp=I64) as loop:
            run(loop.index, at, 1, half, mask)
