"""Training of the network in PyTorch: loss, gradients and updates, for the one training loop.

Letters: T time, B batch, S states, L layers, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.engine.errors import ConfigError
from unrolled.engine.models.dropout import Masks
from unrolled.engine.models.heads.head import Outputs
from unrolled.engine.models.inputs.batch import TOKENS, Batch
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.layers.output_loss import LossSums
from unrolled.engine.models.parameters import Params, parameter_shapes
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.models.step_contract import check_step
from unrolled.engine.network.network import Inputs
from unrolled.engine.optimizers.config import OptimizerConfig
from unrolled.engine.optimizers.gradient_scaling import gradient_factor
from unrolled.engine.training.trainable import StepResult, check_state
from unrolled.export.torch.inference import as_tensor, run_step
from unrolled.export.torch.model import TORCH_CELLS, TorchLM, load_params, make_torch_model
from unrolled.export.torch.output_loss import output_loss


def run_masked_layers(
    model: TorchLM, config: LanguageModelConfig, x: Tensor, state: Tensor, masks: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Run the layers as ``model.run_layers`` does, with the outputs of all layers but the last multiplied by ``masks``."""
    run, finals = TORCH_CELLS[config.cell].layer, []
    for layer in range(config.num_layers):
        if layer > 0:
            x = x * masks[layer - 1]
        initial = (
            tuple(state[:, layer : layer + 1]) if config.cell_definition.states > 1 else state[0, layer : layer + 1]
        )
        x, *final = run(x, initial, model.rnn.all_weights[layer], True, 1, 0.0, False, False, False)
        finals.append(torch.cat(final))  # (S, B, H)
    return x, torch.stack(finals, dim=1)


def _masked(x: Tensor, mask: NDArray | None) -> Tensor:
    return x if mask is None else x * torch.from_numpy(mask)


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
    """A TorchLM with its optimiser under the contract of ``Trainable``; arrays in and out."""

    engine = "torch"

    def __init__(
        self, spec: ModelSpec, params: Params, optimizer: OptimizerConfig, clip_norm: float | None = None
    ) -> None:
        config = LanguageModelConfig.from_spec(spec)
        if config is None:
            raise ConfigError(f"engine: torch does not train models with the head {spec.head.kind}")
        self.spec, self.config = spec, config
        self.model = make_torch_model(config, params)
        self.dtype = params["output.bias"].dtype
        self.clip_norm = clip_norm
        self.optimizer_config, self.learning_rate = optimizer, optimizer.base_learning_rate
        self.optimizer = TORCH_OPTIMIZERS[optimizer.name](optimizer, list(self.model.parameters()))

    def _loss(
        self, batch: Batch, state: NDArray, masks: Masks | None, smoothing: float = 0.0
    ) -> tuple[Tensor, LossSums, NDArray]:
        """Return the sum of the batch's losses, as a differentiable tensor and as numbers, and the state after the batch."""
        tokens, mask = batch.inputs[TOKENS], batch.weights > 0
        check_step(self.config, tokens, state, self.dtype)
        masks = masks or Masks(None, None, None)
        x = _masked(self.model.embedding(as_tensor(tokens)), masks.inputs)
        if masks.between is None:
            h, final = self.model.run_layers(x, as_tensor(state))
        else:
            given = [torch.from_numpy(mask) for mask in masks.between]
            h, final = run_masked_layers(self.model, self.config, x, as_tensor(state), given)
        h, targets = _masked(h, masks.outputs), torch.from_numpy(batch.targets)
        if mask.all():
            h, targets = h.flatten(0, 1), targets.flatten()
        else:
            counted = torch.from_numpy(mask)
            h, targets = h[counted], targets[counted]
        output = self.model.output
        loss, correct = output_loss(h, output.weight, output.bias, targets, smoothing)
        return (
            loss,
            LossSums(float(loss.detach()), float(len(targets)), (correct, len(targets))),
            final.detach().numpy(),
        )

    def _scaled(self, loss: Tensor, batch: Batch) -> Tensor:
        """Scale a sum of losses to its share of the objective: the mean over ``batch``, or its sum over time."""
        # The mean over no tokens is 0, with zero gradients, as in the other engines.
        return loss * (gradient_factor(self.optimizer_config, batch.weight, batch.batch_size) / (batch.weight or 1.0))

    def _backward(self, batch: Batch, state: NDArray, masks: Masks | None) -> tuple[LossSums, NDArray]:
        """Add the objective's gradients to the parameters; return loss sums and the state after the batch."""
        loss, result, final = self._loss(batch, state, masks, self.optimizer_config.label_smoothing)
        self._scaled(loss, batch).backward()
        return result, final

    def train_step(self, batch: Batch, state: NDArray, learning_rate: float, masks: Masks | None = None) -> StepResult:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad()
        result, final = self._backward(batch, state, masks)
        if self.optimizer_config.clip_value is not None:
            nn.utils.clip_grad_value_(self.model.parameters(), self.optimizer_config.clip_value)
        limit = float("inf") if self.clip_norm is None else self.clip_norm
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), limit))
        if np.isfinite(norm) and np.isfinite(result.loss):
            self.optimizer.step()
        return StepResult(result, norm, final)

    def gradients(self, batch: Batch, state: NDArray, masks: Masks | None = None) -> Params:
        """Return the gradients of the batch's mean loss by name, without an update."""
        self.optimizer.zero_grad()
        (self._loss(batch, state, masks)[0] / (batch.weight or 1.0)).backward()
        return {name: p.grad.numpy().copy() for name, p in self.model.named_parameters() if p.grad is not None}

    def evaluate(self, batch: Batch, state: NDArray) -> tuple[LossSums, NDArray]:
        with torch.inference_mode():
            _, result, final = self._loss(batch, state, None)
        return result, final

    def step(self, inputs: Inputs, state: NDArray) -> tuple[Outputs, NDArray]:
        """Return logits and state of the live model."""
        check_step(self.config, inputs[TOKENS], state, self.dtype)
        logits, state = run_step(self.model, inputs[TOKENS], state)
        return {"logits": logits}, state

    def warm_up(self, batch: Batch, state: NDArray) -> None:
        self.gradients(batch, state)
        self.optimizer.zero_grad()

    def export_params(self) -> Params:
        own = dict(self.model.named_parameters())
        return {name: own[name].detach().numpy().copy() for name in parameter_shapes(self.spec)}

    def load_params(self, params: Params) -> None:
        load_params(self.model, params)

    def training_state(self) -> dict[str, NDArray]:
        """Return parameters by name and the optimiser's state of each as ``name/key``; before the first update it has none."""
        arrays = {}
        for name, parameter in self.model.named_parameters():
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
            for name, parameter in self.model.named_parameters():
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
        load_params(self.model, before)
