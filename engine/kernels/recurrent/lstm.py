"""The LSTM compiled: contract and formulas in ``unrolled.engine.models.cells.lstm``, sharing out in ``split``.

The element-wise work is done a row at a time, while what the products made of it is in cache.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from unrolled.engine.kernels.gemm.lhs_packing import new_operand, operand
from unrolled.engine.kernels.gemm.matmul import add_product_part
from unrolled.engine.kernels.gemm.packing import Packing
from unrolled.engine.kernels.gemm.rhs_packing import pack, pack_transposed
from unrolled.engine.kernels.jit.compilation import compiled
from unrolled.engine.kernels.recurrent.work_partition import (
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
    i: Vector, f: Vector, g: Vector, o: Vector, x_i: Vector, x_f: Vector, x_g: Vector, x_o: Vector, c_prev: Vector
) -> tuple[Vector, ...]:  # fmt: skip
    i, f, g, o = sigmoid(i + x_i), sigmoid(f + x_f), tanh(g + x_g), sigmoid(o + x_o)
    c = f * c_prev + i * g
    return i, f, g, o, c, o * tanh(c)


_activate_all = elementwise(_activate)


@compiled
def activate(gates: NDArray, x: NDArray, c_prev: NDArray, c: NDArray, h: NDArray, u0: int, u1: int) -> None:
    """Units u0 … u1 of one row: gates (4·H,) from the hidden product to i, f, g, o; x (4·H,) the input's; c and h (H,)."""
    H = h.shape[0]
    i, f = gates[u0:u1], gates[H + u0 : H + u1]
    g, o = gates[2 * H + u0 : 2 * H + u1], gates[3 * H + u0 : 3 * H + u1]
    x_i, x_f = x[u0:u1], x[H + u0 : H + u1]
    x_g, x_o = x[2 * H + u0 : 2 * H + u1], x[3 * H + u0 : 3 * H + u1]
    _activate_all(
        (i, f, g, o, x_i, x_f, x_g, x_o, c_prev[u0:u1]), (i, f, g, o, c[u0:u1], h[u0:u1]), (), u1 - u0
    )  # fmt: skip


@compiled_parallel
def _forward(
    part: int, parts: int, by_units: bool, team: NDArray, table: NDArray, rows: NDArray, panels: NDArray, b_hh: NDArray,
    states: NDArray, gates: NDArray,
) -> None:  # fmt: skip
    """``states`` (2, T + 1, B, H)."""
    T, B, G = gates.shape
    H = states.shape[3]
    flat_h, flat_gates = states[0].reshape(-1), gates.reshape(-1)
    active, first, last, u0, u1 = share(part, parts, by_units, team, B, H, panels.shape[2])
    if active == 0:
        return
    memory = new_operand(panels, last - first)
    for t in range(T):
        at, n = t * B + first, last - first
        h, h_at, h_row = operand(flat_h, at * H, H, n, H, panels, memory)
        hidden_product(h, h_at, h_row, panels, b_hh, flat_gates, at * G, G, n, H, 4, u0, u1, t % 2 == 1)
        for b in range(first, last):
            x, c = table[rows[t, b]], states[1, t + 1, b]
            activate(gates[t, b], x, states[1, t, b], c, states[0, t + 1, b], u0, u1)
        if by_units:
            wait(team, active, t + 1)


def _differentiate(
    i: Vector, f: Vector, g: Vector, o: Vector, c_prev: Vector, c: Vector, dh: Vector, dh_next: Vector, dc: Vector
) -> tuple[Any, ...]:  # fmt: skip
    """Gradients of the arguments of i, f, g, o; 0, from where the product sums up dh_next; dc of the step before."""
    tanh_c = tanh(c)
    dh = dh_next + dh
    dc = dc + dh * o * (1 - tanh_c * tanh_c)
    di, df = dc * g * i * (1 - i), dc * c_prev * f * (1 - f)
    return di, df, dc * i * (1 - g * g), dh * tanh_c * o * (1 - o), 0, dc * f


_differentiate_all = elementwise(_differentiate)


@compiled
def _backward_row(
    gates: NDArray, c_prev: NDArray, c: NDArray, dh: NDArray, dh_next: NDArray, dc: NDArray, u0: int, u1: int
) -> None:  # fmt: skip
    """Units u0 … u1 of one row of one step: gates become their arguments' gradients, dc the one of the step before."""
    H = c.shape[0]
    i, f = gates[u0:u1], gates[H + u0 : H + u1]
    g, o = gates[2 * H + u0 : 2 * H + u1], gates[3 * H + u0 : 3 * H + u1]
    dh_next, dc = dh_next[u0:u1], dc[u0:u1]
    _differentiate_all(
        (i, f, g, o, c_prev[u0:u1], c[u0:u1], dh[u0:u1], dh_next, dc), (i, f, g, o, dh_next, dc), (), u1 - u0
    )  # fmt: skip


@compiled_parallel
def _backward(
    part: int, parts: int, by_units: bool, team: NDArray, dh: NDArray, ds: NDArray, states: NDArray, gates: NDArray,
    panels: NDArray,
) -> None:  # fmt: skip
    """``ds`` (2, B, H) is the gradient of the state, walking backwards; gates become dxg."""
    T, B, H = dh.shape
    G = 4 * H
    flat_gates, flat_ds = gates.reshape(-1), ds.reshape(-1)
    W = panels.shape[2]
    active, first, last, u0, u1 = share(part, parts, by_units, team, B, H, W)
    if active == 0:
        return
    memory = new_operand(panels, last - first)
    for step in range(T):
        t = T - 1 - step
        for b in range(first, last):
            c_prev, c = states[1, t, b], states[1, t + 1, b]
            _backward_row(gates[t, b], c_prev, c, dh[t, b], ds[0, b], ds[1, b], u0, u1)
        if by_units:
            wait(team, active, step + 1)
        n, c_at = last - first, first * H + u0
        d, at, d_row = operand(flat_gates, (t * B + first) * G, G, n, G, panels, memory)
        add_product_part(d, at, d_row, 1, panels, u0 // W, flat_ds, c_at, H, n, u1 - u0, t % 2 == 1)


def forward(
    xg: NDArray | Gathered, s0: NDArray, w_hh: NDArray, b_hh: NDArray, packing: Packing = Packing.FULL
) -> tuple[NDArray, NDArray]:
    """As ``cells.lstm.forward``."""
    table, rows = as_gathered(xg)
    (T, B), (G, H) = rows.shape, w_hh.shape
    states, gates = new_states(s0, T), empty((T, B, G), table.dtype)
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
) -> tuple[NDArray, NDArray, NDArray]:
    """As ``cells.lstm.backward``, but ``gates`` is used up: dxg takes its memory."""
    ds = ds_T.copy()
    _, B, H = dh.shape
    panels = pack(w_hh, packing)
    _backward(*split(B, H, panels), dh, ds, by_state(states), gates, panels)
    return gates, gates, ds
