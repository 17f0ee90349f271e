"""The Elman network compiled: contract and formulas in ``unrolled.engine.cells.rnn``; threads as in the LSTM's kernel."""

from __future__ import annotations

from numba import get_num_threads, prange
from numpy.typing import NDArray

from unrolled.engine.kernels.activations import tanh
from unrolled.engine.kernels.gemm import add_product, pack, pack_transposed
from unrolled.engine.kernels.kernel import compiled, compiled_parallel
from unrolled.engine.kernels.pool import empty


@compiled
def _activate(a: NDArray, relu: bool) -> None:
    if relu:
        for j in range(a.shape[0]):
            a[j] = max(a[j], a.dtype.type(0))
    else:
        for j in range(a.shape[0]):
            a[j] = tanh(a[j])


@compiled_parallel
def _run(xg: NDArray, panels: NDArray, b_hh: NDArray, states: NDArray, relu: bool, parts: int) -> None:
    T, B, H = xg.shape
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
def _run_back(dh: NDArray, ds: NDArray, states: NDArray, panels: NDArray, da: NDArray, relu: bool, parts: int) -> None:
    """``ds`` is the gradient of the state, walking backwards."""
    T, B, H = dh.shape
    flat_da, flat_ds = da.reshape(-1), ds.reshape(-1)
    for part in prange(parts):
        first, last = part * B // parts, (part + 1) * B // parts
        for step in range(T):
            t = T - 1 - step
            for b in range(first, last):
                _backward_row(states[t + 1, 0, b], dh[t, b], ds[0, b], da[t, b], relu)
                ds[0, b] = 0
            add_product(flat_da, (t * B + first) * H, H, 1, panels, flat_ds, first * H, H, last - first, H)


def _forward(xg: NDArray, s0: NDArray, w_hh: NDArray, b_hh: NDArray, relu: bool) -> tuple[NDArray, NDArray]:
    states = empty((len(xg) + 1, *s0.shape), xg.dtype)
    states[0] = s0
    _run(xg, pack_transposed(w_hh), b_hh, states, relu, get_num_threads())
    return states, states[1:, 0]


def _backward(
    dh: NDArray, ds_T: NDArray, states: NDArray, w_hh: NDArray, relu: bool
) -> tuple[NDArray, NDArray, NDArray]:
    da, ds = empty(dh.shape, dh.dtype), ds_T.copy()
    _run_back(dh, ds, states, pack(w_hh), da, relu, get_num_threads())
    return da, da, ds


def forward_tanh(xg: NDArray, s0: NDArray, w_hh: NDArray, b_hh: NDArray) -> tuple[NDArray, NDArray]:
    return _forward(xg, s0, w_hh, b_hh, False)


def backward_tanh(
    dh: NDArray, ds_T: NDArray, states: NDArray, gates: NDArray, w_hh: NDArray, b_hh: NDArray
) -> tuple[NDArray, NDArray, NDArray]:
    return _backward(dh, ds_T, states, w_hh, False)


def forward_relu(xg: NDArray, s0: NDArray, w_hh: NDArray, b_hh: NDArray) -> tuple[NDArray, NDArray]:
    return _forward(xg, s0, w_hh, b_hh, True)


def backward_relu(
    dh: NDArray, ds_T: NDArray, states: NDArray, gates: NDArray, w_hh: NDArray, b_hh: NDArray
) -> tuple[NDArray, NDArray, NDArray]:
    return _backward(dh, ds_T, states, w_hh, True)
