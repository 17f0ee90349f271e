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
from unrolled.engine.kernels.simd.registers import (
    I32,
    I64,
    broadcast,
    call_llvm,
    item_of,
    lanes_of,
    load,
    number,
    store,
)

REGISTERS = 2  # of each vector; with twice as many the constants would leave no room
_CONTRACT = ("contract",)  # a multiplication and an addition may become one FMA


class Vector:
    """Numbers side by side in generated code; the operators are Python's, and their other side may be a constant.

    They fill several registers, and each instruction is written for all of them before the next: an instruction of a
    single chain would wait for the result of the one before it.
    """

    __array_ufunc__ = None  # NumPy's scalars leave operators to this class

    def __init__(self, builder: Any, values: Sequence[Any]) -> None:
        self.builder, self.values = builder, values

    @property
    def lanes(self) -> int:
        """Numbers a register, 1 for a scalar."""
        return lanes_of(self.values[0].type)

    @property
    def number(self) -> Any:
        """IR's type of one number."""
        return item_of(self.values[0].type)

    def register(self, item: Any) -> Any:
        """Return IR's type of a register with as many numbers of type ``item``."""
        return ir.VectorType(item, self.lanes) if self.lanes > 1 else item

    def constant(self, value: Any) -> Vector:
        """Return a vector of this type with a constant in every lane."""
        plain = int(value) if isinstance(self.number, ir.IntType) else float(value)
        kind = self.register(self.number)
        constant = ir.Constant(kind, [plain] * self.lanes if self.lanes > 1 else plain)
        return Vector(self.builder, [constant] * len(self.values))

    def _each(self, instruction: Callable[..., Any], *others: Vector) -> Vector:
        """Apply an instruction to each register and the other vectors' registers in the same place."""
        operands = zip(self.values, *(other.values for other in others), strict=True)
        return Vector(self.builder, [instruction(*some) for some in operands])

    def bits(self, item: Any) -> Vector:
        """Return the same bits as numbers of type ``item``, which has the same size."""
        return self._each(lambda x: self.builder.bitcast(x, self.register(item)))

    def shifted_left(self, places: int) -> Vector:
        """Return integers shifted left."""
        return self._each(self.builder.shl, self.constant(places))

    def _operand(self, other: Any) -> Vector:
        """Return a vector as it is, and a number as a constant."""
        return other if isinstance(other, Vector) else self.constant(other)

    def _combined(self, instruction: Callable[..., Any], left: Any, right: Any) -> Vector:
        """Apply an instruction to two operands, one of which may be a constant."""
        return self._operand(left)._each(lambda x, y: instruction(x, y, flags=_CONTRACT), self._operand(right))

    def __add__(self, other: Any) -> Vector:
        return self._combined(self.builder.fadd, self, other)

    def __radd__(self, other: Any) -> Vector:
        return self._combined(self.builder.fadd, other, self)

    def __sub__(self, other: Any) -> Vector:
        return self._combined(self.builder.fsub, self, other)

    def __rsub__(self, other: Any) -> Vector:
        return self._combined(self.builder.fsub, other, self)

    def __mul__(self, other: Any) -> Vector:
        return self._combined(self.builder.fmul, self, other)

    def __rmul__(self, other: Any) -> Vector:
        return self._combined(self.builder.fmul, other, self)

    def __truediv__(self, other: Any) -> Vector:
        return self._combined(self.builder.fdiv, self, other)

    def __neg__(self) -> Vector:
        return self._each(self.builder.fneg)

    def _compared(self, sign: str, other: Any) -> Vector:
        """Compare lane by lane; a comparison with a NaN is false."""
        return self._each(lambda x, y: self.builder.fcmp_ordered(sign, x, y), self._operand(other))

    def __lt__(self, other: Any) -> Vector:
        return self._compared("<", other)

    def __gt__(self, other: Any) -> Vector:
        return self._compared(">", other)

    def __ge__(self, other: Any) -> Vector:
        return self._compared(">=", other)

    def at_least(self, limit: Any) -> Vector:
        """Return the larger of each number and the limit; a NaN stays."""
        return select(self < limit, self.constant(limit), self)

    def at_most(self, limit: Any) -> Vector:
        """Return the smaller of each number and the limit; a NaN stays."""
        return select(self > limit, self.constant(limit), self)

    def call(self, name: str) -> Vector:
        """Apply a function of LLVM or of the C library whose argument and result have this vector's type."""
        return self._each(lambda x: call_llvm(self.builder, name, x.type, [x]))

    def reciprocal_14(self) -> Vector:
        """Return 1 / x to 14 bits, for AVX-512 and float32."""
        every_lane = ir.Constant(ir.IntType(16), -1)
        return self._each(
            lambda x: call_llvm(
                self.builder, "llvm.x86.avx512.rcp14.ps.512", x.type, [x, ir.Constant(x.type, None), every_lane]
            )
        )


