"""Probes of a trained network on a text: surprise, gate activations, and the reach of gradients.

    T time, B batch, H hidden, V vocabulary, L layers, S states

Everything is computed by the NumPy reference, whose cells return their gates.

Source: A. Karpathy, J. Johnson and L. Fei-Fei, "Visualizing and Understanding Recurrent Networks" (2015), section 4.2,
for saturated gates; R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural networks" (2013),
for gradients over distances.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.models.cells.cell import SIGMOID, TANH
from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.layers.embedding import embedding_forward
from unrolled.engine.models.layers.linear import linear_backward_input, linear_forward
from unrolled.engine.models.layers.output_loss import logit_pieces, softmax_cross_entropy
from unrolled.engine.models.parameters import Params, layer_params
from unrolled.engine.models.step_contract import zero_state
from unrolled.engine.network.network import Network
from unrolled.engine.storage.checkpoint import Checkpoint

RANKED = 3  # most probable tokens that are reported
DISTANCE, MOST_PIECES = 100, 32  # steps back and columns for gradients
SATURATED = 0.1  # from a gate's end


class Surprise(NamedTuple):
    """Surprise of one token, and the tokens that the model found most probable there."""

    token: int
    nats: float  # -ln p
    likely: tuple[tuple[int, float], ...]  # the most probable tokens with their p, in descending order


class Gate(NamedTuple):
    """Activations of one gate of one layer over a text."""

    layer: int
    name: str
    kind: str  # "sigmoid", "tanh" or "relu"
    values: NDArray  # (T, H)

    @property
    def low(self) -> NDArray:
        """Return the share of the text at which each unit (H,) is shut (sigmoid, relu) or near -1 (tanh)."""
        limit = {SIGMOID: SATURATED, TANH: -1 + SATURATED}.get(self.kind, 0.0)
        return (self.values <= limit).mean(axis=0)

    @property
    def high(self) -> NDArray | None:
        """Return the share of the text at which each unit (H,) is open or near 1; None for a gate without an upper bound."""
        return (self.values >= 1 - SATURATED).mean(axis=0) if self.kind in (SIGMOID, TANH) else None


class TextProbe(NamedTuple):
    """Results of reading a text: the surprise of each token (rows concatenated), the starts of rows, and all gates."""

    surprises: list[Surprise]
    starts: list[int]
    gates: list[Gate]


def read_rows(checkpoint: Checkpoint, rows: Sequence[NDArray[np.int64]]) -> TextProbe:
    """Read rows of ids, each from a zero state."""
    config, params = checkpoint.config, checkpoint.float32()
    surprises: list[Surprise] = []
    starts: list[int] = []
    gates: list[list[NDArray]] = [[] for _ in range(config.num_layers)]
    for row in rows:
        starts.append(len(surprises))
        h, tapes = _forward_pass(config, params, row[:-1, None], zero_state(config, 1))
        surprises += _surprises(h[:, 0], params[config.output_weight_name], params["output.bias"], row[1:])
        for found, tape in zip(gates, tapes, strict=True):
            found.append(tape.gates[:, 0])
    return TextProbe(
        surprises, starts, [gate for l, found in enumerate(gates) for gate in _layer_gates(config, l, found)]
    )


class _LayerTape(NamedTuple):
    """States (T + 1, S, B, H) and gates of a layer, from the cell's forward."""

    states: NDArray
    gates: NDArray


def _forward_pass(
    config: LanguageModelConfig, params: Params, tokens: NDArray[np.int64], state: NDArray
) -> tuple[NDArray, list[_LayerTape]]:
    """Return outputs (T, B, H) and a tape a layer, for tokens (T, B)."""
    x, tapes = embedding_forward(params["embedding.weight"], tokens), []
    for layer in range(config.num_layers):
        w_ih, w_hh, b_ih, b_hh = layer_params(params, layer)
        tape = _LayerTape(*config.cell_definition.forward(linear_forward(x, w_ih, b_ih), state[:, layer], w_hh, b_hh))
        tapes.append(tape)
        x = tape.states[1:, 0]
    return x, tapes


