"""The sampling rules: from logits and a uniform to a token, one definition for every engine and host.

Everything is in float64. Processors, and for a draw filters (``filters``), change the scores or take tokens
out. A draw walks the tokens that are left in the order of their index and takes the first whose cumulative probability
exceeds u (the inverse of the distribution function). Greedy, which temperature 0 means too, is the lowest index among the
largest scores. Names follow
Hugging Face's ``generate``; its top-k keeps ties, this one does not.
"""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ConfigError, ModelFileError, NothingLeftError, UnknownTokenError
from unrolled.engine.models.draw_settings import DrawSettings
from unrolled.engine.sampling.filters import FILTERS, PROCESSORS, History, Scores, weights
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.tokenizers.registry import tokenizer_from_dict

MIN_TEMPERATURE = 1e-6  # greedy in all but name; far below, logits over temperature overflow
MOST_PENALTY = 1e6  # for repetition, and the least is one over it; with far more, scores overflow

EXACT = 2**53  # from here on not every whole number is a float: what comes as a float may be a neighbour, rounded

Text = str | tuple[int, ...]  # a text, or its ids
PLAIN = DrawSettings._fields  # the settings that every engine, file and host implements
NO_HISTORY = History((), np.zeros(0, np.int64))


@dataclass(frozen=True)
class SamplingConfig:
    """How a token is chosen.

    Texts are texts, or the ids that ``resolved`` makes of them; a text that stands in the vocabulary as one token, such as
    "<eos>", is that token.

    Args:
        do_sample: draw; False: greedy, whatever temperature, top_k, top_p, min_p and typical_p say.
        temperature: divides the logits; below 1 favours the probable more, above 1 less. At least 1e-6, or 0: greedy.
        top_k: keep the k most probable tokens; 0: all.
        top_p: keep the fewest most probable tokens whose probabilities sum to at least this; 1: all.
        seed: 0 … 2⁶⁴ - 1; with a row's index and step it fixes the draw.
        min_p: keep the tokens that have at least this share of the most probable one's probability; 0: all.
        typical_p: keep the fewest tokens that sum to at least this, the least surprising or dull first; 1: all.
        repetition_penalty: tokens that stand in the prompt or behind it become less probable above 1, more below; 1: off.
        no_repeat_ngram_size: no sequence of so many tokens stands there twice; 0: off.
        bad_words: texts that are not written.
        suppress_tokens: tokens of the vocabulary that are not written.
        sequence_bias: texts with what is added to the score of their last token behind the others; a mapping or pairs.
        min_new_tokens: no <eos> before so many tokens; no effect on a vocabulary without it.
        forced_prefix: what every text begins with; wins over everything that bans.
        eos_token_id: of <eos>; ``resolved`` fills it in.
    """

    do_sample: bool = True
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words: tuple[Text, ...] = ()
    suppress_tokens: tuple[str | int, ...] = ()
    sequence_bias: tuple[tuple[Text, float], ...] | Mapping[str, float] = ()
    min_new_tokens: int = 0
    forced_prefix: Text = ""
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.do_sample, bool):
            raise ConfigError(f"do_sample: got {self.do_sample!r}, needs true or false")
        divisor = self.temperature
        if not _is_number(divisor) or not (divisor == 0 or MIN_TEMPERATURE <= divisor < math.inf):
            raise ConfigError(
                f"temperature: got {divisor!r}, needs 0, which is greedy, or a number from {MIN_TEMPERATURE:g}"
            )
        check_whole("top_k", self.top_k, 0)
        check_share("top_p", self.top_p, "1 keeps all tokens")
        check_whole("seed", self.seed, 0, 2**64 - 1)
        check_share("min_p", self.min_p, "0 keeps all tokens")
        check_share("typical_p", self.typical_p, "1 keeps all tokens")
        if not _is_number(self.repetition_penalty) or not 1 / MOST_PENALTY <= self.repetition_penalty <= MOST_PENALTY:
            raise ConfigError(
                f"repetition_penalty: got {self.repetition_penalty!r}, needs a number from {1 / MOST_PENALTY:g} to "
                f"{MOST_PENALTY:g}; 1 is off"
            )
        check_whole("no_repeat_ngram_size", self.no_repeat_ngram_size, 0)
        check_whole("min_new_tokens", self.min_new_tokens, 0)
        if self.eos_token_id is not None:
            check_whole("eos_token_id", self.eos_token_id, 0)
        self._take_numbers()
        self._take_texts()

    def _take_numbers(self) -> None:
        """Keep numbers of NumPy's types as Python's, which JSON knows."""
        for name, value in [(field.name, getattr(self, field.name)) for field in fields(self)]:
            object.__setattr__(self, name, _plain_number(value))

    def _take_texts(self) -> None:
        """Check what is a text or made of texts, and keep it as tuples."""
        bad_words = _items("bad_words", self.bad_words)
        object.__setattr__(self, "bad_words", tuple(_text("bad_words", text) for text in bad_words))
        for token in (suppressed := _items("suppress_tokens", self.suppress_tokens)):
            if not isinstance(token, str) or not token:
                check_whole("suppress_tokens", token, 0)
        object.__setattr__(self, "suppress_tokens", tuple(map(_plain_number, suppressed)))
        pairs = self.sequence_bias
        biases = []
        for pair in pairs.items() if isinstance(pairs, Mapping) else _items("sequence_bias", pairs):
            if not isinstance(pair, tuple | list) or len(pair) != 2 or not _is_finite(pair[1]):
                raise ConfigError(f"sequence_bias: got {pair!r}, needs a text with a finite number")
            biases.append((_text("sequence_bias", pair[0]), _plain_number(pair[1])))
        object.__setattr__(self, "sequence_bias", tuple(biases))
        prefix: Any = self.forced_prefix
        empty = isinstance(prefix, str | tuple | list) and len(prefix) == 0
        object.__setattr__(self, "forced_prefix", "" if empty else _text("forced_prefix", prefix))

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # what is cached is made anew

    @cached_property
    def extras(self) -> tuple[str, ...]:
        """The names of the settings in use that are beyond ``PLAIN``."""
        names = {*PROCESSORS, *FILTERS} - set(PLAIN)
        return tuple(f.name for f in fields(self) if f.name in names and getattr(self, f.name) not in (f.default, ()))

    @property
    def plain(self) -> bool:
        """Whether only ``PLAIN`` is in use, so that paths inside compiled code and graphs can serve."""
        return not self.extras

    @property
    def draw_settings(self) -> DrawSettings:
        """Return the settings of ``PLAIN``."""
        return DrawSettings(self.do_sample, self.temperature, self.top_k, self.top_p, self.seed)

    @property
    def draws(self) -> bool:
        """Return whether tokens are drawn; else each is the most probable one."""
        return self.do_sample and self.temperature > 0

    @cached_property
    def needs_history(self) -> bool:
        """Whether ``choose`` has to know the tokens so far."""
        sequences = (*self.bad_words, *(text for text, _ in self._biases))
        return any(isinstance(text, str) or len(text) > 1 for text in sequences) or bool(
            {"repetition_penalty", "no_repeat_ngram_size", "min_new_tokens", "forced_prefix"} & set(self.extras)
        )

    @property
    def _biases(self) -> tuple[tuple[Text, float], ...]:
        assert not isinstance(self.sequence_bias, Mapping)  # a mapping became pairs
        return self.sequence_bias

    def _filtered(self, V: int) -> bool:
        """Whether a draw has more to do than to divide by the temperature."""
        return 0 < self.top_k < V or self.top_p < 1 or self.min_p > 0 or self.typical_p < 1

    @cached_property
    def _processors(self) -> tuple[str, ...]:
        return tuple(name for name in PROCESSORS if name in self.extras)

    @cached_property
    def _holds_texts(self) -> bool:
        texts = (*self.bad_words, *self.suppress_tokens, *(t for t, _ in self._biases), self.forced_prefix or ())
        return any(isinstance(text, str) for text in texts)

    def resolved(self, tokenizer: Tokenizer) -> Self:
        """The same settings with ids for texts, which ``choose`` needs.

        Raises:
            UnknownTokenError: a text holds what the vocabulary has not, or an id is outside it.
            ConfigError: nothing of a text is a token, every token is suppressed, or ``eos_token_id`` is not <eos>'s.
        """
        if self.eos_token_id not in (None, tokenizer.eos_id):
            raise ConfigError(f"eos_token_id: got {self.eos_token_id}, this vocabulary's <eos> is {tokenizer.eos_id}")
        if self.plain:
            return self
        strict = tokenizer
        if self._holds_texts and tokenizer.unknown != "error":  # to ban what is unknown would ban something else
            strict = tokenizer_from_dict({**tokenizer.to_dict(), "unknown": "error"})
        ids: dict[str, Any] = {
            "bad_words": tuple(_ids("bad_words", strict, text) for text in self.bad_words),
            "suppress_tokens": tuple(_one_id(strict, token) for token in self.suppress_tokens),
            "sequence_bias": tuple((_ids("sequence_bias", strict, t), bias) for t, bias in self._biases),
            "forced_prefix": _ids("forced_prefix", strict, self.forced_prefix) if self.forced_prefix else "",
        }
        if len(set(ids["suppress_tokens"])) == len(tokenizer.vocabulary):
            raise ConfigError("suppress_tokens: these are all tokens of the vocabulary, and one has to be left")
        least = self.min_new_tokens if tokenizer.eos_id is not None else 0
        return replace(self, **ids, min_new_tokens=least, eos_token_id=tokenizer.eos_id)


