"""The twin in PyTorch: ``nn.Embedding``, ``nn.RNN``/``nn.GRU``/``nn.LSTM``, ``nn.Linear``; same names, same state array."""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.engine.data.batches import Batch
from unrolled.engine.errors import ModelFileError
from unrolled.engine.models.config import ModelConfig
from unrolled.engine.models.dropout import Masks
from unrolled.engine.models.layers import LossResult
from unrolled.engine.models.parameters import Params, check_params, layer_names, parameter_shapes
from unrolled.engine.models.step_contract import check_step
from unrolled.engine.optimizers.config import OptimizerConfig
from unrolled.engine.optimizers.gradient_scaling import gradient_factor
from unrolled.engine.training.trainable import StepResult, check_state
from unrolled.export.torch.output_loss import output_loss


class TorchLM(nn.Module):
    """A language model with one state array (S, L, B, H), S = 1; the LSTM, whose S is 2, is a subclass.

    ``forward(tokens (T, B), state) -> (logits (T, B, V), state)``. Dropout between layers takes given masks, so that all
    engines drop the same units; the module's own dropout is 0.
    """

    vocab_size: Final[int]  # evaluated, not a text: TorchScript reads the annotations of this module

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.vocab_size = config.vocab_size
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size)
        sizes = config.embedding_size, config.hidden_size, config.num_layers
        self.rnn: nn.RNNBase = TORCH_CELLS[config.cell].module(*sizes)
        self.output = nn.Linear(config.hidden_size, config.vocab_size)
        if config.tie_weights:
            self.output.weight = self.embedding.weight

    def run_layers(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, h = self.rnn(x, state[0])
        return y, h.unsqueeze(0)

    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        h, state = self.run_layers(self.embedding(tokens), state)
        return self.output(h), state

    @torch.jit.export
    def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One token a row: (B,) and state to logits (B, V) and state."""
        logits, state = self.forward(tokens.unsqueeze(0), state)
        return logits[0], state

    @torch.jit.export
    def choose(self, logits: Tensor, u: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
        """Tokens (B,) drawn from logits (B, V) at uniforms ``u`` (B,): the sampling rules of ``unrolled.runtime``.

        ``top_k`` 0 and ``top_p`` 1 are off; ``top_k`` 1 or ``temperature`` 0 is greedy, the lowest index among the maxima.
        """
        if temperature == 0.0:
            temperature, top_k = 1.0, 1
        scores = logits.to(torch.float64) / temperature
        if top_k > 0 or top_p < 1.0:
            ordered, order = torch.sort(scores, dim=-1, descending=True, stable=True)
            keep = torch.ones_like(order, dtype=torch.bool)
            if top_k > 0:
                keep[:, top_k:] = False
            if top_p < 1.0:
                p = torch.exp(ordered - ordered[:, :1]) * keep
                before = F.pad(torch.cumsum(p, dim=-1)[:, :-1], [1, 0])  # of the more probable tokens
                keep = keep & (before < top_p * p.sum(dim=-1, keepdim=True))
                keep[:, 0] = True
            scores = scores.masked_fill(torch.zeros_like(keep).scatter(1, order, ~keep), -float("inf"))
        p = torch.exp(scores - scores.max(dim=-1, keepdim=True)[0])
        cdf = torch.cumsum(p, dim=-1)
        index = (cdf <= u.to(torch.float64).unsqueeze(1) * cdf[:, -1:]).sum(dim=-1)
        last = (torch.arange(self.vocab_size) * (p > 0)).max(dim=-1)[0]  # for a product that rounds up to the total
        return torch.minimum(index, last)

    @torch.jit.export
    def generate(
        self,
        prompt: Tensor,
        lengths: Tensor,
        state: Tensor,
        uniforms: Tensor,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        end_token: int = -1,
    ) -> tuple[Tensor, Tensor]:
        """Read prompts of different lengths and write one token a row for each row of ``uniforms``.

        Args:
            prompt: (T, B) int64, row b valid for its first ``lengths[b]`` steps.
            lengths: (B,) int64, each from 1 to T.
            state: (S, L, B, H); zeros to start.
            uniforms: (N, B) in [0, 1), one a draw; their values do not matter with ``top_k`` 1, which is greedy.
            end_token: a row that wrote it goes on with it, and when all rows have, writing stops; -1: none.

        Returns:
            tokens (n, B), n ≤ N, and the state after the last token read (the last one written is not read).
        """
        shortest = int(lengths.min())
        scores, state = self.forward(prompt[:shortest], state)
        logits = scores[-1]
        for t in range(shortest, prompt.size(0)):
            stepped, moved = self.step(prompt[t], state)
            reads = t < lengths  # (B,)
            logits = torch.where(reads.unsqueeze(1), stepped, logits)
            state = torch.where(reads.unsqueeze(1), moved, state)
        ended = torch.zeros_like(lengths, dtype=torch.bool)
        tokens: list[Tensor] = []
        for n in range(uniforms.size(0)):
            if n > 0:
                logits, state = self.step(tokens[-1], state)
            token = self.choose(logits, uniforms[n], temperature, top_k, top_p)
            token = torch.where(ended, torch.full_like(token, end_token), token)
            tokens.append(token)
            ended = ended | (token == end_token)
            if bool(ended.all()):
                break
        if len(tokens) == 0:
            return prompt[:0], state
        return torch.stack(tokens), state


class TorchLSTM(TorchLM):
    """TorchLM for the LSTM, whose state is h and c."""

    def run_layers(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, (h, c) = self.rnn(x, (state[0], state[1]))
        return y, torch.stack([h, c])


class TorchCell(NamedTuple):
    """A cell in PyTorch: its module, and one layer of it as a function, for given dropout masks between layers."""

    module: Callable[..., nn.RNNBase]
    layer: Callable[..., Any]


TORCH_CELLS: dict[str, TorchCell] = {
    "rnn": TorchCell(partial(nn.RNN, nonlinearity="tanh"), torch.rnn_tanh),
    "rnn_relu": TorchCell(partial(nn.RNN, nonlinearity="relu"), torch.rnn_relu),
    "gru": TorchCell(nn.GRU, torch.gru),
    "lstm": TorchCell(nn.LSTM, torch.lstm),
}


def make_torch_model(config: ModelConfig, params: Params) -> TorchLM:
    """A TorchLM with the given parameters, in their dtype."""
    check_params(config, params)
    model = (TorchLSTM if config.spec.states == 2 else TorchLM)(config)
    model.to(torch.from_numpy(params["output.bias"]).dtype)
    load_params(model, params)
    return model


def load_params(model: TorchLM, params: Params) -> None:
    """Copy ``params`` into the model; a tied output matrix follows the embedding's."""
    own = dict(model.named_parameters())  # names a shared parameter once
    if set(own) != set(params):
        raise ModelFileError(f"parameters {sorted(params)} do not match the model's {sorted(own)}")
    with torch.no_grad():
        for name, value in params.items():
            own[name].copy_(torch.from_numpy(np.ascontiguousarray(value)))


def run_masked_layers(
    model: TorchLM, config: ModelConfig, x: Tensor, state: Tensor, masks: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """As ``model.run_layers``, with the outputs of all layers but the last multiplied by ``masks``."""
    run, finals = TORCH_CELLS[config.cell].layer, []
    for layer in range(config.num_layers):
        if layer > 0:
            x = x * masks[layer - 1]
        weights = [getattr(model.rnn, name.removeprefix("rnn.")) for name in layer_names(layer)]
        initial = tuple(state[:, layer : layer + 1]) if config.spec.states > 1 else state[0, layer : layer + 1]
        x, *final = run(x, initial, weights, True, 1, 0.0, False, False, False)
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
    """TorchLM with its optimiser, as the training loop wants it; arrays in and out."""

    engine = "torch"

    def __init__(
        self, config: ModelConfig, params: Params, optimizer: OptimizerConfig, clip_norm: float | None = None
    ) -> None:
        self.config = config
        self.model = make_torch_model(config, params)
        self.dtype = params["output.bias"].dtype
        self.clip_norm = clip_norm
        self.rule, self.learning_rate = optimizer, optimizer.base_learning_rate
        self.optimizer = TORCH_OPTIMIZERS[optimizer.name](optimizer, list(self.model.parameters()))

    def _loss(
        self, batch: Batch, state: NDArray, masks: Masks | None, smoothing: float = 0.0
    ) -> tuple[Tensor, LossResult, NDArray]:
        """The sum of the batch's losses, to be differentiated and as numbers, and the state after it."""
        check_step(self.config, batch.inputs, state, self.dtype)
        masks = masks or Masks(None, None, None)
        x = _masked(self.model.embedding(as_tensor(batch.inputs)), masks.inputs)
        if masks.between is None:
            h, final = self.model.run_layers(x, as_tensor(state))
        else:
            given = [torch.from_numpy(mask) for mask in masks.between]
            h, final = run_masked_layers(self.model, self.config, x, as_tensor(state), given)
        h, targets = _masked(h, masks.outputs), torch.from_numpy(batch.targets)
        if batch.mask.all():
            h, targets = h.flatten(0, 1), targets.flatten()
        else:
            counted = torch.from_numpy(batch.mask)
            h, targets = h[counted], targets[counted]
        output = self.model.output
        loss, correct = output_loss(h, output.weight, output.bias, targets, smoothing)
        return loss, LossResult(float(loss.detach()), correct, len(targets)), final.detach().numpy()

    def _scaled(self, loss: Tensor, batch: Batch) -> Tensor:
        """A sum of losses as the share that it has in what is minimised: the mean of ``batch``, or its sum over time."""
        tokens = batch.tokens
        # the mean over no token at all is 0, with zero gradients, as in the other engines
        return loss * (gradient_factor(self.rule, tokens, batch.inputs.shape[1]) / max(tokens, 1))

    def _backward(self, batch: Batch, state: NDArray, masks: Masks | None) -> tuple[LossResult, NDArray]:
        """Leave the gradients of what is minimised at the parameters; loss sums and the state after the batch."""
        loss, result, final = self._loss(batch, state, masks, self.rule.label_smoothing)
        self._scaled(loss, batch).backward()
        return result, final

    def train_step(self, batch: Batch, state: NDArray, learning_rate: float, masks: Masks | None = None) -> StepResult:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad()
        result, final = self._backward(batch, state, masks)
        if self.rule.clip_value is not None:
            nn.utils.clip_grad_value_(self.model.parameters(), self.rule.clip_value)
        limit = float("inf") if self.clip_norm is None else self.clip_norm
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), limit))
        if np.isfinite(norm) and np.isfinite(result.loss):
            self.optimizer.step()
        return StepResult(result, norm, final)

    def gradients(self, batch: Batch, state: NDArray, masks: Masks | None = None) -> Params:
        """Gradients of the batch's mean loss by name, without an update."""
        self.optimizer.zero_grad()
        (self._loss(batch, state, masks)[0] / max(batch.tokens, 1)).backward()
        return {name: p.grad.numpy().copy() for name, p in self.model.named_parameters() if p.grad is not None}

    def evaluate(self, batch: Batch, state: NDArray) -> tuple[LossResult, NDArray]:
        with torch.inference_mode():
            _, result, final = self._loss(batch, state, None)
        return result, final

    def step(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        """The step contract on the live model."""
        check_step(self.config, tokens, state, self.dtype)
        return run_step(self.model, tokens, state)

    def warm_up(self, batch: Batch, state: NDArray) -> None:
        self.gradients(batch, state)
        self.optimizer.zero_grad()

    def export_params(self) -> Params:
        own = dict(self.model.named_parameters())
        return {name: own[name].detach().numpy().copy() for name in parameter_shapes(self.config)}

    def load_params(self, params: Params) -> None:
        load_params(self.model, params)

    def training_state(self) -> dict[str, NDArray]:
        """Parameters by name, and what the optimiser keeps of each, as ``name/key``; nothing of the latter at the start."""
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
            self.optimizer.state.clear()  # from before the first update
        check_state(arrays, self.training_state())
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(torch.from_numpy(arrays[name]))
                for key, value in self.optimizer.state[parameter].items():
                    if isinstance(value, Tensor):
                        value.copy_(torch.from_numpy(arrays[f"{name}/{key}"]))

    def _fill_optimizer(self) -> None:
        """Have the optimiser make what it keeps of each parameter, by an update of nothing."""
        before = self.export_params()
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad()
        load_params(self.model, before)


def as_tensor(array: NDArray) -> Tensor:
    """A tensor that shares the array's memory, or that of a copy where torch cannot take it as it is."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


mkldnn: Any = torch.backends.mkldnn  # its flag is a property that typing takes for another thing


class _OneDnnOff:
    """oneDNN is off while a thread is inside. Its flag is the process's, so the last one out puts it back."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._before: Any = True

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = mkldnn.enabled
                mkldnn.enabled = False
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                mkldnn.enabled = self._before


_onednn_off = _OneDnnOff()


def run_step(model: Any, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
    """One call of a module, scripted or not, on arrays.

    oneDNN's LSTM repacks its weights at every call: one step at a time it takes 6,449 µs at H = 512, B = 1, and 474 µs
    without it, so it is left out there.
    """
    with _onednn_off if tokens.shape[0] == 1 else nullcontext(), torch.inference_mode():
        logits, final = model(as_tensor(tokens), as_tensor(state))
    return logits.numpy(), final.numpy()
