"""One compiled loop that reads prompts and draws tokens: rows of all lengths flow through a fixed number of slots.

A row that reads a prompt and one that draws make the same step side by side (continuous batching), so no slot waits for
another and prompts need no calls of their own. A row that ends leaves its slot to the next that waits. The slots are
distributed over the threads in blocks, each with a queue of its own: no thread waits for another, and a row's tokens do not
depend on the other rows. Logits are computed for the rows that need them, and for no others.

At the end of its tokens a row either draws from there on (``Decoder.flow``), or hands out its logits and state and ends
(``Decoder.read``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.kernels.decode.sampling import NOT_FINITE, SIDE_BY_SIDE, choose, uniform
from unrolled.engine.kernels.decode.time_step import (
    BLOCK_ROWS,
    CellCode,
    advance_rows,
    load_row,
    multiply_rows,
    store_row,
)
from unrolled.engine.kernels.gemm.lhs_packing import new_operand
from unrolled.engine.kernels.jit.compilation import compiled
from unrolled.engine.kernels.simd.copies import copy_row
from unrolled.engine.kernels.threads.thread_pool import compiled_parallel


@compiled
def _start(r: int, e: int, state: NDArray, states: NDArray, row_of: NDArray, started: NDArray) -> None:
    """Put row e into slot r."""
    load_row(state, e, states, r)
    row_of[r] = e
    started[e] = True


@compiled_parallel
def run_flow(
    part: int, parts: int, cell: CellCode, table: NDArray, panels_ih: NDArray, panels_hh: NDArray, b_ih: NDArray,
    b_hh: NDArray, panels_out: NDArray, b_out: NDArray, state: NDArray, tokens: NDArray, position: NDArray,
    end: NDArray, last_drawn: NDArray, remaining: NDArray, first_draw: NDArray, indices: NDArray, do_sample: NDArray,
    temperature: NDArray, top_k: NDArray, top_p: NDArray, seed: NDArray, written: NDArray, counts: NDArray,
    started: NDArray, read_logits: NDArray, reading: bool, eos: int, slots: int, least: float, steps: int,
) -> None:  # fmt: skip
    """Advance rows by at most ``steps``, as ``Decoder.flow``, or, if ``reading``, as ``Decoder.read``.

    In a block, r counts its slots, R of them busy, e is the row in a slot, and d counts the D slots whose rows are at the
    end of their tokens.

    Args:
        state: (S, L, E, H), written over.
        read_logits: (E, width) if ``reading``: the logits after each row's tokens; width is V in whole registers.
    """
    (S, L, E, H), V, width = state.shape, b_out.shape[0], read_logits.shape[1]
    G, gates_columns = table.shape[1], cell[2] * H
    blocks = parts * ((slots + parts * BLOCK_ROWS - 1) // (parts * BLOCK_ROWS))
    for block in range(part, blocks, parts):
        most = (slots - block + blocks - 1) // blocks
        states = np.empty((2, S, L, most, H), table.dtype)  # a time step reads one and writes the other
        xg, gates = np.empty((most, G), table.dtype), np.empty((most, gates_columns), table.dtype)
        memory, own = new_operand(panels_out, most), np.arange(most)
        hidden, logits = np.empty((most, H), table.dtype), np.empty((most, width), table.dtype)
        scores, weights = np.empty((SIDE_BY_SIDE, V)), np.empty((SIDE_BY_SIDE, V))
        row_of, inputs, at_end = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64)
        rows, u, chosen = np.empty(most, np.int64), np.empty(most), np.empty(most, np.int64)
        R, now, waiting = 0, 0, block
        while waiting < E and most > R:
            _start(R, waiting, state, states[0], row_of, started)
            R, waiting = R + 1, waiting + blocks
        n = 0
        while n < steps and R > 0 and (waiting < E or least * most <= R):
            D = 0
            for r in range(R):
                e = row_of[r]
                if position[e] < end[e]:
                    inputs[r] = tokens[position[e]]
                    position[e] += 1
                else:
                    inputs[r] = last_drawn[e]
                if position[e] == end[e]:
                    at_end[D] = r
                    D += 1
            advance_rows(
                cell, table, panels_ih, panels_hh, b_ih, b_hh, inputs, own, states, now, R, xg, gates, memory,
                n % 2 == 1,
            )  # fmt: skip
            now = 1 - now
            for d in range(D):
                copy_row(states[now, 0, L - 1, at_end[d]], hidden[d])
                rows[d] = row_of[at_end[d]]
            multiply_rows(hidden[:D], panels_out, b_out, logits[:D], memory)
            if not reading:
                for d in range(D):
                    e = rows[d]
                    u[d] = uniform(seed[e], indices[e], first_draw[e] + np.uint64(counts[e]))
                choose(logits[:D], rows, u, do_sample, temperature, top_k, top_p, scores, weights, chosen)
            for d in range(D - 1, -1, -1):  # backwards: the last slot, which fills a gap, is processed already
                r, e = at_end[d], rows[d]
                if reading:
                    copy_row(logits[d], read_logits[e])
                    store_row(state, e, states[now], r)
                    ended = True
                else:
                    token = chosen[d]
                    written[e, counts[e]] = token
                    counts[e] += 1
                    remaining[e] -= 1
                    last_drawn[e] = token
                    ended = remaining[e] == 0 or token in (eos, NOT_FINITE)
                if ended:
                    if waiting < E:
                        _start(r, waiting, state, states[now], row_of, started)
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
            store_row(state, row_of[r], states[now], r)