def _plain_number(value: Any) -> Any:
    """Return a number of NumPy or ``fractions`` as an int or a float; leave anything else as it is."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool | int | float):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def _is_number(value: object) -> bool:
    """Whether it is a number that a float can hold; infinite ones and NaN are."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def _is_finite(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value)


def check_whole(name: str, value: object, least: int, most: int = 2**63 - 1) -> None:
    """Check a whole number within its limits; ConfigError names it."""
    good = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not good or not least <= int(value) <= most:  # type: ignore[call-overload]
        limits = f"of at least {least}" if most == 2**63 - 1 else f"from {least} to {most}"
        hint = ""
        if isinstance(value, float) and EXACT <= abs(value) < math.inf:
            hint = (
                "; a floating-point number of this size may be rounded: write all of its digits, without . and e, "
                "and give a column with missing values an integer type that has them"
            )
        raise ConfigError(f"{name}: got {value!r}, needs a whole number {limits}{hint}")


def check_share(name: str, value: Any, meaning: str) -> None:
    """Check a number from 0 to 1; ConfigError names it."""
    if not _is_number(value) or not 0 <= value <= 1:
        raise ConfigError(f"{name}: got {value!r}, needs a number from 0 to 1, where {meaning}")


def _items(name: str, values: Any) -> tuple[Any, ...]:
    """One text, or several texts or ids, as a tuple."""
    if isinstance(values, str):
        return (values,)
    if not isinstance(values, tuple | list):
        raise ConfigError(f"{name}: got {values!r}, needs a list")
    return tuple(values)