def _surprises(h: NDArray, weight: NDArray, bias: NDArray, targets: NDArray[np.int64]) -> list[Surprise]:
    """Return the surprise of targets (T,) after outputs h (T, H), in float64, a piece of ``logit_pieces`` at a time."""
    found: list[Surprise] = []
    for piece in logit_pieces(len(h), len(bias), np.dtype(np.float64)):
        logits = linear_forward(h[piece], weight, bias).astype(np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        rows = np.arange(len(logits))
        nats = -logits[rows, targets[piece]]
        likely = []
        for _ in range(min(RANKED, len(bias))):
            best = logits.argmax(axis=-1)
            likely.append(list(zip(best.tolist(), np.exp(logits[rows, best]).tolist(), strict=True)))
            logits[rows, best] = -np.inf
        ranked = zip(*likely, strict=True)
        found += map(Surprise, targets[piece].tolist(), nats.tolist(), ranked)
    return found


def _layer_gates(config: LanguageModelConfig, layer: int, found: Sequence[NDArray]) -> list[Gate]:
    spec, H = config.cell_definition, config.hidden_size
    values = np.concatenate(found)  # (T, ≥ G·H): a cell may store more after its gates
    named = zip(spec.gate_names, spec.gate_kinds, strict=True)
    return [Gate(layer, name, kind, values[:, g * H : (g + 1) * H]) for g, (name, kind) in enumerate(named)]


def windows(rows: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return pieces (W + D + 1, B) of rows: W steps that warm up the state, then D steps for gradients, as rows allow.

    The length of pieces maximises the number of tokens used: with rows of many lengths, the longest possible piece would be
    the only one.
    """
    lengths = np.array([len(row) - 1 for row in rows])
    sizes = range(min(2 * DISTANCE, int(lengths.max())), 0, -1)
    size = max(sizes, key=lambda size: size * min(MOST_PIECES, int((lengths // size).sum())))
    pieces = [row[k : k + size + 1] for row in rows for k in range(0, len(row) - size, size)][:MOST_PIECES]
    return np.stack(pieces, axis=1)


def gradient_reach(checkpoint: Checkpoint, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return |dL_T / dh_{T-d}| for the loss of the last step, median over the columns of ids (T + 1, B).

    The steps are backpropagated one by one through the cell's own backward, so that every cell works.

    Returns:
        (L, D), for d = 0 … D - 1.
    """
    config, params = checkpoint.config, {name: value.astype(np.float64) for name, value in checkpoint.params.items()}
    B = ids.shape[1]
    h, tapes = _forward_pass(config, params, ids[:-1], zero_state(config, B, np.float64))
    D = min(DISTANCE, len(h))
    weight = params[config.output_weight_name]
    logits = linear_forward(h[-1:], weight, params["output.bias"])
    _, dlogits = softmax_cross_entropy(logits, ids[-1:], np.ones((1, B), np.bool_), gradient=True)
    assert dlogits is not None  # gradient=True
    dh = np.zeros((D, B, config.hidden_size))
    dh[-1] = linear_backward_input(dlogits[0] * B, weight)  # gradient of each row's own loss, not of the mean
    norms = np.empty((config.num_layers, D))
    for layer in reversed(range(config.num_layers)):
        w_ih, w_hh, _, b_hh = layer_params(params, layer)
        states, gates = tapes[layer].states[-D - 1 :], tapes[layer].gates[-D:]
        ds = np.zeros_like(states[0])  # (S, B, H)
        dxg = np.empty((D, B, len(w_ih)))
        for t in reversed(range(D)):
            norms[layer, D - 1 - t] = np.median(np.linalg.norm(ds[0] + dh[t], axis=-1))
            step = config.cell_definition.backward(dh[t : t + 1], ds, states[t : t + 2], gates[t : t + 1], w_hh, b_hh)
            dxg[t], ds = step[0][0], step[2]
        if layer > 0:
            dh = linear_backward_input(dxg, w_ih)
    return norms


def parameter_gradients(checkpoint: Checkpoint, ids: NDArray[np.int64]) -> dict[str, tuple[float, float]]:
    """Return the norms of each parameter and of its gradient, for the mean loss over ids (T + 1, B)."""
    model = Network(checkpoint.spec, checkpoint.float32())
    inputs, targets = np.ascontiguousarray(ids[:-1]), np.ascontiguousarray(ids[1:])
    batch = Batch.of_tokens(inputs, targets)
    found = model.gradients(batch, zero_state(model.spec, ids.shape[1])).params
    norm = np.linalg.norm
    return {name: (float(norm(model.params[name])), float(norm(value))) for name, value in found.items()}
