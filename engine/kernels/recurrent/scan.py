"""Scan of a recurrent layer over time, forward and backward, shared by all cells.

A time step is the hidden product and then, row by row while the product is in cache, the cell's own formulas (``pointwise``).
Threads share a layer by rows or by units (``work_partition``). The contracts are those of ``unrolled.engine.models.cells``,
except that ``backward`` overwrites its arguments.

Direction and lengths of rows belong here, as arguments at run time: each loop computes the time step t, the places of the
states ``before`` and ``after`` it, and the number n of its rows in one place, and no formula of a cell depends on them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.kernels.gemm.lhs_packing import new_operand, operand
from unrolled.engine.kernels.gemm.matmul import add_product_part
from unrolled.engine.kernels.gemm.packing import Packing
from unrolled.engine.kernels.gemm.rhs_packing import pack, pack_transposed
from unrolled.engine.kernels.recurrent.cells import CELL_FORMULAS
from unrolled.engine.kernels.recurrent.layouts import ColumnRanges, Gathered, as_gathered
from unrolled.engine.kernels.recurrent.pointwise import activate_rows, activation, derivative, differentiate_rows
from unrolled.engine.kernels.recurrent.work_partition import hidden_product, share, split
from unrolled.engine.kernels.threads.buffer_pool import empty
from unrolled.engine.kernels.threads.spin_barrier import wait
from unrolled.engine.kernels.threads.thread_pool import compiled_parallel


@compiled_parallel
def _forward(
    part: int, parts: int, by_units: bool, team: NDArray, activate: int, products: int, table: NDArray, rows: NDArray,
    panels: NDArray, b_hh: NDArray, states: NDArray, gates: NDArray,
) -> None:  # fmt: skip
    """Fill ``states`` (S, T + 1, B, H) and ``gates`` (T, B, width), whose memory may be that of the states h."""
    T, B, width = gates.shape
    H = states.shape[3]
    flat_table, flat_rows, flat_states, flat_gates = (
        table.reshape(-1), rows.reshape(-1), states.reshape(-1), gates.reshape(-1),
    )  # fmt: skip
    plane = (T + 1) * B * H  # from one of the S arrays to the next
    active, first, last, u0, u1 = share(part, parts, by_units, team, B, H, panels.shape[2])
    if active == 0:
        return
    n = last - first
    memory = new_operand(panels, n)
    for t in range(T):
        at = t * B + first
        before, after = at * H, (at + B) * H
        h, h_at, h_row = operand(flat_states, before, H, n, H, panels, memory)
        hidden_product(
            h, h_at, h_row, panels, b_hh, flat_gates, at * width, width, n, H, products, u0, u1, t % 2 == 1
        )  # fmt: skip
        activate_rows(
            activate,
            (flat_table, flat_rows, at, flat_gates, at * width, width, flat_states, before, after, plane, H, n, u0, u1),
        )
        if by_units:
            wait(team, active, t + 1)


@compiled_parallel
def _backward(
    part: int, parts: int, by_units: bool, team: NDArray, differentiate: int, products: int, dh: NDArray, ds: NDArray,
    states: NDArray, gates: NDArray, panels: NDArray,
) -> None:  # fmt: skip
    """Turn ``gates`` into their gradient and ``ds`` (S, B, H), that of the last state, into that of the first."""
    T, B, width = gates.shape
    H, W = dh.shape[2], panels.shape[2]
    flat_dh, flat_ds, flat_states, flat_gates = dh.reshape(-1), ds.reshape(-1), states.reshape(-1), gates.reshape(-1)
    plane = (T + 1) * B * H
    active, first, last, u0, u1 = share(part, parts, by_units, team, B, H, W)
    if active == 0:
        return
    n = last - first
    memory = new_operand(panels, n)
    for step in range(T):
        t = T - 1 - step
        at = t * B + first
        before, after = at * H, (at + B) * H
        differentiate_rows(
            differentiate,
            (flat_gates, at * width, width, flat_states, before, after, plane, flat_dh, before, flat_ds, first * H, B * H,
             H, n, u0, u1),
        )  # fmt: skip
        if by_units:
            wait(team, active, step + 1)
        d, d_at, d_row = operand(flat_gates, at * width, width, n, products * H, panels, memory)
        add_product_part(d, d_at, d_row, 1, panels, u0 // W, flat_ds, first * H + u0, H, n, u1 - u0, t % 2 == 1)


def forward(
    cell: str, xg: NDArray | Gathered, s0: NDArray, w_hh: NDArray, b_hh: NDArray, packing: Packing = Packing.FULL
) -> tuple[NDArray, NDArray]:
    """Run T time steps of a cell; see ``unrolled.engine.models.cells`` for the contract, ``Formulas`` for the gates."""
    formulas = CELL_FORMULAS[cell]
    table, rows = as_gathered(xg)
    (T, B), (S, _, H), dtype = rows.shape, s0.shape, table.dtype
    rows = np.ascontiguousarray(rows, np.int64)  # as the compiled formulas take them, whatever the tokens were
    states = empty((S, T + 1, B, H), dtype)  # each of the S in one piece over time, as products read them
    states[:, 0] = s0
    gates = states[0, 1:] if formulas.gates_are_outputs else empty((T, B, formulas.gates * H), dtype)
    panels = pack_transposed(w_hh, packing)
    activate = activation(cell, dtype)
    _forward(*split(B, H, panels), activate, formulas.products, table, rows, panels, b_hh, states, gates)
    return states.transpose(1, 0, 2, 3), gates


def backward(
    cell: str, dh: NDArray, ds_T: NDArray, states: NDArray, gates: NDArray, w_hh: NDArray, b_hh: NDArray,
    packing: Packing = Packing.FULL,
) -> tuple[ColumnRanges, ColumnRanges, NDArray]:  # fmt: skip
    """Return the gradients of ``forward``, which take the memory of ``gates``, or of ``dh`` for a cell that keeps no gates."""
    formulas, (_, B, H) = CELL_FORMULAS[cell], dh.shape
    ds, dgates = ds_T.copy(), dh if formulas.gates_are_outputs else gates
    planes, panels = np.ascontiguousarray(states.transpose(1, 0, 2, 3)), pack(w_hh, packing)  # no copy of forward's
    differentiate = derivative(cell, dh.dtype)
    _backward(
        *split(B, H, panels), differentiate, formulas.products, dh, ds, planes, dgates, panels
    )  # fmt: skip
    dxg = tuple((first * H, last * H) for first, last in formulas.dxg)
    return ColumnRanges(dgates, dxg), ColumnRanges(dgates, ((0, formulas.products * H),)), ds
