"""Log-probabilities of texts under a model: a token, a whole text, after a prompt, and rankings of alternatives.

    ids (n,) of a row: its context, which is not counted, then the counted tokens; T time, B rows, V vocabulary

Texts of all lengths are scored in batches, the longest first, and in chunks of time, so that memory is bounded by
``LOGIT_BYTES``. Log-probabilities are float64, computed from the model's own logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.checks import check_choice, check_whole
from unrolled.engine.errors import ConfigError
from unrolled.engine.models.step_contract import LoadedModel, StepModel, zero_state
from unrolled.engine.sampling.rules import check_finite, token_logprobs
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.runtime.generation.requests.prompts import prompt_tokens
from unrolled.runtime.models.argument_checks import check_language_model, check_text, take_texts

LOGIT_BYTES = 64 * 2**20  # logits and their intermediate results at a time
BYTES_PER_LOGIT = 32  # one float32 and three float64 values on the way to a log-probability
LONGEST_CHUNK = 512  # tokens a call; longer chunks are no faster
ORDERS = ("logprob", "mean")


@dataclass(frozen=True, eq=False)
class TextScore:
    """Log-probabilities of ``text`` after ``prompt``; ``tokens`` are the counted ones."""

    text: str
    prompt: str
    index: int  # position among the given texts
    tokens: NDArray[np.int64]  # (n,)
    logprobs: NDArray[np.float64]  # (n,), nats

    @property
    def logprob(self) -> float:
        """Return the log-probability of the whole text, in nats."""
        return math.fsum(self.logprobs)

    @property
    def mean(self) -> float:
        """Return the mean log-probability a token, in nats."""
        return self.logprob / len(self.logprobs)

    @property
    def perplexity(self) -> float:
        return math.exp(-self.mean) if self.mean > -700 else math.inf

    def to_dict(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """Return the score as JSON values, each token as its entry of the vocabulary."""
        return {
            "text": self.text,
            "prompt": self.prompt,
            "index": self.index,
            "logprob": self.logprob,
            "mean": self.mean,
            "perplexity": self.perplexity,
            "tokens": [tokenizer.vocabulary[token] for token in self.tokens],
            "logprobs": self.logprobs.tolist(),
        }


def score(
    model: LoadedModel,
    texts: str | Iterable[str],
    prompts: str | Iterable[str] | None = None,
    *,
    eos: bool = False,
    batch_size: int = 64,
) -> list[TextScore]:
    """Return the log-probabilities of ``texts``, one score a text, in order.

    Without a prompt a text starts after <bos>; if the vocabulary has no <bos>, the first token has no context and is not
    counted.

    Args:
        prompts: contexts of the texts, not counted; one for all texts, which is read once, or one for each.
        eos: also count the <eos> after each text.
        batch_size: maximal number of rows in a batch.

    Raises:
        ConfigError: there is no text, the number of prompts does not fit, or a text has no token to count.
        UnknownTokenError: a text or prompt contains a token outside the vocabulary.
    """
    check_whole("batch_size", batch_size, 1)
    model = check_language_model(model)
    texts = take_texts("texts", texts)
    before: list[str | None] = [prompts] * len(texts) if isinstance(prompts, str | None) else []
    if not isinstance(prompts, str | None):
        before += take_texts("prompts", prompts)
    if len(before) != len(texts):
        raise ConfigError(f"prompts: got {len(before)} for {len(texts)} texts, needs one, or one for each")
    begins = {prompt: _context_ids(model.tokenizer, prompt) for prompt in before}
    counted = [_counted_ids(model.tokenizer, text, eos, begins[p]) for text, p in zip(texts, before, strict=True)]
    rows = [np.concatenate([begins[prompt], ids]) for prompt, ids in zip(before, counted, strict=True)]
    state = zero_state(model.config, 1)
    if len(begins) == 1 and (shared := len(begins[before[0]]) - 1) > 0:
        state = _read_context(model, rows[0][:shared], state)
        rows = [row[shared:] for row in rows]
    found = _score_rows(model, rows, state, batch_size)
    scores = []
    for index, (text, prompt, ids) in enumerate(zip(texts, before, counted, strict=True)):
        n = min(len(ids), len(found[index]))  # all tokens, except a first one without context
        scores.append(TextScore(text, prompt or "", index, ids[len(ids) - n :], found[index][len(found[index]) - n :]))
    return scores


def rank(
    model: LoadedModel, prompt: str | None, alternatives: str | Iterable[str], *, by: str = "logprob", eos: bool = False
) -> list[TextScore]:
    """Return the scores of ``alternatives`` after ``prompt``, the most probable first; ties keep their order.

    Args:
        by: "logprob" of the whole text, which favours short texts, or the "mean" a token.
    """
    check_choice("by", by, ORDERS)
    model = check_language_model(model)
    before = None if prompt is None else check_text("prompt", prompt)
    alternatives = take_texts("alternatives", alternatives)
    return sorted(
        score(model, alternatives, before, eos=eos),
        key=lambda found: -(found.logprob if by == "logprob" else found.mean),
    )


def _context_ids(tokenizer: Tokenizer, prompt: str | None) -> NDArray[np.int64]:
    """Return the ids of a prompt, which are read and not counted; without a prompt <bos>, if there is one."""
    if prompt is not None:
        return prompt_tokens(tokenizer, prompt)
    return np.array([] if tokenizer.bos_id is None else [tokenizer.bos_id], np.int64)


def _counted_ids(tokenizer: Tokenizer, text: str, eos: bool, begin: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the ids of a text that are counted."""
    ids = tokenizer.encode(text)
    if eos:
        if tokenizer.eos_id is None:
            raise ConfigError("eos: this vocabulary has no <eos>")
        ids = np.concatenate([ids, [tokenizer.eos_id]]).astype(np.int64)
    if len(ids) == 0 or len(begin) + len(ids) < 2:
        raise ConfigError(f"texts: {text!r} has no token to count behind another; give a prompt, or a longer text")
    return ids


