"""The two passes of a softmax over a row as vector IR: its maximum, then e^x and their sum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from unrolled.engine.kernels.jit.compilation import intrinsic
from unrolled.engine.kernels.jit.numba_internals import array_data, cgutils
from unrolled.engine.kernels.jit.target import TARGET
from unrolled.engine.kernels.simd.activations import exp_negative
from unrolled.engine.kernels.simd.registers import I32, I64, broadcast, lanes_of, load, mask_of_first, number, store
from unrolled.engine.kernels.simd.vectors import Vector


class _Row:
    """Code that folds ``count`` numbers of a flat array, whose memory goes on to the end of the last register.

    float64, which serves to check gradients, is folded number by number, because its e^x is a call of the C library.
    """

    def __init__(self, context: Any, builder: Any, array: Any, value: Any, at: Any, count: Any) -> None:
        self._builder = builder
        self._data = builder.gep(array_data(context, builder, array, value), [at])
        self.item = context.get_value_type(array.dtype)
        self.lanes = TARGET.vector_bytes // 4 if array.dtype == types.float32 else 1
        self.kind = self.register(self.item)
        self._whole = builder.and_(count, number(-self.lanes))
        self._rest = builder.sub(count, self._whole)

    def register(self, item: Any) -> Any:
        """Return IR's type of as many numbers of type ``item`` as a register has lanes."""
        return ir.VectorType(item, self.lanes) if self.lanes > 1 else item

    def everywhere(self, value: float, item: Any) -> Any:
        """Return a register with a constant in every lane."""
        return broadcast(self._builder, ir.Constant(item, value), self.register(item))

    def store(self, value: Any, place: Any) -> None:
        """Write the register at a place."""
        store(self._builder, value, self._data, place)

    def fold(self, start: Any, step: Callable[..., Any], combine: Callable[[Any, Any], Any]) -> Any:
        """Return the combination of all lanes of what ``step`` returns for the last register.

        ``step`` maps a register, its place, what it returned for the register before, and a mask or None.
        """
        builder = self._builder
        found = cgutils.alloca_once_value(builder, start)

        def run(place: Any, mask: Any) -> None:
            builder.store(step(load(builder, self._data, place, self.kind), place, builder.load(found), mask), found)

        with cgutils.for_range_slice(builder, number(0), self._whole, number(self.lanes), I64) as (place, _):
            run(place, None)
        if self.lanes > 1:
            with builder.if_then(builder.icmp_signed(">", self._rest, number(0))):
                run(self._whole, mask_of_first(builder, self._rest, self.lanes))
        return self._combined(builder.load(found), combine)

    def _combined(self, value: Any, combine: Callable[[Any, Any], Any]) -> Any:
        """Return one number of all lanes: one half combined with the other until one is left."""
        builder, lanes = self._builder, lanes_of(value.type)
        while lanes > 1:
            lanes //= 2
            halves = [ir.Constant(ir.VectorType(I32, lanes), list(range(first, first + lanes))) for first in (0, lanes)]
            undefined = ir.Constant(value.type, ir.Undefined)
            value = combine(*(builder.shuffle_vector(value, undefined, half) for half in halves))
        if isinstance(value.type, ir.VectorType):
            value = builder.extract_element(value, ir.Constant(I32, 0))
        return value


@intrinsic
def largest_of(typing_context, x, at, count):  # type: ignore[no-untyped-def]
    """Return the maximum of ``count`` numbers of the flat ``x`` from ``at`` on, which ignores NaNs.

    Their memory goes on to the end of the last register. The readable form is ``x[at : at + count].max()``.
    """
    if x.dtype not in (types.float32, types.float64):
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        row = _Row(context, builder, x, *args)

        def larger(one: Any, other: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", one, other), one, other)

        def step(value: Any, place: Any, found: Any, mask: Any) -> Any:
            return larger(value if mask is None else builder.select(mask, value, found), found)

        return row.fold(row.everywhere(float("-inf"), row.item), step, larger)

    return x.dtype(x, types.intp, types.intp), codegen


@intrinsic
def exp_below(typing_context, x, at, count, highest):  # type: ignore[no-untyped-def]
    """Replace ``count`` numbers of the flat ``x`` from ``at`` on by e^(x - highest), and return their sum in float64.

    Their memory goes on to the end of the last register, which is filled with zeros. The readable form, for the numbers
    ``row``:

        row[:] = np.exp(row - highest)
        return row.sum(dtype=np.float64)
    """
    if x.dtype != highest or x.dtype not in (types.float32, types.float64):
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        row = _Row(context, builder, x, *args[:3])
        everywhere, zeros = broadcast(builder, args[3], row.kind), row.everywhere(0, row.item)

        def step(value: Any, place: Any, total: Any, mask: Any) -> Any:
            below = builder.fsub(value, everywhere)
            if mask is not None:  # of any number there, e^x might be denormal, which is slow
                below = builder.select(mask, below, zeros)
            (value,) = exp_negative(Vector(builder, [below])).values
            if mask is not None:
                value = builder.select(mask, value, zeros)
            row.store(value, place)
            exact = value if row.item == ir.DoubleType() else builder.fpext(value, total.type)
            return builder.fadd(total, exact)

        return row.fold(row.everywhere(0, ir.DoubleType()), step, builder.fadd)

    return types.float64(x, types.intp, types.intp, x.dtype), codegen
