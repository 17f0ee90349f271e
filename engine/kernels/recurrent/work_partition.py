"""Partition of a recurrent layer between threads: by rows of the batch, or by hidden units where rows are few."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.kernels.gemm.matmul import multiply_part
from unrolled.engine.kernels.jit.compilation import compiled
from unrolled.engine.kernels.threads.spin_barrier import meet, new_teams
from unrolled.engine.kernels.threads.thread_pool import get_num_threads


class Split(NamedTuple):
    """Partition of one call of a scan."""

    parts: int
    directions: int  # that run side by side, on parts of their own
    by_units: bool  # otherwise by rows
    striped: bool  # by every n-th row instead of by ranges of rows
    teams: NDArray[np.int64]  # shared memory of the barrier between the parts of each direction


# Weights of _LARGE bytes exceed the L2 cache of a core; with fewer than _FEW_ROWS rows a thread, products wait for them.
# Those of less than _SMALL bytes are read in less time than threads take to meet at a barrier.
_SMALL, _LARGE, _FEW_ROWS = 1 << 17, 1 << 21, 16


def split(B: int, H: int, panels: NDArray, directions: int = 1, striped: bool = False) -> Split:
    """Choose the partition of a layer with B rows and H units, whose recurrent weights are packed in ``panels``.

    By rows each thread runs all time steps without a barrier. By units, each reads only its share of the weights. That is
    faster with less than two rows a thread, or with less than ``_FEW_ROWS`` and large weights: LSTM of 512, B = 8 and 16, two
    threads 1.22 times as fast, in bfloat16 1.46. With B = 32, or weights of 1 MB, rows are as fast or faster (measured on
    a core with 2 MB of L2 cache and 50 GB/s from the next level). Small weights are not shared: LSTM of 64, B = 1, T = 50,
    one thread takes 42 and 40 µs forward and backward, two by units 52 and 40; of 128, T = 64, 181 and 166 against 120 and
    110 (Zen 4).

    Two directions run side by side where each gets as many threads as the other: a thread then reads the weights of one
    direction for twice as many rows, and two threads need no barrier. Forward and backward of an LSTM on two threads are
    that much faster than one direction after the other: H = 128, 1.42 times with B = 1, 1.39 with 4, 1.05 with 8 and 1.34
    with 8 rows of random lengths; H = 64, 1.15 with B = 16 and 1.41 with random lengths; H = 256, B = 1, 1.07. With an odd
    number of threads they run one after the other, on all threads each.

    Units are shared out in whole panels, so that no column of a product is computed twice. Results do not depend on the
    partition, because every sum has one order.

    Args:
        directions: of the layer.
        striped: whether rows end at different time steps, in an order of falling lengths: a thread then takes every n-th
            row, so that all have as many rows at every time step.
    """
    threads, W = get_num_threads(), panels.shape[2]
    at_once = directions if threads % directions == 0 else 1
    threads //= at_once
    few = _FEW_ROWS if panels.nbytes >= _LARGE else 2 if panels.nbytes >= _SMALL else 0
    by_units = threads > 1 and few * threads > B and H % W == 0 and threads <= H // W
    parts = threads if by_units else min(threads, B)
    teams = new_teams(at_once, parts) if by_units else np.zeros((at_once, 0), np.int64)
    return Split(parts * at_once, at_once, by_units, striped, teams)


@compiled
def share(
    part: int, parts: int, by_units: bool, striped: bool, team: NDArray, B: int, H: int, W: int
) -> tuple[int, int, int, int, int, int]:  # fmt: skip
    """Return the active parts, 0 if this one has no work; its rows, as first, end and distance; and its units u0 … u1."""
    if not by_units:
        if striped:
            return parts, part, B, parts, 0, H
        return parts, part * B // parts, (part + 1) * B // parts, 1, 0, H
    active, P = meet(team, parts), H // W
    if active == 0:
        return 0, 0, 0, 1, 0, 0
    own = part % active
    return active, 0, B, 1, own * P // active * W, (own + 1) * P // active * W


@compiled
def count_rows(n: int, first: int, end: int, apart: int) -> int:
    """Return how many of the rows first, first + apart, … before ``end`` are among the first n."""
    return max((min(n, end) - first + apart - 1) // apart, 0)


@compiled
def hidden_product(
    h: NDArray, h_offset: int, h_row: int, panels: NDArray, bias: NDArray, gates: NDArray, offset: int, width: int,
    rows: int, H: int, G: int, u0: int, u1: int, back: bool,
) -> None:  # fmt: skip
    """Set gates[r, g·H + u0 … g·H + u1] = h[r] · w_hhᵀ + bias (G·H,) for G gates.

    ``h`` and ``gates`` are flat, with rows ``h_row`` and ``width`` apart. The input product is added when the gates are
    activated, which saves a pass over them.
    """
    columns, pieces, W = u1 - u0, G, panels.shape[2]
    if columns == H:  # all gates at once
        columns, pieces = G * H, 1
    for i in range(pieces):
        at = (pieces - 1 - i if back else i) * H + u0
        multiply_part(
            h, h_offset, h_row, 1, panels, at // W, bias, at, 0, gates, offset + at, width, rows, columns, back
        )  # fmt: skip