def _chunk_length(B: int, V: int) -> int:
    """Return the number of time steps a call whose logits fit in ``LOGIT_BYTES``."""
    return min(LONGEST_CHUNK, max(1, LOGIT_BYTES // (BYTES_PER_LOGIT * B * V)))


def _read_context(model: StepModel, ids: NDArray[np.int64], state: NDArray) -> NDArray:
    """Return the state (S, L, 1, H) after ids (n,)."""
    length = _chunk_length(1, model.config.vocab_size)
    for begin in range(0, len(ids), length):
        _, state = model.step(np.ascontiguousarray(ids[begin : begin + length, None]), state)
    return state


def _score_rows(
    model: StepModel, rows: Sequence[NDArray[np.int64]], state: NDArray, batch_size: int
) -> list[NDArray[np.float64]]:
    """Return the log-probabilities (n - 1,) of each row's tokens after its first, starting from ``state`` (S, L, 1, H)."""
    order = sorted(range(len(rows)), key=lambda row: -len(rows[row]))
    B = min(batch_size, max(1, LOGIT_BYTES // (BYTES_PER_LOGIT * model.config.vocab_size)))
    found: list[NDArray[np.float64]] = [np.empty(0)] * len(rows)
    for first in range(0, len(rows), B):
        chosen = order[first : first + B]
        scored = _score_batch(model, [rows[row] for row in chosen], np.repeat(state, len(chosen), axis=2))
        for row, logprobs in zip(chosen, scored, strict=True):
            found[row] = logprobs
    return found


def _score_batch(model: StepModel, rows: Sequence[NDArray[np.int64]], state: NDArray) -> list[NDArray[np.float64]]:
    """Score one batch of rows, the longest first; a finished row leaves the batch."""
    lengths = np.array([len(row) - 1 for row in rows], np.int64)
    found = [np.empty(length) for length in lengths]
    length = _chunk_length(len(rows), model.config.vocab_size)
    for begin in range(0, int(lengths[0]), length):
        B = int((lengths > begin).sum())
        T = min(length, int(lengths[0]) - begin)
        tokens = np.zeros((T + 1, B), np.int64)  # padded with zeros, whose results are not used
        for b in range(B):
            part = rows[b][begin : begin + T + 1]
            tokens[: len(part), b] = part
        logits, state = model.step(tokens[:-1], np.ascontiguousarray(state[:, :, :B]))
        check_finite(logits.reshape(T * B, -1))
        logprobs = token_logprobs(logits, tokens[1:])
        for b in range(B):
            end = min(begin + T, int(lengths[b]))
            found[b][begin:end] = logprobs[: end - begin, b]
    return found
