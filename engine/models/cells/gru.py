"""Gated recurrent unit, in the form that applies the reset gate after the recurrent product.

    r_t = σ(x·W_irᵀ + b_ir + h_{t-1}·W_hrᵀ + b_hr)
    z_t = σ(x·W_izᵀ + b_iz + h_{t-1}·W_hzᵀ + b_hz)
    n_t = tanh(x·W_inᵀ + b_in + r_t ∘ (h_{t-1}·W_hnᵀ + b_hn))
    h_t = (1 - z_t) ∘ n_t + z_t ∘ h_{t-1}

Source: K. Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder" (2014), section 2.3, in the variant of
PyTorch's ``nn.GRU`` and of ONNX's ``linear_before_reset=1``, where r multiplies the product and its bias.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.models.cells.cell import sigmoid


def forward(xg: NDArray, s0: NDArray, w_hh: NDArray, b_hh: NDArray) -> tuple[NDArray, NDArray]:
    """Run T time steps by the cells' contract; gates (T, B, 4·H) are r, z, n and the recurrent product hn of the n gate."""
    T, B, H = xg.shape[0], xg.shape[1], s0.shape[2]
    states = np.empty((T + 1, 1, B, H), xg.dtype)
    gates = np.empty((T, B, 4 * H), xg.dtype)
    states[0] = s0
    for t in range(T):
        h_prev = states[t, 0]
        hg = h_prev @ w_hh.T + b_hh  # (B, 3·H)
        r = sigmoid(xg[t, :, :H] + hg[:, :H])
        z = sigmoid(xg[t, :, H : 2 * H] + hg[:, H : 2 * H])
        hn = hg[:, 2 * H :]
        n = np.tanh(xg[t, :, 2 * H :] + r * hn)
        states[t + 1, 0] = (1 - z) * n + z * h_prev
        gates[t] = np.concatenate([r, z, n, hn], axis=1)
    return states, gates


def backward(
    dh: NDArray, ds_T: NDArray, states: NDArray, gates: NDArray, w_hh: NDArray, b_hh: NDArray
) -> tuple[NDArray, NDArray, NDArray]:
    """Return the gradients of T time steps by the cells' contract; ``dxg`` and ``dhg`` differ by the factor r in the n gate."""
    T, B, H = dh.shape
    dxg = np.empty((T, B, 3 * H), dh.dtype)
    dhg = np.empty((T, B, 3 * H), dh.dtype)
    dh_next = ds_T[0]
    for t in reversed(range(T)):
        h_prev = states[t, 0]
        r, z, n, hn = np.split(gates[t], 4, axis=1)
        dh_t = dh[t] + dh_next
        dn = dh_t * (1 - z) * (1 - n * n)  # gradient of tanh's argument
        dz = dh_t * (h_prev - n) * z * (1 - z)
        dr = dn * hn * r * (1 - r)
        dxg[t] = np.concatenate([dr, dz, dn], axis=1)
        dhg[t] = np.concatenate([dr, dz, dn * r], axis=1)
        dh_next = dh_t * z + dhg[t] @ w_hh
    return dxg, dhg, dh_next[None].copy()
