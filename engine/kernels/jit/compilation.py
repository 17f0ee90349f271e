"""Compilation of the kernels: options that all share, and the one folder that keeps what was compiled."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numba.extending
from numba import njit

from unrolled.engine.kernels.jit.numba_internals import keep_in_folder, pass_numbers_plainly, user_cache_folder
from unrolled.engine.kernels.jit.target import TARGET, has_tiles

if getattr(numba.config, "DISABLE_JIT", 0):
    raise ImportError("NUMBA_DISABLE_JIT is set, and the micro-kernel exists only compiled; the numpy engine is Python")

# error_model: Python's check for division by zero is a branch that keeps a loop from being vectorised.
# contract: a multiplication and an addition may become one FMA; nothing is reordered.
OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}}

# Parameters for whose constants a function is compiled again: with constant strides of A, eight rows of a tile need one
# address instead of eight. Weight gradients take 1.03 times as long without.
CONSTANTS = {"a_row", "a_depth"}

SOURCES = Path(__file__).parents[1]


def source_digest(sources: Path) -> str:
    """Return a digest of all modules in a folder and the folders in it."""
    digest = hashlib.sha256()
    for source in sorted(sources.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


_DIGEST = source_digest(SOURCES)  # at import: files that are edited later differ from the code in this process

intrinsic: Any = numba.extending.intrinsic  # Numba's type for it makes callers pass the typing context


def cached(dispatcher: Any) -> Any:
    """Keep the compiled code of a Numba function in the folder of the kernels."""
    keep_in_folder(dispatcher, cache_folder, _version, _announce)
    return dispatcher


def _compile(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    """Compile a function as ``compiled`` does, with Numba's ``options``."""
    dispatcher = cached(njit(**options)(function))
    pass_numbers_plainly(dispatcher, CONSTANTS)
    return dispatcher


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function for the types of its arguments, from Python or from other compiled functions.

    A constant that a compiled caller passes is an argument like any other, except for the parameters in ``CONSTANTS``.
    """
    return _compile(function, OPTIONS)


def compiled_sum(function: Callable[..., Any]) -> Any:
    """Compile a function in which LLVM may reorder additions, so that several partial sums run side by side.

    The order is the same in every run, but no other code can repeat it.
    """
    return _compile(function, {**OPTIONS, "fastmath": {"contract", "reassoc", "nsz"}})


_announced = False


def _announce(function: Callable[..., Any]) -> None:
    """Log once that kernels are being compiled, which takes long and shows nothing; loading them is silent."""
    global _announced
    if _announced or not (function.__module__ or "").startswith("unrolled."):  # made by exec: no module
        return
    _announced = True
    logging.getLogger("unrolled").warning(
        "compiling the Numba kernels for this processor, once: half a minute or so; they are kept in %s", cache_folder()
    )


def cache_folder() -> Path:
    """Return the folder that keeps the compiled kernels, without any that are stale.

    It is the first that can be written of NUMBA_CACHE_DIR, the kernels' own ``__pycache__`` and the user's cache.

    Raises:
        RuntimeError: none of them can be written.
    """
    return _open_folder(str(getattr(numba.config, "CACHE_DIR", "")))


@functools.cache
def _version() -> str:
    """Return what compiled kernels depend on besides Numba and the processor: their sources, and the use of tiles."""
    return f"{_DIGEST}, AMX refused" if TARGET.amx_bf16 and not has_tiles() else _DIGEST


@functools.cache
def _open_folder(chosen: str) -> Path:
    """Return the first candidate that can be written, once stale kernels are dropped from it."""
    own_name = f"{SOURCES.name}_{hashlib.sha1(str(SOURCES).encode()).hexdigest()}"  # installations may share the others
    candidates = [SOURCES / "__pycache__", user_cache_folder() / own_name]
    for folder in [Path(chosen) / own_name, *candidates] if chosen else candidates:
        if _can_write(folder):
            drop_stale_cache(folder, _version())
            return folder
    raise RuntimeError(f"no folder for compiled kernels can be written: {', '.join(map(str, candidates))}")


def _can_write(folder: Path) -> bool:
    """Return whether a file can be created in a folder, which is created if needed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def drop_stale_cache(cache: Path, version: str) -> None:
    """Remove the cached kernels unless they are of ``version``, and record it.

    Numba checks the file of the cached function only, and would keep using old code of the functions that it calls; so the
    version is part of what it compares (``keep_in_folder``), and old files are only in the way. Several processes may call
    this at the same time: a kernel whose file is missing is compiled again.
    """
    mark = cache / "kernels.sha256"
    with contextlib.suppress(OSError):  # a folder that cannot be written changes with an installation only
        if mark.exists() and mark.read_text() == version:
            return
        for file in (*cache.glob("*.nbi"), *cache.glob("*.nbc")):
            file.unlink(missing_ok=True)
        cache.mkdir(parents=True, exist_ok=True)
        new = mark.with_suffix(f".{os.getpid()}")
        new.write_text(version)
        new.replace(mark)
