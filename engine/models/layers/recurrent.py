"""A recurrent layer of one or two directions over rows of different lengths, on top of a cell that knows of neither.

The rows of one length run together, over as many time steps as they have; the reverse direction runs over the time steps in
the opposite order. So a padded batch equals its rows alone by construction:

    →h_t = cell(x_t, →h_{t-1}),  t = 0 … n-1          ←h_t = cell(x_t, ←h_{t+1}),  t = n-1 … 0
    y_t = [→h_t, ←h_t] for t < n, and 0 in the padding

The final state is the one after time step n - 1 forwards, and after time step 0 in reverse. Source of the second direction:
M. Schuster and K. K. Paliwal, "Bidirectional Recurrent Neural Networks" (1997), equations of section II.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.models.cells import CELLS


class Steps(NamedTuple):
    """The valid time steps of a batch.

    Args:
        T, B: time steps and rows.
        lengths: (B,), valid time steps of each row; None: all T.
    """

    T: int
    B: int
    lengths: NDArray[np.int64] | None


class DirectionGradients(NamedTuple):
    """Factors of the gradients of one direction's parameters, in the engine's layout of time steps.

    Args:
        dxg: (T, B, G·H), gradient of its input product.
        dhg: (T, B, G·H), gradient of its hidden product.
        h_prev: (T, B, H), input of its hidden product.
    """

    dxg: Any
    dhg: Any
    h_prev: NDArray


class RecurrentFunctions(NamedTuple):
    """A recurrent layer on an engine; the reference functions of the same names document formulas and shapes.

    An engine may keep the time steps of a batch in a layout of its own, from ``pack`` on and up to ``unpack``: all layers
    between them, which work on the last axis alone, do not notice. ``Any`` stands for arrays in such layouts.

    Args:
        plan: (T, B, lengths) -> the engine's form of ``Steps``.
        pack: (array (T, B, …), steps) -> the array in the engine's layout.
        unpack: its inverse, with zeros in the padding.
        forward, backward: the layer.
    """

    plan: Callable[[int, int, NDArray[np.int64] | None], Any]
    pack: Callable[[NDArray, Any], NDArray]
    unpack: Callable[[NDArray, Any], NDArray]
    forward: Callable[..., tuple[NDArray, NDArray, Any]]
    backward: Callable[..., tuple[list[DirectionGradients], NDArray]]


def plan(T: int, B: int, lengths: NDArray[np.int64] | None) -> Steps:
    """Return the valid time steps of a batch."""
    return Steps(T, B, None if lengths is None or int(lengths.min()) == T else lengths)


def valid(steps: Steps) -> NDArray[np.bool_]:
    """Return which time steps are valid, (T, B)."""
    lengths = np.full(steps.B, steps.T) if steps.lengths is None else steps.lengths
    return np.arange(steps.T)[:, None] < lengths


def pack(array: NDArray, steps: Steps) -> NDArray:
    """Return an array (T, B, …) with zeros in the padding, whatever is there; a mask of one time step serves all."""
    if steps.lengths is None:
        return array
    return np.where(valid(steps).reshape(steps.T, steps.B, *(1,) * (array.ndim - 2)), array, array.dtype.type(0))


def unpack(array: NDArray, steps: Steps) -> NDArray:
    """Return the array: the reference keeps the layout (T, B, …)."""
    return array


class _Group(NamedTuple):
    """Rows of one length, and the index of their valid time steps in the order of one direction.

    Args:
        rows: index of the rows on the axis of the batch.
        at: index of their time steps in an array (T, B, …).
    """

    rows: Any
    at: tuple[Any, ...]


_ALL, _REVERSED = slice(None), slice(None, None, -1)


def _groups(steps: Steps, direction: int) -> list[_Group]:
    """Return the rows of each length with their time steps in the order in which a direction visits them."""
    if steps.lengths is None:  # slices: views instead of copies
        return [_Group(_ALL, (_REVERSED if direction else _ALL, _ALL))]
    groups = []
    for n in np.unique(steps.lengths):
        order, rows = np.arange(n), np.flatnonzero(steps.lengths == n)
        groups.append(_Group(rows, np.ix_(order[::-1] if direction else order, rows)))
    return groups


def _halves(y: NDArray, directions: int) -> list[NDArray]:
    """Return views (T, B, H) of the outputs (T, B, D·H) of each direction."""
    H = y.shape[-1] // directions
    return [y[..., d * H : (d + 1) * H] for d in range(directions)]


def forward(
    cell: str,
    xgs: Sequence[NDArray],
    s0: NDArray,
    w_hhs: Sequence[NDArray],
    b_hhs: Sequence[NDArray],
    steps: Steps,
) -> tuple[NDArray, NDArray, Any]:
    """Run one layer.

    Args:
        cell: a key of ``CELLS``.
        xgs: the input product (T, B, G·H) of each direction.
        s0: (S, D, B, H), the initial state.
        w_hhs, b_hhs: (G·H, H) and (G·H,) of each direction.
        steps: from ``plan``.

    Returns:
        Outputs (T, B, D·H), zero in the padding, the final state (S, D, B, H), and a tape for ``backward``.
    """
    if len(xgs) == 1 and steps.lengths is None:  # as below without copies, which take 5% of a single time step
        (group,) = _groups(steps, 0)
        states, gates = CELLS[cell].forward(xgs[0], s0[:, 0], w_hhs[0], b_hhs[0])
        return np.ascontiguousarray(states[1:, 0]), states[-1][:, None], [(0, group, states, gates)]
    H = s0.shape[3]
    shape = steps.T, steps.B, len(xgs) * H
    y = np.empty(shape, s0.dtype) if steps.lengths is None else np.zeros(shape, s0.dtype)
    halves = _halves(y, len(xgs))
    final, tape = np.empty_like(s0), []
    for d, (xg, w_hh, b_hh) in enumerate(zip(xgs, w_hhs, b_hhs, strict=True)):
        for group in _groups(steps, d):
            states, gates = CELLS[cell].forward(xg[group.at], s0[:, d, group.rows], w_hh, b_hh)
            halves[d][group.at] = states[1:, 0]
            final[:, d, group.rows] = states[-1]
            tape.append((d, group, states, gates))
    return y, final, tape


def backward(
    cell: str,
    dy: NDArray,
    dfinal: NDArray,
    tape: Any,
    w_hhs: Sequence[NDArray],
    b_hhs: Sequence[NDArray],
    steps: Steps,
) -> tuple[list[DirectionGradients], NDArray]:
    """Return the gradients of one layer for each direction, zero in the padding, and that (S, D, B, H) of the initial state.

    Args:
        dy: (T, B, D·H), gradient of the outputs; ignored in the padding.
        dfinal: (S, D, B, H), gradient of the final state.
        tape: from ``forward``; used up.
    """
    H, rows = dfinal.shape[3], w_hhs[0].shape[0]
    ds0 = np.empty_like(dfinal)
    gradients = []
    for _ in w_hhs:
        dxg, dhg = (np.zeros((steps.T, steps.B, rows), dy.dtype) for _ in range(2))
        gradients.append(DirectionGradients(dxg, dhg, np.zeros((steps.T, steps.B, H), dy.dtype)))
    halves = _halves(dy, len(w_hhs))
    for d, (rows, at), states, gates in tape:
        dh, ds = halves[d][at], dfinal[:, d, rows]
        dxg, dhg, before = CELLS[cell].backward(dh, ds, states, gates, w_hhs[d], b_hhs[d])
        gradients[d].dxg[at], gradients[d].dhg[at], gradients[d].h_prev[at] = dxg, dhg, states[:-1, 0]
        ds0[:, d, rows] = before
    return gradients, ds0


RECURRENT = RecurrentFunctions(plan, pack, unpack, forward, backward)
