"""exp, tanh and sigmoid as formulas over vectors (``vectors``), without a branch.

The C library's functions are called one number at a time (2 to 9 ns each). In float32 all three share one polynomial and
are accurate to 4 units in the last place over the whole range, denormal numbers included; float64, which serves to check
gradients, uses the library's functions. The readable forms are ``np.exp(x)``, ``np.tanh(x)`` and ``1 / (1 + np.exp(-x))``.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir

from unrolled.engine.kernels.simd.vectors import Vector, quotient, select

# All three functions split x = n·ln 2 + r. Adding 1.5·2²³ leaves no bits for a fraction, which rounds x·log2 e to n and
# puts n into the lowest bits; with the exponent's bias added, shifting them to the exponent's place gives 2ⁿ (``_two_to``).
# _UP and _DOWN make it 2ⁿ⁺⁶⁴ and 2ⁿ⁻⁶⁴, so that n stays in the normal range where the result does not.
_BIAS = 1.5 * 2**23 + 127
_EVEN, _UP, _DOWN = np.float32(_BIAS), np.float32(_BIAS + 64), np.float32(_BIAS - 64)
_TINY = np.float32(2.0**-64)
_LOG2E, _LN2 = np.float32(1.44269504088896341), np.float32(0.693147180559945309)
_LN2_HIGH, _LN2_LOW = np.float32(0.693145751953125), np.float32(1.42860682030941723e-6)  # n·_LN2_HIGH is exact
# e^r - 1 ≈ r + r²·(E2 + E3·r + … + E6·r⁴) on |r| ≤ ln 2 / 2: fitted by least squares with Lawson's weights (C. L. Lawson,
# 1961) for the smallest maximum of the relative error: 1.7e-8, a seventh of a unit in the last place.
_E2, _E3, _E4 = np.float32(0.49999997), np.float32(0.16666543), np.float32(0.0416672)
_E5, _E6 = np.float32(0.0083665475), np.float32(0.0013882517)
_EXP_LOWEST = np.float32(-104)  # e^x rounds to 0 here and below
_SIGMOID_HIGHEST = np.float32(40)  # far beyond the last x whose sigmoid is below 1
_TANH_HIGHEST = np.float32(10)  # e^20 + 2 rounds to e^20


def _two_to(t: Vector) -> Vector:
    """Return 2ⁿ, given ``t`` with n plus the exponent's bias in its lowest bits."""
    return t.bits(ir.IntType(32)).shifted_left(23).bits(ir.FloatType())


def _slope(r: Vector) -> Vector:
    """Return (e^r - 1) / r."""
    return ((((_E6 * r + _E5) * r + _E4) * r + _E3) * r + _E2) * r + 1


def _in_float64(x: Vector) -> bool:
    """Return whether a formula is compiled for float64."""
    return isinstance(x.number, ir.DoubleType)


def exp_negative(x: Vector) -> Vector:
    """Return e^x for x ≤ 0: 2ⁿ·e^r, by way of 2ⁿ⁺⁶⁴."""
    if _in_float64(x):
        return x.call("llvm.exp.f64")
    x = x.at_least(_EXP_LOWEST)
    t = x * _LOG2E + _UP
    n = t - _UP
    r = x - n * _LN2_HIGH - n * _LN2_LOW
    return (_slope(r) * r + 1) * _two_to(t) * _TINY


def sigmoid(x: Vector) -> Vector:
    """Return 1 / (1 + e^-x), as 2⁻⁶⁴ / (2⁻⁶⁴ + 2⁻⁶⁴·e^-x): that is finite wherever the result is not 0."""
    if _in_float64(x):
        e = (-x.call("llvm.fabs.f64")).call("llvm.exp.f64")
        return select(x >= 0, x.constant(1), e) / (1 + e)
    x = x.at_most(_SIGMOID_HIGHEST).at_least(_EXP_LOWEST)
    t = _DOWN - x * _LOG2E
    n = t - _DOWN
    r = -x - n * _LN2_HIGH - n * _LN2_LOW
    return quotient(x.constant(_TINY), (_slope(r) * r + 1) * _two_to(t) + _TINY)


def tanh(x: Vector) -> Vector:
    """Return (e^2x - 1) / (e^2x + 1), from e^2x - 1 = 2ⁿ·(e^r - 1) - (1 - 2ⁿ), which keeps the sign of zero.

    One constant for ln 2 suffices: where n is large, an error of r matters little.
    """
    if _in_float64(x):
        return x.call("tanh")
    x = x.at_most(_TANH_HIGHEST).at_least(-_TANH_HIGHEST)
    t = x * (2 * _LOG2E) + _EVEN
    r = (x + x) - (t - _EVEN) * _LN2
    power = _two_to(t)
    less_one = power * r * _slope(r) - (1 - power)
    return quotient(less_one, less_one + 2)
