"""Set the number of Numba's threads for a block of a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numba


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Run a block with ``count`` of Numba's threads."""
    before = numba.get_num_threads()
    numba.set_num_threads(count)
    try:
        yield
    finally:
        numba.set_num_threads(before)
