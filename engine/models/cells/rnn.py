"""The Elman network.

    h_t = φ(x_t·W_ihᵀ + b_ih + h_{t-1}·W_hhᵀ + b_hh),   φ = tanh or relu

Source: J. L. Elman, "Finding Structure in Time", Cognitive Science 14 (1990). Backward is back-propagation through
time: P. J. Werbos, "Backpropagation Through Time: What It Does and How to Do It", Proc. IEEE 78 (1990).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Activation = Callable[[NDArray], NDArray]


def _forward(xg: NDArray, s0: NDArray, w_hh: NDArray, b_hh: NDArray, activation: Activation) -> tuple[NDArray, NDArray]:
    T, B, H = xg.shape
    states = np.empty((T + 1, 1, B, H), xg.dtype)
    states[0] = s0
    for t in range(T):
        h_prev = states[t, 0]
        states[t + 1, 0] = activation(xg[t] + h_prev @ w_hh.T + b_hh)  # (B, H)
    return states, states[1:, 0]  # the output is all that backward needs


def _backward(
    dh: NDArray, ds_T: NDArray, gates: NDArray, w_hh: NDArray, derivative: Activation
) -> tuple[NDArray, NDArray, NDArray]:
    T, B, H = dh.shape
    da = np.empty((T, B, H), dh.dtype)  # gradient of φ's argument
    dh_next = ds_T[0]
    for t in reversed(range(T)):
        da[t] = (dh[t] + dh_next) * derivative(gates[t])
        dh_next = da[t] @ w_hh  # (B, H)
    return da, da, dh_next[None].copy()


def _relu(x: NDArray) -> NDArray:
    return np.maximum(x, 0)


def _tanh_derivative(h: NDArray) -> NDArray:
    """dtanh(a)/da as a function of h = tanh(a)."""
    return 1 - h * h


def _relu_derivative(h: NDArray) -> NDArray:
    """drelu(a)/da as a function of h = relu(a); 0 at a = 0, as PyTorch's."""
    return (h > 0).astype(h.dtype)


def forward_tanh(xg: NDArray, s0: NDArray, w_hh: NDArray, b_hh: NDArray) -> tuple[NDArray, NDArray]:
    """Run T steps; the cells' contract, with gates (T, B, H) the outputs h_t."""
    return _forward(xg, s0, w_hh, b_hh, np.tanh)


def backward_tanh(
    dh: NDArray, ds_T: NDArray, states: NDArray, gates: NDArray, w_hh: NDArray, b_hh: NDArray
) -> tuple[NDArray, NDArray, NDArray]:
    """Gradients of T steps; the cells' contract."""
    return _backward(dh, ds_T, gates, w_hh, _tanh_derivative)


def forward_relu(xg: NDArray, s0: NDArray, w_hh: NDArray, b_hh: NDArray) -> tuple[NDArray, NDArray]:
    """Run T steps; the cells' contract, with gates (T, B, H) the outputs h_t."""
    return _forward(xg, s0, w_hh, b_hh, _relu)


def backward_relu(
    dh: NDArray, ds_T: NDArray, states: NDArray, gates: NDArray, w_hh: NDArray, b_hh: NDArray
) -> tuple[NDArray, NDArray, NDArray]:
    """Gradients of T steps; the cells' contract."""
    return _backward(dh, ds_T, gates, w_hh, _relu_derivative)
