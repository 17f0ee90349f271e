"""Memory for the kernels' results, reused when no array refers to it any more.

A training step allocates some forty megabytes of arrays and drops them. The C library returns such memory to the system and
gets it back page fault by page fault: 15.0 against 11.1 ms a training step (LSTM 1 × 192, B = 32, T = 64, two threads). An
array from here is like one from ``np.empty``; its buffer is free when the last view of it is gone, which the reference count
shows.
"""

from __future__ import annotations

import bisect
import functools
import math
import operator
import os
import sys
import threading
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from unrolled.engine.kernels.threads.thread_pool import compiled_on_all_threads

SMALLEST = 1 << 16  # bytes; smaller arrays come from np.empty, whose allocator reuses them itself
LINE = 64  # bytes of a cache line; the C library starts large arrays 16 bytes into one, so wide loads would read two
MOST_BUFFERS, MOST_BYTES = 64, 1 << 29  # beyond either the free buffers are dropped


class _Buffer(NamedTuple):
    """Memory for one array at a time."""

    memory: NDArray[np.uint8]
    first: int  # offset of the first cache line
    size: int  # bytes from there on


_buffers: list[_Buffer] = []  # sorted by size: checking each of them would cost more than all else here
_size_of = operator.attrgetter("size")
_lock = threading.Lock()


def _new_lock() -> None:
    """Replace the lock in a forked process, in which a thread that held it does not exist."""
    global _lock
    _lock = threading.Lock()


@functools.cache
def _watch_forks() -> None:
    """Have forked processes replace the lock; registered once, when the lock is first needed."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_new_lock)


def _new_buffer(size: int) -> _Buffer:
    """Return a buffer of ``size`` bytes."""
    memory = np.empty(size + LINE, np.uint8)
    return _Buffer(memory, -memory.ctypes.data % LINE, size)


def _references(buffer: _Buffer) -> int:
    """Return the reference count of a buffer's memory."""
    return sys.getrefcount(buffer.memory)


# the count of a buffer without arrays, which differs between versions of Python
_FREE = _references(_new_buffer(1))


def _add_buffer(size: int) -> _Buffer:
    """Add a new buffer in its place; drop the free ones if there are too many."""
    _watch_forks()
    if len(_buffers) >= MOST_BUFFERS or sum(map(_size_of, _buffers)) + size > MOST_BYTES:
        _buffers[:] = [buffer for buffer in _buffers if _references(buffer) > _FREE]
    buffer = _new_buffer(size)
    bisect.insort(_buffers, buffer, key=_size_of)
    return buffer


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray:
    """Return a C-contiguous array of undefined content; one of SMALLEST bytes or more starts at a cache line."""
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    if size < SMALLEST:
        return np.empty(shape, kind)
    with _lock:
        first = bisect.bisect_left(_buffers, size, key=_size_of)
        # up to an eighth larger, so that batches of varying length share buffers
        last = bisect.bisect_right(_buffers, size + size // 8, first, key=_size_of)
        for buffer in _buffers[first:last]:
            if _references(buffer) == _FREE:
                break
        else:
            buffer = _add_buffer(size)
        return np.ndarray(shape, kind, buffer.memory, buffer.first)


@compiled_on_all_threads
def _clear(part: int, parts: int, array: NDArray) -> None:
    """array[:] = 0; threads share it."""
    N = array.shape[0]
    array[part * N // parts : (part + 1) * N // parts] = 0


def zeros(size: int, dtype: DTypeLike) -> NDArray:
    """Return a flat array of zeros, as ``empty`` returns arrays."""
    array = empty((size,), dtype)
    _clear(array)
    return array
