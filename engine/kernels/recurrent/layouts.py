"""Layouts in which arrays of a recurrent layer pass between its scan and the layers around it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Gathered(NamedTuple):
    """An input product whose row n, in the layout of its time steps, is ``table[rows[n]]``, for a layer that reads tokens."""

    table: NDArray  # (R, G·H)
    rows: NDArray[np.int64]  # (N,)


def as_gathered(xg: NDArray | Gathered) -> Gathered:
    """Return any input product as rows of a table; a dense one (..., G·H) is its own table."""
    if isinstance(xg, Gathered):
        return xg
    table = xg.reshape(-1, xg.shape[-1])
    return Gathered(table, np.arange(len(table)))


class ColumnRanges(NamedTuple):
    """A gradient (..., G·H) made up of ranges of the columns of ``array`` (..., W); products read it without a copy."""

    array: NDArray
    ranges: tuple[tuple[int, int], ...]

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> NDArray:
        pieces = [self.array[..., first:last] for first, last in self.ranges]
        if len(pieces) == 1 and not copy:
            return np.asarray(pieces[0], dtype)
        return np.concatenate(pieces, axis=-1, dtype=dtype)
