"""The thread pool: a compiled function runs on it once for each part of the work.

Numba's own parallel functions compile a thread's code three times, as the body of the loop, in a wrapper of it and in the
function around both, which takes most of the compile time: the generation kernel took 18 s, of which 5 are its own. Here one
loop is compiled for all functions and calls them by address.

A call goes through four steps: ``call`` finds the function's address for the types of its arguments, ``_launch`` packs the
arguments into memory and emits an entry for their types, ``_run_parts`` runs the entry for each part on Numba's pool, and
the entry unpacks the arguments and calls the function. A call of one part needs no pool.

While a ``Recorder`` listens (``recording``), the packed arguments stay in memory of its own, so that the same call can be made
again without Python.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numba
import numpy as np
from llvmlite import ir
from numba import njit, prange, typeof, types
from numpy.typing import NDArray

from unrolled.engine.errors import ForkError
from unrolled.engine.kernels.jit.compilation import OPTIONS, cache_folder, cached, compiled, intrinsic
from unrolled.engine.kernels.jit.numba_internals import (
    cgutils,
    current_threads,
    emit_call,
    emit_entry,
    function_address,
    without_owner,
)

# arguments of every entry: the address of the packed arguments, the part, the number of parts
_ENTRY = (types.intp,) * 3


@intrinsic
def call_entry(_: Any, entry: Any, arguments: Any, part: Any, parts: Any) -> Any:
    """Call an entry by its address."""

    def emit(context: Any, builder: Any, signature: Any, values: Sequence[Any]) -> Any:
        emit_call(context, builder, values[0], _ENTRY, values[1:])
        return context.get_dummy_value()

    return types.none(types.intp, *_ENTRY), emit


@cached
@njit(parallel=True, **OPTIONS)
def _run_parts(entry: int, arguments: int, parts: int) -> None:
    """Call an entry for every part, on the thread pool."""
    for part in prange(parts):
        call_entry(entry, arguments, part, parts)


def _digest(kinds: Sequence[Any]) -> int:
    """Return a number for Numba's types ``kinds``, the same in every process."""
    text = ", ".join(str(kind) for kind in kinds)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True)


@intrinsic
def _digest_of(_: Any, arguments: Any) -> Any:
    """Return the digest of the types of a tuple, a constant of the compiled code."""
    digest = _digest(arguments.types)
    return types.int64(arguments), lambda *_: ir.Constant(ir.IntType(64), digest)


SLOT = 4096  # bytes for the packed arguments of a recorded call
_FAILURE, ENTRY, _ADDRESS = range(3)  # the first words of packed arguments


@intrinsic
def _entry_of(_: Any, address: Any, slot: Any, arguments: Any) -> Any:
    """Return the addresses of an entry and of the memory that it reads: the function's ``address`` and its ``arguments``.

    That memory begins at ``slot``, or, if that is 0, is on the stack. Its first word becomes 1 if a part raised an exception,
    which threads of the pool cannot pass on; its second is the address of the entry.
    """
    kinds = (types.intp, types.intp, *arguments.types)

    def emit(context: Any, builder: Any, signature: Any, values: Sequence[Any]) -> Any:
        address, slot, packed = values
        borrowed = [
            without_owner(context, builder, one, value)
            for one, value in zip(arguments.types, cgutils.unpack_tuple(builder, packed), strict=True)
        ]
        contents = (ir.Constant(address.type, 0), address, address, *borrowed)
        kept = ir.LiteralStructType([value.type for value in contents])
        if context.get_abi_sizeof(kept) > SLOT:
            raise TypeError(f"arguments of {context.get_abi_sizeof(kept)} bytes; a call has room for {SLOT}")
        on_stack = cgutils.alloca_once(builder, kept)  # the caller waits until all parts have run
        there = builder.icmp_signed("!=", slot, ir.Constant(slot.type, 0))
        memory = builder.select(there, builder.inttoptr(slot, on_stack.type), on_stack)
        for place, value in enumerate(contents):
            builder.store(value, cgutils.gep_inbounds(builder, memory, 0, place))

        def call_function(inside: Any, given: Sequence[Any]) -> None:
            at, part, parts = given
            pointer = inside.inttoptr(at, kept.as_pointer())
            words = cgutils.unpack_tuple(inside, inside.load(pointer))
            function, rest = words[_ADDRESS], words[_ADDRESS + 1 :]
            with cgutils.if_unlikely(inside, emit_call(context, inside, function, kinds, [part, parts, *rest])):
                inside.store(ir.Constant(address.type, 1), cgutils.gep_inbounds(inside, pointer, 0, _FAILURE))

        entry = builder.ptrtoint(emit_entry(context, builder, _ENTRY, call_function), address.type)
        builder.store(entry, cgutils.gep_inbounds(builder, memory, 0, ENTRY))
        addresses = [entry, builder.ptrtoint(memory, address.type)]
        return context.make_tuple(builder, signature.return_type, addresses)

    return types.UniTuple(types.intp, 2)(types.intp, types.intp, arguments), emit


