"""FMA peak of the machine for a display, measured in a fraction of a second; the largest measured value is kept."""

from __future__ import annotations

import contextlib
from functools import cache
from pathlib import Path

from unrolled.bench.machine.system import physical_cores, processor_name
from unrolled.engine.storage.atomic_files import write_atomically
from unrolled.engine.storage.json_text import parse_json, to_json

FILE = "fma_peak.json"  # GFLOP/s of a core by processor name, beside the compiled kernels


@cache
def quick_peak(engine: str) -> float | None:
    """Return GFLOP/s in float32: one core's, times the cores that the Numba engine uses; None where its kernels do not run.

    For another ``engine`` it is None too, because training with that engine must not wait for these kernels to compile.

    All cores at once may run a little slower than one does (``unrolled bench`` measures that, in seconds). A measurement on
    a busy machine may be too low, so the largest value ever measured on this processor is returned.
    """
    if engine != "numba":
        return None
    try:
        from numba import get_num_threads

        from unrolled.bench.machine.limits import core_peak
        from unrolled.engine.kernels.jit.compilation import cache_folder

        cores = min(get_num_threads(), physical_cores())
        return cores * _best_so_far(cache_folder() / FILE, processor_name(), core_peak())
    except Exception:
        # Numba raises its own errors for unknown processors, RuntimeError where no folder can be written, and more; a figure
        # on a display must not end a training, whatever is wrong with it
        return None


def _best_so_far(file: Path, key: str, measured: float) -> float:
    """Return the larger of ``measured`` and the value of ``key`` in ``file``, and store it there."""
    known: dict[str, object] = {}
    with contextlib.suppress(OSError, ValueError):  # no file yet, or a damaged one: it is written anew
        known = parse_json(file.read_text("utf-8"), str(file))
    before = known.get(key)
    if isinstance(before, int | float) and before >= measured:
        return float(before)
    with contextlib.suppress(OSError):  # the folder cannot be written: measured anew next time
        write_atomically(file, to_json({**known, key: measured}).encode())
    return measured
