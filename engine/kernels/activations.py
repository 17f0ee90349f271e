"""exp, tanh and sigmoid without a branch, so that LLVM vectorises the loops that use them.

The C library's functions are called one number at a time (2 to 9 ns each). In float32 all three stand on one polynomial,
0.20 to 0.26 ns each, and are right to 4 units in the last place over the whole range, denormal numbers included; in
float64, which is there to check gradients, the library's functions are kept.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import overload

from unrolled.engine.kernels.kernel import compiled, intrinsic


@intrinsic
def _two_to_intrinsic(typing_context, t):  # type: ignore[no-untyped-def]
    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        bits = builder.bitcast(args[0], ir.IntType(32))
        return builder.bitcast(builder.shl(bits, ir.Constant(ir.IntType(32), 23)), ir.FloatType())

    return types.float32(types.float32), codegen


_two_to: Any = _two_to_intrinsic

# All three functions split x = n·ln 2 + r. Adding 1.5·2²³ leaves no bits for a fraction, which rounds x·log2 e to n and
# puts n into the lowest bits; the exponent's bias added as well, they are those of 2ⁿ once shifted to the exponent's place.
# ``_two_to`` shifts. _UP and _DOWN make it 2ⁿ⁺⁶⁴ and 2ⁿ⁻⁶⁴, so that where the result is below the normal range, n is not.
_BIAS = 1.5 * 2**23 + 127
_EVEN, _UP, _DOWN = np.float32(_BIAS), np.float32(_BIAS + 64), np.float32(_BIAS - 64)
_TINY = np.float32(2.0**-64)
_LOG2E, _LN2 = np.float32(1.44269504088896341), np.float32(0.693147180559945309)
_LN2_HIGH, _LN2_LOW = np.float32(0.693145751953125), np.float32(1.42860682030941723e-6)  # n·_LN2_HIGH is exact
# e^r - 1 ≈ r + r²·(E2 + E3·r + … + E6·r⁴) on |r| ≤ ln 2 / 2: fitted here by least squares with Lawson's weights (C. L.
# Lawson, 1961) for the smallest maximum of the relative error: 1.7e-8, a seventh of a unit.
_E2, _E3, _E4 = np.float32(0.49999997), np.float32(0.16666543), np.float32(0.0416672)
_E5, _E6 = np.float32(0.0083665475), np.float32(0.0013882517)
_EXP_LOWEST = np.float32(-104)  # from here on e^x rounds to 0
_SIGMOID_HIGHEST = np.float32(40)  # far behind the last x that is not at 1
_TANH_HIGHEST = np.float32(10)  # e^20 + 2 rounds to e^20
_ONE, _TWO = np.float32(1), np.float32(2)


@compiled
def _slope(r: Any) -> Any:
    """(e^r - 1) / r."""
    return ((((_E6 * r + _E5) * r + _E4) * r + _E3) * r + _E2) * r + _ONE


# The limits are written so that NaN, which no comparison holds for, goes on.


@compiled
def _exp_float32(x: Any) -> Any:
    """e^x for x ≤ 0: 2ⁿ·e^r, by way of 2ⁿ⁺⁶⁴."""
    x = _EXP_LOWEST if x < _EXP_LOWEST else x
    t = x * _LOG2E + _UP
    n = t - _UP
    r = x - n * _LN2_HIGH - n * _LN2_LOW
    return (_slope(r) * r + _ONE) * _two_to(t) * _TINY


@compiled
def _sigmoid_float32(x: Any) -> Any:
    """1 / (1 + e^-x), enlarged by 2⁻⁶⁴: e^-x stays finite as far as the result is not 0."""
    x = _SIGMOID_HIGHEST if x > _SIGMOID_HIGHEST else x
    x = _EXP_LOWEST if x < _EXP_LOWEST else x
    t = _DOWN - x * _LOG2E
    n = t - _DOWN
    r = -x - n * _LN2_HIGH - n * _LN2_LOW
    return _TINY / ((_slope(r) * r + _ONE) * _two_to(t) + _TINY)


@compiled
def _tanh_float32(x: Any) -> Any:
    """(e^2x - 1) / (e^2x + 1), from e^2x - 1 = 2ⁿ·(e^r - 1) - (1 - 2ⁿ), whose signs keep that of zero.

    ln 2 is in one piece: where n is large, an error of r matters little.
    """
    x = _TANH_HIGHEST if x > _TANH_HIGHEST else x
    x = -_TANH_HIGHEST if x < -_TANH_HIGHEST else x
    t = x * (_TWO * _LOG2E) + _EVEN
    r = (x + x) - (t - _EVEN) * _LN2
    power = _two_to(t)
    less_one = power * r * _slope(r) - (_ONE - power)
    return less_one / (less_one + _TWO)


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