@intrinsic
def number_at(_: Any, address: Any) -> Any:
    """Return the integer at an address."""

    def emit(context: Any, builder: Any, signature: Any, values: Sequence[Any]) -> Any:
        return builder.load(builder.inttoptr(values[0], values[0].type.as_pointer()))

    return types.intp(types.intp), emit


@intrinsic
def put_number(_: Any, address: Any, value: Any) -> Any:
    """Write an integer to an address."""

    def emit(context: Any, builder: Any, signature: Any, values: Sequence[Any]) -> Any:
        builder.store(values[1], builder.inttoptr(values[0], values[1].type.as_pointer()))
        return context.get_dummy_value()

    return types.none(types.intp, types.intp), emit


_RAN, _FAILED, _UNKNOWN = range(3)


@compiled
def _launch(known: Any, region: bool, slot: int, parts: int, *arguments: Any) -> int:
    """Run the function whose address ``known`` (n, 2) holds beside the digest of these types; else return _UNKNOWN.

    The number of parts is an argument, because code that asks for the number of threads cannot be cached.

    Args:
        region: whether a single part runs on the thread pool too.
        slot: the address of memory for the packed arguments, or 0.
    """
    digest = _digest_of(arguments)
    for i in range(len(known)):
        if known[i, 0] == digest:
            entry, packed = _entry_of(known[i, 1], slot, arguments)
            if parts == 1 and not region:
                call_entry(entry, packed, 0, 1)
            else:
                _run_parts(entry, packed, parts)
            return _FAILED if number_at(packed) else _RAN
    return _UNKNOWN


class Listener(Protocol):
    """An object that hears of each call that this thread makes."""

    def slot_for(self, function: Callable[..., None], arguments: tuple[Any, ...]) -> int:
        """Return the address of SLOT bytes, in which the packed arguments (parts, …) of a call stay."""
        ...

    def add_teams(self, in_turn: NDArray[np.int64]) -> None:
        """Take note of the items (count,) of teams (``spin_barrier``) that are not 0 where parts run one after the other."""
        ...


class _Recording(threading.local):
    """The listener of each Python thread, and the number of threads of what it records; 0: Numba's."""

    listener: Listener | None = None
    threads: int = 0


recording = _Recording()


