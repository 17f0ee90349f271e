"""Scan of a recurrent layer over time, forward and backward, shared by all cells.

A time step is the hidden product and then, row by row while the product is in cache, the cell's own formulas (``pointwise``).
Threads share a layer by rows or by units, and its two directions (``work_partition``).

Direction and lengths of rows are arguments at run time: a table (``packed_steps``) contains for every time step the places of
the states before and after it and of its gates, and the number of its rows. No formula of a cell depends on them.
"""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import NDArray

from unrolled.engine.kernels.gemm.lhs_packing import new_operand, operand
from unrolled.engine.kernels.gemm.matmul import multiply_part
from unrolled.engine.kernels.gemm.packing import Packing
from unrolled.engine.kernels.gemm.rhs_packing import pack, pack_transposed
from unrolled.engine.kernels.recurrent.cells import CELL_FORMULAS
from unrolled.engine.kernels.recurrent.layouts import Gathered
from unrolled.engine.kernels.recurrent.packed_steps import PackedSteps
from unrolled.engine.kernels.recurrent.pointwise import activate_rows, activation, derivative, differentiate_rows
from unrolled.engine.kernels.recurrent.work_partition import count_rows, hidden_product, share, split
from unrolled.engine.kernels.simd.copies import copy_block
from unrolled.engine.kernels.threads.array_copies import stacked
from unrolled.engine.kernels.threads.spin_barrier import wait
from unrolled.engine.kernels.threads.thread_pool import compiled_parallel


