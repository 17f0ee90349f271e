"""A tagger in torch as a plain script has it: an embedding or real values, recurrent layers, a linear layer.

There are two ways to treat padding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.bench.peers.contestants import (
    CLIP_NORM,
    ParityArrays,
    PeerSetting,
    torch_optimizer,
    train_result,
)
from unrolled.bench.peers.inputs import make_batch, make_params
from unrolled.bench.peers.workloads import Workload
from unrolled.engine.models.parameters import layer_names

PACKED, PADDED, FULL = "packed", "padded", "full"  # how rows are given to the recurrent layers


class _TorchCell(NamedTuple):
    """A cell of torch.

    Args:
        module: the module of its layers.
        function: runs one layer of one direction.
        settings: further arguments of the module.
    """

    module: Any
    function: Any
    settings: dict[str, str]


def _torch_cell(cell: str) -> _TorchCell:
    import torch

    nn, functions = torch.nn, torch._VF  # the functions that torch's own modules call
    return {
        "lstm": _TorchCell(nn.LSTM, functions.lstm, {}),
        "gru": _TorchCell(nn.GRU, functions.gru, {}),
        "rnn": _TorchCell(nn.RNN, functions.rnn_tanh, {}),
        "rnn_relu": _TorchCell(nn.RNN, functions.rnn_relu, {"nonlinearity": "relu"}),
    }[cell]


class TorchTagger:
    """A lean training loop in torch on tensors.

    Settings: ``rows`` is "full" without padding; "packed" for packed sequences, whose linear layer and loss see valid time
    steps alone; "padded" for padded rows, whose valid outputs are selected before the linear layer. A second direction over
    padded rows would start in the padding, so each row is reversed within its own length for a layer of its own direction.
    """

    def __init__(self, work: Workload, setting: PeerSetting, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        torch.backends.mkldnn.enabled = setting["onednn"]
        self.torch, self.core, self._rows = torch, work.spec.core, setting["rows"]
        core, self.cell = self.core, _torch_cell(self.core.cell)
        sizes = work.spec.input_size, core.hidden_size, core.num_layers
        assert work.classes is not None  # of a tagger
        nn = torch.nn
        self.embedding = nn.Identity() if work.values else nn.Embedding(work.vocab, work.embedding)
        self.rnn = self.cell.module(*sizes, bidirectional=core.bidirectional, **self.cell.settings)
        self.output = nn.Linear(core.output_size, work.classes)
        self.model = nn.ModuleDict({"embedding": self.embedding, "rnn": self.rnn, "output": self.output})
        self.model.load_state_dict({name: torch.from_numpy(value) for name, value in make_params(work).items()})
        self.weights = dict(self.model.named_parameters())
        self.optimizer = torch_optimizer(work.optimizer, self.model, setting)
        batch = make_batch(work)
        (inputs,), targets = batch.inputs.values(), torch.from_numpy(batch.targets)
        self.inputs = torch.from_numpy(inputs)
        lengths = np.full(work.batch, work.length) if batch.lengths is None else batch.lengths
        self._prepare(lengths)
        self.targets = self._packed(targets).data if self._rows == PACKED else targets.flatten()[self.valid]
        self.loss = self.norm = torch.zeros(())

    def _prepare(self, lengths: NDArray[np.int64]) -> None:
        """Compute what depends on the lengths alone, once."""
        torch = self.torch
        T, times = self.inputs.shape[0], np.arange(self.inputs.shape[0])[:, None]
        self.lengths = torch.from_numpy(lengths)
        self.valid = torch.from_numpy(np.flatnonzero(times < lengths))
        reverse = np.where(times < lengths, lengths - 1 - times, times)
        rows = np.arange(len(lengths))
        self.reverse = torch.from_numpy((reverse * len(lengths) + rows).reshape(T * len(lengths)))

    def _packed(self, x: Any) -> Any:
        return self.torch.nn.utils.rnn.pack_padded_sequence(x, self.lengths, enforce_sorted=False)

    def _outputs(self) -> Any:
        """Return the outputs (N, D·H) of the recurrent layers at the valid time steps."""
        if self._rows == PACKED:
            packed = self._packed(self.inputs)
            order = packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices
            return self.rnn(self.torch.nn.utils.rnn.PackedSequence(self.embedding(packed.data), *order))[0].data
        x = self.embedding(self.inputs)
        split = self._rows == PADDED and self.core.bidirectional
        y = self._padded_directions(x) if split else self.rnn(x)[0]
        return y.flatten(0, 1) if self._rows == FULL else y.flatten(0, 1).index_select(0, self.valid)

    def _padded_directions(self, x: Any) -> Any:
        """Return the outputs (T, B, 2·H) of two directions over padded rows, each an own run of torch's function."""
        core = self.core
        zero = x.new_zeros(1, x.shape[1], core.hidden_size)
        initial = (zero, zero) if core.cell_definition.states > 1 else zero
        for layer in range(core.num_layers):
            forwards, backwards = (
                self.cell.function(
                    read, initial, [self.weights[name] for name in layer_names(layer, direction)],
                    True, 1, 0.0, True, False, False,
                )[0]
                for direction, read in enumerate((x, self._reversed(x)))
            )  # fmt: skip
            x = self.torch.cat([forwards, self._reversed(backwards)], -1)
        return x

    def _reversed(self, x: Any) -> Any:
        """Return (T, B, ·) with the valid time steps of each row in the opposite order."""
        return x.flatten(0, 1).index_select(0, self.reverse).view_as(x)

    def run(self) -> None:
        torch = self.torch
        self.optimizer.zero_grad(set_to_none=True)
        logits = self.output(self._outputs())
        self.loss = torch.nn.functional.cross_entropy(logits, self.targets)
        self.loss.backward()
        self.norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM, foreach=True)
        self.optimizer.step()

    def parity(self) -> ParityArrays:
        values: ParityArrays = {}
        for step in (1, 2):
            self.run()
            params = {name: p.detach().numpy().copy() for name, p in self.model.named_parameters()}
            values |= train_result(float(self.loss), float(self.norm), params, step)
        return values
