"""Generation compiled: weights packed once, and all steps of a row, sampling included, in one call on one thread.

The rows are shared out to the threads, so nothing waits for anything, and a row's tokens do not depend on the others.
Names and formulas are those of ``unrolled.engine.models.cells``; here only the last state is kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ModelFileError
from unrolled.engine.kernels.decode.sampling import NOT_FINITE, SIDE_BY_SIDE, choose, uniform
from unrolled.engine.kernels.gemm.lhs_packing import new_operand, operand
from unrolled.engine.kernels.gemm.matmul import add_product, product
from unrolled.engine.kernels.gemm.packing import Packing
from unrolled.engine.kernels.gemm.rhs_packing import pack_transposed, padded_columns
from unrolled.engine.kernels.jit.compilation import compiled
from unrolled.engine.kernels.recurrent import gru, lstm, rnn
from unrolled.engine.kernels.recurrent.work_partition import hidden_product
from unrolled.engine.kernels.simd.copies import copy_row
from unrolled.engine.kernels.threads.thread_pool import compiled_parallel, get_num_threads
from unrolled.engine.models.config import ModelConfig
from unrolled.engine.models.parameters import Params, layer_params, output_weight_name
from unrolled.engine.models.step_contract import Draws

ROWS = 64  # of a thread's rows, that go through all steps together: their gates stay in the L2 cache beside the weights
_RNN, _RNN_RELU, _GRU, _LSTM = range(4)
KINDS = {"rnn": _RNN, "rnn_relu": _RNN_RELU, "gru": _GRU, "lstm": _LSTM}


@compiled
def step_layer(
    kind: int, xg: NDArray, places: NDArray, h_prev: NDArray, c_prev: NDArray, h: NDArray, c: NDArray, gates: NDArray,
    panels: NDArray, b_hh: NDArray, memory: NDArray, back: bool,
) -> None:  # fmt: skip
    """One step of one layer: states (R, H) to states; ``gates`` is scratch. Row r's input product is xg[places[r]]."""
    R, H = h.shape
    x, at, stride = operand(h_prev.reshape(-1), 0, H, R, H, panels, memory)
    flat_gates, width = gates.reshape(-1), gates.shape[1]
    if kind == _LSTM:
        hidden_product(x, at, stride, panels, b_hh, flat_gates, 0, width, R, H, 4, 0, H, back)
        for r in range(R):
            lstm.activate(gates[r], xg[places[r]], c_prev[r], c[r], h[r], 0, H)
    elif kind == _GRU:
        hidden_product(x, at, stride, panels, b_hh, flat_gates, 0, width, R, H, 3, 0, H, back)
        for r in range(R):
            gru.activate(gates[r], xg[places[r]], h_prev[r], h[r], 0, H)
    else:
        hidden_product(x, at, stride, panels, b_hh, h.reshape(-1), 0, H, R, H, 1, 0, H, back)
        for r in range(R):
            rnn.activate(h[r], xg[places[r]], kind == _RNN_RELU)


@compiled
def multiply_rows(x: NDArray, panels: NDArray, bias: NDArray, y: NDArray, memory: NDArray) -> None:
    """y (R, width) = x (R, K) · panels + bias (N,); the columns from N to width are padding."""
    (R, K), (_, width), N = x.shape, y.shape, bias.shape[0]
    for r in range(R):
        copy_row(bias, y[r, :N])
    factor, at, stride = operand(x.reshape(-1), 0, K, R, K, panels, memory)
    add_product(factor, at, stride, 1, panels, y.reshape(-1), 0, width, R, width, False)


@compiled
def move(
    kind: int, table: NDArray, panels_ih: NDArray, panels_hh: NDArray, b_ih: NDArray, b_hh: NDArray,
    places: NDArray, each: NDArray, hs: NDArray, cs: NDArray, now: int, R: int, xg: NDArray, gates: NDArray,
    memory: NDArray, back: bool,
) -> None:  # fmt: skip
    """One step of the first R rows: states hs[now], cs[now] (L, ≥ R, H) to those of 1 - now; row r read places[r]."""
    for layer in range(hs.shape[1]):
        if layer > 0:
            multiply_rows(hs[1 - now, layer - 1, :R], panels_ih[layer - 1], b_ih[layer - 1], xg[:R], memory)
        step_layer(
            kind, xg if layer > 0 else table, each if layer > 0 else places, hs[now, layer, :R], cs[now, layer, :R],
            hs[1 - now, layer, :R], cs[1 - now, layer, :R], gates[:R], panels_hh[layer], b_hh[layer], memory, back,
        )  # fmt: skip


@compiled
def enter(state: NDArray, b: int, h: NDArray, c: NDArray, r: int) -> None:
    """Row r of the layers' states ``h`` and ``c`` (L, R, H) becomes that of row b of ``state`` (S, L, B, H)."""
    for layer in range(h.shape[0]):
        copy_row(state[0, layer, b], h[layer, r])
        copy_row(state[state.shape[0] - 1, layer, b], c[layer, r])


@compiled
def leave(state: NDArray, b: int, h: NDArray, c: NDArray, r: int) -> None:
    """The way back of ``enter``; where there is one state, it is ``h``."""
    for layer in range(h.shape[0]):
        copy_row(c[layer, r], state[state.shape[0] - 1, layer, b])
        copy_row(h[layer, r], state[0, layer, b])


