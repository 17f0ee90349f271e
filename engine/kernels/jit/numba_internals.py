"""Private and undocumented interfaces of Numba and llvmlite, each in one place with a test of its own.

A new release of either may change any of them, so ``setup.cfg`` bounds Numba's version; raise the bound when
``tests/engine/kernels/test_numba_internals.py`` passes. Building IR with ``llvmlite.ir`` is public and stays in the modules
that do it.
"""

from __future__ import annotations

import inspect
import os
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import caching, cgutils
from numba.core.registry import cpu_target
from numba.misc.appdirs import AppDirs
from numba.np.ufunc import parallel

__all__ = [
    "BFLOAT",
    "array_data",
    "array_length",
    "cgutils",
    "current_threads",
    "emit_call",
    "emit_entry",
    "function_address",
    "keep_in_folder",
    "pass_numbers_plainly",
    "redirect_calls",
    "target_machine",
    "user_cache_folder",
    "without_owner",
]

# The processor and the threads


def target_machine() -> tuple[str, str, str]:
    """Return LLVM's triple, processor and features that Numba compiles for; its settings may differ from this machine."""
    triple, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    return triple, cpu, features


def current_threads() -> Callable[[], int]:
    """Return Numba's function for the number of threads, without the locks that the public one takes at each call.

    It exists after the first parallel call; until then, and where a release has none, the public one is returned.
    """
    function: Callable[[], int] = getattr(parallel, "_get_num_threads", numba.get_num_threads)
    return function


# The types of a call


def pass_numbers_plainly(dispatcher: Any, constants: set[str]) -> None:
    """Compile ``dispatcher`` once for all constants that compiled callers pass, except for the parameters ``constants``.

    Numba would compile it again for each constant.
    """
    resolve = dispatcher.get_call_template
    names = list(inspect.signature(dispatcher.py_func).parameters)

    def plain(name: str, given: Any) -> Any:
        return given if name in constants else types.unliteral(given)

    def get_call_template(args: Sequence[Any], kws: dict[str, Any]) -> Any:
        return resolve(tuple(map(plain, names, args)), {name: plain(name, given) for name, given in kws.items()})

    dispatcher.get_call_template = get_call_template


def redirect_calls(dispatcher: Any, choose: Callable[[Sequence[Any]], Any]) -> None:
    """Make compiled code that calls ``dispatcher`` call the dispatcher that ``choose`` returns for the argument types.

    The choice is made when the caller is compiled and costs nothing at run time. Unlike an ``overload``, both functions
    keep their signatures, annotations and files in the cache. All must have the same parameters.
    """
    own_template, own_overload = dispatcher.get_call_template, dispatcher.get_overload

    def get_call_template(args: Sequence[Any], kws: dict[str, Any]) -> Any:
        chosen = choose(args)
        return own_template(args, kws) if chosen is dispatcher else chosen.get_call_template(args, kws)

    def get_overload(signature: Any) -> Any:
        chosen = choose(signature)  # Numba passes the argument types alone
        return own_overload(signature) if chosen is dispatcher else chosen.get_overload(signature)

    dispatcher.get_call_template, dispatcher.get_overload = get_call_template, get_overload


# The cache on disk


_PROCESS = uuid.uuid4().hex[:8]


class _Folder(caching._SourceFileBackedLocatorMixin, caching._CacheLocator):
    """Locator of a function's files in the one folder of all kernels."""

    def __init__(self, function: Callable[..., Any], folder: Callable[[], Path], version: Callable[[], str]) -> None:
        self._py_file, self._lineno = inspect.getfile(function), function.__code__.co_firstlineno
        self._folder, self._version = folder, version
        # read now, at import: a file that is edited before the first call differs from the code that is compiled
        self._own_stamp = super().get_source_stamp()

    def get_cache_path(self) -> str:
        return str(self._folder())

    def get_source_stamp(self) -> Any:
        return self._own_stamp, self._version()


class _Files(caching.IndexDataCacheFile):
    """Files of a function's compiled code, with names that no other process uses.

    Numba numbers them without a lock. If two processes compiled one function for different types at the same time, the
    second would write its code into the first one's file, and a later process would load code for other types.
    """

    def _data_name(self, number: int) -> str:
        stem, suffix = os.path.splitext(super()._data_name(number))
        return f"{stem}.{_PROCESS}-{os.getpid()}{suffix}"  # forked processes share the first half


def _open_cache(function: Callable[..., Any], folder: _Folder) -> Any:
    """Return Numba's cache of a function, in ``folder``."""

    class Located(caching.CompileResultCacheImpl):
        """The storage of compile results in the folder of all kernels."""

        def __init__(self, py_func: Callable[..., Any]) -> None:
            self._lineno, self._locator = py_func.__code__.co_firstlineno, folder
            name = f"{py_func.__module__}.{py_func.__qualname__}"  # modules of two rooms may have one file name
            self._filename_base = self.get_filename_base(name, getattr(sys, "abiflags", ""))

    class Cache(caching.FunctionCache):
        """Numba's cache of one function."""

        _impl_class = Located

    cache = Cache(function)
    cache._cache_file = _Files(cache.cache_path, cache._impl.filename_base, cache._impl.locator.get_source_stamp())
    return cache


