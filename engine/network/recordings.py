"""Recorded calls of a function of a network: for arguments of the same kind it runs again without Python, where it can."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeVar

from numpy.typing import NDArray

from unrolled.engine.network.backends import Backend, RecordedCall

Result = TypeVar("Result")
# To share so little work among threads takes longer than it saves, some 20 µs on one core, and waits where cores are busy.
FEW_FLOPS = 1 << 21
FEW_RUNS = 8  # that do not pay for a recording
# Kinds of arguments whose calls are kept. Each keeps memory for all that it computes, so of calls with many operations fewer
# are kept: those of the usual batch, and of the last one of an epoch.
MOST_KINDS, MOST_LARGE_KINDS, LARGE_FLOPS = 4, 2, 1 << 31


class _Kept(NamedTuple):
    """A recorded call, the version of the constants at its last run, and how often it ran after it was recorded."""

    recorded: RecordedCall
    version: int
    runs: int


class Recordings:
    """The recorded calls of one function, which takes arrays and returns arrays.

    A kind of arguments that comes a second time is recorded, and its third call is the first that runs without Python. If
    there are so many kinds that recordings are dropped after few runs, no further ones are made. Results are the same in any
    case.

    Args:
        backend: the engine.
        recordable: whether the function computes by kernels alone; otherwise it is only called.
        constants: arrays that it reads besides, and that change only between calls that say so. What follows from them alone
            is computed once. Without any, everything is computed in every call.
    """

    def __init__(
        self,
        backend: Backend,
        recordable: bool = True,
        constants: Sequence[NDArray] = (),
    ) -> None:
        self._record = backend.record if recordable else None
        self._constants = constants
        self._lock = threading.Lock()
        self._kept: dict[Hashable, _Kept] = {}  # the last used last
        self._seen: dict[Hashable, None] = {}  # once, the last one last
        self._wasted = 0  # recordings that were dropped after few runs

    def call(
        self, function: Callable[..., Any], arrays: Sequence[NDArray], take: Callable[[Any], Result], flops: float,
        version: int = 0,
    ) -> Result:  # fmt: skip
        """Call the function, and return what ``take`` makes of its results, which another call may write over.

        Args:
            function: the same for all calls; it is not kept, because it may refer to the owner of this object.
            arrays: the arguments; calls with equal shapes and dtypes compute the same.
            flops: floating-point operations of the call, roughly.
            version: a number that changes with the constants.
        """
        if self._record is None or not self._lock.acquire(blocking=False):  # another thread is using the memory
            return take(function(*arrays))
        try:
            return take(self._results(function, arrays, flops, version))
        finally:
            self._lock.release()

    def _results(
        self, function: Callable[..., Any], arrays: Sequence[NDArray], flops: float, version: int
    ) -> Any:  # fmt: skip
        """Return the function's results, by a recorded call if there is one."""
        kind = _kind_of(arrays)
        found = self._kept.pop(kind, None)
        if found is not None and found.recorded.is_current():
            results = found.recorded.run(arrays, found.version != version)
            # only now: what a run that raises an exception leaves, such as constants half computed, is dropped with it
            self._kept[kind] = _Kept(found.recorded, version, found.runs + 1)
            return results
        if self._wasted > MOST_KINDS or not self._was_seen(kind):
            return function(*arrays)
        self._make_room(MOST_KINDS if flops < LARGE_FLOPS else MOST_LARGE_KINDS)
        assert self._record is not None  # tested by ``call``
        recorded = self._record(function, arrays, self._constants, None if flops > FEW_FLOPS else 1)
        self._kept[kind] = _Kept(recorded, version, 0)
        return recorded.results

    def _was_seen(self, kind: Hashable) -> bool:
        """Return whether a kind is one of the last that came once; remember it otherwise."""
        if kind in self._seen:
            del self._seen[kind]
            return True
        self._seen[kind] = None
        if len(self._seen) > 2 * MOST_KINDS:
            del self._seen[next(iter(self._seen))]
        return False

    def _make_room(self, most: int) -> None:
        """Drop the recordings that were used longest ago, until there is room for another beside fewer than ``most``."""
        while len(self._kept) >= most:
            dropped = self._kept.pop(next(iter(self._kept)))
            self._wasted += dropped.runs < FEW_RUNS


def _kind_of(arrays: Sequence[NDArray]) -> Hashable:
    """Return shapes and dtypes of arrays."""
    return tuple([(array.shape, array.dtype.char) for array in arrays])
