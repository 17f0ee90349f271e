"""The GRU compiled: contract and formulas in ``unrolled.engine.cells.gru``; sharing out and loops as in the LSTM's kernel."""

from __future__ import annotations

from numba import prange
from numpy.typing import NDArray

from unrolled.engine.kernels.activations import sigmoid, tanh
from unrolled.engine.kernels.bf16 import new_operand, operand
from unrolled.engine.kernels.gemm import add_product_part, pack, pack_transposed
from unrolled.engine.kernels.kernel import compiled, compiled_parallel
from unrolled.engine.kernels.pool import empty
from unrolled.engine.kernels.split import (
    Columns,
    Gathered,
    add_gates,
    as_gathered,
    by_state,
    new_states,
    share,
    split,
    start_gates,
)
from unrolled.engine.kernels.team import meet, wait


@compiled
def start(gates: NDArray, x: NDArray, bias: NDArray, H: int, u0: int, u1: int) -> None:
    """``start_gates`` for r and z; the third product, before the reset gate is applied, starts from its own bias alone."""
    start_gates(gates, x, bias, 2, H, u0, u1)
    a, b = gates[2 * H + u0 : 2 * H + u1], bias[2 * H + u0 : 2 * H + u1]
    for j in range(u1 - u0):
        a[j] = b[j]


@compiled
def activate(gates: NDArray, x_n: NDArray, h_prev: NDArray, h: NDArray, u0: int, u1: int) -> None:
    """Units u0 … u1 of one row: gates (4·H,) holds a_r, a_z, hn; it becomes r, z, hn, n."""
    H, m = h.shape[0], u1 - u0
    r, z = gates[u0:u1], gates[H + u0 : H + u1]
    hn, n = gates[2 * H + u0 : 2 * H + u1], gates[3 * H + u0 : 3 * H + u1]
    x_n, h_prev, h = x_n[u0:u1], h_prev[u0:u1], h[u0:u1]
    for j in range(m):
        r[j] = sigmoid(r[j])
    for j in range(m):
        z[j] = sigmoid(z[j])
    for j in range(m):
        n[j] = tanh(x_n[j] + r[j] * hn[j])
    for j in range(m):
        h[j] = (1 - z[j]) * n[j] + z[j] * h_prev[j]


@compiled_parallel
def _forward(
    table: NDArray, rows: NDArray, panels: NDArray, b_hh: NDArray, states: NDArray, gates: NDArray, parts: int,
    by_units: bool, team: NDArray,
) -> None:  # fmt: skip
    """``states`` (1, T + 1, B, H)."""
    T, B, width = gates.shape
    H = states.shape[3]
    flat_h, flat_gates = states[0].reshape(-1), gates.reshape(-1)
    for part in prange(parts):
        active = meet(team, parts) if by_units else parts
        if active > 0:
            first, last, u0, u1 = share(part % active, active, by_units, B, H, panels.shape[2])
            memory = new_operand(panels, last - first)
            for t in range(T):
                for b in range(first, last):
                    start(gates[t, b], table[rows[t, b]], b_hh, H, u0, u1)
                at, n = t * B + first, last - first
                h, h_at, h_row = operand(flat_h, at * H, H, n, H, panels, memory)
                add_gates(h, h_at, h_row, panels, flat_gates, at * width, width, n, H, 3, u0, u1, t % 2 == 1)
                for b in range(first, last):
                    x_n = table[rows[t, b], 2 * H :]
                    activate(gates[t, b], x_n, states[0, t, b], states[0, t + 1, b], u0, u1)
                if by_units:
                    wait(team, active, t + 1)


@compiled
def _backward_row(gates: NDArray, h_prev: NDArray, dh: NDArray, dh_next: NDArray, u0: int, u1: int) -> None:
    """Units u0 … u1 of one row of one step: r, z, hn, n become the gradients of a_r, a_z, hn and n's argument.

    dh_next becomes the gradient that goes past the gates, dh·z.
    """
    H, m = h_prev.shape[0], u1 - u0
    r, z = gates[u0:u1], gates[H + u0 : H + u1]
    hn, n = gates[2 * H + u0 : 2 * H + u1], gates[3 * H + u0 : 3 * H + u1]
    h_prev, dh, dh_next = h_prev[u0:u1], dh[u0:u1], dh_next[u0:u1]
    for j in range(m):
        dh_next[j] += dh[j]
    for j in range(m):
        dz = dh_next[j] * (h_prev[j] - n[j]) * z[j] * (1 - z[j])
        n[j] = dh_next[j] * (1 - z[j]) * (1 - n[j] * n[j])
        dh_next[j] *= z[j]
        z[j] = dz
    for j in range(m):
        dr = n[j] * hn[j] * r[j] * (1 - r[j])
        hn[j] = n[j] * r[j]
        r[j] = dr


@compiled_parallel
def _backward(
    dh: NDArray, ds: NDArray, states: NDArray, gates: NDArray, panels: NDArray, parts: int, by_units: bool,
    team: NDArray,
) -> None:  # fmt: skip
    """``ds`` (1, B, H) is the gradient of the state, walking backwards; gates become gradients."""
    T, B, H = dh.shape
    width = 4 * H
    flat_gates, flat_ds = gates.reshape(-1), ds.reshape(-1)
    for part in prange(parts):
        active = meet(team, parts) if by_units else parts
        if active > 0:
            W = panels.shape[2]
            first, last, u0, u1 = share(part % active, active, by_units, B, H, W)
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
    xg: NDArray | Gathered, s0: NDArray, w_hh: NDArray, b_hh: NDArray, bf16: bool = False
) -> tuple[NDArray, NDArray]:
    """As ``cells.gru.forward``, but gates are r, z, hn, n: what the product makes lies together."""
    table, rows = as_gathered(xg)
    (T, B), H = rows.shape, w_hh.shape[1]
    states, gates = new_states(s0, T), empty((T, B, 4 * H), table.dtype)
    _forward(table, rows, pack_transposed(w_hh, bf16), b_hh, by_state(states), gates, *split(B, H, table.dtype))
    return states, gates


def backward(
    dh: NDArray, ds_T: NDArray, states: NDArray, gates: NDArray, w_hh: NDArray, b_hh: NDArray, bf16: bool = False
) -> tuple[Columns, Columns, NDArray]:
    """As ``cells.gru.backward``, but ``gates`` is used up: both gradients, which share r's and z's, are columns of it."""
    _, B, H = dh.shape
    ds = ds_T.copy()
    _backward(dh, ds, by_state(states), gates, pack(w_hh, bf16), *split(B, H, dh.dtype))
    return Columns(gates, ((0, 2 * H), (3 * H, 4 * H))), Columns(gates, ((0, 3 * H),)), ds
