"""The network from scratch: embedding, recurrent layers, output and loss, forward and backward, on either backend.

Input, recurrent layers and output are separate pairs of functions, which ``LanguageModel`` composes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.data.batches import Batch
from unrolled.engine.errors import ConfigError, ShapeError
from unrolled.engine.models.dropout import Masks
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.layers.output_loss import LossResult
from unrolled.engine.models.parameters import (
    Params,
    check_params,
    layer_names,
    layer_params,
    output_weight_name,
    parameter_shapes,
    parameter_views,
)
from unrolled.engine.models.step_contract import are_ids, check_step
from unrolled.engine.network.backends import FLOAT32, Backend, get_backend


class LayerTape(NamedTuple):
    """Values of a layer's forward that its backward reads."""

    x: NDArray | None  # (T, B, H); None for the first layer, whose input product is computed outside
    states: NDArray  # (T + 1, S, B, H)
    gates: NDArray


class FirstLayerGradients(NamedTuple):
    """Factors of the gradients of the first layer's parameters."""

    dxg: NDArray  # (T, B, G·H), gradient of its input product
    dhg: NDArray  # (T, B, G·H), gradient of its hidden product
    h_prev: NDArray  # (T, B, H), input of its hidden product


class Gradients(NamedTuple):
    """Loss sums of a batch, gradients of its mean loss, and the state after it."""

    loss: LossResult
    params: Params
    flat: NDArray  # the memory of ``params`` as one array, in the parameters' order
    state: NDArray  # (S, L, B, H) after the last step
    dstate: NDArray  # (S, L, B, H), gradient of the initial state


def layers_forward(
    backend: Backend,
    config: LanguageModelConfig,
    params: Params,
    xg: Any,
    state: NDArray,
    masks: Sequence[NDArray] | None = None,
) -> tuple[NDArray, NDArray, list[LayerTape]]:
    """Run all recurrent layers.

    Args:
        xg: (T, B, G·H), the first layer's input product, in the backend's format.
        state: (S, L, B, H), the initial state.
        masks: dropout masks (T, B, H) for each boundary between layers.

    Returns:
        The last layer's outputs (T, B, H), the state (S, L, B, H) after the last step, and a tape for each layer.
    """
    cell = backend.cells[config.cell]
    final = np.empty_like(state)
    tapes = []
    x = None
    for layer in range(config.num_layers):
        w_ih, w_hh, b_ih, b_hh = layer_params(params, layer)
        if x is not None:
            x = x if masks is None else x * masks[layer - 1]
            xg = backend.layers.linear_forward(x, w_ih, b_ih)
        states, gates = cell.forward(xg, np.ascontiguousarray(state[:, layer]), w_hh, b_hh)
        tapes.append(LayerTape(x, states, gates))
        final[:, layer] = states[-1]
        x = np.ascontiguousarray(states[1:, 0])
    assert x is not None  # there is at least one layer
    return x, final, tapes


def layers_backward(
    backend: Backend,
    config: LanguageModelConfig,
    params: Params,
    dh: NDArray,
    dstate: NDArray,
    tapes: Sequence[LayerTape],
    grads: Params,
    masks: Sequence[NDArray] | None = None,
) -> tuple[FirstLayerGradients, NDArray]:
    """Run all recurrent layers backwards, and add the gradients of all but the first layer's parameters to ``grads``.

    Args:
        dh: (T, B, H), gradient of the last layer's outputs.
        dstate: (S, L, B, H), gradient of the state after the last step.
        masks: as in ``layers_forward``.

    Returns:
        The factors of the first layer's gradients, and the gradient (S, L, B, H) of the initial state.
    """
    cell, layers = backend.cells[config.cell], backend.layers
    dstate_0 = np.empty_like(dstate)
    for layer in reversed(range(config.num_layers)):
        names = layer_names(layer)
        w_ih, w_hh, _, b_hh = layer_params(params, layer)
        x, states, gates = tapes[layer]
        dxg, dhg, ds0 = cell.backward(dh, np.ascontiguousarray(dstate[:, layer]), states, gates, w_hh, b_hh)
        dstate_0[:, layer] = ds0
        h_prev = np.ascontiguousarray(states[:-1, 0])
        if x is not None:
            layers.linear_backward_weight(dhg, h_prev, grads[names.w_hh], grads[names.b_hh])
            layers.linear_backward_weight(dxg, x, grads[names.w_ih], grads[names.b_ih])
            dh = layers.linear_backward_input(dxg, w_ih)
            dh = dh if masks is None else dh * masks[layer - 1]
    return FirstLayerGradients(dxg, dhg, h_prev), dstate_0


