"""Filters of a draw: they exclude tokens by the distribution of the scores alone.

    scores (B, V) float64, -inf: excluded; every function returns new scores and leaves its argument unchanged

Filters apply in the order of ``FILTERS``; ties are broken in favour of the lower index. Names, meanings and order follow
Hugging Face's ``generate``; runtime/README.md has the table of differences.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.sampling.config import SamplingConfig
from unrolled.engine.sampling.processors import Scores

FIRST_SORTED = 1024  # tokens that top-p sorts first; few texts ever need more


def descending(scores: Scores) -> NDArray[np.intp]:
    """Return token indices by falling score, the lower index first among equals."""
    return np.argsort(-scores, axis=-1, kind="stable")


def weights(scores: Scores) -> Scores:
    """Return probabilities up to a factor; the largest is 1."""
    return np.exp(scores - scores.max(axis=-1, keepdims=True))


def apply_temperature(scores: Scores, config: SamplingConfig) -> Scores:
    """Return scores divided by ``temperature``."""
    return scores / config.temperature


def keep_top_k(scores: Scores, config: SamplingConfig) -> Scores:
    """Exclude all but the ``top_k`` largest. Source: A. Fan et al., "Hierarchical Neural Story Generation" (2018)."""
    V, k = scores.shape[-1], config.top_k
    if not 0 < k < V:
        return scores
    least = np.partition(scores, V - k, axis=-1)[:, V - k, None]
    keep, equal = scores > least, scores == least
    room = k - keep.sum(axis=-1, keepdims=True)
    for row in np.flatnonzero(equal.sum(axis=-1) > room[:, 0]):  # the first of those that are equal
        equal[row, np.flatnonzero(equal[row])[room[row, 0] :]] = False
    return np.where(keep | equal, scores, -np.inf)


def _keep_mass(scores: Scores, order: NDArray[np.intp], p: Scores, limit: Scores) -> Scores:
    """Exclude tokens where those before them in ``order`` (B, n) sum to ``limit`` (B, 1) already; the first always stays.

    ``p`` (B, n) are probabilities up to a factor, in the given order; tokens outside the order are excluded.
    """
    before = np.zeros_like(p)
    np.cumsum(p[:, :-1], axis=-1, out=before[:, 1:])
    keep = before < limit
    keep[:, 0] = True
    kept = np.zeros(scores.shape, np.bool_)
    np.put_along_axis(kept, order, keep, axis=-1)
    return np.where(kept, scores, -np.inf)


def _largest(scores: Scores, p: Scores, limit: Scores) -> NDArray[np.intp]:
    """Return token indices (B, n) by falling score: FIRST_SORTED if the most probable of these sum to ``limit``, else all.

    A token as small as the smallest of FIRST_SORTED may have an equal that is not among them, so these are not counted.
    """
    if scores.shape[-1] < 4 * FIRST_SORTED or np.count_nonzero(scores == -np.inf) > scores.size // 2:
        return descending(scores)  # a sort is fast if many are equal; a partition is not
    some = np.argpartition(scores, -FIRST_SORTED, axis=-1)[:, -FIRST_SORTED:]
    some.sort(axis=-1)  # so that the lower index comes first among equals
    values = np.take_along_axis(scores, some, axis=-1)
    order = np.take_along_axis(some, descending(values), axis=-1)
    least = values.min(axis=-1, keepdims=True)
    reached = np.where(values > least, np.take_along_axis(p, some, axis=-1), 0.0).sum(axis=-1, keepdims=True)
    return order if (reached >= limit).all() else descending(scores)


def keep_top_p(scores: Scores, config: SamplingConfig) -> Scores:
    """Keep the fewest most probable tokens whose probabilities sum to at least ``top_p``.

    Source: A. Holtzman et al., "The Curious Case of Neural Text Degeneration" (2020), section 3.1.
    """
    if config.top_p >= 1:
        return scores
    p = weights(scores)
    limit = config.top_p * p.sum(axis=-1, keepdims=True)
    order = _largest(scores, p, limit)
    return _keep_mass(scores, order, np.take_along_axis(p, order, axis=-1), limit)


def keep_min_p(scores: Scores, config: SamplingConfig) -> Scores:
    """Exclude tokens whose probability is below ``min_p`` times the largest one.

    Source: M. Nguyen et al., "Turning Up the Heat: Min-p Sampling" (2024), section 3.
    """
    if config.min_p == 0:
        return scores
    return np.where(weights(scores) < config.min_p, -np.inf, scores)


def keep_typical_p(scores: Scores, config: SamplingConfig) -> Scores:
    """Keep the fewest tokens that sum to at least ``typical_p``, those first whose -log p is nearest to the entropy.

    Source: C. Meister et al., "Locally Typical Sampling" (2022), section 4.
    """
    if config.typical_p >= 1:
        return scores
    p = weights(scores)
    total = p.sum(axis=-1, keepdims=True)
    surprise = np.log(total) - (scores - scores.max(axis=-1, keepdims=True))  # -log p
    entropy = np.where(p > 0, p * np.where(p > 0, surprise, 0.0), 0.0).sum(axis=-1, keepdims=True) / total
    order = np.argsort(np.abs(surprise - entropy), axis=-1, kind="stable")
    return _keep_mass(scores, order, np.take_along_axis(p, order, axis=-1), config.typical_p * total)


Filter = Callable[[Scores, SamplingConfig], Scores]
FILTERS: dict[str, Filter] = {
    "temperature": apply_temperature,
    "top_k": keep_top_k,
    "top_p": keep_top_p,
    "min_p": keep_min_p,
    "typical_p": keep_typical_p,
}
