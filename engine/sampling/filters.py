"""What is done to the logits before a token is chosen: processors, which greedy writing has too, and filters of a draw.

    scores (B, V) float64, -inf: out; every function gives new scores and leaves its argument as it was

Processors look at the tokens so far; their order is that of ``PROCESSORS``. Filters look at the distribution alone, in the
order of ``FILTERS``; ties are broken in favour of the lower index. Names, meanings and order follow Hugging Face's
``generate``; runtime/README.md has the table of differences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from unrolled.engine.sampling.rules import SamplingConfig

Scores = NDArray[np.float64]  # (B, V); -inf: out
SOME = 1024  # tokens that top-p sorts first; few texts ever need more


class History(NamedTuple):
    """What stands before the token that is to be chosen, for each of B rows."""

    tokens: Sequence[Sequence[int]]  # of the prompt and behind it
    written: NDArray[np.int64]  # (B,), how many of them are behind the prompt


def _flat(history: History) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """All tokens (N,) one row after the other, with the row of each and where that begins."""
    lengths = np.array([len(row) for row in history.tokens], np.int64)
    tokens = np.fromiter(chain.from_iterable(history.tokens), np.int64, int(lengths.sum()))
    rows = np.repeat(np.arange(len(lengths)), lengths)
    return rows, (np.cumsum(lengths) - lengths)[rows], tokens


def add_sequence_bias(scores: Scores, config: SamplingConfig, history: History) -> Scores:
    """A bias is added to the last token of a sequence where the tokens before it are what the row ends with."""
    if not config.sequence_bias:
        return scores
    scores = scores.copy()
    for row, token, bias in _endings(config.sequence_bias, history):  # type: ignore[arg-type]
        scores[row, token] += bias
    return scores


def penalise_repetition(scores: Scores, config: SamplingConfig, history: History) -> Scores:
    """Scores of the tokens that a row holds are divided by the penalty where positive, else multiplied by it.

    Source: N. Keskar et al., "CTRL" (2019), section 4.1; the multiplication, so that a penalty always lowers, is Hugging
    Face's.
    """
    if config.repetition_penalty == 1:
        return scores
    rows, _, tokens = _flat(history)
    seen = np.zeros(scores.shape, np.bool_)
    seen[rows, tokens] = True
    penalty = config.repetition_penalty
    return np.where(seen, np.where(scores < 0, scores * penalty, scores / penalty), scores)


def ban_repeated_ngrams(scores: Scores, config: SamplingConfig, history: History) -> Scores:
    """Out goes what would make the row's last n tokens a sequence that it holds already.

    Source: R. Paulus et al., "A Deep Reinforced Model for Abstractive Summarization" (2017), section 2.5.
    """
    n = config.no_repeat_ngram_size
    if n == 0:
        return scores
    rows, begins, tokens = _flat(history)
    ends = begins + np.array([len(row) for row in history.tokens], np.int64)[rows]
    last = np.flatnonzero(np.arange(len(tokens)) - begins >= n - 1)  # where a sequence of n ends
    for back in range(1, n):  # and begins as the row's next n tokens will
        if len(last) == 0:
            return scores
        last = last[tokens[last - back] == tokens[ends[last] - back]]
    scores = scores.copy()
    scores[rows[last], tokens[last]] = -np.inf
    return scores


def ban_bad_words(scores: Scores, config: SamplingConfig, history: History) -> Scores:
    """Out goes what would complete one of the sequences of ``bad_words``."""
    if not config.bad_words:
        return scores
    scores = scores.copy()
    weighed = tuple((ids, -np.inf) for ids in config.bad_words)
    for row, token, _ in _endings(weighed, history):  # type: ignore[arg-type]
        scores[row, token] = -np.inf
    return scores


def keep_going(scores: Scores, config: SamplingConfig, history: History) -> Scores:
    """<eos> is out until ``min_new_tokens`` are written."""
    if config.min_new_tokens == 0 or config.eos_token_id is None:
        return scores
    scores = scores.copy()
    scores[history.written < config.min_new_tokens, config.eos_token_id] = -np.inf
    return scores


def suppress(scores: Scores, config: SamplingConfig, history: History) -> Scores:
    """The tokens of ``suppress_tokens`` are out everywhere."""
    if not config.suppress_tokens:
        return scores
    scores = scores.copy()
    scores[:, np.array(config.suppress_tokens, np.int64)] = -np.inf
    return scores


def force_prefix(scores: Scores, config: SamplingConfig, history: History) -> Scores:
    """A row that has not written the whole of ``forced_prefix`` gets its next token, even where that is out."""
    if not config.forced_prefix:
        return scores
    prefix = np.array(config.forced_prefix, np.int64)
    rows = np.flatnonzero(history.written < len(prefix))
    tokens = prefix[history.written[rows]]
    values = scores[rows, tokens]
    scores = scores.copy()
    scores[rows] = -np.inf
    scores[rows, tokens] = np.where(values == -np.inf, 0.0, values)
    return scores


Processor = Callable[[Scores, "SamplingConfig", History], Scores]
PROCESSORS: dict[str, Processor] = {
    "sequence_bias": add_sequence_bias,
    "repetition_penalty": penalise_repetition,
    "no_repeat_ngram_size": ban_repeated_ngrams,
    "bad_words": ban_bad_words,
    "min_new_tokens": keep_going,
    "suppress_tokens": suppress,
    "forced_prefix": force_prefix,
}

Weighed = tuple[tuple[tuple[int, ...], float], ...]  # sequences of tokens with what they bring


@lru_cache(maxsize=64)
def _by_context(sequences: Weighed) -> tuple[Weighed, dict[int, Weighed]]:
    """Sequences of one token, and those of several by the token before the last, so that few have to be looked at."""
    single = tuple((ids, value) for ids, value in sequences if len(ids) == 1)
    longer: dict[int, list[tuple[tuple[int, ...], float]]] = {}
    for ids, value in sequences:
        if len(ids) > 1:
            longer.setdefault(ids[-2], []).append((ids, value))
    return single, {token: tuple(found) for token, found in longer.items()}


def _endings(sequences: Weighed, history: History) -> list[tuple[slice | int, int, float]]:
    """Where the next token would end a sequence: (row, or all rows, the token, the sequence's value)."""
    single, longer = _by_context(sequences)
    found: list[tuple[slice | int, int, float]] = [(slice(None), ids[0], value) for ids, value in single]
    if not longer:
        return found
    for row, tokens in enumerate(history.tokens):
        for ids, value in longer.get(int(tokens[-1]), ()) if len(tokens) else ():
            n = len(ids) - 1
            if len(tokens) >= n and tuple(tokens[-n:]) == ids[:-1]:
                found.append((row, ids[-1], value))
    return found


def descending(scores: Scores) -> NDArray[np.intp]:
    """Token indices by falling score, the lower index first among equals."""
    return np.argsort(-scores, axis=-1, kind="stable")


def weights(scores: Scores) -> Scores:
    """Probabilities up to a factor, the largest 1."""
    return np.exp(scores - scores.max(axis=-1, keepdims=True))


def apply_temperature(scores: Scores, config: SamplingConfig) -> Scores:
    return scores / config.temperature


def keep_top_k(scores: Scores, config: SamplingConfig) -> Scores:
    """All but the ``top_k`` largest become -inf. Source: A. Fan et al., "Hierarchical Neural Story Generation" (2018)."""
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
    """A token goes out where those before it in ``order`` (B, n) sum to ``limit`` (B, 1) already; the first always stays.

    ``p`` (B, n) are probabilities up to a factor, in the given order; tokens that are not in it go out.
    """
    before = np.zeros_like(p)
    np.cumsum(p[:, :-1], axis=-1, out=before[:, 1:])
    keep = before < limit
    keep[:, 0] = True
    kept = np.zeros(scores.shape, np.bool_)
    np.put_along_axis(kept, order, keep, axis=-1)
    return np.where(kept, scores, -np.inf)


def _largest(scores: Scores, p: Scores, limit: Scores) -> NDArray[np.intp]:
    """Token indices (B, n) by falling score: all, or SOME where the most probable of these sum to ``limit`` (B, 1).

    A token as small as the smallest of SOME may have an equal that is not among them, so these are not counted.
    """
    if scores.shape[-1] < 4 * SOME or np.count_nonzero(scores == -np.inf) > scores.size // 2:
        return descending(scores)  # which is fast where many are equal, as a partition is not
    some = np.argpartition(scores, -SOME, axis=-1)[:, -SOME:]
    some.sort(axis=-1)  # so that the lower index comes first among equals
    values = np.take_along_axis(scores, some, axis=-1)
    order = np.take_along_axis(some, descending(values), axis=-1)
    least = values.min(axis=-1, keepdims=True)
    reached = np.where(values > least, np.take_along_axis(p, some, axis=-1), 0.0).sum(axis=-1, keepdims=True)
    return order if (reached >= limit).all() else descending(scores)


def keep_top_p(scores: Scores, config: SamplingConfig) -> Scores:
    """The fewest most probable tokens whose probabilities sum to at least ``top_p``.

    Source: A. Holtzman et al., "The Curious Case of Neural Text Degeneration" (2020), section 3.1.
    """
    if config.top_p >= 1:
        return scores
    p = weights(scores)
    limit = config.top_p * p.sum(axis=-1, keepdims=True)
    order = _largest(scores, p, limit)
    return _keep_mass(scores, order, np.take_along_axis(p, order, axis=-1), limit)


def keep_min_p(scores: Scores, config: SamplingConfig) -> Scores:
    """A token goes out whose probability is below ``min_p`` times the largest one.

    Source: M. Nguyen et al., "Turning Up the Heat: Min-p Sampling" (2024), section 3.
    """
    if config.min_p == 0:
        return scores
    return np.where(weights(scores) < config.min_p, -np.inf, scores)


def keep_typical_p(scores: Scores, config: SamplingConfig) -> Scores:
    """The fewest tokens whose probabilities sum to at least ``typical_p``, those first whose -log p is nearest the entropy.

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


Filter = Callable[[Scores, "SamplingConfig"], Scores]
FILTERS: dict[str, Filter] = {
    "temperature": apply_temperature,
    "top_k": keep_top_k,
    "top_p": keep_top_p,
    "min_p": keep_min_p,
    "typical_p": keep_typical_p,
}