class LanguageModel:
    """A language model on NumPy arrays; it holds parameters and no state.

    Args:
        config: description of the model.
        params: its parameters, float32 or float64; contiguous arrays are kept, not copied.
        backend: "numpy" (the reference) or "numba" (compiled, the same results).
        precision: precision of the products: "float32", or "bf16" for float32 parameters on "numba", where everything
            else stays in float32.

    Raises:
        ConfigError: backend, precision, parameters and processor do not go together.
    """

    def __init__(
        self, config: LanguageModelConfig, params: Params, backend: str = "numpy", precision: str = FLOAT32
    ) -> None:  # fmt: skip
        check_params(config, params)
        self.config = config
        self.params = {name: np.ascontiguousarray(value) for name, value in params.items()}
        self.backend, self.precision = get_backend(backend, precision), precision
        if precision != FLOAT32 and self.dtype != np.float32:
            raise ConfigError(f"precision: {precision} is for float32 parameters, got {self.dtype}")

    def __reduce__(self) -> Any:
        return LanguageModel, (self.config, self.params, self.backend.name, self.precision)

    @property
    def engine(self) -> str:
        """Return the name of the backend, with the precision unless it is float32."""
        return self.backend.name if self.precision == FLOAT32 else f"{self.backend.name}-{self.precision}"

    @property
    def dtype(self) -> np.dtype:
        """Return the dtype of the parameters."""
        return self.params["output.bias"].dtype

    def step(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        """Return logits (T, B, V) and next state of ``tokens`` (T, B) from ``state`` (S, L, B, H)."""
        check_step(self.config, tokens, state, self.dtype)
        h, final, *_ = self._forward(np.ascontiguousarray(tokens), state)
        weight = self.params[output_weight_name(self.config)]
        return self.backend.layers.linear_forward(h, weight, self.params["output.bias"]), final

    def evaluate(self, batch: Batch, state: NDArray) -> tuple[LossResult, NDArray]:
        """Return the loss sums of a batch and the state after it, without gradients."""
        self._check_batch(batch, state)
        h, final, *_ = self._forward(batch.inputs, state)
        loss, _ = self._output_loss(h, batch, None)
        return loss, final

    def gradients(
        self, batch: Batch, state: NDArray, masks: Masks | None = None, smoothing: float = 0.0
    ) -> Gradients:  # fmt: skip
        """Return the loss sums of a batch, the gradients of its mean loss by name, and the state after it.

        Back-propagation through time stops at the batch's first step: the initial state is a constant.

        Args:
            masks: dropout masks.
            smoothing: as in ``softmax_cross_entropy``; the loss is the smoothed one.
        """
        self._check_batch(batch, state)
        params, shapes = self.params, parameter_shapes(self.config)
        h, final, tapes, x = self._forward(batch.inputs, state, masks)
        between, outputs = (None, None) if masks is None else (masks.between, masks.outputs)
        flat = self.backend.layers.zeros(sum(map(math.prod, shapes.values())), self.dtype)
        grads = parameter_views(flat, shapes)
        loss, dh = self._output_loss(h if outputs is None else h * outputs, batch, grads, smoothing)
        assert dh is not None  # computed because ``grads`` are given
        if outputs is not None:
            dh *= outputs
        first, dstate = layers_backward(
            self.backend, self.config, params, dh, np.zeros_like(state), tapes, grads, between
        )  # fmt: skip
        self._input_backward(first, batch.inputs, x, masks, grads)
        return Gradients(loss, grads, flat, final, dstate)

    def _forward(
        self, tokens: NDArray, state: NDArray, masks: Masks | None = None
    ) -> tuple[NDArray, NDArray, list[LayerTape], NDArray | None]:
        """Return the results of ``layers_forward`` for tokens, and the masked inputs (T, B, E) if there is a mask."""
        first, layers, embedding = layer_params(self.params, 0), self.backend.layers, self.params["embedding.weight"]
        if masks is None or masks.inputs is None:
            x, xg = None, layers.embedded_linear_forward(embedding, tokens, first.w_ih, first.b_ih)
        else:
            x = layers.embedding_forward(embedding, tokens) * masks.inputs
            xg = layers.linear_forward(x, first.w_ih, first.b_ih)
        between = None if masks is None else masks.between
        return *layers_forward(self.backend, self.config, self.params, xg, state, between), x

    def _output_loss(
        self, h: NDArray, batch: Batch, grads: Params | None, smoothing: float = 0.0
    ) -> tuple[LossResult, NDArray | None]:  # fmt: skip
        """Return the loss sums and, with ``grads``, the gradient of ``h`` (T, B, H)."""
        weight = output_weight_name(self.config)
        output_grads = None if grads is None else (grads[weight], grads["output.bias"])
        return self.backend.layers.output_loss(
            h, self.params[weight], self.params["output.bias"], batch.targets, batch.mask, output_grads, smoothing
        )  # fmt: skip

    def _input_backward(
        self, first: FirstLayerGradients, tokens: NDArray, x: NDArray | None, masks: Masks | None, grads: Params
    ) -> None:
        """Add the gradients of the embedding and the first layer; ``x`` (T, B, E) are its inputs if they were masked."""
        layers, names = self.backend.layers, layer_names(0)
        dembedding, dw_ih, db_ih, dw_hh, db_hh = targets = (
            grads["embedding.weight"], grads[names.w_ih], grads[names.b_ih], grads[names.w_hh], grads[names.b_hh],
        )  # fmt: skip
        if x is None or masks is None:
            layers.first_layer_backward(
                *first, self.params["embedding.weight"], tokens, self.params[names.w_ih], targets
            )  # fmt: skip
            return
        layers.linear_backward_weight(first.dhg, first.h_prev, dw_hh, db_hh)
        layers.linear_backward_weight(first.dxg, x, dw_ih, db_ih)
        layers.embedding_backward(
            layers.linear_backward_input(first.dxg, self.params[names.w_ih]) * masks.inputs, tokens, dembedding
        )

    def _check_batch(self, batch: Batch, state: NDArray) -> None:
        """Check shapes, dtypes and ids of a batch and its state.

        Raises:
            ShapeError: they do not fit the model or each other.
        """
        check_step(self.config, batch.inputs, state, self.dtype)
        if batch.targets.shape != batch.inputs.shape or batch.mask.shape != batch.inputs.shape:
            raise ShapeError(
                f"batch: inputs {batch.inputs.shape}, targets {batch.targets.shape} and mask {batch.mask.shape} "
                "need one shape (T, B)"
            )
        # Targets under a false mask may hold any value, but rarely do: the cheap check of all comes first.
        if not are_ids(batch.targets, V := self.config.vocab_size) and not are_ids(batch.targets[batch.mask], V):
            raise ShapeError(f"targets: ids outside the vocabulary's 0 … {V - 1}")
