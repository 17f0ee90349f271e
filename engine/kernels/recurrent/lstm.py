"""Formulas of the LSTM over vectors of units; their derivation is in ``unrolled.engine.models.cells.lstm``."""

from __future__ import annotations

from unrolled.engine.kernels.recurrent.formulas import Outputs, Vectors
from unrolled.engine.kernels.simd.activations import sigmoid, tanh


def activate(hidden: Vectors, inputs: Vectors, before: Vectors) -> Outputs:
    """Return the gates i, f, g, o and the state h, c."""
    i, f, g, o = (a + x for a, x in zip(hidden, inputs, strict=True))
    i, f, g, o = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)
    _, c_prev = before
    c = f * c_prev + i * g
    return (i, f, g, o), (o * tanh(c), c)


def differentiate(gates: Vectors, before: Vectors, after: Vectors, dh: Vectors, dstate: Vectors) -> Outputs:
    """Return the gradients of the arguments of i, f, g, o, and of the state before: 0 for h, which only the product reads."""
    i, f, g, o = gates
    (_, c_prev), (_, c), (dh,), (dh_next, dc) = before, after, dh, dstate
    tanh_c = tanh(c)
    dh = dh_next + dh
    dc = dc + dh * o * (1 - tanh_c * tanh_c)
    di, df = dc * g * i * (1 - i), dc * c_prev * f * (1 - f)
    return (di, df, dc * i * (1 - g * g), dh * tanh_c * o * (1 - o)), (0, dc * f)