@compiled_parallel
def _decode(
    part: int, parts: int, kind: int, table: NDArray, panels_ih: NDArray, panels_hh: NDArray, b_ih: NDArray,
    b_hh: NDArray, panels_out: NDArray, b_out: NDArray, logits: NDArray, state: NDArray, first_step: NDArray,
    sequences: NDArray, do_sample: NDArray, temperature: NDArray, top_k: NDArray, top_p: NDArray, seed: NDArray,
    tokens: NDArray, reading: bool,
) -> None:  # fmt: skip
    """``logits`` (B, width) and ``state`` (S, L, B, H) move on by the N steps of ``tokens`` (N, B).

    They are drawn, by settings (B,) a row, or, where ``reading``, given; then only the last step's logits are made.
    """
    N, B = tokens.shape
    _, L, _, H = state.shape
    G, V = table.shape[1], b_out.shape[0]
    width = gates_width(kind, H)
    begin, end = part * B // parts, (part + 1) * B // parts
    for b0 in range(begin, end, ROWS):
        R = min(ROWS, end - b0)
        # two of each: a step reads one and writes the other
        hs, cs = np.empty((2, L, R, H), table.dtype), np.empty((2, L, R, H), table.dtype)
        for r in range(R):
            enter(state, b0 + r, hs[0], cs[0], r)
        each = np.arange(R)
        places = np.empty(R, np.int64)
        xg, gates = np.empty((R, G), table.dtype), np.empty((R, width), table.dtype)
        memory = new_operand(panels_out, R)
        scores, weights = np.empty((SIDE_BY_SIDE, V)), np.empty((SIDE_BY_SIDE, V))
        rows, u = np.arange(b0, b0 + R), np.empty(R)
        some = logits[b0 : b0 + R]
        now = 0
        for n in range(N):
            if not reading:
                for r in range(R):
                    u[r] = uniform(seed[b0 + r], sequences[b0 + r], first_step[b0 + r] + np.uint64(n))
                choose(
                    some, rows, u, do_sample, temperature, top_k, top_p, scores, weights, tokens[n, b0 : b0 + R]
                )  # fmt: skip
            for r in range(R):
                places[r] = max(tokens[n, b0 + r], 0)
            move(
                kind, table, panels_ih, panels_hh, b_ih, b_hh, places, each, hs, cs, now, R, xg, gates, memory,
                n % 2 == 1,
            )  # fmt: skip
            now = 1 - now
            if not reading or n == N - 1:
                multiply_rows(hs[now, L - 1], panels_out, b_out, some, memory)
        for r in range(R):
            leave(state, b0 + r, hs[now], cs[now], r)


@compiled
def gates_width(kind: int, H: int) -> int:
    """Columns of the scratch that a layer's gates need."""
    return 4 * H if kind in (_LSTM, _GRU) else 1


class Decoder:
    """A model's weights, packed, and generation on them.

    Args:
        config: the model.
        params: float32; copied into packed form, later changes are not seen.
        packing: format of the factors of products.
    """

    def __init__(self, config: ModelConfig, params: Params, packing: Packing = Packing.FULL) -> None:
        self.config = config
        layers = [layer_params(params, layer) for layer in range(config.num_layers)]
        first, rest = layers[0], layers[1:]
        table = product(params["embedding.weight"], pack_transposed(first.w_ih, packing), first.b_ih)
        nothing = np.zeros((0, config.hidden_size), table.dtype)
        self.weights = (
            KINDS[config.cell],
            table,
            _stack([pack_transposed(layer.w_ih, packing) for layer in rest] or [pack_transposed(nothing, packing)]),
            _stack([pack_transposed(layer.w_hh, packing) for layer in layers]),
            _stack([layer.b_ih for layer in rest] or [first.b_ih]),
            _stack([layer.b_hh for layer in layers]),
            pack_transposed(params[output_weight_name(config)], packing),
            params["output.bias"],
        )

    def decode(self, logits: NDArray, state: NDArray, draws: Draws) -> tuple[NDArray, NDArray, NDArray]:
        """Tokens (N, B) drawn one after the other from logits (B, V) on, and logits and state after the last.

        Raises:
            ModelFileError: a row of logits is not finite.
        """
        (B, V), N = logits.shape, draws.steps
        padded = np.zeros((B, padded_columns(V, logits.dtype)), logits.dtype)
        padded[:, :V] = logits
        tokens = np.empty((N, B), np.int64)
        moved = self._run(padded, state, draws, tokens, reading=False)
        if (bad := (tokens == NOT_FINITE).any(axis=0)).any():
            raise ModelFileError(
                f"row {int(bad.argmax())}: the model's logits are not finite; its weights are damaged"
            )  # fmt: skip
        return tokens, padded[:, :V], moved

    def read(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        """Logits (B, V) behind the last of tokens (T, B), and the state there."""
        V = self.config.vocab_size
        padded = np.empty((tokens.shape[1], padded_columns(V, state.dtype)), state.dtype)
        moved = self._run(padded, state, _NO_DRAWS, tokens, reading=True)
        return padded[:, :V], moved

    def _run(
        self, padded: NDArray, state: NDArray, draws: Draws, tokens: NDArray[np.int64], reading: bool
    ) -> NDArray:  # fmt: skip
        """The state that ``state`` moves to; ``padded`` and, unless they are read, ``tokens`` are written."""
        B, moved = len(padded), state.copy()
        settings: list[NDArray] = [
            np.array(np.broadcast_to(values, B), dtype)
            for values, dtype in zip(draws[1:], _SETTINGS, strict=True)
        ]  # fmt: skip
        _decode(min(get_num_threads(), B), *self.weights, padded, moved, *settings, tokens, reading)
        return moved


# of what Draws holds from its second field on
_SETTINGS = (np.uint64, np.uint64, np.bool_, np.float64, np.int64, np.float64, np.uint64)
_NO_DRAWS = Draws(0, 0, np.zeros(1, np.int64), False, 1.0, 0, 1.0, 0)


def _stack(arrays: list[NDArray]) -> NDArray:
    return np.ascontiguousarray(np.stack(arrays))
