"""The sampling rules of ``unrolled.engine.sampling``, compiled, token by token.

The readable form of each function is there; tests hold that both choose the same tokens.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.kernels.jit.compilation import compiled, compiled_sum
from unrolled.engine.kernels.simd.bits import float64_from_bits, largest

NOT_FINITE = -1  # instead of a token: the logits are NaN or infinite
TO_DRAW = -2  # instead of a token until it is drawn
SIDE_BY_SIDE = 4  # rows whose running sums are computed together
BAND = 16  # scores between two bounds that are sorted rather than bisected further
BELOW_ALL = 709.0  # the distance below the largest score from which every weight is 0
MAX_BISECTIONS = 64  # only scores that are far nearer to each other than to 0 need as many
SMALLEST_POSITIVE = 5e-324

_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


@compiled
def uniform(seed: int, sequence: int, step: int) -> float:
    """Return ``philox.uniforms`` of one sequence and step; all arguments uint64."""
    c0, c1, c2, c3 = step & _LOW, step >> _SHIFT, sequence & _LOW, sequence >> _SHIFT
    k0, k1 = seed & _LOW, seed >> _SHIFT
    for _ in range(10):
        product_0, product_1 = _MULTIPLIER_0 * c0, _MULTIPLIER_1 * c2
        c0, c2 = (product_1 >> _SHIFT) ^ c1 ^ k0, (product_0 >> _SHIFT) ^ c3 ^ k1
        c1, c3 = product_1 & _LOW, product_0 & _LOW
        k0, k1 = (k0 + _WEYL_0) & _LOW, (k1 + _WEYL_1) & _LOW
    bits = ((c0 >> np.uint64(5)) << np.uint64(26)) + (c1 >> np.uint64(6))
    return np.float64(bits) * 2.0**-53


_LOG2E, _LN2_HIGH, _LN2_LOW = 1.4426950408889634, 6.93147180369123816490e-01, 1.90821492927058770002e-10
_LOWEST = -708.0  # e^-708 is just above the smallest normal number


@compiled
def exp_float64(x: float) -> float:
    """Return e^x for x ≤ 0, and 0 below e^-708; without a branch, so that loops over it are vectorised.

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
    value = p * float64_from_bits((np.int64(n) + np.int64(1023)) << np.int64(52))
    return value if x >= _LOWEST else 0.0


@compiled_sum
def _above(scores: NDArray, weights: NDArray, limit: float, counted: bool) -> tuple[int, float]:
    """Return the number of scores above a limit, and the sum of their weights, or, if ``counted``, their number again."""
    count, total = 0, 0.0
    if counted:
        for v in range(scores.shape[0]):
            count += scores[v] > limit
        return count, float(count)
    for v in range(scores.shape[0]):
        above = scores[v] > limit
        count += above
        total += weights[v] if above else 0.0
    return count, total


@compiled
def _descending(scores: NDArray, low: float, high: float, count: int) -> NDArray[np.int64]:
    """Return the indices of the ``count`` scores in (low, high] by falling score, the lower index first among equals."""
    found = np.empty(count, np.int64)
    n = 0
    for v in range(scores.shape[0]):
        if low < scores[v] <= high:
            place = n
            while n < BAND and place > 0 and scores[found[place - 1]] < scores[v]:
                found[place] = found[place - 1]
                place -= 1
            found[place] = v
            n += 1
    if count > BAND:
        return found[np.argsort(-scores[found], kind="mergesort")]
    return found


@compiled
def _keep_largest(scores: NDArray, weights: NDArray, largest: float, limit: float, counted: bool) -> None:
    """Set all weights to 0 but those of the fewest largest scores that sum to ``limit``; at least one stays.

    The sum is of the weights, or, if ``counted``, of ones. Only the few scores between two bounds are sorted: those above
    ``high`` are too few, those above ``low`` are enough, and bisection brings the two together. The first steps go down
    from the largest score, because the border is seldom far below it.
    """
    limit = max(limit, SMALLEST_POSITIVE)
    low, high, step = largest - BELOW_ALL, largest, 1.0
    enough, reached = _above(scores, weights, low, counted)
    if reached < limit:
        return
    few, before = 0, 0.0
    for _ in range(MAX_BISECTIONS):
        middle = max(high - step, 0.5 * (low + high))
        if enough - few <= BAND or not low < middle < high:
            break
        count, reached = _above(scores, weights, middle, counted)
        if reached < limit:
            high, few, before, step = middle, count, reached, 2.0 * step
        else:
            low, enough = middle, count
    for v in range(scores.shape[0]):
        weights[v] = weights[v] if scores[v] > low else 0.0
    for v in _descending(scores, low, high, enough - few):
        weight = weights[v]
        if before >= limit:
            weights[v] = 0.0
        before += 1.0 if counted else weight


