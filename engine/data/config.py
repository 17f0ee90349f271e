"""Settings that determine how text becomes batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from unrolled.engine.canonical import canonical_settings, completed
from unrolled.engine.checks import check_choice, check_seed
from unrolled.engine.data.splits import BATCHINGS, DEFAULT_SPLIT, check_fractions
from unrolled.engine.errors import ConfigError, SettingName
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.tokenizers.pieces import TextOrPieces
from unrolled.engine.tokenizers.registry import TOKENIZERS


@dataclass(frozen=True)
class DataConfig:
    """Settings of vocabulary, split and batches.

    Args:
        level: "char", "word" or "bpe": the tokeniser.
        batching: "stream" or "records".
        batch_size: B, lanes or records per batch.
        length: T, tokens per chunk of a stream; maximum number of predicted tokens of a record.
        split: fractions for training, validation and test.
        lowercase: lower-case the text; None: only for words.
        punctuation: keep punctuation marks at word level.
        vocab_size: maximum number of tokens of words or byte pairs, special ones included; None: all words, 2,048 byte pairs.
        unknown: policy for text outside the vocabulary; None: "error" for characters, "replace" for words.
        seed: seed that shuffles records before the split.
    """

    level: str = "char"
    batching: str = "stream"
    batch_size: int = 32
    length: int = 64
    split: Sequence[float] = DEFAULT_SPLIT
    lowercase: bool | None = None
    punctuation: bool = False
    vocab_size: int | None = None
    unknown: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("level", self.level, TOKENIZERS)
        for name in self._chosen():
            if name not in TOKENIZERS[self.level].settings:
                levels = " or ".join(repr(level) for level, made in TOKENIZERS.items() if name in made.settings)
                raise ConfigError(SettingName(name), f": goes with level {levels}, and not with {self.level!r}")
        check_fractions(self.split)
        whole = {"batch_size": self.batch_size, "length": self.length, "vocab_size": self.vocab_size or 1}
        for name, value in whole.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(SettingName(name), f": got {value!r}, needs a whole number of at least 1")
        check_choice("batching", self.batching, BATCHINGS)
        check_seed(self.seed)

    def _chosen(self) -> dict[str, Any]:
        """Return the vocabulary settings that differ from the default."""
        asked = {"lowercase": self.lowercase, "vocab_size": self.vocab_size, "unknown": self.unknown}
        chosen = {name: value for name, value in asked.items() if value is not None}
        return {**chosen, "punctuation": True} if self.punctuation else chosen

    def fit(self, text: TextOrPieces, specials: Sequence[str] = ()) -> Tokenizer:
        """Return a tokeniser fitted to ``text``; the special tokens come first in its vocabulary."""
        return TOKENIZERS[self.level].fit(text, specials=specials, **self._chosen())

    def to_dict(self) -> dict[str, Any]:
        """Return the canonical form."""
        return {**canonical_settings(self), "split": list(self.split)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DataConfig:
        """Return the settings of a canonical form; the inverse of ``to_dict``.

        Raises:
            ConfigError: a setting is missing, unknown or out of range.
        """
        values = completed(cls, values)
        known = {field.name for field in fields(cls)}
        if set(values) != known:
            raise ConfigError(
                f"data settings: got {', '.join(sorted(values)) or 'none'}; needs {', '.join(sorted(known))}"
            )
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"data settings: {error}") from error
