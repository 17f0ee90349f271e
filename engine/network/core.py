"""The recurrent core on a backend: layers of one or two directions, from the first layer's input products to y, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.models.layers.core_config import CoreConfig
from unrolled.engine.models.layers.recurrent import DirectionGradients
from unrolled.engine.models.parameters import LayerParams, Params, layer_names, layer_params
from unrolled.engine.network.backends import Backend


class LayerTape(NamedTuple):
    """Values of a layer's forward that its backward reads."""

    x: NDArray | None  # (T, B, D·H); None for the first layer, whose input product is computed outside
    recurrent: Any


class CoreTape(NamedTuple):
    """Values of the core's forward that its backward reads."""

    layers: list[LayerTape]
    steps: Any
    masks: Sequence[NDArray] | None  # (T, B, D·H) for each boundary between layers


def direction_params(core: CoreConfig, params: Params, layer: int) -> list[LayerParams]:
    """Return the arrays of a layer for each direction."""
    return [layer_params(params, layer, direction) for direction in range(core.directions)]


def core_forward(
    backend: Backend,
    core: CoreConfig,
    params: Params,
    xgs: Sequence[Any],
    state: NDArray,
    steps: Any,
    masks: Sequence[NDArray] | None = None,
) -> tuple[NDArray, NDArray, CoreTape]:
    """Run all recurrent layers, in the backend's layout of time steps.

    Args:
        xgs: (T, B, G·H), the first layer's input product of each direction, in the backend's format.
        state: (S, L·D, B, H), the initial state.
        steps: the backend's ``plan`` of the batch.
        masks: dropout masks (T, B, D·H) for each boundary between layers.

    Returns:
        The last layer's outputs (T, B, D·H), the final state (S, L·D, B, H), and a tape for ``core_backward``.
    """
    D = core.directions
    final, tapes = np.empty_like(state), []
    x = None
    for layer in range(core.num_layers):
        own = direction_params(core, params, layer)
        if x is not None:
            x = x if masks is None else backend.layers.mask(x, masks[layer - 1])
            xgs = [backend.layers.linear_forward(x, p.w_ih, p.b_ih) for p in own]
        rows = slice(layer * D, (layer + 1) * D)
        y, last, tape = backend.recurrent.forward(
            core.cell, xgs, state[:, rows], [p.w_hh for p in own], [p.b_hh for p in own], steps
        )
        tapes.append(LayerTape(x, tape))
        backend.layers.copy(last, final[:, rows])
        x = y
    return y, final, CoreTape(tapes, steps, masks)


def core_backward(
    backend: Backend, core: CoreConfig, params: Params, dy: NDArray, dfinal: NDArray, tape: CoreTape, grads: Params
) -> tuple[list[DirectionGradients], NDArray]:
    """Run all recurrent layers backwards, and add the gradients of all but the first layer's parameters to ``grads``.

    Args:
        dy: (T, B, D·H), gradient of the last layer's outputs, in the backend's layout.
        dfinal: (S, L·D, B, H), gradient of the final state.
        tape: from ``core_forward``; used up.

    Returns:
        The factors of the first layer's gradients for each direction, and the gradient (S, L·D, B, H) of the initial state.
    """
    D = core.directions
    dstate = np.empty_like(dfinal)
    for layer in reversed(range(core.num_layers)):
        own = direction_params(core, params, layer)
        x, recurrent = tape.layers[layer]
        rows = slice(layer * D, (layer + 1) * D)
        gradients, before = backend.recurrent.backward(
            core.cell, dy, dfinal[:, rows], recurrent, [p.w_hh for p in own], [p.b_hh for p in own], tape.steps
        )
        backend.layers.copy(before, dstate[:, rows])
        if x is not None:
            add_layer_gradients(backend, layer, gradients, x, grads)
            dy = input_gradient(backend, gradients, own)
            dy = dy if tape.masks is None else backend.layers.mask(dy, tape.masks[layer - 1])
    return gradients, dstate


def add_layer_gradients(
    backend: Backend, layer: int, gradients: Sequence[DirectionGradients], x: NDArray, grads: Params
) -> None:
    """Add the gradients of a layer's parameters, given its input x (T, B, E or D·H)."""
    for direction, (dxg, dhg, h_prev) in enumerate(gradients):
        names = layer_names(layer, direction)
        backend.layers.linear_backward_weight(dhg, h_prev, grads[names.w_hh], grads[names.b_hh])
        backend.layers.linear_backward_weight(dxg, x, grads[names.w_ih], grads[names.b_ih])


def input_gradient(backend: Backend, gradients: Sequence[DirectionGradients], params: Sequence[LayerParams]) -> NDArray:
    """Return the gradient (T, B, E or D·H) of a layer's input: the sum over its directions."""
    dx = None
    for gradient, own in zip(gradients, params, strict=True):
        dx = backend.layers.linear_backward_input(gradient.dxg, own.w_ih, dx)
    assert dx is not None  # there is at least one direction
    return dx
