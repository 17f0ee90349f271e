"""The LSTM compiled: contract and formulas in ``unrolled.engine.cells.lstm``.

The batch is shared out to the threads, each of which runs all T steps alone: no barrier, and the packed weights stay in
its cache. The element-wise work is in short loops over few rows, because LLVM leaves a loop over eight or more arrays
scalar.
"""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, prange
from numpy.typing import NDArray

from unrolled.engine.kernels.activations import sigmoid, tanh
from unrolled.engine.kernels.gemm import add_product, pack, pack_transposed
from unrolled.engine.kernels.kernel import compiled, compiled_parallel
from unrolled.engine.kernels.pool import empty


@compiled
def _activate(gates: NDArray, c_prev: NDArray, c: NDArray, h: NDArray) -> None:
    """One row: gates (4·H,) from arguments to i, f, g, o; c and h (H,)."""
    H = h.shape[0]
    i, f, g, o = gates[:H], gates[H : 2 * H], gates[2 * H : 3 * H], gates[3 * H :]
    for j in range(2 * H):
        gates[j] = sigmoid(gates[j])
    for j in range(H):
        g[j] = tanh(g[j])
    for j in range(H):
        o[j] = sigmoid(o[j])
    for j in range(H):
        c[j] = f[j] * c_prev[j] + i[j] * g[j]
    for j in range(H):
        h[j] = o[j] * tanh(c[j])


@compiled_parallel
def _forward(xg: NDArray, panels: NDArray, b_hh: NDArray, states: NDArray, gates: NDArray, parts: int) -> None:
    T, B, G = xg.shape
    H = states.shape[3]
    flat_states, flat_gates = states.reshape(-1), gates.reshape(-1)
    for part in prange(parts):
        first, last = part * B // parts, (part + 1) * B // parts
        for t in range(T):
            for b in range(first, last):
                for j in range(G):
                    gates[t, b, j] = xg[t, b, j] + b_hh[j]
            h_prev = (t * 2 * B + first) * H
            add_product(flat_states, h_prev, H, 1, panels, flat_gates, (t * B + first) * G, G, last - first, G)
            for b in range(first, last):
                _activate(gates[t, b], states[t, 1, b], states[t + 1, 1, b], states[t + 1, 0, b])


@compiled
def _backward_row(
    gates: NDArray,
    c_prev: NDArray,
    c: NDArray,
    dh: NDArray,
    dh_next: NDArray,
    dc: NDArray,
    da: NDArray,
    tanh_c: NDArray,
) -> None:
    """One row of one step: da (4·H,) from dh and dh_next; dc becomes the one of the step before."""
    H = c.shape[0]
    i, f, g, o = gates[:H], gates[H : 2 * H], gates[2 * H : 3 * H], gates[3 * H :]
    da_i, da_f, da_g, da_o = da[:H], da[H : 2 * H], da[2 * H : 3 * H], da[3 * H :]
    for j in range(H):
        tanh_c[j] = tanh(c[j])
    for j in range(H):
        dh_next[j] += dh[j]
    for j in range(H):
        dc[j] += dh_next[j] * o[j] * (1 - tanh_c[j] * tanh_c[j])
    for j in range(H):
        da_o[j] = dh_next[j] * tanh_c[j] * o[j] * (1 - o[j])
    for j in range(H):
        da_i[j] = dc[j] * g[j] * i[j] * (1 - i[j])
    for j in range(H):
        da_f[j] = dc[j] * c_prev[j] * f[j] * (1 - f[j])
    for j in range(H):
        da_g[j] = dc[j] * i[j] * (1 - g[j] * g[j])
    for j in range(H):
        dc[j] *= f[j]


@compiled_parallel
def _backward(
    dh: NDArray, ds: NDArray, states: NDArray, gates: NDArray, panels: NDArray, da: NDArray, parts: int
) -> None:
    """``ds`` is the gradient of the state, walking backwards."""
    T, B, H = dh.shape
    G = 4 * H
    flat_da, flat_ds = da.reshape(-1), ds.reshape(-1)
    for part in prange(parts):
        first, last = part * B // parts, (part + 1) * B // parts
        tanh_c = np.empty(H, dh.dtype)
        for step in range(T):
            t = T - 1 - step
            for b in range(first, last):
                _backward_row(
                    gates[t, b],
                    states[t, 1, b],
                    states[t + 1, 1, b],
                    dh[t, b],
                    ds[0, b],
                    ds[1, b],
                    da[t, b],
                    tanh_c,
                )
                ds[0, b] = 0
            add_product(flat_da, (t * B + first) * G, G, 1, panels, flat_ds, first * H, H, last - first, H)


def forward(xg: NDArray, s0: NDArray, w_hh: NDArray, b_hh: NDArray) -> tuple[NDArray, NDArray]:
    """As ``cells.lstm.forward``."""
    T, B, G = xg.shape
    states, gates = empty((T + 1, *s0.shape), xg.dtype), empty((T, B, G), xg.dtype)
    states[0] = s0
    _forward(xg, pack_transposed(w_hh), b_hh, states, gates, get_num_threads())
    return states, gates


def backward(
    dh: NDArray, ds_T: NDArray, states: NDArray, gates: NDArray, w_hh: NDArray, b_hh: NDArray
) -> tuple[NDArray, NDArray, NDArray]:
    da, ds = empty(gates.shape, dh.dtype), ds_T.copy()
    _backward(dh, ds, states, gates, pack(w_hh), da, get_num_threads())
    return da, da, ds
