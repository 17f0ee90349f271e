"""Recording of kernel calls: a computation runs once in Python, and then again as one compiled call on the same memory.

A training step of a small network is some forty calls of kernels. Called from Python one by one they spend as long on
arguments, checks and starts of parallel regions as on arithmetic. A ``Recording`` keeps the calls with their packed
arguments; ``run`` copies new data into the memory of the first call and makes all calls inside one parallel region, with a
barrier between one and the next. The readable form of a recording of ``function`` is ``function(*arrays)``.

A function can be recorded if all that it computes on data is computed by kernels (``compiled_parallel``), from the arrays that
it is given and from others whose contents do not change, and if shapes and numbers in its Python code depend on nothing but the
shapes of its arrays. Results are arrays, written over by the next run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.kernels.threads.buffer_pool import empty
from unrolled.engine.kernels.threads.spin_barrier import FAILED, meet, new_teams, wait
from unrolled.engine.kernels.threads.thread_choice import ThreadChoice, counts_of
from unrolled.engine.kernels.threads.thread_pool import (
    ENTRY,
    SLOT,
    call_entry,
    compiled_parallel,
    get_num_threads,
    number_at,
    on_threads,
    put_number,
    recording,
)

WORD = 8  # bytes


@compiled_parallel
def _run_calls(
    part: int, parts: int, slots: NDArray, counts: NDArray, team: NDArray, in_turn: NDArray
) -> None:  # fmt: skip
    """Make all calls: that of ``slots[n]`` for ``counts[n]`` parts, which the threads share.

    Calls of one part that follow each other are made by the same thread and need no barrier. Fewer threads than parts make some
    parts of a call one after the other; parts that would wait for each other read that at the addresses ``in_turn``. After a
    call that failed no further ones are made, so that nothing is computed from what it left; threads still pass the barriers.
    """
    active, N, waits = meet(team, parts), slots.shape[0], 0
    own = part if active > 1 else 0
    if active == 0:
        return
    if own == 0:
        for address in in_turn:
            put_number(address, active < counts.max())
    for n in range(N):
        if team[FAILED] == 0:
            for piece in range(own, counts[n], active):
                call_entry(number_at(slots[n] + WORD * ENTRY), slots[n], piece, counts[n])
            if number_at(slots[n]):
                team[FAILED] = 1
        if n + 1 < N and (counts[n] > 1 or counts[n + 1] > 1):
            waits += 1
            wait(team, part, active, waits)


class _Calls:
    """Kernel calls in the order in which they were made."""

    def __init__(self) -> None:
        self._memory: list[NDArray] = []
        self._arguments: list[tuple[Any, ...]] = []  # keeps the arrays
        self._slots, self._counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._parts = 0  # the most that a call has
        self._team = np.zeros(0, np.int64)
        self._in_turn = np.zeros(0, np.int64)
        self._choice = ThreadChoice([1])

    def add(self, arguments: tuple[Any, ...]) -> int:
        """Add a call with (parts, …); return the address of its slot."""
        slot = np.zeros(SLOT // WORD, np.int64)
        self._memory.append(slot)
        self._arguments.append(arguments)
        self._slots = np.append(self._slots, slot.ctypes.data)
        self._counts = np.append(self._counts, arguments[0])
        if arguments[0] > self._parts:
            self._parts = int(arguments[0])
            self._choice = ThreadChoice(counts_of(self._parts))
        return int(slot.ctypes.data)

    def add_teams(self, in_turn: NDArray[np.int64]) -> None:
        """Add the items (count,) of teams that a run sets where parts of a call run one after the other."""
        self._memory.append(in_turn)
        self._in_turn = np.append(self._in_turn, [in_turn[n:].ctypes.data for n in range(len(in_turn))])

    def run(self) -> None:
        """Make all calls.

        Raises:
            MemoryError: a call had no memory for what it needs.
        """
        if self._parts == 0:
            return
        if self._team.size == 0:
            self._team = new_teams(1, self._parts)[0]
        self._team.fill(0)
        if self._parts == 1:
            self._run_on(1)
        else:
            started = time.perf_counter()
            self._run_on(self._choice.threads)
            self._choice.tell(time.perf_counter() - started)
        if self._team.item(FAILED):
            raise MemoryError("a recorded kernel had no memory for what a part of the work needs")

    def _run_on(self, threads: int) -> None:
        """Make all calls on some of the threads."""
        arguments = threads, self._slots, self._counts, self._team, self._in_turn
        if threads in (1, self._parts):
            _run_calls(*arguments)
        else:
            with on_threads(threads):
                _run_calls(*arguments)


class Recorder:
    """Listener that keeps the calls of one Python thread.

    Calls whose arguments are all constant are kept apart in ``constant``, if their function is one that says which of its
    arguments it writes (``writes``): they give the same results every time.
    """

    def __init__(self, constants: Sequence[NDArray]) -> None:
        self.calls, self.constant = _Calls(), _Calls()
        self._constants = list(constants)
        self.keeps_constants = len(constants) > 0

    def slot_for(self, function: Callable[..., None], arguments: tuple[Any, ...]) -> int:
        written = _writes.get(function)
        if written is None or not self._constants:
            return self.calls.add(arguments)
        target = arguments[written]
        read = [value for value in arguments if isinstance(value, np.ndarray) and value.size and value is not target]
        if all(self._is_constant(array) for array in read):
            self._constants.append(target)
            return self.constant.add(arguments)
        return self.calls.add(arguments)

    def add_teams(self, in_turn: NDArray[np.int64]) -> None:
        self.calls.add_teams(in_turn)

    def _is_constant(self, array: NDArray) -> bool:
        """Return whether an array lies in memory that does not change."""
        return any(np.may_share_memory(array, constant) for constant in self._constants)


def keeps_constants() -> bool:
    """Return whether calls are being recorded, and what is computed from constants alone is computed once."""
    return isinstance(recording.listener, Recorder) and recording.listener.keeps_constants


_writes: dict[Callable[..., None], int] = {}


def writes(position: int) -> Callable[[Any], Any]:
    """Declare that a kernel writes the argument at ``position`` of (parts, …) alone, and reads all others."""

    def declare(call: Any) -> Any:
        _writes[call.__wrapped__] = position
        return call

    return declare


@contextmanager
def _listening(recorder: Recorder, threads: int) -> Iterator[None]:
    """Have a recorder hear of the calls of this Python thread, which run on some threads of the pool."""
    before = recording.listener, recording.threads
    recording.listener, recording.threads = recorder, threads
    try:
        yield
    finally:
        recording.listener, recording.threads = before


class Recording:
    """A function of arrays, recorded for their shapes.

    Args:
        function: takes the arrays and returns anything that is made of arrays; called once.
        arrays: arguments of the first call.
        constants: arrays that it reads besides, and that change only between a run and one with ``changed``. What is
            computed from them alone is computed again only then. Without any, everything is computed in each run.
        most_threads: threads of the pool that may share the work; None: all.
    """

    def __init__(
        self, function: Callable[..., Any], arrays: Sequence[NDArray], constants: Sequence[NDArray] = (),
        most_threads: int | None = None,
    ) -> None:  # fmt: skip
        self._arrays = [empty(array.shape, array.dtype) for array in arrays]
        self._threads = get_num_threads()
        self._put(arrays)
        recorder = Recorder(constants)
        threads = self._threads if most_threads is None else min(most_threads, self._threads)
        with _listening(recorder, threads):
            self.results = function(*self._arrays)
        self._calls, self._constant = recorder.calls, recorder.constant

    def _put(self, arrays: Sequence[NDArray]) -> None:
        """Copy new arguments into the recorded ones."""
        for own, array in zip(self._arrays, arrays, strict=True):
            own[...] = array

    def is_current(self) -> bool:
        """Return whether the number of threads is still that of the recorded calls."""
        return get_num_threads() == self._threads

    def run(self, arrays: Sequence[NDArray], changed: bool = False) -> Any:
        """Return the results for other arguments, in the memory of the first ones."""
        self._put(arrays)
        if changed:
            self._constant.run()
        self._calls.run()
        return self.results
