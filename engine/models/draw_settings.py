"""The settings of a draw that every engine, graph and host implements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray


class DrawSettings(NamedTuple):
    """Settings of a draw: one value for all rows, or arrays (n,) with one value a row.

    Args:
        do_sample: bool; False: the most probable token.
        temperature: float.
        top_k: int; 0: all tokens.
        top_p: float; 1: all tokens.
        seed: int, 0 … 2⁶⁴ - 1.
    """

    do_sample: Any
    temperature: Any
    top_k: Any
    top_p: Any
    seed: Any

    def as_arrays(self) -> Self:
        """Return the settings as arrays of the shape that they have, in the dtypes of ``SETTING_DTYPES``."""
        return type(self)(*(np.array(values, dtype) for values, dtype in zip(self, SETTING_DTYPES, strict=True)))

    def take(self, rows: NDArray[np.integer]) -> Self:
        """Return the settings of some of the rows; these are arrays."""
        return type(self)(*(column[rows] for column in self))

    @classmethod
    def stack(cls, rows: Sequence[DrawSettings]) -> Self:
        """Return arrays (n,) of the settings of n rows."""
        columns = zip(*rows, strict=True) if rows else ((),) * len(cls._fields)
        return cls(*columns).as_arrays()

    @classmethod
    def concatenate(cls, parts: Sequence[DrawSettings]) -> Self:
        """Return the rows of several settings that are arrays, one part after the other."""
        return cls(*map(np.concatenate, zip(*parts, strict=True)))


# Arrays get their dtypes from here: NumPy makes float64 of a list with 5 and 2⁶³, which rounds both.
SETTING_DTYPES = DrawSettings(np.bool_, np.float64, np.int64, np.float64, np.uint64)
GREEDY = DrawSettings(False, 1.0, 0, 1.0, 0)