@compiled_parallel
def _forward(
    part: int, parts: int, directions: int, by_units: bool, striped: bool, teams: NDArray, steps: NDArray, B: int,
    activate: int, products: int, in_place: bool, table: NDArray, other_table: NDArray, rows: NDArray, panels: NDArray,
    other_panels: NDArray, biases: NDArray, states: NDArray, gates: NDArray, y: NDArray, column: int,
) -> None:  # fmt: skip
    """Fill states (directions, S, R, H), gates (directions, ≥ N, width), and y (N, D·H), if it has rows, from ``column`` on.

    ``table`` and ``panels`` are those of the first direction, ``other_table`` and ``other_panels`` those of the second. The
    gates of a cell that computes ``in_place`` have the places of its states.
    """
    d, teammates = part % directions, parts // directions
    (_, S, R, H), width, y_width, copies = states.shape, gates.shape[2], y.shape[1], y.shape[0] > 0
    own_table, own_panels, team = table, panels, teams[d]
    if d > 0:
        own_table, own_panels = other_table, other_panels
    flat_table, flat_states, flat_gates, flat_y = (
        own_table.reshape(-1), states.reshape(-1), gates.reshape(-1), y.reshape(-1),
    )  # fmt: skip
    plane = R * H  # from one of the S arrays to the next
    active, first, end, apart, u0, u1 = share(
        part // directions, teammates, by_units, striped, team, B, H, panels.shape[2]
    )
    if active == 0:
        return
    memory = new_operand(own_panels, count_rows(B, first, end, apart))
    for k in range(steps.shape[1]):
        n = count_rows(steps[d, k, 3], first, end, apart)
        if n > 0:
            at = steps[d, k, 2] + first
            before = d * S * plane + (steps[d, k, 0] + first) * H
            after = d * S * plane + (steps[d, k, 1] + first) * H
            to = after if in_place else (d * gates.shape[1] + at) * width
            h, h_at, h_row = operand(flat_states, before, apart * H, n, H, own_panels, memory)
            hidden_product(
                h, h_at, h_row, own_panels, biases[d], flat_gates, to, apart * width, n, H, products, u0, u1, k % 2 == 1
            )  # fmt: skip
            activate_rows(
                activate,
                (flat_table, rows, at, flat_gates, to, width, flat_states, before, after, plane, H, n, apart, u0, u1),
            )
            if copies:
                y_at = at * y_width + column + d * H + u0
                copy_block(flat_states, after + u0, apart * H, flat_y, y_at, apart * y_width, n, u1 - u0)
        if by_units:
            wait(team, part // directions, active, k + 1)


@compiled_parallel
def _backward(
    part: int, parts: int, directions: int, by_units: bool, striped: bool, teams: NDArray, steps: NDArray,
    differentiate: int, products: int, dh: NDArray, column: int, ds: NDArray, states: NDArray, gates: NDArray,
    panels: NDArray, other_panels: NDArray,
) -> None:  # fmt: skip
    """Turn ``gates`` into their gradient and ds (directions, S, B, H), that of the final state, into that of the initial one.

    The gradient of the outputs is in the columns of dh (N, D·H) from ``column`` on, H for each direction.
    """
    d, teammates = part % directions, parts // directions
    (_, S, R, H), B, width, dh_width, W = states.shape, ds.shape[2], gates.shape[2], dh.shape[1], panels.shape[2]
    own_panels, team = panels, teams[d]
    if d > 0:
        own_panels = other_panels
    flat_dh, flat_ds, flat_states, flat_gates = dh.reshape(-1), ds.reshape(-1), states.reshape(-1), gates.reshape(-1)
    plane = R * H
    active, first, end, apart, u0, u1 = share(part // directions, teammates, by_units, striped, team, B, H, W)
    if active == 0:
        return
    memory = new_operand(own_panels, count_rows(B, first, end, apart))
    ds_at, T = (d * S * B + first) * H, steps.shape[1]
    for number in range(T):
        k = T - 1 - number
        n = count_rows(steps[d, k, 3], first, end, apart)
        row = steps[d, k, 2] + first
        at = (d * gates.shape[1] + row) * width
        if n > 0:
            before = d * S * plane + (steps[d, k, 0] + first) * H
            after = d * S * plane + (steps[d, k, 1] + first) * H
            differentiate_rows(
                differentiate,
                (flat_gates, at, width, flat_states, before, after, plane, flat_dh, row * dh_width + column + d * H,
                 dh_width, flat_ds, ds_at, B * H, H, n, apart, u0, u1),
            )  # fmt: skip
        if by_units:
            wait(team, part // directions, active, number + 1)
        if n > 0:
            g, g_at, g_row = operand(flat_gates, at, apart * width, n, products * H, own_panels, memory)
            multiply_part(  # added to ds
                g, g_at, g_row, 1, own_panels, u0 // W, flat_ds, ds_at + u0, apart * H, flat_ds, ds_at + u0, apart * H, n,
                u1 - u0, k % 2 == 1,
            )  # fmt: skip


def run(
    cell: str, xgs: Sequence[Gathered], w_hhs: Sequence[NDArray], b_hhs: Sequence[NDArray], steps: PackedSteps,
    arrays: tuple[NDArray, NDArray, NDArray], packing: Packing,
) -> None:  # fmt: skip
    """Run a cell in each direction.

    Args:
        arrays: the states (D, S, R, H) with the initial ones, gates (D, N, width), and y (N, D·H) or (0, D·H); all are filled.
            The gates of a cell whose gates are its outputs are the states themselves, (D, S·R, H).
    """
    (states, gates, y), formulas = arrays, CELL_FORMULAS[cell]
    D, H, B = len(xgs), states.shape[3], steps.B
    panels = [pack_transposed(w_hh, packing) for w_hh in w_hhs]
    biases = stacked(b_hhs)
    code = activation(cell, states.dtype), formulas.products, formulas.gates_are_outputs
    parts, at_once, *way = split(B, H, panels[0], D, steps.lengths is not None)
    for d in range(0, D, at_once):
        own, last = slice(d, d + at_once), d + at_once - 1
        _forward(
            parts, at_once, *way, steps.table[own], B, *code, xgs[d].table, xgs[last].table, xgs[d].rows, panels[d],
            panels[last], biases[own], states[own], gates[own], y, d * H,
        )  # fmt: skip


def run_backward(
    cell: str, dy: NDArray, ds: NDArray, states: NDArray, gates: NDArray, w_hhs: Sequence[NDArray], steps: PackedSteps,
    packing: Packing,
) -> None:  # fmt: skip
    """Turn gates (D, N, width) into their gradients, and ds (D, S, B, H) into those of the initial states.

    Args:
        dy: (N, D·H), gradient of the outputs.
        ds: gradient of the final states, rows in the order of ``steps``.
        gates: from ``run``; only memory for a cell whose gates are its outputs, which may be that of ``dy`` if D = 1.
    """
    D, (B, H) = len(w_hhs), ds.shape[2:]
    panels = [pack(w_hh, packing) for w_hh in w_hhs]
    code = derivative(cell, dy.dtype), CELL_FORMULAS[cell].products
    parts, at_once, *way = split(B, H, panels[0], D, steps.lengths is not None)
    for d in range(0, D, at_once):
        own, last = slice(d, d + at_once), d + at_once - 1
        _backward(
            parts, at_once, *way, steps.table[own], *code, dy, d * H, ds[own], states[own], gates[own], panels[d],
            panels[last],
        )  # fmt: skip
