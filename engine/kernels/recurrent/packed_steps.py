"""The layout of a batch whose rows have different lengths: the valid time steps alone, time step by time step.

Rows are sorted by length, longest first, so that the rows of a time step are the first of those of the step before, and all
products run over the N = Σ lengths valid time steps. An array (T, B, …) becomes (N, …): the n_0 = B rows of time step 0, then
the n_1 rows of time step 1, … The readable form is that of PyTorch's packed sequences. A batch of full rows keeps (T, B, …).

The states of a direction are blocks of rows, too, and the states before a time step must lie together. Forwards these are the
first rows of the block that the step before wrote:

    states  | s0 (n_0 rows) | after step 0 (n_0) | after step 1 (n_1) | … |

In reverse they are the rows that come from the step after, and those that begin here, from their initial state; so each
block has room for these, which are written beforehand:

    states  | before step 0 (n_0) | before step 1 (n_1) | … | before the last | after step 0 (n_0 rows) |
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.kernels.threads.row_copies import take_rows

Index = NDArray[np.int64] | slice


class Lengths(NamedTuple):
    """The valid time steps of a batch with rows of different lengths.

    Args:
        order: (B,), the batch's rows, longest first.
        places: (N,), the place t·B + b of each packed row among the T·B of the batch.
        packed: (T·B,), the inverse: the packed row of each place, -1 in the padding.
        h_prev: (N,), the row of ``states`` before each packed row, forwards.
    """

    order: NDArray[np.int64]
    places: NDArray[np.int64]
    packed: NDArray[np.int64]
    h_prev: NDArray[np.int64]


class PackedSteps(NamedTuple):
    """The valid time steps of a batch, as the scan reads them.

    Args:
        T, B: time steps and rows.
        N: valid time steps of all rows.
        table: (2, T, 4), for each direction and in its order of time steps: the first row of the states before, of the
            states after and of the gates, and the number of rows.
        first, last: for each direction the rows of ``states`` with the initial and the final state of each batch row, longest
            first.
        lengths: None if all rows have T.
    """

    T: int
    B: int
    N: int
    table: NDArray[np.int64]
    first: tuple[Index, Index]
    last: tuple[Index, Index]
    lengths: Lengths | None

    @property
    def order(self) -> Index:
        """Return the batch's rows, longest first."""
        return slice(None) if self.lengths is None else self.lengths.order

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the leading axes of the layout: (T, B), or (N,)."""
        return (self.T, self.B) if self.lengths is None else (self.N,)


def _table(rows: NDArray[np.int64], offsets: NDArray[np.int64], B: int) -> NDArray[np.int64]:
    """Return the scan's table of time steps with ``rows`` each, which begin at ``offsets`` (T + 1,)."""
    at, N = offsets[:-1], offsets[-1]
    forwards = np.stack([np.append(0, B + at[:-1]), B + at, at, rows], axis=1)
    reverse = np.stack([at, np.append(N, at[:-1]), at, rows], axis=1)
    return np.stack([forwards, reverse[::-1]])


@functools.lru_cache(maxsize=64)
def _full(T: int, B: int) -> PackedSteps:
    """Return the time steps of a batch whose rows have T each."""
    N = T * B
    table = _table(np.full(T, B), np.arange(T + 1) * B, B)
    first, last = (slice(0, B), slice(N - B, N)), (slice(N, N + B),) * 2
    return PackedSteps(T, B, N, table, first, last, None)


def plan(T: int, B: int, lengths: NDArray[np.int64] | None) -> PackedSteps:
    """Return the valid time steps of a batch."""
    if lengths is None or int(lengths.min()) == T:
        return _full(T, B)
    order = np.argsort(-lengths, kind="stable")
    ends = lengths[order]
    valid = np.arange(ends[0])[:, None] < ends  # (longest, B)
    rows = valid.sum(axis=1)
    offsets = np.append(0, np.cumsum(rows))
    N = int(offsets[-1])
    places = (np.arange(ends[0])[:, None] * B + order)[valid]
    packed = np.full(T * B, -1)
    packed[places] = np.arange(N)
    number = np.arange(B)
    table = _table(rows, offsets, B)
    h_prev = (table[0, :, :1] + number)[valid]
    # the last valid time step of each row: its block after it forwards, its block before it in reverse
    at = offsets[ends - 1] + number
    return PackedSteps(
        T, B, N, table, (slice(0, B), at), (B + at, slice(N, N + B)), Lengths(order, places, packed, h_prev)
    )


def pack(array: NDArray, steps: PackedSteps) -> NDArray:
    """Return an array (T, B, …) as (N, …), or as it is if all rows are full; a mask of one time step serves all."""
    if steps.lengths is None:
        return array
    places = steps.lengths.places
    if array.ndim != 3:
        return array.reshape(-1, *array.shape[2:])[places]
    if len(array) == 1 < steps.T:
        places = places % steps.B
    return take_rows(np.ascontiguousarray(array).reshape(-1, array.shape[-1]), places)


def unpack(array: NDArray, steps: PackedSteps) -> NDArray:
    """Return an array (N, F) as (T, B, F), with zeros in the padding."""
    if steps.lengths is None:
        return array
    return take_rows(array, steps.lengths.packed).reshape(steps.T, steps.B, -1)