def _text(name: str, text: Any) -> Text:
    """A text that is not empty, or its ids as a tuple."""
    if not isinstance(text, str | tuple | list) or len(text) == 0:
        raise ConfigError(f"{name}: got {text!r}, needs texts that are not empty")
    if isinstance(text, str):
        return text
    for token in text:
        check_whole(name, token, 0)
    return tuple(map(_plain_number, text))


def _ids(name: str, tokenizer: Tokenizer, text: Text) -> tuple[int, ...]:
    """Ids of ``text``, which is checked where it is ids already."""
    V = len(tokenizer.vocabulary)
    if not isinstance(text, str):
        if max(text) >= V:
            raise UnknownTokenError(f"{name}: id {max(text)} is outside the vocabulary's 0 … {V - 1}")
        return text
    if text in tokenizer.vocabulary:
        return (tokenizer.vocabulary.index(text),)
    try:
        ids = tuple(tokenizer.encode(text).tolist())
    except UnknownTokenError as error:
        raise UnknownTokenError(f"{name}: {text!r}: {error}") from error
    if not ids:
        raise ConfigError(f"{name}: nothing of {text!r} is a token")
    return ids


def _one_id(tokenizer: Tokenizer, token: str | int) -> int:
    """The id of a token of the vocabulary, which is named as it stands there."""
    if isinstance(token, str) and token not in tokenizer.vocabulary:
        raise UnknownTokenError(f"suppress_tokens: the vocabulary has no token {token!r}; bad_words takes texts")
    return _ids("suppress_tokens", tokenizer, token if isinstance(token, str) else (token,))[0]


