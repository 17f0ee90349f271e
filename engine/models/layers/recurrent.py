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
    """Rows of one length, and the order of their time steps in one direction."""

    rows: NDArray[np.int64]
    order: NDArray[np.int64]


def _groups(steps: Steps, direction: int) -> list[_Group]:
    """Return the rows of each length with their time steps in the order in which a direction visits them."""
    lengths = np.full(steps.B, steps.T) if steps.lengths is None else steps.lengths
    groups = []
    for n in np.unique(lengths):
        order = np.arange(n)
        groups.append(_Group(np.flatnonzero(lengths == n), order[::-1] if direction else order))
    return groups


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
    H = s0.shape[3]
    y = np.zeros((steps.T, steps.B, len(xgs) * H), s0.dtype)
    halves = np.split(y, len(xgs), axis=-1)  # views
    final, tape = np.empty_like(s0), []
    for d, (xg, w_hh, b_hh) in enumerate(zip(xgs, w_hhs, b_hhs, strict=True)):
        for group in _groups(steps, d):
            at = np.ix_(group.order, group.rows)
            states, gates = CELLS[cell].forward(xg[at], s0[:, d, group.rows], w_hh, b_hh)
            halves[d][at] = states[1:, 0]
            final[:, d, group.rows] = states[-1]
            tape.append((d, at, states, gates))
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
    halves = np.split(dy, len(w_hhs), axis=-1)
    for d, at, states, gates in tape:
        dh, ds = halves[d][at], dfinal[:, d, at[1][0]]
        dxg, dhg, before = CELLS[cell].backward(dh, ds, states, gates, w_hhs[d], b_hhs[d])
        gradients[d].dxg[at], gradients[d].dhg[at], gradients[d].h_prev[at] = dxg, dhg, states[:-1, 0]
        ds0[:, d, at[1][0]] = before
    return gradients, ds0


RECURRENT = RecurrentFunctions(plan, pack, unpack, forward, backward)
