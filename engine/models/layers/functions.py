"""The layers around the recurrent ones that every backend of the network provides, and the NumPy reference."""

from __future__ import annotations

from collections.abc import Callable
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


LAYERS = LayerFunctions(
    zeros=zeros,
    linear_forward=linear_forward,
    linear_backward_input=linear_backward_input,
    linear_backward_weight=linear_backward_weight,
    embedded_linear_forward=embedded_linear_forward,
    first_layer_backward=first_layer_backward,
)
