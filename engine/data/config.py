"""Settings that determine how text becomes batches."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

from unrolled.engine.canonical import canonical, completed
from unrolled.engine.data.splits import BATCHINGS, DEFAULT_SPLIT, check_fractions, parse_fractions
from unrolled.engine.errors import ConfigError, SettingName
from unrolled.engine.settings import COUNT, DATA_PANEL, SEED, NotSearched, Setting, Typed, check_settings
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.tokenizers.pieces import TextOrPieces
from unrolled.engine.tokenizers.preparation import NORMALIZATIONS
from unrolled.engine.tokenizers.registry import TOKENIZERS
from unrolled.engine.tokenizers.vocabulary import UNKNOWN_POLICIES

TWO_VOCABULARIES, TWO_TEXTS = "losses a token of two vocabularies", "losses on two validation texts"


@dataclass(frozen=True)
class DataConfig:
    """Settings of vocabulary, split and batches.

    Args:
        level: "char", "word", "whitespace" or "bpe": the tokeniser.
        batching: "stream" or "records".
        batch_size: B, lanes or records per batch.
        length: T, tokens per chunk of a stream; maximum number of predicted tokens of a record.
        split: fractions for training, validation and test.
        lowercase: lower-case the text; None: only for level "word".
        normalize: "NFC", "NFD", "NFKC" or "NFKD", the form in which text is matched, or "none"; None: "NFC" for words of both
            kinds, "none" for characters and byte pairs.
        punctuation: keep punctuation marks at word level.
        vocab_size: maximum number of tokens of words or byte pairs, special ones included; None: all words, 2,048 byte pairs.
        unknown: policy for text outside the vocabulary; None: "error" for characters, "replace" for words of both kinds.
        seed: seed that shuffles records before the split.
    """

    level: Annotated[
        str,
        Setting(
            "level",
            "What a token is; whitespace: words of text that is already tokenised, and a token a line end; bpe: byte pairs.",
            DATA_PANEL,
            choices=TOKENIZERS,
            search=NotSearched(TWO_VOCABULARIES),
        ),
    ] = "char"
    batching: Annotated[
        str,
        Setting(
            "batching",
            "stream: one long text, the state carried on. records: a line or row each, <bos> to <eos>.",
            DATA_PANEL,
            choices=BATCHINGS,
            lists_choices=False,
            search=NotSearched(TWO_TEXTS),
        ),
    ] = "stream"
    batch_size: Annotated[
        int, Setting("batch", "Lanes or records a batch.", DATA_PANEL, COUNT, search="16,32,64,128")
    ] = 32
    length: Annotated[
        int,
        Setting(
            "length", "Tokens a chunk; of longer records the end is lost.", DATA_PANEL, COUNT, search="32,64,128,256"
        ),
    ] = 64
    split: Annotated[
        Sequence[float],
        Setting(
            "split",
            "Fractions for training, validation, test.",
            DATA_PANEL,
            search=NotSearched(TWO_TEXTS),
            typed=Typed(str, parse_fractions, lambda split: ",".join(map(str, split))),
        ),
    ] = DEFAULT_SPLIT
    lowercase: Annotated[
        bool | None,
        Setting(
            "lowercase",
            "Lower-case the text.",
            DATA_PANEL,
            search=NotSearched(TWO_VOCABULARIES),
            default="yes for level word, else no",
        ),
    ] = None
    punctuation: Annotated[
        bool,
        Setting("punctuation", "Keep punctuation marks as words.", DATA_PANEL, search=NotSearched(TWO_VOCABULARIES)),
    ] = False
    vocab_size: Annotated[
        int | None,
        Setting(
            "vocab_size",
            "Most words or byte pairs.",
            DATA_PANEL,
            COUNT,
            search=NotSearched(TWO_VOCABULARIES),
            default="all words, 2048 byte pairs",
        ),
    ] = None
    unknown: Annotated[
        str | None,
        Setting(
            "unknown",
            "Text outside the vocabulary.",
            DATA_PANEL,
            choices=UNKNOWN_POLICIES,
            search=NotSearched(TWO_VOCABULARIES),
            default="error for characters, replace for words",
        ),
    ] = None
    seed: Annotated[int, SEED] = 0
    normalize: Annotated[
        str | None,
        Setting(
            "normalize",
            "Unicode form in which text is matched.",
            DATA_PANEL,
            choices=NORMALIZATIONS,
            search=NotSearched(TWO_VOCABULARIES),
            default="NFC for words, none for characters and byte pairs",
        ),
    ] = None

    def __post_init__(self) -> None:
        check_settings(self)
        if self.normalize == TOKENIZERS[self.level].default_normalization:
            object.__setattr__(self, "normalize", None)  # so that settings read from a file equal those written to it
        for name in self._chosen():
            if name not in TOKENIZERS[self.level].settings:
                levels = " or ".join(repr(level) for level, made in TOKENIZERS.items() if name in made.settings)
                raise ConfigError(SettingName(name), f": goes with level {levels}, and not with {self.level!r}")
        check_fractions(self.split)

    def _chosen(self) -> dict[str, Any]:
        """Return the vocabulary settings that differ from the default."""
        names = ("lowercase", "vocab_size", "unknown", "normalize")
        chosen = {name: value for name in names if (value := getattr(self, name)) is not None}
        return {**chosen, "punctuation": True} if self.punctuation else chosen

    @property
    def normalization(self) -> str:
        """Return the form in which text is matched."""
        return TOKENIZERS[self.level].default_normalization if self.normalize is None else self.normalize

    @property
    def boundary(self) -> re.Pattern[str] | None:
        """Return the pattern before whose matches a text may be split without a change of its ids; None: anywhere."""
        return TOKENIZERS[self.level].boundary_of(self.normalization)

    def fit(self, text: TextOrPieces, specials: Sequence[str] = ()) -> Tokenizer:
        """Return a tokeniser fitted to ``text``; the special tokens come first in its vocabulary."""
        return TOKENIZERS[self.level].fit(
            text, specials=specials, **{**self._chosen(), "normalize": self.normalization}
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the canonical form."""
        values = {**asdict(self), "split": list(self.split), "normalize": self.normalization}
        return canonical(type(self), values)

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
