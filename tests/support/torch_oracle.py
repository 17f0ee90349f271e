"""A second oracle of models of any description: torch's own modules, packed sequences and autograd, and nothing of the package.

It shares only parameter names with ``unrolled.export.torch``: modules of embeddings, recurrent layers and output are torch's,
rows are packed by ``pack_padded_sequence``, and the mean loss is written out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.models.parameters import Params
from unrolled.engine.models.spec import ModelSpec

_LAYERS = {
    "rnn": (nn.RNN, {"nonlinearity": "tanh"}),
    "rnn_relu": (nn.RNN, {"nonlinearity": "relu"}),
    "gru": (nn.GRU, {}),
    "lstm": (nn.LSTM, {}),
}


class Expected(NamedTuple):
    """Values of a batch by the oracle: ``dstate`` is the gradient of the mean loss with respect to the initial state."""

    logits: NDArray
    final: NDArray
    loss: float
    grads: Params
    dstate: NDArray


class Oracle(nn.Module):
    """The modules of a model, with the parameters of ``params`` loaded by name."""

    def __init__(self, spec: ModelSpec, params: Params) -> None:
        super().__init__()
        self.spec, core = spec, spec.core
        shapes = {name: value.shape for name, value in params.items()}
        if "embedding.weight" in shapes:
            self.embedding = nn.Embedding(*shapes["embedding.weight"])
        others = {name.split(".")[1]: shape for name, shape in shapes.items() if name.startswith("embeddings.")}
        self.embeddings = nn.ModuleDict({name: nn.Embedding(*shape) for name, shape in others.items()})
        module, settings = _LAYERS[core.cell]
        self.rnn = module(
            spec.input_size, core.hidden_size, core.num_layers, bidirectional=core.bidirectional, **settings
        )
        self.output = nn.Linear(*reversed(shapes["output.weight"]))
        self.to(torch.float64)
        self.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in params.items()})

    def columns(self, batch: Batch, T: int) -> Tensor:
        """Return x (T, B, E), with anything in the padding."""
        parts = []
        for column in self.spec.inputs:
            array = torch.from_numpy(batch.inputs[column.name])
            if array.dtype == torch.int64:
                table = self.embedding if column.name == "tokens" else self.embeddings[column.name]
                parts.append(table(array.clamp(0, table.num_embeddings - 1)))
                continue
            mean, scale = (torch.tensor(numbers, dtype=torch.float64) for numbers in (column.mean, column.scale))
            scaled = (array.double() - mean) / scale
            parts.append(scaled if scaled.ndim == 3 else scaled.repeat(T, 1, 1))
        return torch.cat(parts, -1)

    def forward(self, batch: Batch, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (T, B, C) and final state."""
        T, B = self.spec.batch_shape(batch.inputs)
        lengths = torch.full((B,), T) if batch.lengths is None else torch.from_numpy(batch.lengths)
        packed = pack_padded_sequence(self.columns(batch, T), lengths, enforce_sorted=False)
        y, final = self.rnn(packed, tuple(state) if len(state) > 1 else state[0])
        y, _ = pad_packed_sequence(y, total_length=T)
        return self.output(y), torch.stack(final) if isinstance(final, tuple) else final.unsqueeze(0)


def expected(spec: ModelSpec, params: Params, batch: Batch, state: NDArray, smoothing: float = 0.0) -> Expected:
    """Return all values of a batch, in float64."""
    model, initial = Oracle(spec, params), torch.from_numpy(state.copy()).requires_grad_()
    logits, final = model(batch, initial)
    weights = torch.from_numpy(batch.weights.astype(np.float64))
    if batch.lengths is not None:
        weights = weights * (torch.arange(len(weights)).unsqueeze(1) < torch.from_numpy(batch.lengths))
    p = torch.log_softmax(logits, -1)
    targets = torch.where(weights > 0, torch.from_numpy(batch.targets), 0)
    hot = torch.nn.functional.one_hot(targets, logits.shape[-1]).to(torch.float64)
    wanted = (1 - smoothing) * hot + smoothing / logits.shape[-1]
    loss = -((p * wanted).sum(-1) * weights).sum() / weights.sum()
    loss.backward()
    grads = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    assert initial.grad is not None
    return Expected(logits.detach().numpy(), final.detach().numpy(), float(loss.detach()), grads, initial.grad.numpy())
