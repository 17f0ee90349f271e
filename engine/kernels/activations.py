"""exp, tanh and sigmoid without a branch, so that LLVM vectorises the loops that use them.

The C library's functions are called one number at a time (2 to 9 ns each). In float32 these are polynomials and a
rational function; in float64, which is there to check gradients, the library's functions are kept.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from unrolled.engine.kernels.kernel import compiled


@intrinsic
def _bits_intrinsic(typing_context, bits):  # type: ignore[no-untyped-def]
    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


_float32_from_bits: Any = _bits_intrinsic

# e^r ≈ 1 + r + r²·P(r) on |r| ≤ ln 2 / 2. Source of the coefficients: S. L. Moshier, Cephes library, expf.
_LOG2E = np.float32(1.44269504088896341)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_E0, _E1, _E2 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
_E3, _E4, _E5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)
_EXP_LOWEST = np.float32(-87.0)  # e^-87 is just above the smallest normal number
_ONE, _HALF, _ZERO = np.float32(1), np.float32(0.5), np.float32(0)


@compiled
def _exp_float32(x: Any) -> Any:
    """e^x for x ≤ 0: x = n·ln 2 + r, e^x = 2^n·e^r."""
    x = max(x, _EXP_LOWEST)
    n = np.floor(x * _LOG2E + _HALF)
    r = x - n * _LN2_HIGH - n * _LN2_LOW
    p = ((((_E0 * r + _E1) * r + _E2) * r + _E3) * r + _E4) * r + _E5
    scale = _float32_from_bits((np.int32(n) + np.int32(127)) << np.int32(23))
    return (p * r * r + r + _ONE) * scale


# tanh x ≈ x·P(x²)/Q(x²). Source of the coefficients: G. Guennebaud et al., Eigen library, generic_fast_tanh_float.
_TANH_LIMIT = np.float32(7.90531110763549805)  # beyond it the value stays, 4 units in the last place from ±1
_P0, _P1, _P2 = (
    np.float32(4.89352455891786e-03),
    np.float32(6.37261928875436e-04),
    np.float32(1.48572235717979e-05),
)
_P3, _P4, _P5 = (
    np.float32(5.12229709037114e-08),
    np.float32(-8.60467152213735e-11),
    np.float32(2.00018790482477e-13),
)
_P6 = np.float32(-2.76076847742355e-16)
_Q0, _Q1, _Q2 = (
    np.float32(4.89352518554385e-03),
    np.float32(2.26843463243900e-03),
    np.float32(1.18534705686654e-04),
)
_Q3 = np.float32(1.19825839466702e-06)


@compiled
def _tanh_float32(x: Any) -> Any:
    x = min(max(x, -_TANH_LIMIT), _TANH_LIMIT)
    y = x * x
    p = (((((_P6 * y + _P5) * y + _P4) * y + _P3) * y + _P2) * y + _P1) * y + _P0
    q = ((_Q3 * y + _Q2) * y + _Q1) * y + _Q0
    return x * p / q


@compiled
def _sigmoid_float32(x: Any) -> Any:
    """1 / (1 + e^-x), from e^-|x|, so that small values keep their relative accuracy."""
    e = _exp_float32(-abs(x))
    return (_ONE if x >= _ZERO else e) / (_ONE + e)


@compiled
def _sigmoid_float64(x: Any) -> Any:
    e = math.exp(-abs(x))
    return (1.0 if x >= 0.0 else e) / (1.0 + e)


# Names for compiled code to call; the implementation goes by the dtype. Without annotations, because an overload must
# have the signature to the letter.


def exp_negative(x):  # type: ignore[no-untyped-def]
    """e^x for x ≤ 0."""
    raise NotImplementedError("for compiled code only")


def tanh(x):  # type: ignore[no-untyped-def]
    """tanh x."""
    raise NotImplementedError("for compiled code only")


def sigmoid(x):  # type: ignore[no-untyped-def]
    """1 / (1 + e^-x)."""
    raise NotImplementedError("for compiled code only")


@overload(exp_negative, inline="always")
def _exp_for(x):  # type: ignore[no-untyped-def]
    if x == types.float32:
        return lambda x: _exp_float32(x)
    return lambda x: math.exp(x)


@overload(tanh, inline="always")
def _tanh_for(x):  # type: ignore[no-untyped-def]
    if x == types.float32:
        return lambda x: _tanh_float32(x)
    return lambda x: math.tanh(x)


@overload(sigmoid, inline="always")
def _sigmoid_for(x):  # type: ignore[no-untyped-def]
    if x == types.float32:
        return lambda x: _sigmoid_float32(x)
    return lambda x: _sigmoid_float64(x)
