"""One compiled loop that reads prompts and draws tokens: rows of all lengths flow through a fixed number of slots.

A row that reads a prompt and one that draws make the same step side by side (continuous batching), so no slot waits for
another and prompts need no calls of their own. A row that ends leaves its slot to the next that waits. The slots are shared
out to the threads in blocks, each with a queue of its own: no thread waits for another, and a row's tokens do not depend on
the other rows. Logits are computed for the rows that need them, and for no others.

The loop has two endings of a row's tokens: ``Decoder.flow`` draws from there on; ``Decoder.read`` hands out the logits and the
state, and the row is done.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ModelFileError
from unrolled.engine.kernels.decode.decoder import ROWS, CellCode, cell_code, enter, leave, move, multiply_rows
from unrolled.engine.kernels.decode.sampling import NOT_FINITE, SIDE_BY_SIDE, choose, uniform
from unrolled.engine.kernels.gemm.lhs_packing import new_operand
from unrolled.engine.kernels.gemm.matmul import product
from unrolled.engine.kernels.gemm.packing import Packing
from unrolled.engine.kernels.gemm.rhs_packing import pack_transposed, padded_columns
from unrolled.engine.kernels.jit.compilation import compiled
from unrolled.engine.kernels.simd.copies import copy_row
from unrolled.engine.kernels.threads.thread_pool import compiled_parallel, get_num_threads
from unrolled.engine.models.config import ModelConfig
from unrolled.engine.models.draw_settings import DrawSettings
from unrolled.engine.models.parameters import Params, layer_params, output_weight_name
from unrolled.engine.models.step_contract import Flow


@compiled
def _begin(r: int, e: int, state: NDArray, states: NDArray, row_of: NDArray, going: NDArray) -> None:
    """Put row e into slot r."""
    enter(state, e, states, r)
    row_of[r] = e
    going[e] = True


@compiled_parallel
def _flow(
    part: int, parts: int, cell: CellCode, table: NDArray, panels_ih: NDArray, panels_hh: NDArray, b_ih: NDArray,
    b_hh: NDArray, panels_out: NDArray, b_out: NDArray, state: NDArray, tokens: NDArray, at: NDArray, end: NDArray,
    drawn: NDArray, left: NDArray, first_draw: NDArray, indices: NDArray, do_sample: NDArray, temperature: NDArray,
    top_k: NDArray, top_p: NDArray, seed: NDArray, written: NDArray, count: NDArray, going: NDArray, last: NDArray,
    reading: bool, eos: int, slots: int, least: float, steps: int,
) -> None:  # fmt: skip
    """Advance rows by at most ``steps``, as ``Decoder.flow``, or, where ``reading``, as ``Decoder.read``.

    Args:
        state: (S, L, E, H), written over.
        last: (E, width) where ``reading``: the logits after each row's tokens; width is V in whole registers.
    """
    (S, L, E, H), V, width = state.shape, b_out.shape[0], last.shape[1]
    G, gates_columns = table.shape[1], cell[2] * H
    blocks = parts * ((slots + parts * ROWS - 1) // (parts * ROWS))
    for block in range(part, blocks, parts):
        most = (slots - block + blocks - 1) // blocks
        states = np.empty((2, S, L, most, H), table.dtype)  # a time step reads one and writes the other
        xg, gates = np.empty((most, G), table.dtype), np.empty((most, gates_columns), table.dtype)
        memory, each = new_operand(panels_out, most), np.arange(most)
        drawers, logits = np.empty((most, H), table.dtype), np.empty((most, width), table.dtype)
        scores, weights = np.empty((SIDE_BY_SIDE, V)), np.empty((SIDE_BY_SIDE, V))
        row_of, places, drawing = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64)
        which, u, chosen = np.empty(most, np.int64), np.empty(most), np.empty(most, np.int64)
        R, now, waiting = 0, 0, block
        while waiting < E and most > R:
            _begin(R, waiting, state, states[0], row_of, going)
            R, waiting = R + 1, waiting + blocks
        n = 0
        while n < steps and R > 0 and (waiting < E or least * most <= R):
            D = 0
            for r in range(R):
                e = row_of[r]
                if at[e] < end[e]:
                    places[r] = tokens[at[e]]
                    at[e] += 1
                else:
                    places[r] = drawn[e]
                if at[e] == end[e]:
                    drawing[D] = r
                    D += 1
            move(
                cell, table, panels_ih, panels_hh, b_ih, b_hh, places, each, states, now, R, xg, gates,
                memory, n % 2 == 1,
            )  # fmt: skip
            now = 1 - now
            for d in range(D):
                copy_row(states[now, 0, L - 1, drawing[d]], drawers[d])
                which[d] = row_of[drawing[d]]
            multiply_rows(drawers[:D], panels_out, b_out, logits[:D], memory)
            if not reading:
                for d in range(D):
                    e = which[d]
                    u[d] = uniform(seed[e], indices[e], first_draw[e] + np.uint64(count[e]))
                choose(logits[:D], which, u, do_sample, temperature, top_k, top_p, scores, weights, chosen)
            for d in range(D - 1, -1, -1):  # backwards: the last slot, which fills a gap, is done already
                r, e = drawing[d], which[d]
                if reading:
                    copy_row(logits[d], last[e])
                    leave(state, e, states[now], r)
                    ended = True
                else:
                    token = chosen[d]
                    written[e, count[e]] = token
                    count[e] += 1
                    left[e] -= 1
                    drawn[e] = token
                    ended = left[e] == 0 or token in (eos, NOT_FINITE)
                if ended:
                    if waiting < E:
                        _begin(r, waiting, state, states[now], row_of, going)
                        waiting += blocks
                    else:
                        R -= 1
                        if r < R:
                            row_of[r] = row_of[R]
                            for s in range(S):
                                for layer in range(L):
                                    copy_row(states[now, s, layer, R], states[now, s, layer, r])
            n += 1
        for r in range(R):
            leave(state, row_of[r], states[now], r)


class PackedWeights(NamedTuple):
    """A model's weights as the compiled loop reads them; n = max(L - 1, 1), and with one layer the values of _ih are not used.

    Args:
        cell: of ``cell_code``.
        table: (V, G), the first layer's input product of each token.
        panels_ih: (n, …), packed input weights of the other layers.
        panels_hh: (L, …), packed hidden weights.
        b_ih: (n, G).
        b_hh: (L, G).
        panels_out: packed output weights.
        b_out: (V,).
    """

    cell: CellCode
    table: NDArray
    panels_ih: NDArray
    panels_hh: NDArray
    b_ih: NDArray
    b_hh: NDArray
    panels_out: NDArray
    b_out: NDArray

    @classmethod
    def pack(cls, config: ModelConfig, params: Params, packing: Packing) -> Self:
        """Copy a model's parameters into packed form."""
        layers = [layer_params(params, layer) for layer in range(config.num_layers)]
        first, rest = layers[0], layers[1:]
        table = product(params["embedding.weight"], pack_transposed(first.w_ih, packing), first.b_ih)
        nothing = np.zeros((0, config.hidden_size), table.dtype)
        return cls(
            cell=cell_code(config.cell, table.dtype),
            table=table,
            panels_ih=np.stack(
                [pack_transposed(layer.w_ih, packing) for layer in rest] or [pack_transposed(nothing, packing)]
            ),
            panels_hh=np.stack([pack_transposed(layer.w_hh, packing) for layer in layers]),
            b_ih=np.stack([layer.b_ih for layer in rest] or [first.b_ih]),
            b_hh=np.stack([layer.b_hh for layer in layers]),
            panels_out=pack_transposed(params[output_weight_name(config)], packing),
            b_out=params["output.bias"],
        )


