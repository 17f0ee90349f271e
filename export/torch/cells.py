"""The recurrent cells in PyTorch: functions of layers, and the modules of TorchScript programs of language models.

Letters: N = Σ lengths, the valid time steps of a batch; E input width of the first layer, D directions, S states, G gates.
"""

# TorchScript evaluates the annotations of this module: no ``from __future__ import annotations`` here.
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.export.torch.padded_lstm import padded_lstm

Step = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class TorchCell(NamedTuple):
    """A cell in PyTorch.

    Args:
        layers: (x, state, weights, num_layers, bidirectional, batch_sizes) -> (y, final) runs consecutive layers. Without
            ``batch_sizes`` x is (T, B, E) and y is (T, B, D·H); with them, x (N, E) and y (N, D·H) are data of a packed
            sequence. ``state`` and ``final`` are (S, L·D, B, H); ``weights`` has the four arrays of each layer and direction.
        padded: (lengths, x (T, B, ·), state, weights) -> (y, final) runs one layer on padded rows, where that is faster than
            ``layers`` on packed ones; None: it never is.
        module: makes the module of all layers of a language model's program, given E, H and L; None: there is none.
    """

    layers: Callable[[Tensor, Tensor, list[Tensor], int, bool, Tensor | None], tuple[Tensor, Tensor]]
    padded: Callable[[Tensor, Tensor, Tensor, Sequence[Tensor]], tuple[Tensor, Tensor]] | None = None
    module: Callable[..., nn.RNNBase] | None = None


def _library_cell(
    function: Callable[..., Any], module: Callable[..., nn.RNNBase], padded: Callable[..., Any] | None = None
) -> TorchCell:
    """Return the entry of a cell for which torch has a function of all layers, padded or packed."""

    def layers(
        x: Tensor, state: Tensor, weights: list[Tensor], num_layers: int, bidirectional: bool, batch_sizes: Tensor | None
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        initial = tuple(state) if len(state) > 1 else state[0]
        settings = True, num_layers, 0.0, False, bidirectional  # biases, L, dropout, training, D = 2
        if batch_sizes is None:
            y, *final = function(x, initial, weights, *settings, False)
        else:
            y, *final = function(x, batch_sizes, initial, weights, *settings)
        return y, torch.stack(final)

    return TorchCell(layers, padded, module)


def _time_steps(step: Step) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return the function of all time steps of one direction of one layer, which TorchScript can compile."""

    def run(
        xg: Tensor, state: Tensor, w_hh: Tensor, b_hh: Tensor, batch_sizes: Tensor, reverse: bool
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        # From packed xg (N, G·H) and state (S, B, H) to outputs (N, H) and the final state.
        sizes: list[int] = batch_sizes.tolist()
        ends: list[int] = batch_sizes.cumsum(0).tolist()
        outputs: list[Tensor] = []
        for i in range(len(sizes)):
            t = len(sizes) - 1 - i if reverse else i
            n, end = sizes[t], ends[t]
            # In reverse rows join as time goes back; until then they keep their initial state.
            moved = step(xg[end - n : end], state[:, :n], w_hh, b_hh)
            state = torch.cat([moved, state[:, n:]], 1)
            outputs.append(moved[0])
        if reverse:
            outputs.reverse()
        return torch.cat(outputs), state

    return run


def looped(step: Step) -> TorchCell:
    """Return the entry of a cell for which torch has no function of whole sequences.

    Args:
        step: (xg (B, G·H), state (S, B, H), w_hh, b_hh) -> state (S, B, H) of one time step, given its input product with the
            bias; TorchScript has to be able to compile it.
    """
    steps = _time_steps(step)

    def layers(
        x: Tensor, state: Tensor, weights: list[Tensor], num_layers: int, bidirectional: bool, batch_sizes: Tensor | None
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        # Tracing would freeze the number of time steps of a Python loop at the example's.
        run = torch.jit.script(steps) if torch.jit.is_tracing() else steps
        data, sizes = x, batch_sizes
        if sizes is None:
            data, sizes = x.flatten(0, 1), torch.ones_like(x[:, 0, 0], dtype=torch.int64) * x.shape[1]
        finals, directions = [], 2 if bidirectional else 1
        for layer in range(num_layers):
            halves = []
            for direction in range(directions):
                index = layer * directions + direction
                w_ih, w_hh, b_ih, b_hh = weights[4 * index : 4 * index + 4]
                xg = F.linear(data, w_ih, b_ih)
                y, final = run(xg, state[:, index], w_hh, b_hh, sizes, bool(direction))
                halves.append(y)
                finals.append(final)
            data = torch.cat(halves, -1)
        shaped = data if batch_sizes is not None else data.view(x.shape[0], x.shape[1], -1)
        return shaped, torch.stack(finals, 1)

    return TorchCell(layers)


TORCH_CELLS: dict[str, TorchCell] = {
    "rnn": _library_cell(torch.rnn_tanh, partial(nn.RNN, nonlinearity="tanh")),
    "rnn_relu": _library_cell(torch.rnn_relu, partial(nn.RNN, nonlinearity="relu")),
    "gru": _library_cell(torch.gru, nn.GRU),
    "lstm": _library_cell(torch.lstm, nn.LSTM, padded_lstm),
}
