"""The thread pool: a compiled function runs on it once for each part of the work.

Numba's own parallel functions compile what a thread runs three times, as the body of the loop, in a wrapper of it and in
the function around both, and that is most of the time of compiling: the generation kernel took 18 s, of which 5 are its
own. Here the loop is compiled once for all, and knows of the function that it runs only the address.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import njit, prange, typeof, types

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

_ENTRY = (types.intp,) * 3  # of every entry: the address of its arguments, the part, the number of parts


@intrinsic
def _call_entry(_: Any, entry: Any, arguments: Any, part: Any, parts: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Sequence[Any]) -> Any:
        emit_call(context, builder, values[0], _ENTRY, values[1:])
        return context.get_dummy_value()

    return types.none(types.intp, *_ENTRY), emit


@cached
@njit(parallel=True, **OPTIONS)
def _run_parts(entry: int, arguments: int, parts: int) -> None:
    for part in prange(parts):
        _call_entry(entry, arguments, part, parts)


def _digest(of: Sequence[Any]) -> int:
    """A number for Numba's types ``of``, the same in every process."""
    text = ", ".join(str(one) for one in of)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True)


@intrinsic
def _digest_of(_: Any, arguments: Any) -> Any:
    digest = _digest(arguments.types)
    return types.int64(arguments), lambda *_: ir.Constant(ir.IntType(64), digest)


@intrinsic
def _entry_of(_: Any, address: Any, arguments: Any) -> Any:
    """Addresses of an entry, and of what it reads: the function's ``address`` and its tuple of ``arguments``.

    The first number there becomes 1 where a part ended with an exception, which threads of the pool cannot raise.
    """
    of = (types.intp, types.intp, *arguments.types)

    def emit(context: Any, builder: Any, signature: Any, values: Sequence[Any]) -> Any:
        address, packed = values
        borrowed = [
            without_owner(context, builder, one, value)
            for one, value in zip(arguments.types, cgutils.unpack_tuple(builder, packed), strict=True)
        ]
        contents = (ir.Constant(address.type, 0), address, *borrowed)
        kept = ir.LiteralStructType([value.type for value in contents])
        memory = cgutils.alloca_once(builder, kept)  # which the caller keeps until all parts have run
        for place, value in enumerate(contents):
            builder.store(value, cgutils.gep_inbounds(builder, memory, 0, place))

        def call_function(inside: Any, given: Sequence[Any]) -> None:
            at, part, parts = given
            pointer = inside.inttoptr(at, kept.as_pointer())
            _, function, *rest = cgutils.unpack_tuple(inside, inside.load(pointer))
            with cgutils.if_unlikely(inside, emit_call(context, inside, function, of, [part, parts, *rest])):
                inside.store(ir.Constant(address.type, 1), cgutils.gep_inbounds(inside, pointer, 0, 0))

        entry = emit_entry(context, builder, _ENTRY, call_function)
        addresses = [builder.ptrtoint(one, address.type) for one in (entry, memory)]
        return context.make_tuple(builder, signature.return_type, addresses)

    return types.UniTuple(types.intp, 2)(types.intp, arguments), emit


@intrinsic
def _number_at(_: Any, address: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Sequence[Any]) -> Any:
        return builder.load(builder.inttoptr(values[0], values[0].type.as_pointer()))

    return types.intp(types.intp), emit


_RAN, _FAILED, _UNKNOWN = range(3)


@compiled
def _launch(known: Any, parts: int, *arguments: Any) -> int:
    """Run the function whose digest of types and address are in ``known`` (n, 2), unless these types are not.

    The number of threads is an argument, because asking for it inside would keep the code from being cached.
    """
    digest = _digest_of(arguments)
    for i in range(len(known)):
        if known[i, 0] == digest:
            entry, packed = _entry_of(known[i, 1], arguments)
            _run_parts(entry, packed, parts)
            return _FAILED if _number_at(packed) else _RAN
    return _UNKNOWN


class _Threads:
    """What the thread layer of this process allows; it is known after the first parallel call."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.layer: str | None = None
        self.forked = False
        self.watches_forks = False
        self.unguarded = False  # several Python threads may call, and nothing was forked
        self.count: Callable[[], int] = numba.get_num_threads

    def run(self, known: Any, arguments: tuple[Any, ...]) -> int:
        """A call that needs a look: the first, any of the workqueue layer, and those in a forked process."""
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
            done: int = _launch(known, *arguments)
            if done != _UNKNOWN and self.layer is None:
                self.layer = numba.threading_layer()
                self.unguarded = self.layer != "workqueue"
                self.count = current_threads()
        return done

    def after_fork(self) -> None:
        self.lock = threading.RLock()  # whoever held it is not in this process
        self.forked = self.layer not in (None, "workqueue")
        self.unguarded = False


_threads = _Threads()


def get_num_threads() -> int:
    """As Numba's, without the locks that it takes each time to see whether threads have started."""
    return int(_threads.count())


def compiled_parallel(function: Callable[..., None]) -> Any:
    """Compile ``function(part, parts, …)``, and run it for all parts on the thread pool when it is called with (parts, …).

    Parts run side by side where there are as many threads. It is called from Python only.

    Raises, when called:
        ForkError: this process was forked from one whose threads had started.
        MemoryError: a part ended with an exception, for which kernels have no other reason.
    """
    body = compiled(function)
    known = np.zeros((0, 2), np.int64)

    @functools.wraps(function)
    def call(*arguments: Any) -> None:
        nonlocal known
        done = _launch(known, *arguments) if _threads.unguarded else _threads.run(known, arguments)
        if done == _UNKNOWN:
            of = tuple(typeof(argument) for argument in arguments[1:])
            with _threads.lock:  # another Python thread may be adding, too
                known = np.append(known, [[_digest(of), _address(body, of)]], axis=0)
            done = _threads.run(known, arguments)
        if done == _FAILED:
            raise MemoryError(f"{function.__name__}: no memory for what a part of the work needs")
        if done != _RAN:
            raise RuntimeError(f"{function.__name__}: {cache_folder()} holds code of other kernels; remove that folder")

    own = inspect.signature(function)
    call.__signature__ = own.replace(parameters=list(own.parameters.values())[1:])  # type: ignore[attr-defined]
    call.dispatcher = body  # type: ignore[attr-defined]
    return call


def compiled_on_all_threads(function: Callable[..., None]) -> Any:
    """Compile ``function(part, parts, …)`` as ``compiled_parallel`` does, with a part for each thread.

    It is called with the arguments that follow ``parts``.
    """
    run = compiled_parallel(function)

    @functools.wraps(function)
    def call(*arguments: Any) -> None:
        run(get_num_threads(), *arguments)

    own = inspect.signature(run)
    call.__signature__ = own.replace(parameters=list(own.parameters.values())[1:])  # type: ignore[attr-defined]
    return call


def _address(body: Any, of: tuple[Any, ...]) -> int:
    """Where ``body`` lies in memory for arguments of Numba's types ``of``; it is compiled or loaded first."""
    address, returned = function_address(body, (types.intp, types.intp, *of))
    if returned != types.none or not address:  # what is called as returning nothing
        raise TypeError(f"{body.__name__} returns {returned}; a function of a part returns nothing")
    return address


@compiled_parallel
def _count(part: int, parts: int, counts: Any) -> None:
    counts[part] += 1


def threading_layer() -> str:
    """Which of omp, tbb and workqueue runs the threads; Numba decides at the first parallel call, so one is made."""
    parts = get_num_threads()
    _count(parts, np.zeros(parts, np.int64))
    return numba.threading_layer()
