"""Parity gate of the benchmark: a contestant is timed only if its arrays equal those of the NumPy reference."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

# Relative to the largest entry of the reference's array; float32 sums in another order differ by about 1e-6.
PARITY = {"loss": 1e-5, "norm": 1e-4, "logits": 1e-4, "state": 1e-4, "greedy": 0.0, "parameters": 2e-3}
# For products in bfloat16, which has 8 bits. Adam first moves a parameter by the sign of its gradient, and texts diverge at the
# first token with a near rival, so parameters and tokens show little; the loss of the second step shows what the first one did.
ROUNDED_PARITY = {"loss": 1e-2, "norm": 5e-2, "logits": 5e-2, "state": 5e-2, "greedy": float("inf"), "parameters": 0.1}


def compare_arrays(
    got: Mapping[str, NDArray], reference: Mapping[str, NDArray], allowed: Mapping[str, float] = PARITY
) -> str:
    """Return "ok", or which array differs from the reference and by how much.

    Args:
        got: arrays of the contestant.
        reference: arrays that must be there; the first word of a name is a key of ``allowed``, or it is a parameter.
        allowed: largest differences.
    """
    if missing := sorted(set(reference) - set(got)):
        return f"{', '.join(missing)} missing"
    for name, expected in reference.items():
        value, kind = got[name], name.split()[0]
        if value.shape != expected.shape:
            return f"{name} has shape {value.shape}, the reference's is {expected.shape}"
        error = np.abs(value.astype(np.float64) - expected).max()
        limit = allowed.get(kind, allowed["parameters"]) * max(float(np.abs(expected).max()), 1e-30)
        if not error <= limit:  # NaN fails
            return f"{name} differs by {error:.1e}, allowed is {limit:.1e}"
    return "ok"
