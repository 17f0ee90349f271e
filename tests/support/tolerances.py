"""Tables of tolerances, (rtol, atol) by the kind of comparison and the dtype, and the comparators."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

TOLERANCES: dict[tuple[str, str], tuple[float, float]] = {
    # the same formulas with another order of summation: NumPy, Numba
    ("engine", "float64"): (1e-9, 1e-11),
    ("engine", "float32"): (1e-4, 2e-6),
    # gradients by name against torch autograd, relative to the largest entry of the array
    ("autograd", "float64"): (1e-6, 0.0),
    ("autograd", "float32"): (1e-4, 0.0),
    # central differences in float64 with a step of 1e-6
    ("difference", "float64"): (1e-5, 1e-8),
    # the same function split into chunks, rows, single steps
    ("invariant", "float64"): (1e-10, 1e-12),
    ("invariant", "float32"): (1e-5, 2e-6),
    # logits of an exported file against NumPy
    ("export", "float32"): (0.0, 1e-5),
    # products of factors rounded to bfloat16, divided by the square root of their depth, against float64
    ("bf16 product", "float32"): (2e-6, 2e-6),
    # a model with such products against one in float32: bfloat16 has 8 bits; gradients are compared by relative error
    ("bf16 model", "float32"): (0.05, 0.05),
    # mean loss of two lines with files of an earlier release: float32 on another processor; int8 products round differently
    ("frozen loss", "float64"): (0.0, 1e-5),
    ("quantized loss", "float64"): (0.0, 0.05),
    # loss curves of different engines
    ("curve", "float64"): (0.0, 1e-5),
    ("curve", "float32"): (0.0, 2e-4),
}

# units in the last place of float32, denormal numbers included; over all float32 from 0.01 to 10 tanh is off by 3.8
ULPS = {"exp_negative": 2.0, "sigmoid": 3.0, "tanh": 4.0, "quotient": 1.6}


# The error of the compiled engine's float32 gradients against float64 may be this many times torch's; 0.5 to 1.5 occurred.
GRADIENT_SLACK = 2.0


def relative_error(got: Mapping[str, NDArray], exact: Mapping[str, NDArray]) -> float:
    """Return the largest error of any entry, relative to the norm of its array; NaN if any error is NaN."""
    return float(np.max([np.abs(got[name] - exact[name]).max() / np.linalg.norm(exact[name]) for name in exact]))


def assert_within_ulps(got: NDArray, exact: NDArray, name: str) -> None:
    """Compare float32 to float64 in units of float32 at the exact value; NaN never passes."""
    assert got.dtype == np.float32
    assert got.shape == exact.shape, f"{name}: shape {got.shape}, expected {exact.shape}"
    unit = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    ulps = np.abs(got - exact) / unit
    assert (ulps <= ULPS[name]).all(), f"{name}: {np.nanmax(ulps):.3g} ulp off, allowed {ULPS[name]}"


def assert_close(got: object, expected: object, kind: str, dtype: object = None, what: str = "") -> None:
    """Compare shapes and values; NaN never passes.

    ``kind`` is a key of the table; "autograd" scales its rtol by the largest expected entry, as relative error of the array.
    """
    got, expected = np.asarray(got), np.asarray(expected)
    name = np.dtype(dtype or got.dtype).name
    rtol, atol = TOLERANCES[kind, name]
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}"
    assert np.isfinite(got).all(), f"{what}: NaN or infinite"
    assert np.isfinite(expected).all(), f"{what}: expected values are NaN or infinite"
    difference = np.abs(got.astype(np.float64) - expected.astype(np.float64))
    if kind == "autograd":
        allowed = np.full(got.shape, rtol * max(np.abs(expected).max(initial=0.0), 1e-12))
    else:
        allowed = atol + rtol * np.abs(expected.astype(np.float64))
    if not (difference <= allowed).all():
        worst = np.unravel_index(int((difference - allowed).argmax()), difference.shape) if got.shape else ()
        raise AssertionError(
            f"{what}: {got[worst]!r} against {expected[worst]!r} at {tuple(map(int, worst))}; "
            f"difference {difference[worst]:.3g}, allowed {allowed[worst]:.3g}"
        )
