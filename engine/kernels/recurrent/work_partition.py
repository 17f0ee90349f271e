"""How one recurrent layer is shared out to threads: by rows of the batch, or by hidden units where rows are few."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.kernels.gemm.matmul import multiply, multiply_part
from unrolled.engine.kernels.jit.compilation import compiled
from unrolled.engine.kernels.threads.buffer_pool import empty
from unrolled.engine.kernels.threads.spin_barrier import meet, new_team
from unrolled.engine.kernels.threads.thread_pool import get_num_threads


class Split(NamedTuple):
    """Of one call: in how many parts, along what, and the memory through which the parts meet."""

    parts: int
    by_units: bool
    team: NDArray[np.int64]


# Weights of so many bytes leave a core's own cache, and of fewer rows a thread than this the products wait for them
_LARGE, _FEW_ROWS = 1 << 21, 16


def split(B: int, H: int, panels: NDArray) -> Split:
    """By rows, each thread running all steps alone; by units where it would have few of them, and so much to read for each.

    That is with less than two rows a thread, or with less than ``_FEW_ROWS`` and large weights, of which a thread then reads
    its share only: LSTM of 512, B = 8 and 16, two threads 1.22 times as fast, in bfloat16 1.46; with B = 32, or weights
    of 1 MB, by rows is as fast or faster (a core with 2 MB, 50 GB/s from the cache behind it).

    Units go in whole panels, so that no column of a product is made twice. Results do not depend on it: every number is
    summed in one order either way.
    """
    threads, W = get_num_threads(), panels.shape[2]
    few = (_FEW_ROWS if panels.nbytes >= _LARGE else 2) * threads > B
    by_units = threads > 1 and few and H % W == 0 and threads <= H // W
    return Split(threads if by_units else min(threads, B), by_units, new_team())


@compiled
def share(
    part: int, parts: int, by_units: bool, team: NDArray, B: int, H: int, W: int
) -> tuple[int, int, int, int, int]:  # fmt: skip
    """In how many parts the work goes, 0 where there is none for this one, and its rows first … last and units u0 … u1."""
    if not by_units:
        return parts, part * B // parts, (part + 1) * B // parts, 0, H
    active, P = meet(team, parts), H // W
    if active == 0:
        return 0, 0, 0, 0, 0
    own = part % active
    return active, 0, B, own * P // active * W, (own + 1) * P // active * W


@compiled
def hidden_product(
    h: NDArray, h_offset: int, h_row: int, panels: NDArray, bias: NDArray, gates: NDArray, offset: int, width: int,
    rows: int, H: int, G: int, u0: int, u1: int, back: bool,
) -> None:  # fmt: skip
    """gates[r, g·H + u0 … g·H + u1] = h[r] · w_hhᵀ + bias (G·H,) for G gates; flat, rows ``h_row`` and ``width`` apart.

    The input product is not in it: what activates the gates adds that, when it reads them, and saves a pass.
    """
    if u1 - u0 == H:
        multiply(h, h_offset, h_row, 1, panels, bias, 0, 0, gates, offset, width, rows, G * H, back)
        return
    W = panels.shape[2]
    for i in range(G):
        at = (G - 1 - i if back else i) * H + u0
        multiply_part(
            h, h_offset, h_row, 1, panels, at // W, bias, at, 0, gates, offset + at, width, rows, u1 - u0, back
        )  # fmt: skip


def new_states(s0: NDArray, T: int) -> NDArray:
    """States (T + 1, S, B, H) whose first is ``s0``; each of the S lies in one piece over time, ready for products."""
    S, B, H = s0.shape
    states = empty((S, T + 1, B, H), s0.dtype)
    states[:, 0] = s0
    return states.transpose(1, 0, 2, 3)


def by_state(states: NDArray) -> NDArray:
    """The array (S, T + 1, B, H) behind ``new_states``."""
    return np.ascontiguousarray(states.transpose(1, 0, 2, 3))


class Gathered(NamedTuple):
    """An input product whose row of step t and row b is ``table[rows[t, b]]``: a layer that reads a small vocabulary."""

    table: NDArray  # (R, G·H)
    rows: NDArray[np.int64]  # (T, B)


def as_gathered(xg: NDArray | Gathered) -> Gathered:
    """Any input product as rows of a table; a dense one (T, B, G·H) is its own table."""
    if isinstance(xg, Gathered):
        return xg._replace(rows=np.ascontiguousarray(xg.rows, np.int64))
    T, B, G = xg.shape
    return Gathered(xg.reshape(T * B, G), np.arange(T * B).reshape(T, B))


class Columns(NamedTuple):
    """A gradient (T, B, G·H) that is made of ranges of the columns of ``array`` (T, B, W), which products read as they lie."""

    array: NDArray
    ranges: tuple[tuple[int, int], ...]

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> NDArray:
        pieces = [self.array[..., first:last] for first, last in self.ranges]
        if len(pieces) == 1 and not copy:
            return np.asarray(pieces[0], dtype)
        return np.concatenate(pieces, axis=-1, dtype=dtype)
