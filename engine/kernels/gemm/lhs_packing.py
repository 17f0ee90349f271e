"""First factors of products as their panels want them: as they lie, or rounded to words of bfloat16.

Rows of words are filled up with zeros to whole tiles where the processor has those (``amx``), as the panels are.
"""

from __future__ import annotations

import numpy as np
from numba.extending import overload
from numpy.typing import NDArray

from unrolled.engine.kernels.gemm import amx
from unrolled.engine.kernels.jit.compilation import compiled
from unrolled.engine.kernels.simd.bf16 import WORD, word
from unrolled.engine.kernels.simd.copies import ROUNDED, round_some
from unrolled.engine.kernels.threads.buffer_pool import LINE

# words from the end of a row to the next: rows a power of two apart would share few sets of the cache
GAP = amx.LANES if amx.AVAILABLE else 0
_UNIT = amx.DEPTH if amx.AVAILABLE else 1  # words that a row has a multiple of


def packed_depth(K: int) -> int:
    """Words of K numbers along the depth of a product."""
    return ((K + 1) // 2 + _UNIT - 1) // _UNIT * _UNIT


packed_words = compiled(packed_depth)


@compiled
def _round_rows(x: NDArray, at: int, stride: int, rows: int, K: int, words: NDArray, width: int) -> None:
    """``width`` words of each of ``rows`` rows of K float32 from ``at`` on in the flat ``x``; zeros follow the last.

    Rows of ``words`` are ``width`` + GAP apart.
    """
    pairs, whole = K // 2, K // ROUNDED * ROUNDED
    for r in range(rows):
        to = r * (width + GAP)
        for j in range(0, whole, ROUNDED):
            round_some(x, at + r * stride + j, words, to + j // 2)
        row, into = x[at + r * stride : at + r * stride + K], words[to : to + width]
        for j in range(whole // 2, pairs):
            into[j] = word(row[2 * j], row[2 * j + 1])
        if K % 2:
            into[pairs] = word(row[K - 1], np.float32(0))
        for j in range((K + 1) // 2, width):
            into[j] = 0


# Names for compiled code to call, the same for both kinds of product; the implementation goes by the panels' dtype.
# Without annotations, because an overload must have the signature to the letter.


def new_operand(panels, rows):  # type: ignore[no-untyped-def]
    """Memory for ``operand``."""
    raise NotImplementedError("for compiled code only")


def operand(x, at, stride, rows, K, panels, memory):  # type: ignore[no-untyped-def]
    """Rows of K numbers, ``stride`` apart from ``at`` on in the flat ``x``, as a first factor for ``panels``.

    Returns the array, the offset and the stride to give to a product: those of ``x`` itself where the panels are of its
    dtype; where they are of words, the rows are rounded into ``memory``.
    """
    raise NotImplementedError("for compiled code only")


@overload(new_operand, inline="always")
def _new_operand_for(panels, rows):  # type: ignore[no-untyped-def]
    if panels.dtype == WORD:

        def words(panels, rows):  # type: ignore[no-untyped-def]
            size = rows * (panels.shape[1] + GAP)
            memory = np.empty(size + LINE // 4, np.int32)
            first = -memory.ctypes.data % LINE // 4  # tiles load whole lines
            return memory[first : first + size]

        return words
    return lambda panels, rows: np.empty(0, panels.dtype)


@overload(operand, inline="always")
def _operand_for(x, at, stride, rows, K, panels, memory):  # type: ignore[no-untyped-def]
    if panels.dtype == WORD:

        def rounded(x, at, stride, rows, K, panels, memory):  # type: ignore[no-untyped-def]
            _round_rows(x, at, stride, rows, K, memory, panels.shape[1])
            return memory, 0, panels.shape[1] + GAP

        return rounded
    return lambda x, at, stride, rows, K, panels, memory: (x, at, stride)
