"""Rows of all lengths flow through lanes in one call: each reads its prompt, is written, and leaves its lane to the next.

A row that reads a prompt and one that draws make the same step side by side, so no lane waits for another and prompts
need no calls of their own. The lanes are shared out to the threads in blocks, each with a queue of its own. The steps are
those of ``unrolled.engine.kernels.decode.decoder``, bit for bit; logits are made for the rows that draw, and for no others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ModelFileError
from unrolled.engine.kernels.decode.decoder import ROWS, Cell, Decoder, enter, leave, move, multiply_rows
from unrolled.engine.kernels.decode.sampling import NOT_FINITE, SIDE_BY_SIDE, choose, uniform
from unrolled.engine.kernels.gemm.lhs_packing import new_operand
from unrolled.engine.kernels.gemm.rhs_packing import padded_columns
from unrolled.engine.kernels.jit.compilation import compiled
from unrolled.engine.kernels.simd.copies import copy_row
from unrolled.engine.kernels.threads.thread_pool import compiled_parallel, get_num_threads
from unrolled.engine.models.step_contract import Flow


@compiled
def _begin(r: int, e: int, state: NDArray, states: NDArray, row_of: NDArray, going: NDArray) -> None:
    """Row e enters lane r."""
    enter(state, e, states, r)
    row_of[r] = e
    going[e] = True


@compiled_parallel
def _flow(
    part: int, parts: int, cell: Cell, table: NDArray, panels_ih: NDArray, panels_hh: NDArray, b_ih: NDArray,
    b_hh: NDArray, panels_out: NDArray, b_out: NDArray, state: NDArray, tokens: NDArray, at: NDArray, end: NDArray,
    drawn: NDArray, left: NDArray, first_draw: NDArray, indices: NDArray, do_sample: NDArray, temperature: NDArray,
    top_k: NDArray, top_p: NDArray, seed: NDArray, written: NDArray, count: NDArray, going: NDArray, eos: int,
    lanes: int, least: float, width: int,
) -> None:  # fmt: skip
    """As ``FlowDecoder.flow``; ``width`` is V in whole registers."""
    E, N = written.shape
    (S, L, _, H), V = state.shape, b_out.shape[0]
    G, gates_columns = table.shape[1], cell[2] * H
    blocks = parts * ((lanes + parts * ROWS - 1) // (parts * ROWS))
    for block in range(part, blocks, parts):
        most = (lanes - block + blocks - 1) // blocks
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
        while n < N and R > 0 and (waiting < E or least * most <= R):
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
                e = row_of[drawing[d]]
                copy_row(states[now, 0, L - 1, drawing[d]], drawers[d])
                which[d] = e
                u[d] = uniform(seed[e], indices[e], first_draw[e] + np.uint64(count[e]))
            multiply_rows(drawers[:D], panels_out, b_out, logits[:D], memory)
            choose(logits[:D], which, u, do_sample, temperature, top_k, top_p, scores, weights, chosen)
            for d in range(D - 1, -1, -1):  # backwards: the last lane, which fills a gap, has been looked at
                r, e, token = drawing[d], which[d], chosen[d]
                written[e, count[e]] = token
                count[e] += 1
                left[e] -= 1
                drawn[e] = token
                if left[e] == 0 or token in (eos, NOT_FINITE):
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


class FlowDecoder:
    """Rows of all lengths on the weights of a ``Decoder``."""

    def __init__(self, decoder: Decoder) -> None:
        self._weights = decoder.weights
        self._width = padded_columns(decoder.config.vocab_size, np.dtype(np.float32))

    def flow(self, state: NDArray, flow: Flow, eos: int, lanes: int, least: float = 0.0) -> None:
        """As ``unrolled.engine.models.step_contract.FlowingModel``; ``eos`` is the token that ends a row, -1: none."""
        rows, settings, output = flow[:7], flow.settings, flow[8:]
        parts = min(get_num_threads(), lanes)
        _flow(parts, *self._weights, state, *rows, *settings, *output, eos, lanes, least, self._width)
        if (bad := flow.drawn == NOT_FINITE).any():
            raise ModelFileError(
                f"row {int(flow.indices[bad.argmax()])}: the model's logits are not finite; its weights are damaged"
            )  # fmt: skip
