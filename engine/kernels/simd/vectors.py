"""Numbers side by side in generated code, in which a formula for one number is written as for Python's numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from unrolled.engine.kernels.jit.target import TARGET
from unrolled.engine.kernels.simd.registers import call_llvm, item_of, lanes_from, lanes_of

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
        """Return 1 / x to 14 bits, for AVX-512 and float32; half a register is the lower half of a whole one."""
        builder, whole = self.builder, ir.VectorType(self.number, TARGET.vector_bytes // 4)
        every_lane = ir.Constant(ir.IntType(16), -1)

        def near(x: Any) -> Any:
            wide = lanes_from(builder, x, 0, whole.count)
            values = [wide, ir.Constant(whole, None), every_lane]
            result = call_llvm(builder, "llvm.x86.avx512.rcp14.ps.512", whole, values)
            return lanes_from(builder, result, 0, lanes_of(x.type))

        return self._each(near)


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
