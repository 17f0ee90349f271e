"""Pointers into flat arrays, as values of compiled code.

Numba passes an array to a function as seven values, which a function of four arrays reads from the stack: a call costs some
70 cycles, as many as a small tile of a product. A pointer is one value, in a register. It does not keep its array alive.
"""

from __future__ import annotations

from numba import types

from unrolled.engine.kernels.jit.compilation import intrinsic
from unrolled.engine.kernels.jit.numba_internals import array_data


@intrinsic
def pointer(typing_context, array, at):  # type: ignore[no-untyped-def]
    """Return a pointer to item ``at`` of a C-contiguous array, counted over all axes."""
    if array.layout != "C":
        return None

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.gep(array_data(context, builder, array, args[0]), [args[1]])

    return types.CPointer(array.dtype)(array, types.intp), codegen


@intrinsic
def further(typing_context, start, items):  # type: ignore[no-untyped-def]
    """Return a pointer to an item ``items`` after that of ``start``."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.gep(args[0], [args[1]])

    return start(start, types.intp), codegen
