"""One time step of some rows through all layers of a model, on packed weights and one thread.

Names and formulas are those of ``unrolled.engine.models.cells``; here only the last state is kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.kernels.gemm.lhs_packing import operand
from unrolled.engine.kernels.gemm.matmul import add_product
from unrolled.engine.kernels.jit.compilation import compiled
from unrolled.engine.kernels.recurrent.cells import CELL_FORMULAS
from unrolled.engine.kernels.recurrent.pointwise import activate_rows, activation
from unrolled.engine.kernels.recurrent.work_partition import hidden_product
from unrolled.engine.kernels.simd.copies import copy_row

BLOCK_ROWS = 64  # rows of a thread that run all steps together: their gates stay in the L2 cache beside the weights
CellCode = tuple[int, int, int]  # the address of ``activate``, blocks of the hidden product, blocks of the gates


def cell_code(cell: str, dtype: np.dtype) -> CellCode:
    """Return the values by which compiled code runs a cell."""
    formulas = CELL_FORMULAS[cell]
    return activation(cell, dtype), formulas.products, formulas.gates


@compiled
def step_layer(
    cell: CellCode, xg: NDArray, inputs: NDArray, states: NDArray, now: int, layer: int, R: int, gates: NDArray,
    panels: NDArray, b_hh: NDArray, memory: NDArray, back: bool,
) -> None:  # fmt: skip
    """Run one time step of R rows of a layer, from ``states[now]`` (S, L, ≥ R, H) to ``states[1 - now]``.

    ``gates`` is scratch. The input product of row r is ``xg[inputs[r]]``.
    """
    activate, products, _ = cell
    _, S, L, most, H = states.shape
    flat, flat_gates, width = states.reshape(-1), gates.reshape(-1), gates.shape[1]
    plane = L * most * H
    before, after = now * S * plane + layer * most * H, (1 - now) * S * plane + layer * most * H
    h, h_at, h_row = operand(flat, before, H, R, H, panels, memory)
    hidden_product(h, h_at, h_row, panels, b_hh, flat_gates, 0, width, R, H, products, 0, H, back)
    activate_rows(
        activate, (xg.reshape(-1), inputs, 0, flat_gates, 0, width, flat, before, after, plane, H, R, 1, 0, H)
    )  # fmt: skip


@compiled
def multiply_rows(x: NDArray, panels: NDArray, bias: NDArray, y: NDArray, memory: NDArray) -> None:
    """Set y (R, width) = x (R, K) · panels + bias (N,); the columns from N to width are padding."""
    (R, K), (_, width), N = x.shape, y.shape, bias.shape[0]
    for r in range(R):
        copy_row(bias, y[r, :N])
    factor, at, stride = operand(x.reshape(-1), 0, K, R, K, panels, memory)
    add_product(factor, at, stride, 1, panels, y.reshape(-1), 0, width, R, width, False)


@compiled
def advance_rows(
    cell: CellCode, table: NDArray, panels_ih: NDArray, panels_hh: NDArray, b_ih: NDArray, b_hh: NDArray,
    inputs: NDArray, own: NDArray, states: NDArray, now: int, R: int, xg: NDArray, gates: NDArray, memory: NDArray,
    back: bool,
) -> None:  # fmt: skip
    """Run one time step of R rows, from ``states[now]`` (S, L, ≥ R, H) to ``states[1 - now]``; row r reads ``inputs[r]``.

    ``own`` is 0, 1, …, R - 1: above the first layer, row r reads row r of ``xg``. ``gates`` and ``xg`` are scratch.
    """
    for layer in range(states.shape[2]):
        if layer > 0:
            below = states[1 - now, 0, layer - 1, :R]
            multiply_rows(below, panels_ih[layer - 1], b_ih[layer - 1], xg[:R], memory)
        step_layer(
            cell, xg if layer > 0 else table, own if layer > 0 else inputs, states, now, layer, R, gates,
            panels_hh[layer], b_hh[layer], memory, back,
        )  # fmt: skip


@compiled
def load_row(state: NDArray, b: int, states: NDArray, r: int) -> None:
    """Copy row b of ``state`` (S, L, B, H) to row r of ``states`` (S, L, R, H)."""
    for s in range(state.shape[0]):
        for layer in range(state.shape[1]):
            copy_row(state[s, layer, b], states[s, layer, r])


@compiled
def store_row(state: NDArray, b: int, states: NDArray, r: int) -> None:
    """Copy row r of ``states`` (S, L, R, H) to row b of ``state`` (S, L, B, H)."""
    for s in range(state.shape[0]):
        for layer in range(state.shape[1]):
            copy_row(states[s, layer, r], state[s, layer, b])
