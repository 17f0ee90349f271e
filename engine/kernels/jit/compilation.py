"""What the registry of kernels holds, and how all kernels are compiled."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import logging
import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numba.extending
from numba import njit, types
from numba.core import event

if getattr(numba.config, "DISABLE_JIT", 0):
    raise ImportError("NUMBA_DISABLE_JIT is set, and the micro-kernel exists only compiled; the numpy engine is Python")

# error_model: Python's check for division by zero is a branch that keeps a loop from being vectorised.
# contract: a multiplication and an addition may become one FMA; nothing is reordered.
OPTIONS: dict[str, Any] = {"cache": True, "error_model": "numpy", "fastmath": {"contract"}}


_PROCESS = uuid.uuid4().hex[:8]


def kept_apart(dispatcher: Any) -> Any:
    """The same compiled function, whose files in the cache have names that no other process gives.

    Numba numbers them without a lock. Of two processes that compile one function for different types at the same time, the
    second would write its code into the first one's file, and whoever loads that later would run code for other types.
    """
    files = dispatcher._cache._cache_file
    numbered = files._data_name

    def name(number: int) -> str:
        stem, suffix = os.path.splitext(numbered(number))
        return f"{stem}.{_PROCESS}-{os.getpid()}{suffix}"  # forked processes share the first half

    files._data_name = name
    return dispatcher


# Parameters whose constants are worth code of their own: with strides of A that are known, eight rows of a tile need one
# address instead of eight. Weights' gradients take 1.03 times as long without.
CONSTANTS = {"a_row", "a_depth"}

_FOLDERS: set[Path] = set()  # in which Numba keeps the kernels of the modules that were imported


def _compile(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    """As ``compiled``, with options of Numba's."""
    dispatcher = kept_apart(njit(**options)(function))
    _FOLDERS.add(Path(dispatcher.stats.cache_path))
    resolve = dispatcher.get_call_template
    names = list(inspect.signature(function).parameters)

    def plain(name: str, given: Any) -> Any:
        return given if name in CONSTANTS else types.unliteral(given)

    def resolve_plain(args: Sequence[Any], kws: dict[str, Any]) -> Any:
        return resolve(
            tuple(map(plain, names, args)), {name: plain(name, given) for name, given in kws.items()}
        )  # fmt: skip

    dispatcher.get_call_template = resolve_plain
    return dispatcher


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function for the types of its arguments, from Python or from other compiled functions.

    Constants of a compiled caller are passed like any other number, but for ``CONSTANTS``. Numba would compile the function
    again for each of them.
    """
    return _compile(function, OPTIONS)


def compiled_sum(function: Callable[..., Any]) -> Any:
    """As ``compiled``, for sums whose order nothing else has to repeat: several run side by side, the same every time."""
    return _compile(function, {**OPTIONS, "fastmath": {"contract", "reassoc", "nsz"}})


intrinsic: Any = numba.extending.intrinsic  # whose type has callers pass the typing context too


class _Announcer(event.Listener):
    """Says once that kernels are being compiled, which takes long and looks like nothing; loading them is silent."""

    said = False

    def on_start(self, event: event.Event) -> None:
        module = event.data["dispatcher"].py_func.__module__ or ""  # None for functions made by exec, of whomever
        if not self.said and module.startswith("unrolled."):
            self.said = True
            logging.getLogger("unrolled").warning(
                "compiling the Numba kernels for this processor, once: half a minute or so; they are kept in %s",
                cache_folder(),
            )

    def on_end(self, event: event.Event) -> None:
        pass


event.register("numba:compile", _Announcer())


class Kernel(NamedTuple):
    """A compiled cell; contract and formulas in ``unrolled.engine.models.cells``."""

    forward: Callable[..., Any]
    backward: Callable[..., Any]


def cache_folder() -> Path:
    """Where compiled kernels are kept: beside their sources, in NUMBA_CACHE_DIR, or in the user's cache."""
    return Path(compiled(cache_folder).stats.cache_path)  # of any function here; this one is never compiled


def drop_stale_cache(
    sources: Path = Path(__file__).parents[1], cache: Path | None = None, variant: str = ""
) -> None:  # fmt: skip
    """Remove cached kernels when any kernel's source has changed, or the ``variant`` that they are compiled in.

    Numba looks at the file of the cached function only, and would go on with the old code of what that one calls.
    Several processes may do it at once: a kernel whose file is gone is compiled again.
    """
    digest = hashlib.sha256(variant.encode())
    for source in sorted(sources.rglob("*.py")):
        digest.update(source.read_bytes())
    for folder in sorted(_FOLDERS) if cache is None else (cache,):
        _drop_unless(folder, digest.hexdigest())


def _drop_unless(cache: Path, digest: str) -> None:
    mark = cache / "kernels.sha256"
    with contextlib.suppress(OSError):  # a folder that cannot be written changes with an installation only
        if mark.exists() and mark.read_text() == digest:
            return
        for file in (*cache.glob("*.nbi"), *cache.glob("*.nbc")):
            file.unlink(missing_ok=True)
        cache.mkdir(parents=True, exist_ok=True)
        new = mark.with_suffix(f".{os.getpid()}")
        new.write_text(digest)
        new.replace(mark)
