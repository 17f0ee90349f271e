"""The settings of sampling, checked and resolved to token ids."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Annotated, Any, Self

from unrolled.engine.checks import check_share, check_whole, is_number
from unrolled.engine.errors import ConfigError, SettingName, UnknownTokenError
from unrolled.engine.models.draw_settings import DrawSettings
from unrolled.engine.settings import DECODING_PANEL, ONE_TEXT, SEED, SEVERAL_TEXTS, Setting
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.tokenizers.registry import tokenizer_from_dict

MIN_TEMPERATURE = 1e-6  # greedy in effect; far below, logits over temperature overflow
PENALTY_LIMIT = 1e6  # the repetition penalty lies between 1 / this and this; with far more, scores overflow

TextOrIds = str | tuple[int, ...]
PLAIN = DrawSettings._fields  # the settings that every engine, file and host implements


@dataclass(frozen=True)
class SamplingConfig:
    """Settings that choose a token.

    A text is a str, or the ids that ``resolved`` makes of it; a text that is one token of the vocabulary, such as
    "<eos>", is that token.

    Args:
        do_sample: draw; False: greedy, and temperature, top_k, top_p, min_p and typical_p have no effect.
        temperature: divides the logits; below 1 favours probable tokens more, above 1 less. At least 1e-6, or 0: greedy.
        top_k: keep the k most probable tokens; 0: all.
        top_p: keep the fewest most probable tokens whose probabilities sum to at least this; 1: all.
        seed: 0 … 2⁶⁴ - 1; with a row's index and step it fixes the draw.
        min_p: keep the tokens that have at least this share of the most probable one's probability; 0: all.
        typical_p: keep the fewest tokens that sum to at least this, in the order of how typical their surprise is; 1: all.
        repetition_penalty: tokens of the prompt and of the text become less probable above 1, more probable below; 1: off.
        no_repeat_ngram_size: no sequence of so many tokens occurs twice; 0: off.
        bad_words: texts that are not written.
        suppress_tokens: tokens of the vocabulary that are not written.
        sequence_bias: texts, each with a bias on the score of its last token after the others; a mapping or pairs.
        min_new_tokens: no <eos> before so many tokens; no effect if <eos> does not end a text.
        forced_prefix: the beginning of every text; overrides every ban.
        eos_token_id: the id of <eos> if it ends a text; ``resolved`` fills it in.
    """

    do_sample: bool = True
    temperature: Annotated[
        float, Setting("temperature", "0: greedy; below 1: safer; above 1: more varied.", DECODING_PANEL)
    ] = 1.0
    top_k: Annotated[int, Setting("top_k", "Draw from the k most probable tokens; 0: all.", DECODING_PANEL)] = 0
    top_p: Annotated[
        float, Setting("top_p", "Draw from the fewest tokens of this joint probability; 1: all.", DECODING_PANEL)
    ] = 1.0
    seed: Annotated[int, SEED] = 0
    min_p: Annotated[
        float,
        Setting(
            "min_p", "Draw from tokens with this share of the most probable one's probability; 0: all.", DECODING_PANEL
        ),
    ] = 0.0
    typical_p: Annotated[
        float,
        Setting("typical_p", "Draw from the most typical tokens of this joint probability; 1: all.", DECODING_PANEL),
    ] = 1.0
    repetition_penalty: Annotated[
        float,
        Setting("repetition_penalty", "Above 1: tokens that stand there already become less probable.", DECODING_PANEL),
    ] = 1.0
    no_repeat_ngram_size: Annotated[
        int,
        Setting("no_repeat_ngram_size", "No sequence of so many tokens is written twice; 0: off.", DECODING_PANEL),
    ] = 0
    bad_words: Annotated[
        tuple[TextOrIds, ...],
        Setting("bad_word", "Text that is not written; may be repeated.", DECODING_PANEL, typed=SEVERAL_TEXTS),
    ] = ()
    suppress_tokens: Annotated[
        tuple[str | int, ...],
        Setting(
            "suppress_token",
            "Token of the vocabulary, such as <unk>, that is not written; may be repeated.",
            DECODING_PANEL,
            typed=SEVERAL_TEXTS,
        ),
    ] = ()
    sequence_bias: Annotated[
        tuple[tuple[TextOrIds, float], ...] | Mapping[str, float],
        Setting(
            "bias",
            "Makes a text more or less probable by what is added to its score; may be repeated.",
            DECODING_PANEL,
            typed=SEVERAL_TEXTS,
            metavar="TEXT=NUMBER",
        ),
    ] = ()
    min_new_tokens: Annotated[int, Setting("min_new_tokens", "No <eos> before so many tokens.", DECODING_PANEL)] = 0
    forced_prefix: Annotated[
        TextOrIds, Setting("forced_prefix", "What every text begins with.", DECODING_PANEL, typed=ONE_TEXT)
    ] = ""
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.do_sample, bool):
            raise ConfigError(SettingName("do_sample"), f": got {self.do_sample!r}, needs true or false")
        divisor = self.temperature
        if not is_number(divisor) or not (divisor == 0 or MIN_TEMPERATURE <= divisor < math.inf):
            raise ConfigError(
                SettingName("temperature"),
                f": got {divisor!r}, needs 0, which is greedy, or a number from {MIN_TEMPERATURE:g}",
            )
        check_whole("top_k", self.top_k, 0)
        check_share("top_p", self.top_p, "1 keeps all tokens")
        check_whole("seed", self.seed, 0, 2**64 - 1)
        check_share("min_p", self.min_p, "0 keeps all tokens")
        check_share("typical_p", self.typical_p, "1 keeps all tokens")
        if not is_number(self.repetition_penalty) or not 1 / PENALTY_LIMIT <= self.repetition_penalty <= PENALTY_LIMIT:
            raise ConfigError(
                SettingName("repetition_penalty"),
                f": got {self.repetition_penalty!r}, needs a number from {1 / PENALTY_LIMIT:g} to "
                f"{PENALTY_LIMIT:g}; 1 is off",
            )
        check_whole("no_repeat_ngram_size", self.no_repeat_ngram_size, 0)
        check_whole("min_new_tokens", self.min_new_tokens, 0)
        if self.eos_token_id is not None:
            check_whole("eos_token_id", self.eos_token_id, 0)
        self._take_numbers()
        self._take_texts()

    def _take_numbers(self) -> None:
        """Convert numbers of NumPy's types to Python's, which JSON can hold."""
        for name, value in [(field.name, getattr(self, field.name)) for field in fields(self)]:
            object.__setattr__(self, name, _plain_number(value))

    def _take_texts(self) -> None:
        """Check the settings that are or hold texts, and convert them to tuples."""
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
                raise ConfigError(SettingName("sequence_bias"), f": got {pair!r}, needs a text with a finite number")
            biases.append((_text("sequence_bias", pair[0]), _plain_number(pair[1])))
        object.__setattr__(self, "sequence_bias", tuple(biases))
        prefix: Any = self.forced_prefix
        empty = isinstance(prefix, str | tuple | list) and len(prefix) == 0
        object.__setattr__(self, "forced_prefix", "" if empty else _text("forced_prefix", prefix))

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # without cached properties

    @cached_property
    def extras(self) -> tuple[str, ...]:
        """Return the names of the settings in use beyond ``PLAIN``."""
        return tuple(f.name for f in _EXTRA_FIELDS if getattr(self, f.name) not in (f.default, ()))

    @property
    def plain(self) -> bool:
        """Return whether only ``PLAIN`` is in use, so that compiled code and graphs can draw by themselves."""
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
        """Return whether ``choose`` needs the tokens so far."""
        sequences = (*self.bad_words, *(text for text, _ in self._biases))
        return any(isinstance(text, str) or len(text) > 1 for text in sequences) or bool(
            {"repetition_penalty", "no_repeat_ngram_size", "min_new_tokens", "forced_prefix"} & set(self.extras)
        )

    @property
    def _biases(self) -> tuple[tuple[TextOrIds, float], ...]:
        assert not isinstance(self.sequence_bias, Mapping)  # _take_texts makes pairs of a mapping
        return self.sequence_bias

    def has_filters(self, V: int) -> bool:
        """Return whether a draw from V tokens has more filters than the temperature."""
        return 0 < self.top_k < V or self.top_p < 1 or self.min_p > 0 or self.typical_p < 1

    @cached_property
    def holds_texts(self) -> bool:
        """Return whether a setting holds a text that is not yet ids."""
        texts = (*self.bad_words, *self.suppress_tokens, *(t for t, _ in self._biases), self.forced_prefix or ())
        return any(isinstance(text, str) for text in texts)

    def resolved(self, tokenizer: Tokenizer) -> Self:
        """Return the same settings with ids for texts, which ``choose`` needs.

        Raises:
            UnknownTokenError: a text holds characters or words outside the vocabulary, or an id is outside it.
            ConfigError: a text encodes to no token, every token is suppressed, or ``eos_token_id`` is not <eos>'s.
        """
        if self.eos_token_id not in (None, tokenizer.end_id):
            raise ConfigError(
                SettingName("eos_token_id"), f": got {self.eos_token_id}, this vocabulary's <eos> is {tokenizer.end_id}"
            )
        if self.plain:
            return self
        strict = tokenizer
        if self.holds_texts and tokenizer.unknown != "error":  # a ban of <unk> would ban other texts
            strict = tokenizer_from_dict({**tokenizer.to_dict(), "unknown": "error"})
        ids: dict[str, Any] = {
            "bad_words": tuple(_ids("bad_words", strict, text) for text in self.bad_words),
            "suppress_tokens": tuple(_one_id(strict, token) for token in self.suppress_tokens),
            "sequence_bias": tuple((_ids("sequence_bias", strict, t), bias) for t, bias in self._biases),
            "forced_prefix": _ids("forced_prefix", strict, self.forced_prefix) if self.forced_prefix else "",
        }
        if len(set(ids["suppress_tokens"])) == len(tokenizer.vocabulary):
            raise ConfigError(
                SettingName("suppress_tokens"), ": these are all tokens of the vocabulary, and one has to be left"
            )
        least = self.min_new_tokens if tokenizer.end_id is not None else 0
        return replace(self, **ids, min_new_tokens=least, eos_token_id=tokenizer.end_id)


def _plain_number(value: Any) -> Any:
    """Return a number of NumPy or ``fractions`` as an int or a float; leave anything else as it is."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool | int | float):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def _is_finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)


