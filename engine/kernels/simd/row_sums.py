"""Sums of rows of flat arrays as vector IR; LLVM's own short loops check for overlap first."""

from __future__ import annotations

from typing import Any

from numba import types

from unrolled.engine.kernels.jit.compilation import intrinsic
from unrolled.engine.kernels.jit.numba_internals import array_data
from unrolled.engine.kernels.simd.elementwise import emit_formula
from unrolled.engine.kernels.simd.registers import number
from unrolled.engine.kernels.simd.vectors import Vector


def _sum_in_pairs(total: Vector, *rows: Vector) -> Vector:
    """Return the total plus the sum of the rows: of pairs, then of pairs of pairs."""
    values = list(rows)
    while len(values) > 1:
        values = [one + two for one, two in zip(values[::2], values[1::2], strict=True)]
    return total + values[0]


def make_add_rows(rows: int) -> Any:
    """Return an intrinsic that adds the sum of ``rows`` rows of a flat array, 1, 2, 4, …, to ``count`` items of another.

    Arrays come with an offset in items, and rows lie ``source_row`` items apart. The readable form, for two rows:

        total[total_at : total_at + count] += source[at : at + count] + source[at + row : at + row + count]
    """

    @intrinsic
    def add_rows(typing_context, source, source_at, source_row, total, total_at, count):  # type: ignore[no-untyped-def]
        if source.dtype != total.dtype or source.dtype not in (types.float32, types.float64):
            return None
        i = types.intp

        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            first = builder.gep(array_data(context, builder, source, args[0]), [args[1]])
            into = builder.gep(array_data(context, builder, total, args[3]), [args[4]])
            each = [builder.gep(first, [builder.mul(args[2], number(r))]) for r in range(rows)]
            pointers = [into, *each], [into]
            emit_formula(
                builder, _sum_in_pairs, context.get_value_type(source.dtype), lambda _: pointers, number(1), args[5]
            )  # fmt: skip
            return context.get_dummy_value()

        return types.void(source, i, i, total, i, i), codegen

    return add_rows


add_row_at = make_add_rows(1)
