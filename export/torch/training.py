"""Training of the network in PyTorch: loss, gradients and updates, for the one training loop.

Letters: T time, B batch, S states, L layers, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.engine.models.batch_checks import checked_batch
from unrolled.engine.models.dropout import NO_MASKS, Masks
from unrolled.engine.models.heads.head import Outputs
from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.models.layers.output_loss import LossSums
from unrolled.engine.models.parameters import Params
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.network.network import Inputs
from unrolled.engine.optimizers.config import OptimizerConfig
from unrolled.engine.optimizers.gradient_scaling import gradient_factor
from unrolled.engine.training.trainable import StepResult, check_smoothing, check_state
from unrolled.export.torch.heads import TORCH_HEADS, TorchLoss
from unrolled.export.torch.inference import as_tensor, packed_lengths, run_network, shareable
from unrolled.export.torch.network import TorchNetwork

TORCH_OPTIMIZERS: dict[str, Callable[[OptimizerConfig, Any], torch.optim.Optimizer]] = {
    "sgd": lambda c, p: torch.optim.SGD(p, c.base_learning_rate, c.momentum, weight_decay=c.effective_weight_decay),
    "rmsprop": lambda c, p: torch.optim.RMSprop(p, c.base_learning_rate, c.alpha, c.eps, c.effective_weight_decay),
    "adam": lambda c, p: torch.optim.Adam(
        p, c.base_learning_rate, (c.beta1, c.beta2), c.eps, c.effective_weight_decay, fused=True
    ),
    "adamw": lambda c, p: torch.optim.AdamW(
        p, c.base_learning_rate, (c.beta1, c.beta2), c.eps, c.effective_weight_decay, fused=True
    ),
}


class TorchTrainable:
    """The twin of a model with its optimiser under the contract of ``Trainable``; arrays in and out.

    Raises:
        ConfigError: the head takes no label smoothing.
    """

    engine = "torch"

    def __init__(
        self, spec: ModelSpec, params: Params, optimizer: OptimizerConfig, clip_norm: float | None = None
    ) -> None:
        check_smoothing(spec, optimizer)
        self.spec, self.model = spec, TorchNetwork(spec, params)
        self.dtype = next(iter(params.values())).dtype
        self.clip_norm = clip_norm
        self.optimizer_config, self.learning_rate = optimizer, optimizer.base_learning_rate
        self.optimizer = TORCH_OPTIMIZERS[optimizer.name](optimizer, list(self.model.parameters()))

    def _loss(
        self, batch: Batch, state: Tensor, masks: Masks | None = None, smoothing: float = 0.0
    ) -> tuple[TorchLoss, Tensor]:
        """Return the loss of a checked batch, which can be differentiated, and the state after the batch."""
        inputs = {name: as_tensor(array) for name, array in batch.inputs.items()}
        lengths = packed_lengths(batch.lengths, self.spec.batch_shape(batch.inputs)[0])
        y, final = self.model.run_core(inputs, lengths, state, masks or NO_MASKS)
        head = self.spec.head
        batch = batch._replace(targets=shareable(batch.targets), weights=shareable(batch.weights))
        return TORCH_HEADS[head.kind].loss(head, self.model.weights, y, final, batch, smoothing), final

    def _scaled(self, loss: Tensor, batch: Batch) -> Tensor:
        """Scale a sum of losses to its share of the objective: the mean over ``batch``, or its sum over time."""
        # The mean over no tokens is 0, with zero gradients, as in the other engines.
        return loss * (gradient_factor(self.optimizer_config, batch.weight, batch.batch_size) / (batch.weight or 1.0))

    def _backward(self, batch: Batch, state: NDArray, masks: Masks | None) -> tuple[LossSums, NDArray]:
        """Add the objective's gradients to the parameters; return loss sums and the state after the batch."""
        loss, final = self._loss(batch, as_tensor(state), masks, self.optimizer_config.label_smoothing)
        self._scaled(loss.total, batch).backward()
        return loss.sums, final.detach().numpy()

    def train_step(self, batch: Batch, state: NDArray, learning_rate: float, masks: Masks | None = None) -> StepResult:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad()
        result, final = self._backward(checked_batch(self.spec, batch, state, self.dtype), state, masks)
        if self.optimizer_config.clip_value is not None:
            nn.utils.clip_grad_value_(self.model.parameters(), self.optimizer_config.clip_value)
        limit = float("inf") if self.clip_norm is None else self.clip_norm
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), limit))
        if np.isfinite(norm) and np.isfinite(result.loss):
            self.optimizer.step()
        return StepResult(result, norm, final)

    def gradients(self, batch: Batch, state: NDArray, masks: Masks | None = None, smoothing: float = 0.0) -> Params:
        """Return the gradients of the batch's mean loss by name, without an update."""
        batch = checked_batch(self.spec, batch, state, self.dtype)
        self.optimizer.zero_grad()
        loss, _ = self._loss(batch, as_tensor(state), masks, smoothing)
        (loss.total / (batch.weight or 1.0)).backward()
        return {name: p.grad.numpy().copy() for name, p in self.model.weights.items() if p.grad is not None}

    def evaluate(self, batch: Batch, state: NDArray) -> tuple[LossSums, NDArray]:
        batch = checked_batch(self.spec, batch, state, self.dtype)
        with torch.inference_mode():
            loss, final = self._loss(batch, as_tensor(state))
        return loss.sums, final.numpy()

    def step(self, inputs: Inputs, state: NDArray) -> tuple[Outputs, NDArray]:
        """Return the outputs of the live model and the state after them.

        Raises:
            ConfigError: the model has no steps.
        """
        self.spec.require("step")
        return run_network(self.model, inputs, None, state)

    def warm_up(self, batch: Batch, state: NDArray) -> None:
        self.gradients(batch, state)
        self.optimizer.zero_grad()

    def export_params(self) -> Params:
        return {name: parameter.detach().numpy().copy() for name, parameter in self.model.weights.items()}

    def load_params(self, params: Params) -> None:
        self.model.load_params(params)

    def training_state(self) -> dict[str, NDArray]:
        """Return parameters by name and the optimiser's state of each as ``name/key``; before the first update it has none."""
        arrays = {}
        for name, parameter in self.model.weights.items():
            arrays[name] = parameter.detach().numpy().copy()
            for key, value in self.optimizer.state[parameter].items():
                if isinstance(value, Tensor):
                    arrays[f"{name}/{key}"] = value.numpy().copy()
        return arrays

    def load_training_state(self, arrays: Mapping[str, NDArray]) -> None:
        if any("/" in name for name in arrays):
            self._fill_optimizer()
        else:
            self.optimizer.state.clear()  # saved before the first update
        check_state(arrays, self.training_state())
        with torch.no_grad():
            for name, parameter in self.model.weights.items():
                parameter.copy_(torch.from_numpy(arrays[name]))
                for key, value in self.optimizer.state[parameter].items():
                    if isinstance(value, Tensor):
                        value.copy_(torch.from_numpy(arrays[f"{name}/{key}"]))

    def _fill_optimizer(self) -> None:
        """Let the optimiser allocate its state of each parameter: an update with zero gradients, then undone."""
        before = self.export_params()
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.model.load_params(before)
