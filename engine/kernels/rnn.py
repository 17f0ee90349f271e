"""The Elman network compiled: contract and formulas in ``unrolled.engine.cells.rnn``; threads as in the LSTM's kernel."""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, prange
from numpy.typing import NDArray

from unrolled.engine.kernels.activations import tanh
from unrolled.engine.kernels.gemm import add_product, pack, pack_transposed
from unrolled.engine.kernels.kernel import compiled, compiled_parallel


@compiled
def _activate(a: NDArray, relu: bool) -> None:
    if relu:
        for j in range(a.shape[0]):
            a[j] = max(a[j], a.dtype.type(0))
    else:
        for j in range(a.shape[0]):
            a[j] = tanh(a[j])


@compiled_parallel
def _forward(xg: NDArray, s0: NDArray, w_hh: NDArray, b_hh: NDArray, relu: bool, parts: int) -> NDArray:
    T, B, H = xg.shape
    panels = pack_transposed(w_hh)
    states = np.empty((T + 1, 1, B, H), xg.dtype)
    states[0] = s0
    flat = states.reshape(-1)
    for part in prange(parts):
        first, last = part * B // parts, (part + 1) * B // parts
        for t in range(T):
            for b in range(first, last):
                for j in range(H):
                    states[t + 1, 0, b, j] = xg[t, b, j] + b_hh[j]
            h_prev, h = (t * B + first) * H, ((t + 1) * B + first) * H
            add_product(flat, h_prev, H, 1, panels, flat, h, H, last - first, H)
            for b in range(first, last):
                _activate(states[t + 1, 0, b], relu)
    return states


@compiled
def _backward_row(h: NDArray, dh: NDArray, dh_next: NDArray, da: NDArray, relu: bool) -> None:
    H = h.shape[0]
    for j in range(H):
        da[j] = dh[j] + dh_next[j]
    if relu:
        for j in range(H):
            da[j] = da[j] if h[j] > 0 else h.dtype.type(0)
    else:
        for j in range(H):
            da[j] *= 1 - h[j] * h[j]


@compiled_parallel
def _backward(
    dh: NDArray, ds_T: NDArray, states: NDArray, w_hh: NDArray, relu: bool, parts: int
) -> tuple[NDArray, NDArray]:
    T, B, H = dh.shape
    panels = pack(w_hh)
    da = np.empty((T, B, H), dh.dtype)
    ds = ds_T.copy()  # gradient of the state, walking backwards
    flat_da, flat_ds = da.reshape(-1), ds.reshape(-1)
    for part in prange(parts):
        first, last = part * B // parts, (part + 1) * B // parts
        for step in range(T):
            t = T - 1 - step
            for b in range(first, last):
                _backward_row(states[t + 1, 0, b], dh[t, b], ds[0, b], da[t, b], relu)
                ds[0, b] = 0
            add_product(flat_da, (t * B + first) * H, H, 1, panels, flat_ds, first * H, H, last - first, H)
    return da, ds


def forward_tanh(xg: NDArray, s0: NDArray, w_hh: NDArray, b_hh: NDArray) -> tuple[NDArray, NDArray]:
    states = _forward(xg, s0, w_hh, b_hh, False, get_num_threads())
    return states, states[1:, 0]


def backward_tanh(
    dh: NDArray, ds_T: NDArray, states: NDArray, gates: NDArray, w_hh: NDArray, b_hh: NDArray
) -> tuple[NDArray, NDArray, NDArray]:
    da, ds = _backward(dh, ds_T, states, w_hh, False, get_num_threads())
    return da, da, ds


def forward_relu(xg: NDArray, s0: NDArray, w_hh: NDArray, b_hh: NDArray) -> tuple[NDArray, NDArray]:
    states = _forward(xg, s0, w_hh, b_hh, True, get_num_threads())
    return states, states[1:, 0]


def backward_relu(
    dh: NDArray, ds_T: NDArray, states: NDArray, gates: NDArray, w_hh: NDArray, b_hh: NDArray
) -> tuple[NDArray, NDArray, NDArray]:
    da, ds = _backward(dh, ds_T, states, w_hh, True, get_num_threads())
    return da, da, ds