@compiled
def _weigh(
    logits: NDArray, do_sample: bool, temperature: float, top_k: int, top_p: float, scores: NDArray, weights: NDArray
) -> int:  # fmt: skip
    """Return the token if it need not be drawn, or NOT_FINITE; else TO_DRAW, and set ``weights`` (V,) to draw by."""
    V = logits.shape[0]
    bad = 0
    for v in range(V):
        bad += logits[v] != logits[v]
    if bad > 0:
        return NOT_FINITE
    highest = largest(logits)
    if not np.isfinite(highest):
        return NOT_FINITE
    if not do_sample:
        best = 0
        while logits[best] != highest:
            best += 1
        return best
    shift = np.float64(highest) / temperature
    if temperature == 1.0:
        for v in range(V):
            scores[v] = logits[v]
    else:
        for v in range(V):
            scores[v] = np.float64(logits[v]) / temperature
    for v in range(V):
        weights[v] = exp_float64(scores[v] - shift)
    if 0 < top_k < V:
        _keep_largest(scores, weights, shift, float(top_k), True)
    if top_p < 1.0:
        _, total = _above(scores, weights, -np.inf, False)
        _keep_largest(scores, weights, shift, top_p * total, False)
    return TO_DRAW


@compiled
def _sum_up(weights: NDArray, sums: NDArray) -> None:
    """Set the running sums of rows (SIDE_BY_SIDE, V), added one number after the other, as in the reference.

    The readable form is ``sums[j] = np.cumsum(weights[j])`` of each row. An addition waits for the one before it, so four
    independent rows take the time of one.
    """
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    for v in range(weights.shape[1]):
        a += weights[0, v]
        b += weights[1, v]
        c += weights[2, v]
        d += weights[3, v]
        sums[0, v], sums[1, v], sums[2, v], sums[3, v] = a, b, c, d


@compiled
def _draw(weights: NDArray, sums: NDArray, u: float) -> int:
    """Return the first token whose running sum exceeds u times the total."""
    V, index = weights.shape[0], 0
    target = u * sums[V - 1]
    for v in range(V):
        index += sums[v] <= target
    if index == V:  # u times the total was rounded up to the total
        index = V - 1
        while weights[index] == 0.0:
            index -= 1
    return index


@compiled
def choose(
    logits: NDArray, which: NDArray[np.int64], u: NDArray, do_sample: NDArray, temperature: NDArray, top_k: NDArray,
    top_p: NDArray, scores: NDArray, weights: NDArray, tokens: NDArray[np.int64],
) -> None:  # fmt: skip
    """Set ``tokens`` (R,) from logits (R, V or more) at the uniforms ``u`` (R,); the settings of row r are at which[r].

    ``scores`` and ``weights`` (SIDE_BY_SIDE, V) float64 are scratch.
    """
    R, V = logits.shape[0], scores.shape[1]
    for first in range(0, R, SIDE_BY_SIDE):
        rows, drawn = min(SIDE_BY_SIDE, R - first), 0
        for j in range(rows):
            r = first + j
            s = which[r]
            tokens[r] = _weigh(logits[r, :V], do_sample[s], temperature[s], top_k[s], top_p[s], scores[j], weights[j])
            drawn += tokens[r] == TO_DRAW
        if drawn == 0:
            continue
        if rows == SIDE_BY_SIDE:
            _sum_up(weights, scores)
        else:
            for j in range(rows):
                reached = 0.0
                for v in range(V):
                    reached += weights[j, v]
                    scores[j, v] = reached
        for j in range(rows):
            r = first + j
            if tokens[r] == TO_DRAW:
                tokens[r] = _draw(weights[j], scores[j], u[r])