class _LazyCache:
    """Cache of a function that is opened, and its folder created, when the function is first loaded or compiled."""

    def __init__(
        self, function: Callable[..., Any], folder: _Folder, announce: Callable[[Callable[..., Any]], None]
    ) -> None:  # fmt: skip
        self._function, self._folder, self._announce = function, folder, announce
        self._opened: Any = None

    def _open(self) -> Any:
        """Return Numba's cache, opened at the first call."""
        if self._opened is None:
            self._opened = _open_cache(self._function, self._folder)
        return self._opened

    @property
    def cache_path(self) -> str:
        return str(self._open().cache_path)

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        found = self._open().load_overload(signature, target_context)
        if found is None:
            self._announce(self._function)
        return found

    def save_overload(self, signature: Any, result: Any) -> None:
        self._open().save_overload(signature, result)

    def flush(self) -> None:
        self._open().flush()


def keep_in_folder(
    dispatcher: Any, folder: Callable[[], Path], version: Callable[[], str],
    announce: Callable[[Callable[..., Any]], None],
) -> None:  # fmt: skip
    """Cache a dispatcher's compiled code on disk.

    Args:
        dispatcher: of a function in a file.
        folder: returns the folder; called when code is first needed.
        version: identifies the sources of all functions in the folder; code that was kept under another is not loaded.
        announce: called with the function before it is compiled, because the cache does not have it.
    """
    function = dispatcher.py_func
    dispatcher._cache = _LazyCache(function, _Folder(function, folder, version), announce)


def user_cache_folder() -> Path:
    """Return the folder in which Numba caches for a user whose installation cannot be written."""
    return Path(AppDirs(appname="numba", appauthor=False).user_cache_dir)


# Values in IR


def array_data(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Return the pointer to the first item of an array of Numba's type ``kind``."""
    return context.make_array(kind)(context, builder, value).data


def array_length(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Return the length of an array's first axis."""
    return builder.extract_value(context.make_array(kind)(context, builder, value).shape, 0)


def without_owner(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Return an array of Numba's type ``kind`` without its owner, and any other value as it is.

    All threads would change the owner's reference count for every view of the array.
    """
    if not isinstance(kind, types.Array):
        return value
    array = context.make_array(kind)(context, builder, value=value)
    for owner in ("meminfo", "parent"):
        setattr(array, owner, getattr(array, owner).type(None))
    return array._getvalue()


class _BFloat(ir.types._BaseFloatType):
    """LLVM's type ``bfloat``, which llvmlite has no name for."""

    null, intrinsic_name = "0.0", "bf16"

    def __str__(self) -> str:
        return "bfloat"

    def format_constant(self, value: float) -> str:
        return str(value)


_BFloat._create_instance()
BFLOAT = _BFloat()

# Numba's calling convention


def function_address(dispatcher: Any, arguments: tuple[Any, ...]) -> tuple[int, Any]:
    """Return the address of a function's code for ``arguments``, and the type that it returns.

    It is compiled, or loaded from the cache, first.
    """
    dispatcher.compile(arguments)
    result = dispatcher.overloads[arguments]
    address = int(result.library.get_pointer_to_function(result.fndesc.mangled_name))
    return address, result.signature.return_type


def emit_call(context: Any, builder: Any, address: Any, arguments: Sequence[Any], values: Sequence[Any]) -> Any:
    """Call the function at ``address``, which takes ``arguments`` and returns nothing; return whether it raised."""
    convention = context.call_conv
    function = builder.inttoptr(address, convention.get_function_type(types.none, arguments).as_pointer())
    status, _ = convention.call_function(builder, function, types.none, arguments, values)
    return status.is_error


def emit_entry(
    context: Any, builder: Any, arguments: Sequence[Any], emit_body: Callable[[Any, Sequence[Any]], None]
) -> Any:  # fmt: skip
    """Return a new function of the builder's module, which ``emit_call`` can call.

    Args:
        arguments: Numba's types of its arguments, which are numbers; an array would be several.
        emit_body: writes the function's body from a builder inside it and the arguments' values.
    """
    convention, module = context.call_conv, builder.module
    kind = convention.get_function_type(types.none, arguments)
    entry = ir.Function(module, kind, module.get_unique_name("entry"))
    entry.linkage = "internal"
    inside = ir.IRBuilder(entry.append_basic_block())
    emit_body(inside, convention.get_arguments(entry))
    convention.return_value(inside, context.get_dummy_value())
    return entry
