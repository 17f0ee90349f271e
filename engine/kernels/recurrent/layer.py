"""A recurrent layer of one or two directions on the scan; contract in ``unrolled.engine.models.layers.recurrent``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.kernels.gemm.packing import Packing
from unrolled.engine.kernels.recurrent import scan
from unrolled.engine.kernels.recurrent.cells import CELL_FORMULAS
from unrolled.engine.kernels.recurrent.layouts import ColumnRanges, Gathered, as_gathered
from unrolled.engine.kernels.recurrent.packed_steps import PackedSteps, pack, plan, unpack
from unrolled.engine.kernels.threads.array_copies import copy
from unrolled.engine.kernels.threads.buffer_pool import empty
from unrolled.engine.kernels.threads.row_copies import take_rows
from unrolled.engine.models.layers.recurrent import DirectionGradients, RecurrentFunctions


class Tape(NamedTuple):
    """Arrays of a layer's forward that its backward reads.

    Args:
        states: (D, S, R, H), all states of each direction in the layout of its time steps.
        gates: (D, N, width), activated gates; (D, S·R, H) for a cell whose gates are its outputs.
    """

    states: NDArray
    gates: NDArray


def forward(
    cell: str, xgs: Sequence[NDArray | Gathered], s0: NDArray, w_hhs: Sequence[NDArray], b_hhs: Sequence[NDArray],
    steps: PackedSteps, packing: Packing = Packing.FULL,
) -> tuple[NDArray, NDArray, Tape]:  # fmt: skip
    """Run one layer; y has the layout of ``steps``.

    One direction forwards needs no copy of y: its outputs are the states after the initial one.
    """
    formulas, (S, D, B, H), N = CELL_FORMULAS[cell], s0.shape, steps.N
    in_place = formulas.gates_are_outputs
    gathered = [as_gathered(xg) for xg in xgs]
    dtype = gathered[0].table.dtype
    states = empty((D, S, N + B, H), dtype)
    for d in range(D):
        if steps.lengths is None:
            copy(s0[:, d], states[d][:, steps.first[d]])
        else:
            states[d][:, steps.first[d]] = s0[:, d][:, steps.order]
    gates = states.reshape(D, S * (N + B), H) if in_place else empty((D, N, formulas.gates * H), dtype)
    y = empty((N, D * H), dtype) if D > 1 else np.empty((0, H), dtype)
    scan.run(cell, gathered, w_hhs, b_hhs, steps, (states, gates, y), packing)
    if steps.lengths is None:
        final = states[:, :, steps.last[0]].transpose(1, 0, 2, 3)  # of all rows, in both directions
    else:
        final = _in_batch_order([states[d][:, steps.last[d]] for d in range(D)], steps)
    y = states[0, 0, B:] if D == 1 else y
    return y.reshape(*steps.shape, D * H), final, Tape(states, gates)


def backward(
    cell: str, dy: NDArray, dfinal: NDArray, tape: Tape, w_hhs: Sequence[NDArray], b_hhs: Sequence[NDArray],
    steps: PackedSteps, packing: Packing = Packing.FULL,
) -> tuple[list[DirectionGradients], NDArray]:  # fmt: skip
    """Return the gradients of one layer, which take the memory of its gates, or that of ``dy``."""
    formulas, (states, gates) = CELL_FORMULAS[cell], tape
    N, D, H = steps.N, dfinal.shape[1], dfinal.shape[3]
    dy = dy.reshape(N, D * H)
    if formulas.gates_are_outputs:
        gates = dy.reshape(1, N, H) if D == 1 else empty((D, N, H), dy.dtype)
    ds = np.empty((D, *dfinal.shape[:1], *dfinal.shape[2:]), dfinal.dtype)  # for the scan to overwrite
    if steps.lengths is None:
        copy(dfinal.transpose(1, 0, 2, 3), ds)
    else:
        ds[...] = dfinal.transpose(1, 0, 2, 3)[:, :, steps.order]
    scan.run_backward(cell, dy, ds, states, gates, w_hhs, steps, packing)
    gradients = []
    for d in range(D):
        own = gates[d].reshape(*steps.shape, -1)
        dxg = tuple((first * H, last * H) for first, last in formulas.dxg)
        dhg = ((0, formulas.products * H),)
        h_prev = _states_before(states[d, 0], d, steps)
        gradients.append(DirectionGradients(ColumnRanges(own, dxg), ColumnRanges(own, dhg), h_prev))
    return gradients, ds.transpose(1, 0, 2, 3) if steps.lengths is None else _in_batch_order(list(ds), steps)


def _in_batch_order(states: list[NDArray], steps: PackedSteps) -> NDArray:
    """Return the state (S, D, B, H) in the batch's order of rows, from that (S, B, H) of each direction, longest row first."""
    together = np.stack(states, axis=1)
    ordered = np.empty_like(together)
    ordered[:, :, steps.order] = together
    return ordered


def _states_before(h: NDArray, direction: int, steps: PackedSteps) -> NDArray:
    """Return the states h (R, H) before each time step, in the layout of ``steps``."""
    if steps.lengths is not None and direction == 0:
        return take_rows(h, steps.lengths.h_prev)
    return h[: steps.N].reshape(*steps.shape, -1)


def recurrent_with(packing: Packing) -> RecurrentFunctions:
    """Return the layer, with products whose factors are packed in the given format."""
    return RecurrentFunctions(plan, pack, unpack, partial(forward, packing=packing), partial(backward, packing=packing))
