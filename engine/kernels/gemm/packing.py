"""Formats of packed factors: how a matrix product stores what it multiplies, chosen once for a model.

The precision that a user chooses decides the format on the Python side. Compiled code needs no flag: a packed array's
dtype implies its format, and ``by_packing`` is the one place that chooses a function by it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from enum import Enum
from typing import Any

import numpy as np

from unrolled.engine.kernels.gemm import amx
from unrolled.engine.kernels.jit.numba_internals import redirect_calls
from unrolled.engine.kernels.jit.target import has_tiles
from unrolled.engine.kernels.simd.bf16 import WORD, WORD_DTYPE, check_available


class Packing(Enum):
    """Format of the factors of a product; sums always have the dtype of the arrays that were packed."""

    FULL = "full"  # as the arrays are
    PAIRS = "pairs"  # bfloat16, two along the depth to a 32-bit word
    TILES = "tiles"  # the same words, rows filled up with zeros to whole AMX tiles

    __hash__ = object.__hash__  # Enum's own is Python code, and every training step hashes formats several times

    def dtype(self, dtype: np.dtype) -> np.dtype:
        """Return the dtype of packed arrays of ``dtype``."""
        return dtype if self is FULL else WORD_DTYPE

    def depth(self, K: int) -> int:
        """Return the packed items of K numbers along the depth of a product."""
        if self is FULL:
            return K
        unit = amx.DEPTH if self is Packing.TILES else 1
        return ((K + 1) // 2 + unit - 1) // unit * unit


FULL = Packing.FULL  # accessing a member of an Enum costs as much as a small allocation


def bf16_packing() -> Packing:
    """Return the format of bfloat16 on this processor."""
    return Packing.TILES if has_tiles() else Packing.PAIRS


def choose_packing(in_bf16: bool) -> Packing:
    """Return the format of factors in the arrays' own dtype, or in bfloat16.

    Raises:
        ConfigError: this processor has no instruction for bfloat16.
    """
    if not in_bf16:
        return Packing.FULL
    check_available()
    return bf16_packing()


def by_packing(argument: str, full: Any, pairs: Any, tiles: Any = None) -> Any:
    """Return a function for compiled code that runs ``full``, ``pairs`` or ``tiles``, by the format of an argument.

    The readable form is an ``if`` on the dtype of the packed array, which the compiler decides. Calls of ``full`` by its own
    name are redirected, too.

    Args:
        argument: the name of the packed array's parameter.
        full, pairs, tiles: compiled functions with the same parameters; ``pairs`` serves both if there is no ``tiles``.
    """
    place = list(inspect.signature(full.py_func).parameters).index(argument)

    def choose(kinds: Sequence[Any]) -> Any:
        if kinds[place].dtype != WORD:
            return full
        return tiles if tiles is not None and bf16_packing() is Packing.TILES else pairs

    redirect_calls(full, choose)
    return full