def select(holds: Vector, yes: Vector, no: Vector) -> Vector:
    """Return ``yes`` in the lanes where ``holds`` is true, else ``no``."""
    return holds._each(holds.builder.select, yes, no)


def quotient(x: Vector, y: Vector) -> Vector:
    """Return x / y for 2⁻¹²⁶ ≤ |y| ≤ 2¹²⁶, within 1.6 units in the last place.

    On AVX-512, in float32, its reciprocal of 14 bits and one Newton step, which doubles the bits, take a quarter of the time
    of a division.
    """
    if TARGET.vector_bytes != 64 or not isinstance(y.number, ir.FloatType):
        return x / y
    near = y.reciprocal_14()
    return x * (near + near * (1 - y * near))


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
            emit_formula(builder, formula, context.get_value_type(dtype), data(0), data(1), args[3], constants)
            return context.get_dummy_value()

        return types.void(inputs, outputs, numbers, types.intp), codegen

    return run


def emit_formula(
    builder: Any, formula: Callable[..., Any], item: Any, inputs: list[Any], outputs: list[Any], count: Any,
    constants: Sequence[Any] = (),
) -> None:  # fmt: skip
    """Emit a loop that runs a formula over ``count`` items: REGISTERS at a time, and once more for the rest.

    ``inputs`` and ``outputs`` are pointers to items of IR's type ``item``; an output whose result is None is not written.
    """
    lanes = TARGET.vector_bytes // 4 if isinstance(item, ir.FloatType) else 1
    kind = ir.VectorType(item, lanes) if lanes > 1 else item
    registers = REGISTERS if lanes > 1 else 1
    everywhere = [Vector(builder, [broadcast(builder, value, kind)] * registers) for value in constants]

    def run(at: Any, masks: list[Any]) -> None:
        places = [builder.add(at, number(r * lanes)) for r in range(registers)]
        loaded = [
            Vector(
                builder, [load(builder, data, *where) for where in zip(places, [kind] * registers, masks, strict=True)]
            )
            for data in inputs
        ]
        results = formula(*loaded, *everywhere)
        for data, result in zip(outputs, results if isinstance(results, tuple) else (results,), strict=True):
            if result is None:
                continue
            vector = result if isinstance(result, Vector) else loaded[0].constant(result)
            for value, place, mask in zip(vector.values, places, masks, strict=True):
                store(builder, value, data, place, mask)

    whole = builder.and_(count, number(-lanes * registers))
    with cgutils.for_range_slice(builder, number(0), whole, number(lanes * registers), I64) as (at, _):
        run(at, [None] * registers)
    if lanes > 1:
        with builder.if_then(builder.icmp_signed("<", whole, count), likely=False):
            run(whole, _masks(builder, builder.sub(count, whole), lanes, registers))


def _masks(builder: Any, rest: Any, lanes: int, registers: int) -> list[Any]:
    """Return a mask a register whose lanes are set for the first ``rest`` numbers of all."""
    indices = ir.VectorType(I32, lanes)
    count = broadcast(builder, builder.trunc(rest, I32), indices)
    own = [ir.Constant(indices, [r * lanes + lane for lane in range(lanes)]) for r in range(registers)]
    return [builder.icmp_signed("<", some, count) for some in own]