def _items(name: str, values: Any) -> tuple[Any, ...]:
    """Return one text, or several texts or ids, as a tuple."""
    if isinstance(values, str):
        return (values,)
    if not isinstance(values, tuple | list):
        raise ConfigError(SettingName(name), f": got {values!r}, needs a list")
    return tuple(values)


def _text(name: str, text: Any) -> TextOrIds:
    """Return a text that is not empty, or its ids as a tuple."""
    if not isinstance(text, str | tuple | list) or len(text) == 0:
        raise ConfigError(SettingName(name), f": got {text!r}, needs texts that are not empty")
    if isinstance(text, str):
        return text
    for token in text:
        check_whole(name, token, 0)
    return tuple(map(_plain_number, text))


def _ids(name: str, tokenizer: Tokenizer, text: TextOrIds) -> tuple[int, ...]:
    """Return the ids of ``text``; those that are ids already are checked."""
    V = len(tokenizer.vocabulary)
    if not isinstance(text, str):
        if max(text) >= V:
            raise UnknownTokenError(SettingName(name), f": id {max(text)} is outside the vocabulary's 0 … {V - 1}")
        return text
    if text in tokenizer.vocabulary:
        return (tokenizer.vocabulary.index(text),)
    try:
        ids = tuple(tokenizer.encode(text).tolist())
    except UnknownTokenError as error:
        raise UnknownTokenError(SettingName(name), f": {text!r}: {error}") from error
    if not ids:
        raise ConfigError(SettingName(name), f": nothing of {text!r} is a token")
    return ids


def _one_id(tokenizer: Tokenizer, token: str | int) -> int:
    """Return the id of a token that is given as it is in the vocabulary."""
    if isinstance(token, str) and token not in tokenizer.vocabulary:
        raise UnknownTokenError(
            SettingName("suppress_tokens"),
            f": the vocabulary has no token {token!r}; ",
            SettingName("bad_words"),
            " takes texts",
        )
    return _ids("suppress_tokens", tokenizer, token if isinstance(token, str) else (token,))[0]


_EXTRA_FIELDS = tuple(field for field in fields(SamplingConfig) if field.name not in (*PLAIN, "eos_token_id"))
