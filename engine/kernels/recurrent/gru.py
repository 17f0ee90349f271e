"""Formulas of the GRU over vectors of units; their derivation is in ``unrolled.engine.models.cells.gru``.

The gates are stored as r, z, hn, n, so that the three blocks of the hidden product, and of its gradient, lie together.
"""

from __future__ import annotations

from unrolled.engine.kernels.recurrent.formulas import Outputs, Vectors
from unrolled.engine.kernels.simd.activations import sigmoid, tanh


def activate(hidden: Vectors, inputs: Vectors, before: Vectors) -> Outputs:
    """Return the gates r, z, hn, n and the state h."""
    (r, z, hn), (x_r, x_z, x_n), (h_prev,) = hidden, inputs, before
    r, z = sigmoid(r + x_r), sigmoid(z + x_z)
    n = tanh(x_n + r * hn)
    return (r, z, hn, n), ((1 - z) * n + z * h_prev,)


def differentiate(gates: Vectors, before: Vectors, after: Vectors, dh: Vectors, dstate: Vectors) -> Outputs:
    """Return the gradients of the arguments of r and z, of hn and of n's argument, and of h_prev without the product."""
    (r, z, hn, n), (h_prev,), (dh,), (dh_next,) = gates, before, dh, dstate
    dh = dh_next + dh
    dn = dh * (1 - z) * (1 - n * n)
    return (dn * hn * r * (1 - r), dh * (h_prev - n) * z * (1 - z), dn * r, dn), (dh * z,)