class _Threads:
    """State of this process's thread layer, which Numba chooses at the first parallel call."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.layer: str | None = None
        self.forked = False
        self.watches_forks = False
        self.unguarded = False  # several Python threads may call at once, and the process was not forked
        self.count: Callable[[], int] = numba.get_num_threads

    def run(self, known: Any, slot: int, arguments: tuple[Any, ...]) -> int:
        """Make a call that needs a check: the first, any with the workqueue layer, and those in a forked process."""
        if self.forked:
            raise ForkError(
                f"this process was forked from one whose {self.layer} threads had started; they did not come along. "
                'Start processes with multiprocessing.get_context("spawn"), run the numba engine only in the new ones, '
                "or set NUMBA_THREADING_LAYER=workqueue"
            )
        with self.lock:  # two Python threads at once would end the process in the workqueue layer
            if not self.watches_forks and hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=self.after_fork)
                self.watches_forks = True
            if self.layer is None:
                numba.get_num_threads()  # registers the functions of the thread layer that code from the cache refers to
            done: int = _launch(known, self.layer is None, slot, *arguments)
            if done != _UNKNOWN and self.layer is None:
                self.layer = numba.threading_layer()
                self.unguarded = self.layer != "workqueue"
                self.count = current_threads()
        return done

    def after_fork(self) -> None:
        """Start again in a forked process, in which OpenMP and TBB have no threads."""
        self.lock = threading.RLock()  # a thread that held it does not exist in this process
        self.forked = self.layer not in (None, "workqueue")
        self.unguarded = False


_threads = _Threads()


def get_num_threads() -> int:
    """Return Numba's number of threads, without the locks of its public function, or that of a recording with fewer."""
    return recording.threads or int(_threads.count())


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Run parallel regions on ``count`` threads: the others then sleep, instead of waiting for the end of a region."""
    before = get_num_threads()
    numba.set_num_threads(count)
    try:
        yield
    finally:
        numba.set_num_threads(before)


def compiled_parallel(function: Callable[..., None]) -> Any:
    """Compile ``function(part, parts, …)``; a call with (parts, …) runs it for all parts on the thread pool.

    Parts run side by side where there are as many threads. It is called from Python only. The readable form of a call is
    ``for part in range(parts): function(part, parts, …)``.

    Raises, when called:
        ForkError: this process was forked from one whose threads had started.
        MemoryError: a part raised an exception; kernels raise for no other reason.
    """
    return _make_caller(function, ask_threads=False)


def compiled_on_all_threads(function: Callable[..., None]) -> Any:
    """Compile ``function(part, parts, …)`` as ``compiled_parallel`` does; a call with (…) runs a part on each thread."""
    return _make_caller(function, ask_threads=True)


def _make_caller(function: Callable[..., None], ask_threads: bool) -> Any:
    """Return the Python function that runs ``function`` on the pool; with ``ask_threads`` on Numba's number of threads."""
    body = compiled(function)
    known = np.zeros((0, 2), np.int64)

    @functools.wraps(function)
    def call(*arguments: Any) -> None:
        nonlocal known
        if ask_threads:
            arguments = (get_num_threads(), *arguments)
        slot = 0 if recording.listener is None else recording.listener.slot_for(function, arguments)
        done = _launch(known, False, slot, *arguments) if _threads.unguarded else _threads.run(known, slot, arguments)
        if done == _UNKNOWN:
            kinds = tuple(typeof(argument) for argument in arguments[1:])
            with _threads.lock:  # another Python thread may be adding, too
                known = np.append(known, [[_digest(kinds), _address(body, kinds)]], axis=0)
            done = _threads.run(known, slot, arguments)
        if done == _FAILED:
            raise MemoryError(f"{function.__name__}: no memory for what a part of the work needs")
        if done != _RAN:
            raise RuntimeError(f"{function.__name__}: {cache_folder()} holds code of other kernels; remove that folder")

    own = inspect.signature(function)
    parameters = list(own.parameters.values())[2 if ask_threads else 1 :]
    call.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    return call


def _address(body: Any, kinds: tuple[Any, ...]) -> int:
    """Return the address of ``body`` for arguments of Numba's types ``kinds``; it is compiled or loaded first."""
    address, returned = function_address(body, (types.intp, types.intp, *kinds))
    if returned != types.none or not address:  # the entry calls it as a function that returns nothing
        raise TypeError(f"{body.__name__} returns {returned}; a function of a part returns nothing")
    return address


@compiled_parallel
def _count(part: int, parts: int, counts: Any) -> None:
    """Count the calls of each part."""
    counts[part] += 1


def threading_layer() -> str:
    """Return which of omp, tbb and workqueue runs the threads; Numba decides at a parallel call, so one is made."""
    parts = get_num_threads()
    _count(parts, np.zeros(parts, np.int64))
    return numba.threading_layer()