_NO_ROWS = np.empty(0, np.int64)
_NO_SETTINGS = DrawSettings.stack([])
_NO_INDICES = np.empty(0, np.uint64)
_NOTHING_DRAWN = (  # from drawn to count
    _NO_ROWS, _NO_ROWS, _NO_INDICES, _NO_INDICES, *_NO_SETTINGS, np.empty((0, 0), np.int64), _NO_ROWS,
)  # fmt: skip


class Decoder:
    """Reading and generation on packed weights, all steps of a row, sampling included, in one call on one thread.

    Args:
        config: the model.
        params: float32; copied into packed form, later changes have no effect.
        packing: format of the factors of products.
    """

    def __init__(self, config: ModelConfig, params: Params, packing: Packing = Packing.FULL) -> None:
        self.config = config
        self._weights = PackedWeights.pack(config, params, packing)
        self._width = padded_columns(config.vocab_size, np.dtype(np.float32))

    def read(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        """Return logits (B, V) and the state after the last of tokens (T, B)."""
        T, B = tokens.shape
        at, moved, last = np.arange(B) * T, state.copy(), np.empty((B, self._width), state.dtype)
        _flow(
            min(get_num_threads(), B), *self._weights, moved, tokens.T.reshape(-1), at, at + T, *_NOTHING_DRAWN,
            np.empty(B, np.bool_), last, True, -1, B, 0.0, T,
        )  # fmt: skip
        return last[:, : self.config.vocab_size], moved

    def flow(self, state: NDArray, flow: Flow, eos: int, slots: int, least: float = 0.0) -> None:
        """Advance rows as ``unrolled.engine.models.step_contract.FlowingModel``; ``eos`` ends a row, -1: no token does."""
        rows, output = flow[:7], flow[8:]
        _flow(
            min(get_num_threads(), slots), *self._weights, state, *rows, *flow.settings, *output,
            np.empty((0, self._width), state.dtype), False, eos, slots, least, flow.written.shape[1],
        )  # fmt: skip
        if (bad := flow.drawn == NOT_FINITE).any():
            raise ModelFileError(
                f"row {int(flow.indices[bad.argmax()])}: the model's logits are not finite; its weights are damaged"
            )  # fmt: skip
