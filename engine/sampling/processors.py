"""Processors of logits: they change scores by the tokens so far, for greedy choice as well as for a draw.

    scores (B, V) float64, -inf: excluded; every function returns new scores and leaves its argument unchanged

Processors apply in the order of ``PROCESSORS``. Names, meanings and order follow Hugging Face's ``generate``;
runtime/README.md has the table of differences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.sampling.config import SamplingConfig

Scores = NDArray[np.float64]  # (B, V); -inf: excluded


class History(NamedTuple):
    """The tokens before the one that is to be chosen, for each of B rows."""

    tokens: Sequence[Sequence[int]]  # of the prompt and after it
    written: NDArray[np.int64]  # (B,), the number of those after the prompt


NO_HISTORY = History((), np.zeros(0, np.int64))


def _flat(history: History) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return, for all tokens (N,) one row after the other, the row, the position where that begins, and the token."""
    lengths = np.array([len(row) for row in history.tokens], np.int64)
    tokens = np.fromiter(chain.from_iterable(history.tokens), np.int64, int(lengths.sum()))
    rows = np.repeat(np.arange(len(lengths)), lengths)
    return rows, (np.cumsum(lengths) - lengths)[rows], tokens


def add_sequence_bias(scores: Scores, config: SamplingConfig, history: History) -> Scores:
    """Add a bias to the last token of a sequence where the row ends with the tokens before it."""
    if not config.sequence_bias:
        return scores
    scores = scores.copy()
    for row, token, bias in _endings(config.sequence_bias, history):  # type: ignore[arg-type]
        scores[row, token] += bias
    return scores


def penalise_repetition(scores: Scores, config: SamplingConfig, history: History) -> Scores:
    """Divide positive scores of the tokens in a row by the penalty, and multiply negative ones by it.

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
    """Exclude tokens that would make the last n tokens of a row a sequence that it contains already.

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
    """Exclude tokens that would complete one of the sequences of ``bad_words``."""
    if not config.bad_words:
        return scores
    scores = scores.copy()
    weighed = tuple((ids, -np.inf) for ids in config.bad_words)
    for row, token, _ in _endings(weighed, history):  # type: ignore[arg-type]
        scores[row, token] = -np.inf
    return scores


def require_min_new_tokens(scores: Scores, config: SamplingConfig, history: History) -> Scores:
    """Exclude <eos> until ``min_new_tokens`` are written."""
    if config.min_new_tokens == 0 or config.eos_token_id is None:
        return scores
    scores = scores.copy()
    scores[history.written < config.min_new_tokens, config.eos_token_id] = -np.inf
    return scores


def suppress(scores: Scores, config: SamplingConfig, history: History) -> Scores:
    """Exclude the tokens of ``suppress_tokens`` everywhere."""
    if not config.suppress_tokens:
        return scores
    scores = scores.copy()
    scores[:, np.array(config.suppress_tokens, np.int64)] = -np.inf
    return scores


def force_prefix(scores: Scores, config: SamplingConfig, history: History) -> Scores:
    """Exclude all but the next token of ``forced_prefix`` until a row has all of it, even if that token was excluded."""
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


Processor = Callable[[Scores, SamplingConfig, History], Scores]
PROCESSORS: dict[str, Processor] = {
    "sequence_bias": add_sequence_bias,
    "repetition_penalty": penalise_repetition,
    "no_repeat_ngram_size": ban_repeated_ngrams,
    "bad_words": ban_bad_words,
    "min_new_tokens": require_min_new_tokens,
    "suppress_tokens": suppress,
    "forced_prefix": force_prefix,
}

WeightedSequences = tuple[tuple[tuple[int, ...], float], ...]  # sequences of tokens, each with a value


@lru_cache(maxsize=64)
def _by_context(sequences: WeightedSequences) -> tuple[WeightedSequences, dict[int, WeightedSequences]]:
    """Return sequences of one token, and longer ones by the token before the last, so that few have to be compared."""
    single = tuple((ids, value) for ids, value in sequences if len(ids) == 1)
    longer: dict[int, list[tuple[tuple[int, ...], float]]] = {}
    for ids, value in sequences:
        if len(ids) > 1:
            longer.setdefault(ids[-2], []).append((ids, value))
    return single, {token: tuple(found) for token, found in longer.items()}


def _endings(sequences: WeightedSequences, history: History) -> list[tuple[slice | int, int, float]]:
    """Return (row, or all rows, token, value) wherever the next token would end a sequence."""
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
