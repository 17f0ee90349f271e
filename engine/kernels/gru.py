"""The GRU compiled: contract and formulas in ``unrolled.engine.cells.gru``; threads and loops as in the LSTM's kernel."""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, prange
from numpy.typing import NDArray

from unrolled.engine.kernels.activations import sigmoid, tanh
from unrolled.engine.kernels.gemm import add_product, pack, pack_transposed
from unrolled.engine.kernels.kernel import compiled, compiled_parallel
from unrolled.engine.kernels.pool import empty


@compiled
def _activate(gates: NDArray, xg: NDArray, h_prev: NDArray, h: NDArray) -> None:
    """One row: gates (4·H,) holds a_r, a_z, nothing, hn; it becomes r, z, n, hn."""
    H = h.shape[0]
    r, z, n, hn = gates[:H], gates[H : 2 * H], gates[2 * H : 3 * H], gates[3 * H :]
    x_n = xg[2 * H :]
    for j in range(2 * H):
        gates[j] = sigmoid(gates[j] + xg[j])
    for j in range(H):
        n[j] = tanh(x_n[j] + r[j] * hn[j])
    for j in range(H):
        h[j] = (1 - z[j]) * n[j] + z[j] * h_prev[j]


@compiled_parallel
def _forward(xg: NDArray, panels: NDArray, b_hh: NDArray, states: NDArray, gates: NDArray, parts: int) -> None:
    T, B, G = xg.shape
    H = states.shape[3]
    flat_states = states.reshape(-1)
    for part in prange(parts):
        first, last = part * B // parts, (part + 1) * B // parts
        hg = np.empty((last - first, G), xg.dtype)  # h_prev·W_hhᵀ + b_hh
        flat_hg = hg.reshape(-1)
        for t in range(T):
            for b in range(last - first):
                for j in range(G):
                    hg[b, j] = b_hh[j]
            add_product(flat_states, (t * B + first) * H, H, 1, panels, flat_hg, 0, G, last - first, G)
            for b in range(first, last):
                row, out = hg[b - first], gates[t, b]
                for j in range(2 * H):
                    out[j] = row[j]
                for j in range(H):
                    out[3 * H + j] = row[2 * H + j]
                _activate(out, xg[t, b], states[t, 0, b], states[t + 1, 0, b])


@compiled
def _backward_row(gates: NDArray, h_prev: NDArray, dh: NDArray, dh_next: NDArray, dxg: NDArray, dhg: NDArray) -> None:
    """One row of one step; dh_next becomes the part of the gradient that goes past the gates, dh·z."""
    H = h_prev.shape[0]
    r, z, n, hn = gates[:H], gates[H : 2 * H], gates[2 * H : 3 * H], gates[3 * H :]
    dr, dz, dn = dxg[:H], dxg[H : 2 * H], dxg[2 * H :]
    dhg_n = dhg[2 * H :]
    for j in range(H):
        dh_next[j] += dh[j]
    for j in range(H):
        dn[j] = dh_next[j] * (1 - z[j]) * (1 - n[j] * n[j])
    for j in range(H):
        dz[j] = dh_next[j] * (h_prev[j] - n[j]) * z[j] * (1 - z[j])
    for j in range(H):
        dr[j] = dn[j] * hn[j] * r[j] * (1 - r[j])
    for j in range(H):
        dhg_n[j] = dn[j] * r[j]
    for j in range(2 * H):
        dhg[j] = dxg[j]
    for j in range(H):
        dh_next[j] *= z[j]


@compiled_parallel
def _backward(
    dh: NDArray, ds: NDArray, states: NDArray, gates: NDArray, panels: NDArray, dxg: NDArray, dhg: NDArray, parts: int
) -> None:
    """``ds`` is the gradient of the state, walking backwards."""
    T, B, H = dh.shape
    G = 3 * H
    flat_dhg, flat_ds = dhg.reshape(-1), ds.reshape(-1)
    for part in prange(parts):
        first, last = part * B // parts, (part + 1) * B // parts
        for step in range(T):
            t = T - 1 - step
            for b in range(first, last):
                _backward_row(gates[t, b], states[t, 0, b], dh[t, b], ds[0, b], dxg[t, b], dhg[t, b])
            add_product(flat_dhg, (t * B + first) * G, G, 1, panels, flat_ds, first * H, H, last - first, H)


def forward(xg: NDArray, s0: NDArray, w_hh: NDArray, b_hh: NDArray) -> tuple[NDArray, NDArray]:
    """As ``cells.gru.forward``."""
    T, B, _ = xg.shape
    states, gates = empty((T + 1, *s0.shape), xg.dtype), empty((T, B, 4 * s0.shape[2]), xg.dtype)
    states[0] = s0
    _forward(xg, pack_transposed(w_hh), b_hh, states, gates, get_num_threads())
    return states, gates


def backward(
    dh: NDArray, ds_T: NDArray, states: NDArray, gates: NDArray, w_hh: NDArray, b_hh: NDArray
) -> tuple[NDArray, NDArray, NDArray]:
    T, B, H = dh.shape
    dxg, dhg, ds = empty((T, B, 3 * H), dh.dtype), empty((T, B, 3 * H), dh.dtype), ds_T.copy()
    _backward(dh, ds, states, gates, pack(w_hh), dxg, dhg, get_num_threads())
    return dxg, dhg, ds
