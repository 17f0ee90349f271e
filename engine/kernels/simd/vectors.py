"""Formulas over arrays as vector IR: what is written for one number is done for a register of them, in one pass.

LLVM leaves a loop over eight or more arrays scalar, and chooses narrower registers than there are on some processors.
Here the last numbers, which fill no register, go through the same instructions as all others, so a number's result does
not depend on where it stands or on how many are done at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types

from unrolled.engine.kernels.jit.compilation import intrinsic
from unrolled.engine.kernels.jit.numba_internals import array_data, cgutils
from unrolled.engine.kernels.jit.target import TARGET

_I32, _I64 = ir.IntType(32), ir.IntType(64)
REGISTERS = 2  # of each vector; with twice as many the constants would leave no room
_CONTRACT = ("contract",)  # a multiplication and an addition may become one FMA


class Vector:
    """Numbers side by side in code that is being made; the operators are Python's, their other side may be a constant.

    They fill several registers, and each instruction is written for all of them before the next: an instruction of a
    single chain would wait for the result of the one before it.
    """

    __array_ufunc__ = None  # NumPy's scalars leave operators to this class

    def __init__(self, builder: Any, values: Sequence[Any]) -> None:
        self.builder, self.values = builder, values

    @property
    def lanes(self) -> int:
        """Numbers a register, 1 for a scalar."""
        return getattr(self.values[0].type, "count", 1)

    @property
    def number(self) -> Any:
        """IR's type of one of them."""
        return getattr(self.values[0].type, "element", self.values[0].type)

    def of(self, kind: Any) -> Any:
        """IR's type of a register of as many numbers of another kind."""
        return ir.VectorType(kind, self.lanes) if self.lanes > 1 else kind

    def constant(self, number: Any) -> Vector:
        """A constant of this kind in every place."""
        plain = int(number) if isinstance(self.number, ir.IntType) else float(number)
        kind = self.of(self.number)
        return Vector(
            self.builder, [ir.Constant(kind, [plain] * self.lanes if self.lanes > 1 else plain)] * len(self.values)
        )

    def _each(self, instruction: Callable[..., Any], *others: Vector) -> Vector:
        """An instruction on each register and the others' of its place."""
        operands = zip(self.values, *(other.values for other in others), strict=True)
        return Vector(self.builder, [instruction(*some) for some in operands])

    def bits(self, kind: Any) -> Vector:
        """The same bits as numbers of another kind of that size."""
        return self._each(lambda x: self.builder.bitcast(x, self.of(kind)))

    def shifted_left(self, places: int) -> Vector:
        """Of integers: their bits."""
        return self._each(self.builder.shl, self.constant(places))

    def _operand(self, other: Any) -> Vector:
        return other if isinstance(other, Vector) else self.constant(other)

    def _combined(self, name: str, left: Any, right: Any) -> Vector:
        instruction = getattr(self.builder, name)
        return self._operand(left)._each(lambda x, y: instruction(x, y, flags=_CONTRACT), self._operand(right))

    def __add__(self, other: Any) -> Vector:
        return self._combined("fadd", self, other)

    def __radd__(self, other: Any) -> Vector:
        return self._combined("fadd", other, self)

    def __sub__(self, other: Any) -> Vector:
        return self._combined("fsub", self, other)

    def __rsub__(self, other: Any) -> Vector:
        return self._combined("fsub", other, self)

    def __mul__(self, other: Any) -> Vector:
        return self._combined("fmul", self, other)

    def __rmul__(self, other: Any) -> Vector:
        return self._combined("fmul", other, self)

    def __truediv__(self, other: Any) -> Vector:
        return self._combined("fdiv", self, other)

    def __neg__(self) -> Vector:
        return self._each(self.builder.fneg)

    def _compared(self, sign: str, other: Any) -> Vector:
        """Whether it holds, in each place; it never does for a NaN."""
        return self._each(lambda x, y: self.builder.fcmp_ordered(sign, x, y), self._operand(other))

    def __lt__(self, other: Any) -> Vector:
        return self._compared("<", other)

    def __gt__(self, other: Any) -> Vector:
        return self._compared(">", other)

    def __ge__(self, other: Any) -> Vector:
        return self._compared(">=", other)

    def at_least(self, limit: Any) -> Vector:
        """The larger of it and the limit; a NaN stays."""
        return select(self < limit, self.constant(limit), self)

    def at_most(self, limit: Any) -> Vector:
        """The smaller of it and the limit; a NaN stays."""
        return select(self > limit, self.constant(limit), self)

    def call(self, name: str) -> Vector:
        """A function of LLVM or of C, of a register like these to one like these."""
        kind = self.values[0].type
        function = cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(kind, [kind]), name)
        return self._each(lambda x: self.builder.call(function, [x]))

    def reciprocal_14(self) -> Vector:
        """1 / x to 14 bits: for AVX-512 and float32."""
        kind = self.values[0].type
        every = ir.Constant(ir.IntType(16), -1)
        function = cgutils.get_or_insert_function(
            self.builder.module, ir.FunctionType(kind, [kind, kind, every.type]), "llvm.x86.avx512.rcp14.ps.512"
        )
        return self._each(lambda x: self.builder.call(function, [x, ir.Constant(kind, None), every]))


