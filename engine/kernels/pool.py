"""Memory for the kernels' results, used again once nobody holds the array.

A training step makes some forty megabytes of arrays and drops them. The C library gives such memory back to the system and
takes it anew, page fault by page fault: 15.0 against 11.1 ms a step (LSTM 1 × 192, B = 32, T = 64, two threads). An array
from here is like one from ``np.empty``; its buffer is free again when the last view of it is gone, which the reference
count tells.
"""

from __future__ import annotations

import math
import os
import sys
import threading

import numpy as np
from numpy.typing import DTypeLike, NDArray

SMALLEST = 1 << 16  # bytes; smaller arrays come from np.empty, which keeps them at hand itself
MOST_BUFFERS, MOST_BYTES = 64, 1 << 29  # beyond either the free buffers are dropped

_buffers: list[NDArray[np.uint8]] = []
_lock = threading.Lock()


def _new_lock() -> None:
    """In a forked process, where whoever held it is not."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


def _references(place: int) -> int:
    return sys.getrefcount(_buffers[place])


def _count_when_free() -> int:
    """What ``_references`` says of a buffer that only the list holds; differs between versions of Python."""
    _buffers.append(np.empty(1, np.uint8))
    count = _references(0)
    _buffers.clear()
    return count


_FREE = _count_when_free()


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray:
    """An array of undefined content, C-contiguous."""
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    if size < SMALLEST:
        return np.empty(shape, kind)
    with _lock:
        for place in range(len(_buffers)):
            # up to an eighth larger, so that batches of varying length share buffers
            if size <= len(_buffers[place]) <= size + size // 8 and _references(place) == _FREE:
                return _buffers[place][:size].view(kind).reshape(shape)
        if len(_buffers) >= MOST_BUFFERS or sum(map(len, _buffers)) + size > MOST_BYTES:
            _buffers[:] = [_buffers[place] for place in range(len(_buffers)) if _references(place) > _FREE]
        buffer = np.empty(size, np.uint8)
        _buffers.append(buffer)
        return buffer[:size].view(kind).reshape(shape)
