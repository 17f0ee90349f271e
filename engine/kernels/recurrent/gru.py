"""The GRU compiled: contract and formulas in ``unrolled.engine.models.cells.gru``; sharing out as in the LSTM's kernel."""

from __future__ import annotations

from numpy.typing import NDArray

from unrolled.engine.kernels.gemm.lhs_packing import new_operand, operand
from unrolled.engine.kernels.gemm.matmul import add_product_part
from unrolled.engine.kernels.gemm.packing import Packing
from unrolled.engine.kernels.gemm.rhs_packing import pack, pack_transposed
from unrolled.engine.kernels.jit.compilation import compiled
from unrolled.engine.kernels.recurrent.work_partition import (
    Columns,
    Gathered,
    as_gathered,
    by_state,
    hidden_product,
    new_states,
    share,
    split,
)
from unrolled.engine.kernels.simd.activations import sigmoid, tanh
from unrolled.engine.kernels.simd.vectors import Vector, elementwise
from unrolled.engine.kernels.threads.buffer_pool import empty
from unrolled.engine.kernels.threads.spin_barrier import wait
from unrolled.engine.kernels.threads.thread_pool import compiled_parallel


def _activate(
    r: Vector, z: Vector, hn: Vector, x_r: Vector, x_z: Vector, x_n: Vector, h_prev: Vector
) -> tuple[Vector, ...]:  # fmt: skip
    r, z = sigmoid(r + x_r), sigmoid(z + x_z)
    n = tanh(x_n + r * hn)
    return r, z, n, (1 - z) * n + z * h_prev


_activate_all = elementwise(_activate)


@compiled
def activate(gates: NDArray, x: NDArray, h_prev: NDArray, h: NDArray, u0: int, u1: int) -> None:
    """Units u0 … u1 of one row: gates (4·H,) holds the hidden product, x (3·H,) the input's; gates becomes r, z, hn, n."""
    H = h.shape[0]
    r, z = gates[u0:u1], gates[H + u0 : H + u1]
    hn, n = gates[2 * H + u0 : 2 * H + u1], gates[3 * H + u0 : 3 * H + u1]
    x_r, x_z, x_n = x[u0:u1], x[H + u0 : H + u1], x[2 * H + u0 : 2 * H + u1]
    _activate_all((r, z, hn, x_r, x_z, x_n, h_prev[u0:u1]), (r, z, n, h[u0:u1]), (), u1 - u0)


@compiled_parallel
def _forward(
    part: int, parts: int, by_units: bool, team: NDArray, table: NDArray, rows: NDArray, panels: NDArray, b_hh: NDArray,
    states: NDArray, gates: NDArray,
) -> None:  # fmt: skip
    """``states`` (1, T + 1, B, H)."""
    T, B, width = gates.shape
    H = states.shape[3]
    flat_h, flat_gates = states[0].reshape(-1), gates.reshape(-1)
    active, first, last, u0, u1 = share(part, parts, by_units, team, B, H, panels.shape[2])
    if active == 0:
        return
    memory = new_operand(panels, last - first)
    for t in range(T):
        at, n = t * B + first, last - first
        h, h_at, h_row = operand(flat_h, at * H, H, n, H, panels, memory)
        hidden_product(
            h, h_at, h_row, panels, b_hh, flat_gates, at * width, width, n, H, 3, u0, u1, t % 2 == 1
        )  # fmt: skip
        for b in range(first, last):
            activate(gates[t, b], table[rows[t, b]], states[0, t, b], states[0, t + 1, b], u0, u1)
        if by_units:
            wait(team, active, t + 1)


def _differentiate(
    r: Vector, z: Vector, hn: Vector, n: Vector, h_prev: Vector, dh: Vector, dh_next: Vector
) -> tuple[Vector, ...]:  # fmt: skip
    """Gradients of a_r, a_z, hn and n's argument, and the one that goes past the gates, dh·z."""
    dh = dh_next + dh
    dn = dh * (1 - z) * (1 - n * n)
    return dn * hn * r * (1 - r), dh * (h_prev - n) * z * (1 - z), dn * r, dn, dh * z


_differentiate_all = elementwise(_differentiate)


@compiled
def _backward_row(gates: NDArray, h_prev: NDArray, dh: NDArray, dh_next: NDArray, u0: int, u1: int) -> None:
    """Units u0 … u1 of one row of one step: r, z, hn, n become the gradients of a_r, a_z, hn and n's argument.

    dh_next becomes the gradient that goes past the gates.
    """
    H = h_prev.shape[0]
    r, z = gates[u0:u1], gates[H + u0 : H + u1]
    hn, n = gates[2 * H + u0 : 2 * H + u1], gates[3 * H + u0 : 3 * H + u1]
    dh_next = dh_next[u0:u1]
    _differentiate_all((r, z, hn, n, h_prev[u0:u1], dh[u0:u1], dh_next), (r, z, hn, n, dh_next), (), u1 - u0)


@compiled_parallel
def _backward(
    part: int, parts: int, by_units: bool, team: NDArray, dh: NDArray, ds: NDArray, states: NDArray, gates: NDArray,
    panels: NDArray,
) -> None:  # fmt: skip
    """``ds`` (1, B, H) is the gradient of the state, walking backwards; gates become gradients."""
    T, B, H = dh.shape
    width = 4 * H
    flat_gates, flat_ds = gates.reshape(-1), ds.reshape(-1)
    W = panels.shape[2]
    active, first, last, u0, u1 = share(part, parts, by_units, team, B, H, W)
    if active == 0:
        return
    memory = new_operand(panels, last - first)
    for step in range(T):
        t = T - 1 - step
        for b in range(first, last):
            _backward_row(gates[t, b], states[0, t, b], dh[t, b], ds[0, b], u0, u1)
        if by_units:
            wait(team, active, step + 1)
        m, c_at = last - first, first * H + u0
        d, at, d_row = operand(flat_gates, (t * B + first) * width, width, m, 3 * H, panels, memory)
        add_product_part(d, at, d_row, 1, panels, u0 // W, flat_ds, c_at, H, m, u1 - u0, t % 2 == 1)


def forward(
    xg: NDArray | Gathered, s0: NDArray, w_hh: NDArray, b_hh: NDArray, packing: Packing = Packing.FULL
) -> tuple[NDArray, NDArray]:
    """As ``cells.gru.forward``, but gates are r, z, hn, n: what the product makes lies together."""
    table, rows = as_gathered(xg)
    (T, B), H = rows.shape, w_hh.shape[1]
    states, gates = new_states(s0, T), empty((T, B, 4 * H), table.dtype)
    panels = pack_transposed(w_hh, packing)
    _forward(*split(B, H, panels), table, rows, panels, b_hh, by_state(states), gates)
    return states, gates


def backward(
    dh: NDArray,
    ds_T: NDArray,
    states: NDArray,
    gates: NDArray,
    w_hh: NDArray,
    b_hh: NDArray,
    packing: Packing = Packing.FULL,
) -> tuple[Columns, Columns, NDArray]:
    """As ``cells.gru.backward``, but ``gates`` is used up: both gradients, which share r's and z's, are columns of it."""
    _, B, H = dh.shape
    ds = ds_T.copy()
    panels = pack(w_hh, packing)
    _backward(*split(B, H, panels), dh, ds, by_state(states), gates, panels)
    return Columns(gates, ((0, 2 * H), (3 * H, 4 * H))), Columns(gates, ((0, 3 * H),)), ds
