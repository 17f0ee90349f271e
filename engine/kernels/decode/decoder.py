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
from unrolled.engine.kernels.recurrent.cells import CELL_FORMULAS
from unrolled.engine.kernels.recurrent.pointwise import activate_rows, activation
from unrolled.engine.kernels.recurrent.work_partition import hidden_product
from unrolled.engine.kernels.simd.copies import copy_row
from unrolled.engine.kernels.threads.thread_pool import compiled_parallel, get_num_threads
from unrolled.engine.models.config import ModelConfig
from unrolled.engine.models.parameters import Params, layer_params, output_weight_name
from unrolled.engine.models.step_contract import Draws

ROWS = 64  # of a thread's rows, that go through all steps together: their gates stay in the L2 cache beside the weights
Cell = tuple[int, int, int]


def cell_code(cell: str, dtype: np.dtype) -> Cell:
    """Return what compiled code needs of a cell: the address of its ``activate``, blocks of its hidden product and gates."""
    formulas = CELL_FORMULAS[cell]
    return activation(cell, dtype), formulas.products, formulas.gates


@compiled
def step_layer(
    cell: Cell, xg: NDArray, places: NDArray, states: NDArray, now: int, layer: int, R: int, gates: NDArray,
    panels: NDArray, b_hh: NDArray, memory: NDArray, back: bool,
) -> None:  # fmt: skip
    """Run one time step of R rows of a layer, from ``states[now]`` (S, L, ≥ R, H) to ``states[1 - now]``.

    ``gates`` is scratch. The input product of row r is ``xg[places[r]]``.
    """
    activate, products, _ = cell
    _, S, L, most, H = states.shape
    flat, flat_gates, width = states.reshape(-1), gates.reshape(-1), gates.shape[1]
    plane = L * most * H
    before, after = now * S * plane + layer * most * H, (1 - now) * S * plane + layer * most * H
    h, h_at, h_row = operand(flat, before, H, R, H, panels, memory)
    hidden_product(h, h_at, h_row, panels, b_hh, flat_gates, 0, width, R, H, products, 0, H, back)
    activate_rows(
        activate, (xg.reshape(-1), places, 0, flat_gates, 0, width, flat, before, after, plane, H, R, 0, H)
    )  # fmt: skip


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
    cell: Cell, table: NDArray, panels_ih: NDArray, panels_hh: NDArray, b_ih: NDArray, b_hh: NDArray,
    places: NDArray, each: NDArray, states: NDArray, now: int, R: int, xg: NDArray, gates: NDArray, memory: NDArray,
    back: bool,
) -> None:  # fmt: skip
    """Run one time step of R rows, from ``states[now]`` (S, L, ≥ R, H) to ``states[1 - now]``; row r read ``places[r]``."""
    for layer in range(states.shape[2]):
        if layer > 0:
            below = states[1 - now, 0, layer - 1, :R]
            multiply_rows(below, panels_ih[layer - 1], b_ih[layer - 1], xg[:R], memory)
        step_layer(
            cell, xg if layer > 0 else table, each if layer > 0 else places, states, now, layer, R, gates,
            panels_hh[layer], b_hh[layer], memory, back,
        )  # fmt: skip


@compiled
def enter(state: NDArray, b: int, states: NDArray, r: int) -> None:
    """Copy row b of ``state`` (S, L, B, H) to row r of ``states`` (S, L, R, H)."""
    for s in range(state.shape[0]):
        for layer in range(state.shape[1]):
            copy_row(state[s, layer, b], states[s, layer, r])


@compiled
def leave(state: NDArray, b: int, states: NDArray, r: int) -> None:
    """Copy row r of ``states`` (S, L, R, H) to row b of ``state`` (S, L, B, H)."""
    for s in range(state.shape[0]):
        for layer in range(state.shape[1]):
            copy_row(states[s, layer, r], state[s, layer, b])


@compiled_parallel
def _decode(
    part: int, parts: int, cell: Cell, table: NDArray, panels_ih: NDArray, panels_hh: NDArray, b_ih: NDArray,
    b_hh: NDArray, panels_out: NDArray, b_out: NDArray, logits: NDArray, state: NDArray, first_step: NDArray,
    sequences: NDArray, do_sample: NDArray, temperature: NDArray, top_k: NDArray, top_p: NDArray, seed: NDArray,
    tokens: NDArray, reading: bool,
) -> None:  # fmt: skip
    """``logits`` (B, width) and ``state`` (S, L, B, H) move on by the N steps of ``tokens`` (N, B).

    They are drawn, by settings (B,) a row, or, where ``reading``, given; then only the last step's logits are made.
    """
    N, B = tokens.shape
    S, L, _, H = state.shape
    G, V = table.shape[1], b_out.shape[0]
    width = cell[2] * H
    begin, end = part * B // parts, (part + 1) * B // parts
    for b0 in range(begin, end, ROWS):
        R = min(ROWS, end - b0)
        states = np.empty((2, S, L, R, H), table.dtype)  # a time step reads one and writes the other
        for r in range(R):
            enter(state, b0 + r, states[0], r)
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
                cell, table, panels_ih, panels_hh, b_ih, b_hh, places, each, states, now, R, xg, gates, memory,
                n % 2 == 1,
            )  # fmt: skip
            now = 1 - now
            if not reading or n == N - 1:
                multiply_rows(states[now, 0, L - 1], panels_out, b_out, some, memory)
        for r in range(R):
            leave(state, b0 + r, states[now], r)


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
            cell_code(config.cell, table.dtype),
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
