"""A barrier of spinning threads, for threads that share each time step of a recurrence.

Sharing a small batch by rows leaves each thread half a tile, and each reads all weights. Shared by hidden units, every
thread keeps its own part of the weights in its cache, but needs the others' h at the next time step. A parallel region a
time step would cost some microseconds; counters in shared memory cost some hundred nanoseconds. The readable form of
``wait`` is ``threading.Barrier.wait``.

The parts of a parallel region need not run at the same time (a busy thread layer may run them one after the other), so they
first ``meet``: if they do not all arrive soon, the first takes all the work alone.
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
from unrolled.engine.kernels.jit.numba_internals import array_data
from unrolled.engine.kernels.simd.registers import call_llvm
from unrolled.engine.kernels.threads.thread_pool import compiled_parallel, recording

# indices into the shared array, two cache lines apart, which processors fetch together; the counts of the parts come last
_APART = 16
_IN_TURN, _ARRIVED, _DECISION, FAILED, _COUNTS = (_APART * place for place in range(5))
_UNDECIDED, _TOGETHER, _ALONE = 0, 1, 2
_PATIENCE = 20_000  # polls of the decision before a part gives up waiting for the others, some hundred microseconds
_SPINS = 4_000  # polls before a waiting thread yields its processor
_HAS_PAUSE = platform.machine() in ("x86_64", "AMD64")


@compiled_parallel
def _clear(part: int, parts: int, teams: NDArray) -> None:
    """Make teams ready for a call; recorded with the others. Whether parts run in turn is kept."""
    teams[:, _ARRIVED:] = 0


def new_teams(count: int, parts: int) -> NDArray[np.int64]:
    """Return the shared memory (count, ·) of the teams of one call, of ``parts`` parts each.

    Where item _IN_TURN of a team is not 0, its parts run one after the other on one thread, so the first takes all the work.
    """
    teams = np.zeros((count, _COUNTS + _APART * parts), np.int64)
    _clear(1, teams)
    if recording.listener is not None:
        recording.listener.add_teams(teams[:, _IN_TURN])
    return teams


def _pointer(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Return a pointer to item args[1] of the array args[0]."""
    return builder.gep(array_data(context, builder, signature.args[0], args[0]), [args[1]])


@intrinsic
def _fetch_add(typing_context, shared, place):  # type: ignore[no-untyped-def]
    """Add one atomically; return the value before."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        one = ir.Constant(ir.IntType(64), 1)
        return builder.atomic_rmw("add", _pointer(context, builder, signature, args), one, "acq_rel")

    return types.int64(shared, types.intp), codegen


@intrinsic
def _publish(typing_context, shared, place, value):  # type: ignore[no-untyped-def]
    """Write a value after all writes before."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        builder.store_atomic(args[2], _pointer(context, builder, signature, args), "release", 8)
        return context.get_dummy_value()

    return types.void(shared, types.intp, types.int64), codegen


@intrinsic
def _poll(typing_context, shared, place):  # type: ignore[no-untyped-def]
    """Return the value after a pause, which lets the other hyper-thread work and the cache line arrive."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        if _HAS_PAUSE:
            call_llvm(builder, "llvm.x86.sse2.pause", ir.VoidType(), [])
        return builder.load_atomic(_pointer(context, builder, signature, args), "acquire", 8)

    return types.int64(shared, types.intp), codegen


@intrinsic
def _decide(typing_context, shared, place, value):  # type: ignore[no-untyped-def]
    """Write ``value`` if nothing is decided yet; return the decision that then holds."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        undecided = ir.Constant(ir.IntType(64), _UNDECIDED)
        pointer = _pointer(context, builder, signature, args)
        pair = builder.cmpxchg(pointer, undecided, args[2], "acq_rel", "acquire")
        return builder.select(builder.extract_value(pair, 1), args[2], builder.extract_value(pair, 0))

    return types.int64(shared, types.intp, types.int64), codegen


if sys.platform == "win32":

    @compiled
    def _yield_processor() -> int:
        return 0
else:
    _yield_processor: Any = types.ExternalFunction("sched_yield", types.int32())


@compiled
def meet(team: NDArray, parts: int) -> int:
    """Return the parts that share the work: ``parts``, 1 (the caller does all of it) or 0 (the caller does none).

    Every part calls it once, at its start.
    """
    if parts == 1:
        return 1
    arrived = _fetch_add(team, _ARRIVED)
    if team[_IN_TURN]:
        return 1 if arrived == 0 else 0
    if arrived == parts - 1:
        return parts if _decide(team, _DECISION, _TOGETHER) == _TOGETHER else 0
    for _ in range(_PATIENCE):
        decision = _poll(team, _DECISION)
        if decision != _UNDECIDED:
            return parts if decision == _TOGETHER else 0
    # several may give up at once: the first to get here takes the work
    before = _fetch_add(team, _DECISION + 1)
    decision = _decide(team, _DECISION, _ALONE)
    if decision == _TOGETHER:
        return parts
    return 1 if before == 0 else 0


@compiled
def wait(team: NDArray, part: int, parts: int, times: int) -> None:
    """Wait until every part has called this for the ``times``-th time, counted from 1; their writes before it are visible.

    Each part counts its calls in a cache line of its own and polls those of the others: a line that all add to would pass
    from one to the next first.
    """
    if parts == 1:
        return
    _publish(team, _COUNTS + part * _APART, times)
    polls = 0
    for other in range(parts):
        while _poll(team, _COUNTS + other * _APART) < times:
            polls += 1
            if polls > _SPINS:
                _yield_processor()
