"""What the registry of kernels holds, and how all kernels are compiled."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numba
from numba import get_num_threads, njit, prange

# error_model: Python's check for division by zero is a branch that keeps a loop from being vectorised.
# Kernels take the number of threads as an argument: asking for it inside would keep them from being cached.
# contract: a multiplication and an addition may become one FMA; nothing is reordered.
_OPTIONS: dict[str, Any] = {"cache": True, "error_model": "numpy", "fastmath": {"contract"}}

compiled: Callable[..., Any] = njit(**_OPTIONS)
compiled_parallel: Callable[..., Any] = njit(parallel=True, **_OPTIONS)
# for sums whose order nothing else has to repeat: several run side by side, the same ones every time
compiled_sum: Callable[..., Any] = njit(cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
# for the maximum of numbers among which no NaN is
compiled_max: Callable[..., Any] = njit(cache=True, error_model="numpy", fastmath={"nnan", "nsz"})


def drop_stale_cache(folder: Path = Path(__file__).parent) -> None:
    """Remove cached kernels when any kernel's source has changed.

    Numba looks at the file of the cached function only, and would go on with the old code of what that one calls. Where
    the folder cannot be written, the cache lies elsewhere, and sources change only with an installation.
    """
    digest = hashlib.sha256()
    for source in sorted(folder.glob("*.py")):
        digest.update(source.read_bytes())
    cache = folder / "__pycache__"
    mark = cache / "kernels.sha256"
    with contextlib.suppress(OSError):
        if not mark.exists() or mark.read_text() != digest.hexdigest():
            for file in (*cache.glob("*.nbi"), *cache.glob("*.nbc")):
                file.unlink(missing_ok=True)
            cache.mkdir(exist_ok=True)
            mark.write_text(digest.hexdigest())


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
