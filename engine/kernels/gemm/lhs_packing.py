"""First factors of products in the format of their panels: as they lie, or rounded to words of bfloat16.

Where the panels are filled up with zeros to whole tiles of depth, rows of words are, too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.kernels.gemm import amx
from unrolled.engine.kernels.gemm.packing import by_packing
from unrolled.engine.kernels.jit.compilation import compiled
from unrolled.engine.kernels.simd.bf16 import word
from unrolled.engine.kernels.simd.copies import ROUNDED, round_some
from unrolled.engine.kernels.threads.buffer_pool import LINE

# words from the end of a row of tiles to the next: rows a power of two apart would share few sets of the cache
GAP = amx.LANES


@compiled
def _round_rows(x: NDArray, at: int, stride: int, rows: int, K: int, words: NDArray, width: int, to_row: int) -> None:
    """Round ``rows`` rows of K float32, ``stride`` apart from ``at`` on in the flat ``x``, to ``width`` words each.

    Zeros follow a row's last word; rows of ``words`` are ``to_row`` apart.
    """
    pairs, whole = K // 2, K // ROUNDED * ROUNDED
    for r in range(rows):
        to = r * to_row
        for j in range(0, whole, ROUNDED):
            round_some(x, at + r * stride + j, words, to + j // 2)
        row, into = x[at + r * stride : at + r * stride + K], words[to : to + width]
        for j in range(whole // 2, pairs):
            into[j] = word(row[2 * j], row[2 * j + 1])
        if K % 2:
            into[pairs] = word(row[K - 1], np.float32(0))
        for j in range((K + 1) // 2, width):
            into[j] = 0


@compiled
def _new_words(size: int) -> NDArray:
    """Return memory for words that starts at a cache line, because tiles load whole lines."""
    memory = np.empty(size + LINE // 4, np.int32)
    first = -memory.ctypes.data % LINE // 4
    return memory[first : first + size]


@compiled
def _no_memory(panels: NDArray, rows: int) -> NDArray:
    """Return an empty array: factors in ``Packing.FULL`` are read where they lie."""
    return np.empty(0, panels.dtype)


@compiled
def _memory_for_pairs(panels: NDArray, rows: int) -> NDArray:
    """Return memory for ``_in_pairs``."""
    return _new_words(rows * panels.shape[1])


@compiled
def _memory_for_tiles(panels: NDArray, rows: int) -> NDArray:
    """Return memory for ``_for_tiles``."""
    return _new_words(rows * (panels.shape[1] + GAP))


new_operand = by_packing("panels", _no_memory, _memory_for_pairs, _memory_for_tiles)
"""Return memory in which ``operand`` can pack up to ``rows`` rows for ``panels``."""


@compiled
def _as_it_lies(
    x: NDArray, at: int, stride: int, rows: int, K: int, panels: NDArray, memory: NDArray
) -> tuple[NDArray, int, int]:  # fmt: skip
    """Return the rows as they are."""
    return x, at, stride


@compiled
def _in_pairs(
    x: NDArray, at: int, stride: int, rows: int, K: int, panels: NDArray, memory: NDArray
) -> tuple[NDArray, int, int]:  # fmt: skip
    """Round the rows to words."""
    width = panels.shape[1]
    _round_rows(x, at, stride, rows, K, memory, width, width)
    return memory, 0, width


@compiled
def _for_tiles(
    x: NDArray, at: int, stride: int, rows: int, K: int, panels: NDArray, memory: NDArray
) -> tuple[NDArray, int, int]:  # fmt: skip
    """Round the rows to words, with a gap between rows."""
    width = panels.shape[1]
    _round_rows(x, at, stride, rows, K, memory, width, width + GAP)
    return memory, 0, width + GAP


operand = by_packing("panels", _as_it_lies, _in_pairs, _for_tiles)
"""Return the array, the offset and the stride with which a product with ``panels`` reads rows of the flat ``x``.

The rows have K numbers and are ``stride`` apart from ``at`` on. For panels of the dtype of ``x`` these are those of ``x``
itself; for panels of words the rows are rounded into ``memory``.
"""
