"""Long short-term memory with a forget gate and without peepholes.

    i_t = σ(x·W_iiᵀ + b_ii + h_{t-1}·W_hiᵀ + b_hi)        f_t, o_t likewise
    g_t = tanh(x·W_igᵀ + b_ig + h_{t-1}·W_hgᵀ + b_hg)
    c_t = f_t ∘ c_{t-1} + i_t ∘ g_t
    h_t = o_t ∘ tanh(c_t)

Source: S. Hochreiter and J. Schmidhuber, "Long Short-Term Memory", Neural Computation 9 (1997); forget gate: F. A. Gers,
J. Schmidhuber and F. Cummins, "Learning to Forget" (2000). Gate order i, f, g, o is PyTorch's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.models.cells.cell import sigmoid


def forward(xg: NDArray, s0: NDArray, w_hh: NDArray, b_hh: NDArray) -> tuple[NDArray, NDArray]:
    """Run T time steps by the cells' contract; gates (T, B, 4·H): activated i, f, g, o; state 0 is h, 1 is c."""
    T, B, H = xg.shape[0], xg.shape[1], s0.shape[2]
    states = np.empty((T + 1, 2, B, H), xg.dtype)
    gates = np.empty((T, B, 4 * H), xg.dtype)
    states[0] = s0
    for t in range(T):
        h_prev, c_prev = states[t]
        a = xg[t] + h_prev @ w_hh.T + b_hh  # (B, 4·H)
        i = sigmoid(a[:, :H])
        f = sigmoid(a[:, H : 2 * H])
        g = np.tanh(a[:, 2 * H : 3 * H])
        o = sigmoid(a[:, 3 * H :])
        c = f * c_prev + i * g
        states[t + 1, 0] = o * np.tanh(c)
        states[t + 1, 1] = c
        gates[t] = np.concatenate([i, f, g, o], axis=1)
    return states, gates


def backward(
    dh: NDArray, ds_T: NDArray, states: NDArray, gates: NDArray, w_hh: NDArray, b_hh: NDArray
) -> tuple[NDArray, NDArray, NDArray]:
    """Return the gradients of T time steps by the cells' contract; ``dhg`` is ``dxg``, since the gates add both products."""
    T, B, H = dh.shape
    da = np.empty((T, B, 4 * H), dh.dtype)  # gradient of the arguments of i, f, g, o
    dh_next, dc_next = ds_T
    for t in reversed(range(T)):
        i, f, g, o = np.split(gates[t], 4, axis=1)
        c_prev, tanh_c = states[t, 1], np.tanh(states[t + 1, 1])
        dh_t = dh[t] + dh_next
        dc = dc_next + dh_t * o * (1 - tanh_c * tanh_c)
        da[t] = np.concatenate(
            [
                dc * g * i * (1 - i),
                dc * c_prev * f * (1 - f),
                dc * i * (1 - g * g),
                dh_t * tanh_c * o * (1 - o),
            ],
            axis=1,
        )
        dh_next = da[t] @ w_hh
        dc_next = dc * f
    return da, da, np.stack([dh_next, dc_next])
