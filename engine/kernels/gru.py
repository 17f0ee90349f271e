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
def start_candidate(hn: NDArray, bias: NDArray, H: int, u0: int, u1: int) -> None:
    """The third product, before the reset gate is applied, starts from its own bias alone."""
    a, b = hn[u0:u1], bias[2 * H + u0 : 2 * H + u1]
    for j in range(u1 - u0):
        a[j] = b[j]


@compiled
def add_all_gates(
    h: NDArray, h_offset: int, h_row: int, panels_rz: NDArray, panels_n: NDArray, gates: NDArray, offset: int,
    width: int, rows: int, H: int, u0: int, u1: int, back: bool,
) -> None:  # fmt: skip
    """``add_gates`` for r and z, which lie first in the gates, and for h's part of n, which lies last."""
    for i in range(2):
        if (i == 1) == back:
            add_gates(h, h_offset, h_row, panels_rz, gates, offset, width, rows, H, 2, u0, u1, back)
        else:
            add_gates(h, h_offset, h_row, panels_n, gates, offset + 3 * H, width, rows, H, 1, u0, u1, back)


@compiled
def activate(gates: NDArray, x_n: NDArray, h_prev: NDArray, h: NDArray, u0: int, u1: int) -> None:
    """Units u0 … u1 of one row: gates (4·H,) holds a_r, a_z, nothing, hn; it becomes r, z, n, hn."""
    H, m = h.shape[0], u1 - u0
    r, z = gates[u0:u1], gates[H + u0 : H + u1]
    n, hn = gates[2 * H + u0 : 2 * H + u1], gates[3 * H + u0 : 3 * H + u1]
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
    table: NDArray, rows: NDArray, panels_rz: NDArray, panels_n: NDArray, b_hh: NDArray, states: NDArray,
    gates: NDArray, parts: int, by_units: bool, team: NDArray,
) -> None:  # fmt: skip
    """``states`` (1, T + 1, B, H)."""
    T, B, width = gates.shape
    H = states.shape[3]
    flat_h, flat_gates = states[0].reshape(-1), gates.reshape(-1)
    for part in prange(parts):
        active = meet(team, parts) if by_units else parts
        if active > 0:
            first, last, u0, u1 = share(part % active, active, by_units, B, H, panels_n.shape[2])
            memory = new_operand(panels_n, last - first)
            for t in range(T):
                for b in range(first, last):
                    start_gates(gates[t, b], table[rows[t, b]], b_hh, 2, H, u0, u1)
                    start_candidate(gates[t, b, 3 * H :], b_hh, H, u0, u1)
                at, n = t * B + first, last - first
                h, h_at, h_row = operand(flat_h, at * H, H, n, H, panels_n, memory)
                add_all_gates(
                    h, h_at, h_row, panels_rz, panels_n, flat_gates, at * width, width, n, H, u0, u1, t % 2 == 1
                )
                for b in range(first, last):
                    x_n = table[rows[t, b], 2 * H :]
                    activate(gates[t, b], x_n, states[0, t, b], states[0, t + 1, b], u0, u1)
                if by_units:
                    wait(team, active, t + 1)


@compiled
def _backward_row(
    gates: NDArray, h_prev: NDArray, dh: NDArray, dh_next: NDArray, dxg: NDArray, dhg: NDArray, u0: int, u1: int
) -> None:  # fmt: skip
    """Units u0 … u1 of one row of one step; dh_next becomes the gradient that goes past the gates, dh·z."""
    H, m = h_prev.shape[0], u1 - u0
    r, z = gates[u0:u1], gates[H + u0 : H + u1]
    n, hn = gates[2 * H + u0 : 2 * H + u1], gates[3 * H + u0 : 3 * H + u1]
    dr, dz, dn = dxg[u0:u1], dxg[H + u0 : H + u1], dxg[2 * H + u0 : 2 * H + u1]
    dhg_r, dhg_z, dhg_n = dhg[u0:u1], dhg[H + u0 : H + u1], dhg[2 * H + u0 : 2 * H + u1]
    h_prev, dh, dh_next = h_prev[u0:u1], dh[u0:u1], dh_next[u0:u1]
    for j in range(m):
        dh_next[j] += dh[j]
    for j in range(m):
        dn[j] = dh_next[j] * (1 - z[j]) * (1 - n[j] * n[j])
    for j in range(m):
        dz[j] = dh_next[j] * (h_prev[j] - n[j]) * z[j] * (1 - z[j])
    for j in range(m):
        dhg_z[j] = dz[j]
    for j in range(m):
        dr[j] = dn[j] * hn[j] * r[j] * (1 - r[j])
    for j in range(m):
        dhg_r[j] = dr[j]
    for j in range(m):
        dhg_n[j] = dn[j] * r[j]
    for j in range(m):
        dh_next[j] *= z[j]


@compiled_parallel
def _backward(
    dh: NDArray, ds: NDArray, states: NDArray, gates: NDArray, panels: NDArray, dxg: NDArray, dhg: NDArray, parts: int,
    by_units: bool, team: NDArray,
) -> None:  # fmt: skip
    """``ds`` (1, B, H) is the gradient of the state, walking backwards."""
    T, B, H = dh.shape
    G = 3 * H
    flat_dhg, flat_ds = dhg.reshape(-1), ds.reshape(-1)
    for part in prange(parts):
        active = meet(team, parts) if by_units else parts
        if active > 0:
            W = panels.shape[2]
            first, last, u0, u1 = share(part % active, active, by_units, B, H, W)
            memory = new_operand(panels, last - first)
            for step in range(T):
                t = T - 1 - step
                for b in range(first, last):
                    _backward_row(gates[t, b], states[0, t, b], dh[t, b], ds[0, b], dxg[t, b], dhg[t, b], u0, u1)
                if by_units:
                    wait(team, active, step + 1)
                m, c_at = last - first, first * H + u0
                d, at, d_row = operand(flat_dhg, (t * B + first) * G, G, m, G, panels, memory)
                add_product_part(d, at, d_row, 1, panels, u0 // W, flat_ds, c_at, H, m, u1 - u0, t % 2 == 1)


def forward(
    xg: NDArray | Gathered, s0: NDArray, w_hh: NDArray, b_hh: NDArray, bf16: bool = False
) -> tuple[NDArray, NDArray]:
    """As ``cells.gru.forward``."""
    table, rows = as_gathered(xg)
    (T, B), H = rows.shape, w_hh.shape[1]
    states, gates = new_states(s0, T), empty((T, B, 4 * H), table.dtype)
    panels_rz, panels_n = pack_transposed(w_hh[: 2 * H], bf16), pack_transposed(w_hh[2 * H :], bf16)
    _forward(table, rows, panels_rz, panels_n, b_hh, by_state(states), gates, *split(B, H, table.dtype))
    return states, gates


def backward(
    dh: NDArray, ds_T: NDArray, states: NDArray, gates: NDArray, w_hh: NDArray, b_hh: NDArray, bf16: bool = False
) -> tuple[NDArray, NDArray, NDArray]:
    """As ``cells.gru.backward``."""
    T, B, H = dh.shape
    dxg, dhg, ds = empty((T, B, 3 * H), dh.dtype), empty((T, B, 3 * H), dh.dtype), ds_T.copy()
    _backward(dh, ds, by_state(states), gates, pack(w_hh, bf16), dxg, dhg, *split(B, H, dh.dtype))
    return dxg, dhg, ds
