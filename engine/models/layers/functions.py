"""The layers around the recurrent ones that every backend of the network provides, and the NumPy reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.models.layers.first_layer import embedded_linear_forward, first_layer_backward
from unrolled.engine.models.layers.linear import linear_backward_input, linear_backward_weight, linear_forward


class LayerFunctions(NamedTuple):
    """The layers of an engine; the reference functions of the same names document formulas and shapes.

    ``Any`` stands for (T, B, G·H) in a format of the engine's own: the products that its cells read, and the gradients that
    they return.
    """

    zeros: Callable[[int, np.dtype], NDArray]
    copy: Callable[[NDArray, NDArray], None]
    mask: Callable[[NDArray, NDArray], NDArray]
    join_columns: Callable[[Sequence[NDArray]], NDArray]
    take_columns: Callable[[NDArray, int, int], NDArray]
    linear_forward: Callable[[NDArray, NDArray, NDArray], NDArray]
    linear_backward_input: Callable[[Any, NDArray, NDArray | None], NDArray]
    linear_backward_weight: Callable[[Any, NDArray, NDArray, NDArray], None]
    embedded_linear_forward: Callable[[NDArray, NDArray, NDArray, NDArray], Any]
    first_layer_backward: Callable[
        [Any, Any, NDArray, NDArray, NDArray, NDArray, tuple[NDArray, NDArray, NDArray, NDArray, NDArray]], None
    ]


def zeros(size: int, dtype: np.dtype) -> NDArray:
    """Return a flat array of zeros, for the gradients of a training step."""
    return np.zeros(size, dtype)


def copy(source: NDArray, target: NDArray) -> None:
    """Copy an array to one of the same shape, whose last axis is contiguous in both."""
    target[...] = source


def mask(x: NDArray, factors: NDArray) -> NDArray:
    """Return x (T, B, F), or (N, F), times the factors of a dropout mask of the same shape, or of one time step (1, B, F)."""
    return x * factors


def join_columns(arrays: Sequence[NDArray]) -> NDArray:
    """Return the columns of arrays (T, B, ·) side by side."""
    return np.concatenate(arrays, axis=-1)


def take_columns(x: NDArray, first: int, last: int) -> NDArray:
    """Return columns ``first`` to ``last`` of x (T, B, F)."""
    return x[..., first:last]


LAYERS = LayerFunctions(
    zeros=zeros,
    copy=copy,
    mask=mask,
    join_columns=join_columns,
    take_columns=take_columns,
    linear_forward=linear_forward,
    linear_backward_input=linear_backward_input,
    linear_backward_weight=linear_backward_weight,
    embedded_linear_forward=embedded_linear_forward,
    first_layer_backward=first_layer_backward,
)
