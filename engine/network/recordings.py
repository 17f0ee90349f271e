"""RecordedCall calls of a function of a network: for arguments of the same kind it runs again without Python, where it can."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

from numpy.typing import NDArray

from unrolled.engine.network.backends import Backend, RecordedCall

Result = TypeVar("Result")
# To share so little work among threads takes longer than it saves, some 20 µs on one core, and waits where cores are busy.
FEW_FLOPS = 1 << 21
MOST_KINDS = 4  # kinds of arguments whose calls are kept: each keeps memory for all that it computes


class Recordings:
    """The recorded calls of one function, which takes arrays and returns arrays.

    A kind of arguments that comes a second time is recorded, and its third call is the first that runs without Python. Results
    are the same in any case.

    Args:
        backend: the engine.
        function: called with arrays.
        recordable: whether the function computes by kernels alone; otherwise it is only called.
        constants: arrays that it reads besides, and that change only between calls that say so. What follows from them alone
            is computed once. Without any, everything is computed in every call.
    """

    def __init__(
        self,
        backend: Backend,
        function: Callable[..., Any],
        recordable: bool = True,
        constants: Sequence[NDArray] = (),
    ) -> None:
        self._record = backend.record if recordable else None
        self._function, self._constants = function, constants
        self._lock = threading.Lock()
        self._kept: dict[Hashable, RecordedCall] = {}  # the last used last
        self._refused: set[Hashable] = set()
        self._seen: Hashable = None
        self._versions: dict[Hashable, int] = {}

    def call(
        self, arrays: Sequence[NDArray], take: Callable[[Any], Result], flops: float, version: int = 0
    ) -> Result:  # fmt: skip
        """Call the function, and return what ``take`` makes of its results, which another call may write over.

        Args:
            arrays: the arguments; calls with equal shapes and dtypes compute the same.
            flops: floating-point operations of the call, roughly.
            version: a number that changes with the constants.
        """
        if self._record is None or not self._lock.acquire(blocking=False):  # another thread is using the memory
            return take(self._function(*arrays))
        try:
            return take(self._results(arrays, flops, version))
        finally:
            self._lock.release()

    def _results(self, arrays: Sequence[NDArray], flops: float, version: int) -> Any:
        """Return the function's results, by a recorded call if there is one."""
        kind = _kind_of(arrays)
        found = self._kept.get(kind)
        if found is not None and found.is_current():
            changed = self._versions[kind] != version
            self._versions[kind] = version
            return found.run(arrays, changed)
        if kind in self._refused or kind != self._seen:
            self._seen = kind
            return self._function(*arrays)
        recorded = self._recorded(kind, arrays, None if flops > FEW_FLOPS else 1)
        if recorded is None:
            self._refused.add(kind)
            return self._function(*arrays)
        self._kept[kind], self._versions[kind] = recorded, version
        return recorded.results

    def _recorded(self, kind: Hashable, arrays: Sequence[NDArray], most_threads: int | None) -> RecordedCall | None:
        """Record a call in the place of the oldest."""
        assert self._record is not None
        self._kept.pop(kind, None)
        while len(self._kept) >= MOST_KINDS:
            self._kept.pop(next(iter(self._kept)))
        return self._record(self._function, arrays, self._constants, most_threads)


def _kind_of(arrays: Sequence[NDArray]) -> Hashable:
    """Return shapes and dtypes of arrays."""
    return tuple([(array.shape, array.dtype.char) for array in arrays])
