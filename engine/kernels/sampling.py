"""The sampling rules compiled: those of ``unrolled.runtime.sampling`` and ``unrolled.runtime.philox``, token by token.

Both are held together by tests; the rules are explained there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numpy.typing import NDArray

from unrolled.engine.kernels.kernel import compiled, compiled_max, intrinsic

NOT_FINITE = -1  # in the place of a token where the logits are NaN or infinite

_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


@compiled
def uniform(seed: int, sequence: int, step: int) -> float:
    """As ``philox.uniforms`` for one sequence and step; all arguments uint64."""
    c0, c1, c2, c3 = step & _LOW, step >> _SHIFT, sequence & _LOW, sequence >> _SHIFT
    k0, k1 = seed & _LOW, seed >> _SHIFT
    for _ in range(10):
        product_0, product_1 = _MULTIPLIER_0 * c0, _MULTIPLIER_1 * c2
        c0, c2 = (product_1 >> _SHIFT) ^ c1 ^ k0, (product_0 >> _SHIFT) ^ c3 ^ k1
        c1, c3 = product_1 & _LOW, product_0 & _LOW
        k0, k1 = (k0 + _WEYL_0) & _LOW, (k1 + _WEYL_1) & _LOW
    bits = ((c0 >> np.uint64(5)) << np.uint64(26)) + (c1 >> np.uint64(6))
    return np.float64(bits) * 2.0**-53


@intrinsic
def _bits_intrinsic(typing_context, bits):  # type: ignore[no-untyped-def]
    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.int64), codegen


_float64_from_bits: Any = _bits_intrinsic
_LOG2E, _LN2_HIGH, _LN2_LOW = 1.4426950408889634, 6.93147180369123816490e-01, 1.90821492927058770002e-10
_LOWEST = -708.0  # e^-708 is just above the smallest normal number


@compiled
def exp_float64(x: float) -> float:
    """e^x for x ≤ 0, without a branch so that loops over it are vectorised; 0 below e^-708.

    x = n·ln 2 + r, e^x = 2^n·e^r; the Taylor polynomial of degree 13 leaves less than 1e-17 of e^r on |r| ≤ ln 2 / 2.
    """
    least = max(x, _LOWEST)
    n = np.floor(least * _LOG2E + 0.5)
    r = least - n * _LN2_HIGH - n * _LN2_LOW
    p = 1.0 / 6227020800.0
    p = p * r + 1.0 / 479001600.0
    p = p * r + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * r * r + r + 1.0
    value = p * _float64_from_bits((np.int64(n) + np.int64(1023)) << np.int64(52))
    return value if x >= _LOWEST else 0.0


@compiled
def _drop_unlikely(weights: NDArray, scores: NDArray, top_k: int, top_p: float) -> None:
    """Weights of tokens that top-k or top-p take out become 0."""
    V = weights.shape[0]
    order = np.argsort(-scores, kind="mergesort")  # the lower index first among equals
    kept = top_k if 0 < top_k < V else V
    for place in range(kept, V):
        weights[order[place]] = 0.0
    if top_p >= 1.0:
        return
    total = 0.0
    for place in range(kept):
        total += weights[order[place]]
    before = 0.0
    limit = top_p * total
    for place in range(kept):
        weight = weights[order[place]]
        if place > 0 and before >= limit:
            weights[order[place]] = 0.0
        before += weight


@compiled_max
def _largest(values: NDArray) -> float:
    """The maximum; no NaN may be among them."""
    largest = values[0]
    for v in range(values.shape[0]):
        largest = max(largest, values[v])
    return largest


@compiled
def choose(
    logits: NDArray, do_sample: bool, temperature: float, top_k: int, top_p: float, u: float, scores: NDArray,
    weights: NDArray,
) -> int:  # fmt: skip
    """A token from logits (V,) at the uniform ``u``; ``scores`` and ``weights`` (V,) float64 are scratch."""
    V = logits.shape[0]
    bad = 0
    for v in range(V):
        bad += logits[v] != logits[v]
    if bad > 0:
        return NOT_FINITE
    largest = _largest(logits)
    if not np.isfinite(largest):
        return NOT_FINITE
    if not do_sample:
        best = 0
        while logits[best] != largest:
            best += 1
        return best
    shift = np.float64(largest) / temperature
    if temperature == 1.0:
        for v in range(V):
            scores[v] = logits[v]
    else:
        for v in range(V):
            scores[v] = np.float64(logits[v]) / temperature
    for v in range(V):
        weights[v] = exp_float64(scores[v] - shift)
    if 0 < top_k < V or top_p < 1.0:
        _drop_unlikely(weights, scores, top_k, top_p)
    reached, index = 0.0, 0
    for v in range(V):  # one after the other, as the reference does
        reached += weights[v]
        scores[v] = reached
    target = u * reached
    for v in range(V):
        index += scores[v] <= target
    if index == V:  # u times the total was rounded up to it
        index = V - 1
        while weights[index] == 0.0:
            index -= 1
    return index
