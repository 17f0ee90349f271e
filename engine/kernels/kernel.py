"""What the registry of kernels holds, and how all kernels are compiled."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numba.extending
from numba import get_num_threads, njit, prange
from numba.core import event

from unrolled.engine.errors import ForkError

if getattr(numba.config, "DISABLE_JIT", 0):
    raise ImportError("NUMBA_DISABLE_JIT is set, and the micro-kernel exists only compiled; the numpy engine is Python")

# error_model: Python's check for division by zero is a branch that keeps a loop from being vectorised.
# Kernels take the number of threads as an argument: asking for it inside would keep them from being cached.
# contract: a multiplication and an addition may become one FMA; nothing is reordered.
_OPTIONS: dict[str, Any] = {"cache": True, "error_model": "numpy", "fastmath": {"contract"}}

compiled: Callable[..., Any] = njit(**_OPTIONS)
# for sums whose order nothing else has to repeat: several run side by side, the same ones every time
compiled_sum: Callable[..., Any] = njit(cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})


intrinsic: Any = numba.extending.intrinsic  # whose type has callers pass the typing context too


class _Threads:
    """What the thread layer of this process allows; it is known after the first parallel call."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.layer: str | None = None
        self.forked = False
        self.unguarded = False  # several Python threads may call, and nothing was forked

    def run(self, kernel: Any, args: tuple[Any, ...]) -> Any:
        """A call that needs a look: the first, any of the workqueue layer, and those in a forked process."""
        if self.forked:
            raise ForkError(
                f"this process was forked from one whose {self.layer} threads had started; they did not come along. "
                'Start processes with multiprocessing.get_context("spawn"), run the numba engine only in the new ones, '
                "or set NUMBA_THREADING_LAYER=workqueue"
            )
        with self.lock:  # two Python threads at once would end the process in the workqueue layer
            result = kernel(*args)
            if self.layer is None:
                self.layer = numba.threading_layer()
                self.unguarded = self.layer != "workqueue"
        return result

    def after_fork(self) -> None:
        self.lock = threading.RLock()  # whoever held it is not in this process
        self.forked = self.layer not in (None, "workqueue")
        self.unguarded = False


_threads = _Threads()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.after_fork)


def compiled_parallel(function: Callable[..., Any]) -> Any:
    """Compile a function whose ``prange`` loops run on the thread pool; it is called from Python only.

    Raises, when called:
        ForkError: this process was forked from one whose threads had started.
    """
    kernel = njit(parallel=True, **_OPTIONS)(function)

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return kernel(*args) if _threads.unguarded else _threads.run(kernel, args)

    call.dispatcher = kernel  # type: ignore[attr-defined]
    return call


class _Announcer(event.Listener):
    """Says once that kernels are being compiled, which takes long and looks like nothing; loading them is silent."""

    said = False

    def on_start(self, event: event.Event) -> None:
        module = event.data["dispatcher"].py_func.__module__ or ""  # None for functions made by exec, of whomever
        if not self.said and module.startswith("unrolled."):
            self.said = True
            logging.getLogger("unrolled").warning(
                "compiling the Numba kernels for this processor, once: a minute or two; they are kept in %s",
                cache_folder(),
            )

    def on_end(self, event: event.Event) -> None:
        pass


event.register("numba:compile", _Announcer())


class Kernel(NamedTuple):
    """A compiled cell; contract and formulas in ``unrolled.engine.cells``."""

    forward: Callable[..., Any]
    backward: Callable[..., Any]


@compiled_parallel
def _start_threads(parts: int) -> float:
    total = 0.0
    for _ in prange(parts):
        total += 1.0
    return total


def threading_layer() -> str:
    """Which of omp, tbb and workqueue runs the threads; Numba decides at the first parallel call, so one is made."""
    _start_threads(get_num_threads())
    return numba.threading_layer()


def cache_folder() -> Path:
    """Where compiled kernels are kept: beside their sources, in NUMBA_CACHE_DIR, or in the user's cache."""
    return Path(_start_threads.dispatcher.stats.cache_path)


def drop_stale_cache(
    sources: Path = Path(__file__).parent, cache: Path | None = None, variant: str = ""
) -> None:  # fmt: skip
    """Remove cached kernels when any kernel's source has changed, or the ``variant`` that they are compiled in.

    Numba looks at the file of the cached function only, and would go on with the old code of what that one calls.
    Several processes may do it at once: a kernel whose file is gone is compiled again.
    """
    cache = cache or cache_folder()
    digest = hashlib.sha256(variant.encode())
    for source in sorted(sources.glob("*.py")):
        digest.update(source.read_bytes())
    mark = cache / "kernels.sha256"
    with contextlib.suppress(OSError):  # a folder that cannot be written changes with an installation only
        if mark.exists() and mark.read_text() == digest.hexdigest():
            return
        for file in (*cache.glob("*.nbi"), *cache.glob("*.nbc")):
            file.unlink(missing_ok=True)
        cache.mkdir(parents=True, exist_ok=True)
        new = mark.with_suffix(f".{os.getpid()}")
        new.write_text(digest.hexdigest())
        new.replace(mark)
