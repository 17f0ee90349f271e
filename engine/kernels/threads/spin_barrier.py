"""Threads that work on one step of a recurrence together and wait for each other between steps.

A small batch cannot be shared out by rows: it leaves each thread half a tile, and each reads all weights. Shared out by
hidden units, every thread keeps its own part of the weights in its cache, but needs the others' h at the next step. A
parallel region a step would cost some microseconds; a counter in shared memory costs some hundred nanoseconds.

Nothing promises that the parts of a parallel region run at the same time (a busy thread layer may run them one after
the other), so they first meet: if they do not all arrive soon, the first takes all the work alone.
"""

from __future__ import annotations

import platform
import sys
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numpy.typing import NDArray

from unrolled.engine.kernels.jit.compilation import compiled, intrinsic
from unrolled.engine.kernels.jit.numba_internals import array_data, cgutils

# places in the shared array, a cache line apart
_ARRIVED, _DECISION, _COUNT, _SIZE = 0, 16, 32, 48
_UNDECIDED, _TOGETHER, _ALONE = 0, 1, 2
_PATIENCE = 20_000  # looks at the counter before the meeting is called off, some hundred microseconds
_SPINS = 4_000  # looks before the processor is offered to others
_HAS_PAUSE = platform.machine() in ("x86_64", "AMD64")


def new_team() -> NDArray[np.int64]:
    """The shared memory of one call."""
    return np.zeros(_SIZE, np.int64)


def _pointer(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return builder.gep(array_data(context, builder, signature.args[0], args[0]), [args[1]])


@intrinsic
def _fetch_add(typing_context, shared, place):  # type: ignore[no-untyped-def]
    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        one = ir.Constant(ir.IntType(64), 1)
        return builder.atomic_rmw("add", _pointer(context, builder, signature, args), one, "acq_rel")

    return types.int64(shared, types.intp), codegen


@intrinsic
def _look(typing_context, shared, place):  # type: ignore[no-untyped-def]
    """The value now; a pause comes with it, which lets a hyper-thread work and the line arrive."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        if _HAS_PAUSE:
            pause = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(ir.VoidType(), []), "llvm.x86.sse2.pause"
            )
            builder.call(pause, [])
        return builder.load_atomic(_pointer(context, builder, signature, args), "acquire", 8)

    return types.int64(shared, types.intp), codegen


@intrinsic
def _decide(typing_context, shared, place, value):  # type: ignore[no-untyped-def]
    """Write ``value`` if nothing was decided; the decision that then holds."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        undecided = ir.Constant(ir.IntType(64), _UNDECIDED)
        pointer = _pointer(context, builder, signature, args)
        pair = builder.cmpxchg(pointer, undecided, args[2], "acq_rel", "acquire")
        return builder.select(builder.extract_value(pair, 1), args[2], builder.extract_value(pair, 0))

    return types.int64(shared, types.intp, types.int64), codegen


if sys.platform == "win32":

    @compiled
    def _offer_processor() -> int:
        return 0
else:
    _offer_processor: Any = types.ExternalFunction("sched_yield", types.int32())


@compiled
def meet(team: NDArray, parts: int) -> int:
    """Called by every part at its start; in how many parts the work goes: ``parts``, 1 (all of it is mine) or 0."""
    if parts == 1:
        return 1
    if _fetch_add(team, _ARRIVED) == parts - 1:
        return parts if _decide(team, _DECISION, _TOGETHER) == _TOGETHER else 0
    for _ in range(_PATIENCE):
        decision = _look(team, _DECISION)
        if decision != _UNDECIDED:
            return parts if decision == _TOGETHER else 0
    # two that lose patience at once: the first decides, and only it may take the work
    before = _fetch_add(team, _DECISION + 1)
    decision = _decide(team, _DECISION, _ALONE)
    if decision == _TOGETHER:
        return parts
    return 1 if before == 0 else 0


@compiled
def wait(team: NDArray, parts: int, times: int) -> None:
    """Wait until every part has called this for the ``times``-th time, counted from 1; all writes before are seen."""
    if parts == 1:
        return
    _fetch_add(team, _COUNT)
    looks = 0
    while _look(team, _COUNT) < times * parts:
        looks += 1
        if looks > _SPINS:
            _offer_processor()