def select(holds: Vector, yes: Vector, no: Vector) -> Vector:
    """``yes`` in the places where it holds, else ``no``."""
    return holds._each(holds.builder.select, yes, no)


def quotient(x: Vector, y: Vector) -> Vector:
    """x / y for 2⁻¹²⁶ ≤ |y| ≤ 2¹²⁶, within 1.6 units in the last place.

    AVX-512's reciprocal of 14 bits and one step of Newton's, which doubles them, take a quarter of a division's time.
    """
    if TARGET.vector_bytes != 64 or not isinstance(y.number, ir.FloatType):
        return x / y
    near = y.reciprocal_14()
    return x * (near + near * (1 - y * near))


def elementwise(formula: Callable[..., Any]) -> Any:
    """A function for compiled code that runs a formula over arrays: (inputs, outputs, numbers, count).

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
    builder: Any, formula: Callable[..., Any], number: Any, inputs: list[Any], outputs: list[Any], count: Any,
    constants: Sequence[Any] = (),
) -> None:  # fmt: skip
    """Emit a loop that runs a formula over ``count`` items: whole steps of REGISTERS, and once more for the rest.

    ``inputs`` and ``outputs`` are pointers to items of IR's type ``number``; an output whose result is None is not written.
    """
    lanes = TARGET.vector_bytes // 4 if isinstance(number, ir.FloatType) else 1
    kind = ir.VectorType(number, lanes) if lanes > 1 else number
    align = 4 if isinstance(number, ir.FloatType) else 8
    registers = REGISTERS if lanes > 1 else 1
    everywhere = [Vector(builder, [broadcast(builder, value, kind)] * registers) for value in constants]

    def run(at: Any, masks: list[Any]) -> None:
        places = [builder.add(at, ir.Constant(_I64, r * lanes)) for r in range(registers)]

        def pointers(data: Any) -> list[Any]:
            return [builder.bitcast(builder.gep(data, [place]), kind.as_pointer()) for place in places]

        def read(data: Any) -> Vector:
            pairs = zip(pointers(data), masks, strict=True)
            return Vector(builder, [load(builder, pointer, kind, align, mask) for pointer, mask in pairs])

        loaded = [read(data) for data in inputs]
        results = formula(*loaded, *everywhere)
        for data, result in zip(outputs, results if isinstance(results, tuple) else (results,), strict=True):
            if result is None:
                continue
            vector = result if isinstance(result, Vector) else loaded[0].constant(result)
            for value, pointer, mask in zip(vector.values, pointers(data), masks, strict=True):
                _store(builder, value, pointer, align, mask)

    whole = builder.and_(count, ir.Constant(_I64, -lanes * registers))
    step = ir.Constant(_I64, lanes * registers)
    with cgutils.for_range_slice(builder, ir.Constant(_I64, 0), whole, step, _I64) as (at, _):
        run(at, [None] * registers)
    if lanes > 1:
        with builder.if_then(builder.icmp_signed("<", whole, count), likely=False):
            places = ir.VectorType(_I32, lanes)
            left = broadcast(builder, builder.trunc(builder.sub(count, whole), _I32), places)
            here = [ir.Constant(places, [r * lanes + lane for lane in range(lanes)]) for r in range(registers)]
            run(whole, [builder.icmp_signed("<", some, left) for some in here])


def broadcast(builder: Any, value: Any, kind: Any) -> Any:
    """``value`` in every lane of a register of that kind; as it is where the kind is a number's."""
    if not isinstance(kind, ir.VectorType):
        return value
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, kind.count), [0] * kind.count))


def load(builder: Any, pointer: Any, kind: Any, align: int, mask: Any = None) -> Any:
    """A register from memory that is aligned to ``align`` bytes, its items'; zeros where ``mask`` is not set."""
    if mask is None:
        value = builder.load(pointer)
        value.align = align
        return value
    letter = "i" if isinstance(kind.element, ir.IntType) else "f"
    name = f"llvm.masked.load.v{kind.count}{letter}{align * 8}.p0"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [pointer.type, _I32, mask.type, kind]), name
    )
    return builder.call(function, [pointer, ir.Constant(_I32, align), mask, ir.Constant(kind, None)])


def _store(builder: Any, value: Any, pointer: Any, align: int, mask: Any) -> None:
    if mask is None:
        builder.store(value, pointer).align = align
        return
    kind = value.type
    name = f"llvm.masked.store.v{kind.count}f{align * 8}.p0"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [kind, pointer.type, _I32, mask.type]), name
    )
    builder.call(function, [value, pointer, ir.Constant(_I32, align), mask])
