"""Layouts in which arrays of a recurrent layer pass between its scan and the layers around it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Gathered(NamedTuple):
    """An input product whose row of time step t and batch row b is ``table[rows[t, b]]``, for a layer that reads tokens."""

    table: NDArray  # (R, G·H)
    rows: NDArray[np.int64]  # (T, B)


def as_gathered(xg: NDArray | Gathered) -> Gathered:
    """Return any input product as rows of a table; a dense one (T, B, G·H) is its own table."""
    if isinstance(xg, Gathered):
        return xg
    T, B, G = xg.shape
    return Gathered(xg.reshape(T * B, G), np.arange(T * B, dtype=np.int64).reshape(T, B))


class ColumnRanges(NamedTuple):
    """A gradient (T, B, G·H) made up of ranges of the columns of ``array`` (T, B, W); products read it without a copy."""

    array: NDArray
    ranges: tuple[tuple[int, int], ...]

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> NDArray:
        pieces = [self.array[..., first:last] for first, last in self.ranges]
        if len(pieces) == 1 and not copy:
            return np.asarray(pieces[0], dtype)
        return np.concatenate(pieces, axis=-1, dtype=dtype)