def draw(scores: Scores, u: NDArray[np.float64]) -> NDArray[np.int64]:
    """The token (B,) where the cumulative weight first exceeds u times the total: the inverse CDF at ``u`` (B,)."""
    p = weights(scores)
    cdf = np.cumsum(p, axis=-1)
    index = (cdf <= u[:, None] * cdf[:, -1:]).sum(axis=-1)
    # a uniform of 1, which rounding to float32 in another host can make, means the last token that is still in
    last = p.shape[-1] - 1 - (p[:, ::-1] > 0).argmax(axis=-1)
    return np.minimum(index, last)


MANY = 64  # rows from which on a sum that walks along all of them at once is faster


def _draw_from_all(logits: NDArray, temperature: float, u: NDArray[np.float64]) -> NDArray[np.int64]:
    """``draw`` of many rows without filters, the same bits in a fifth of the time (256 × 100 logits: 95 µs, not 480).

    Rows become columns, so that a running sum, which NumPy makes one number at a time, is one addition of rows a token.
    """
    weights = logits.T.astype(np.float64, order="C")  # (V, B)
    if temperature != 1:
        weights /= temperature
    weights -= weights.max(axis=0)
    np.exp(weights, out=weights)
    cdf, add = np.empty_like(weights), np.add
    cdf[0] = before = weights[0]
    for weight, total in itertools.islice(zip(weights, cdf, strict=True), 1, None):
        before = add(before, weight, out=total)
    index = add.reduce(cdf <= u * before, axis=0, dtype=np.int64)
    if (beyond := np.flatnonzero(index == len(weights))).size:  # u times the total was rounded up to it
        index[beyond] = len(weights) - 1 - (weights[::-1, beyond] > 0).argmax(axis=0)
    return index


def check_finite(logits: NDArray) -> None:
    """ModelFileError if a row (V,) of logits (B, V) holds NaN, or its largest is infinite."""
    largest = logits.max(axis=-1)
    if not np.isfinite(largest).all():
        row = int((~np.isfinite(largest)).argmax())
        raise ModelFileError(f"row {row}: the model's logits are not finite ({largest[row]}); its weights are damaged")


def process(scores: Scores, config: SamplingConfig, history: History | None) -> Scores:
    """Scores (B, V) behind the processors that are in use; a row may have no token left.

    Raises:
        ConfigError: the processors need the history or ids, and there is none or there are texts.
    """
    if not config._processors:
        return scores
    if config._holds_texts:
        raise ConfigError("config: its texts are not ids yet; give config.resolved(tokenizer)")
    if config.needs_history and history is None:
        raise ConfigError(f"history: got None, needs the tokens so far for {', '.join(config._processors)}")
    for name in config._processors:
        scores = PROCESSORS[name](scores, config, NO_HISTORY if history is None else history)
    return scores


def choose(
    logits: NDArray, config: SamplingConfig, u: NDArray[np.float64] | None, history: History | None = None
) -> NDArray[np.int64]:
    """Tokens (B,) from logits (B, V).

    Args:
        config: ``resolved``, where it holds texts.
        u: (B,) uniforms in [0, 1), not needed for greedy.
        history: the tokens so far, for a config that ``needs_history``.

    Raises:
        ModelFileError: a row of logits holds NaN, or is infinite.
        NothingLeftError: the settings ban every token that the model gives a row; the error holds the rows.
        ConfigError: the config needs a history, or to be resolved.
    """
    check_finite(logits)
    if not config.draws and not config._processors:
        return logits.argmax(axis=-1)
    if not config._processors and len(logits) >= MANY and not config._filtered(logits.shape[1]):
        assert u is not None
        return _draw_from_all(logits, config.temperature, u)
    scores = process(logits.astype(np.float64), config, history)
    if config._processors and len(empty := np.flatnonzero(scores.max(axis=-1) == -np.inf)):
        raise NothingLeftError(config._processors, tuple(empty.tolist()))
    if not config.draws:
        return scores.argmax(axis=-1)
    assert u is not None
    for keep in FILTERS.values():
        scores = keep(scores, config)
    return draw(scores, u)


def log_softmax(logits: NDArray) -> Scores:
    """Log-probabilities (…, V), float64, of the model's own logits (…, V), whatever the settings do to them."""
    scores = logits.astype(np.float64)
    scores -= scores.max(axis=-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))


def token_logprobs(logits: NDArray, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """``log_softmax`` of logits (…, V) at the tokens (…)."""
    return np.take_along_axis(log_softmax(logits), tokens[..., None], axis=-1)[..., 0]
