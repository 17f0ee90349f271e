"""Arrays of ids in memory, or memory-mapped if they are large."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

MEMORY_LIMIT = 256 * 2**20  # bytes of ids; larger arrays are memory-mapped


def write_ids(file: IO[bytes], ids: NDArray) -> None:
    """Write ``ids`` as bytes; unlike ``ndarray.tofile``, a failure raises the system's reason."""
    file.write(np.ascontiguousarray(ids).data)


def collect_ids(pieces: Iterable[NDArray], dtype: np.dtype, expected: int) -> NDArray:
    """Return pieces of ids as one array; beyond ``MEMORY_LIMIT`` it is mapped from a temporary file, deleted with the array."""
    if expected * dtype.itemsize <= MEMORY_LIMIT:
        collected = list(pieces)
        return np.concatenate(collected) if collected else np.zeros(0, dtype)
    with tempfile.NamedTemporaryFile(prefix="unrolled-ids-", delete=False) as file:
        path = Path(file.name)
        try:
            for piece in pieces:
                write_ids(file, piece)
            file.flush()
            return np.memmap(path, dtype, mode="r") if path.stat().st_size else np.zeros(0, dtype)
        except OSError as error:
            error.filename = error.filename or str(path)
            raise
        finally:
            # The mapping keeps the data. A system that cannot remove a mapped file keeps it in the temporary folder.
            with contextlib.suppress(OSError):
                path.unlink()
