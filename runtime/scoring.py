"""How probable a model finds given texts: by token, as a whole, behind a prompt, one against another.

    ids (n,) of a row: what it begins with, and the tokens that are counted; T time, B rows, V vocabulary

Texts of any lengths run side by side, the longest first, and in chunks of time, so that memory is bounded by
``LOGIT_BYTES`` whatever is scored. Log-probabilities are float64 of the model's own logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.checks import check_choice
from unrolled.engine.errors import ConfigError
from unrolled.engine.models.step_contract import StepModel, zero_state
from unrolled.engine.sampling.rules import check_finite, check_whole, token_logprobs
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.runtime.generation.requests.prompts import prompt_tokens
from unrolled.runtime.models.argument_checks import check_model, check_text, take_texts

LOGIT_BYTES = 64 * 2**20  # of logits and what is made of them at a time
BYTES_PER_LOGIT = 32  # float32, and three of float64 on the way to a log-probability
LONGEST_CHUNK = 512  # tokens a call; longer ones gain nothing
ORDERS = ("logprob", "mean")


@dataclass(frozen=True, eq=False)
class TextScore:
    """How probable ``text`` is behind ``prompt``; what is counted are ``tokens``."""

    text: str
    prompt: str
    index: int  # which of the texts given
    tokens: NDArray[np.int64]  # (n,)
    logprobs: NDArray[np.float64]  # (n,), nats

    @property
    def logprob(self) -> float:
        """Of the whole text."""
        return math.fsum(self.logprobs)

    @property
    def mean(self) -> float:
        """A token."""
        return self.logprob / len(self.logprobs)

    @property
    def perplexity(self) -> float:
        return math.exp(-self.mean) if self.mean > -700 else math.inf

    def to_dict(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """For JSON; each token as it stands in the vocabulary."""
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
    model: StepModel,
    texts: str | Iterable[str],
    prompts: str | Iterable[str] | None = None,
    *,
    eos: bool = False,
    batch_size: int = 64,
) -> list[TextScore]:
    """Log-probabilities of ``texts``, one score a text, in order.

    Without a prompt a text begins behind <bos>; where the vocabulary has none, its first token has nothing before it and is
    not counted.

    Args:
        prompts: what the texts stand behind, not counted; one for all, which is read once, or one for each.
        eos: count the <eos> behind each text too.
        batch_size: rows side by side at most.

    Raises:
        ConfigError: there is no text, a prompt too many or few, or nothing in a text to count.
        UnknownTokenError: a text or prompt holds what the vocabulary has not.
    """
    check_whole("batch_size", batch_size, 1)
    check_model(model)
    texts = take_texts("texts", texts)
    before: list[str | None] = [prompts] * len(texts) if isinstance(prompts, str | None) else []
    if not isinstance(prompts, str | None):
        before += take_texts("prompts", prompts)
    if len(before) != len(texts):
        raise ConfigError(f"prompts: got {len(before)} for {len(texts)} texts, needs one, or one for each")
    begins = {prompt: _beginning(model.tokenizer, prompt) for prompt in before}
    counted = [_counted(model.tokenizer, text, eos, begins[p]) for text, p in zip(texts, before, strict=True)]
    rows = [np.concatenate([begins[prompt], ids]) for prompt, ids in zip(before, counted, strict=True)]
    state = zero_state(model.config, 1)
    if len(begins) == 1 and (shared := len(begins[before[0]]) - 1) > 0:
        state = _read(model, rows[0][:shared], state)
        rows = [row[shared:] for row in rows]
    found = _score_rows(model, rows, state, batch_size)
    scores = []
    for index, (text, prompt, ids) in enumerate(zip(texts, before, counted, strict=True)):
        n = min(len(ids), len(found[index]))  # all but a first token that has nothing before it
        scores.append(TextScore(text, prompt or "", index, ids[len(ids) - n :], found[index][len(found[index]) - n :]))
    return scores


def rank(
    model: StepModel, prompt: str | None, alternatives: str | Iterable[str], *, by: str = "logprob", eos: bool = False
) -> list[TextScore]:
    """``alternatives`` behind ``prompt``, the most probable first; equals stay in order.

    Args:
        by: "logprob" of the whole, which favours the short, or the "mean" a token.
    """
    check_choice("by", by, ORDERS)
    check_model(model)
    before = None if prompt is None else check_text("prompt", prompt)
    alternatives = take_texts("alternatives", alternatives)
    return sorted(score(model, alternatives, before, eos=eos), key=lambda found: -getattr(found, by))


def _beginning(tokenizer: Tokenizer, prompt: str | None) -> NDArray[np.int64]:
    """Ids that are read and not counted."""
    if prompt is not None:
        return prompt_tokens(tokenizer, prompt)
    return np.array([] if tokenizer.bos_id is None else [tokenizer.bos_id], np.int64)


def _counted(tokenizer: Tokenizer, text: str, eos: bool, begin: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ids of a text."""
    ids = tokenizer.encode(text)
    if eos:
        if tokenizer.eos_id is None:
            raise ConfigError("eos: this vocabulary has no <eos>")
        ids = np.concatenate([ids, [tokenizer.eos_id]]).astype(np.int64)
    if len(ids) == 0 or len(begin) + len(ids) < 2:
        raise ConfigError(f"texts: {text!r} has no token to count behind another; give a prompt, or a longer text")
    return ids


def _chunk_length(B: int, V: int) -> int:
    return min(LONGEST_CHUNK, max(1, LOGIT_BYTES // (BYTES_PER_LOGIT * B * V)))


def _read(model: StepModel, ids: NDArray[np.int64], state: NDArray) -> NDArray:
    """The state (S, L, 1, H) behind ids (n,)."""
    length = _chunk_length(1, model.config.vocab_size)
    for begin in range(0, len(ids), length):
        _, state = model.step(np.ascontiguousarray(ids[begin : begin + length, None]), state)
    return state


def _score_rows(
    model: StepModel, rows: Sequence[NDArray[np.int64]], state: NDArray, batch_size: int
) -> list[NDArray[np.float64]]:
    """Log-probabilities (n - 1,) of each row's tokens behind its first, all rows from ``state`` (S, L, 1, H) on."""
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
    """``_score_rows`` of rows that fit side by side, the longest first; one that is over leaves the batch."""
    lengths = np.array([len(row) - 1 for row in rows], np.int64)
    found = [np.empty(length) for length in lengths]
    length = _chunk_length(len(rows), model.config.vocab_size)
    for begin in range(0, int(lengths[0]), length):
        B = int((lengths > begin).sum())
        T = min(length, int(lengths[0]) - begin)
        tokens = np.zeros((T + 1, B), np.int64)  # zeros behind a row's end are read, and what comes of them is not used
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
