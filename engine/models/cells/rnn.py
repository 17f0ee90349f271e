"""Elman network.

    h_t = φ(x_t·W_ihᵀ + b_ih + h_{t-1}·W_hhᵀ + b_hh),   φ = tanh or relu

Source: J. L. Elman, "Finding Structure in Time", Cognitive Science 14 (1990). Backward is back-propagation through
time: P. J. Werbos, "Backpropagation Through Time: What It Does and How to Do It", Proc. IEEE 78 (1990).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Activation(NamedTuple):
    """The function φ of an Elman network, and its derivative as a function of its result."""

    function: Callable[[NDArray], NDArray]
    derivative: Callable[[NDArray], NDArray]


PHI_TANH = Activation(np.tanh, lambda h: 1 - h * h)
PHI_RELU = Activation(lambda a: np.maximum(a, 0), lambda h: (h > 0).astype(h.dtype))  # derivative 0 at 0, as PyTorch's


def forward(
    phi: Activation, xg: NDArray, s0: NDArray, w_hh: NDArray, b_hh: NDArray
) -> tuple[NDArray, NDArray]:  # fmt: skip
    """Run T time steps by the cells' contract; the gates (T, B, H) are the outputs h_t."""
    T, B, H = xg.shape
    states = np.empty((T + 1, 1, B, H), xg.dtype)
    states[0] = s0
    for t in range(T):
        h_prev = states[t, 0]
        states[t + 1, 0] = phi.function(xg[t] + h_prev @ w_hh.T + b_hh)  # (B, H)
    return states, states[1:, 0]  # the outputs are all that backward needs


def backward(
    phi: Activation, dh: NDArray, ds_T: NDArray, states: NDArray, gates: NDArray, w_hh: NDArray, b_hh: NDArray
) -> tuple[NDArray, NDArray, NDArray]:
    """Return the gradients of T time steps by the cells' contract; ``dhg`` is ``dxg``."""
    T, B, H = dh.shape
    da = np.empty((T, B, H), dh.dtype)  # gradient of φ's argument
    dh_next = ds_T[0]
    for t in reversed(range(T)):
        da[t] = (dh[t] + dh_next) * phi.derivative(gates[t])
        dh_next = da[t] @ w_hh  # (B, H)
    return da, da, dh_next[None].copy()
