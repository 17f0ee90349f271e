"""A corpus made ready for training: vocabulary, three parts, batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.canonical import completed, described
from unrolled.engine.checks import check_choice, check_seed
from unrolled.engine.data.batches import (
    BATCHINGS,
    DEFAULT_SPLIT,
    Batches,
    RecordBatches,
    StreamBatches,
    check_fractions,
    make_batches,
    split_corpus,
)
from unrolled.engine.data.corpus import Corpus
from unrolled.engine.errors import ConfigError, CorpusError
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.tokenizers.pieces import TextOrPieces
from unrolled.engine.tokenizers.registry import TOKENIZERS
from unrolled.engine.tokenizers.vocabulary import BOS, EOS, UNK

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class DataConfig:
    """How text becomes batches.

    Args:
        level: "char", "word" or "bpe".
        batching: "stream" or "records".
        batch_size: B, lanes or records a batch.
        length: T, tokens a chunk of a stream; the longest record.
        split: fractions for training, validation and test.
        lowercase: lower-case the text; None: yes for words, else no.
        punctuation: keep punctuation marks at word level.
        vocab_size: the most tokens of words or byte pairs, special ones included; None: all words, 2,048 byte pairs.
        unknown: what happens to text outside the vocabulary; None: "error" for characters, "replace" for words.
        seed: shuffles records before they are split.
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
                raise ConfigError(f"{name}: goes with level {levels}, and not with {self.level!r}")
        check_fractions(self.split)
        whole = {"batch_size": self.batch_size, "length": self.length, "vocab_size": self.vocab_size or 1}
        for name, value in whole.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name}: got {value!r}, needs a whole number of at least 1")
        check_choice("batching", self.batching, BATCHINGS)
        check_seed(self.seed)

    def _chosen(self) -> dict[str, Any]:
        """Settings of the vocabulary that somebody chose."""
        asked = {name: getattr(self, name) for name in ("lowercase", "vocab_size", "unknown")}
        chosen = {name: value for name, value in asked.items() if value is not None}
        return {**chosen, "punctuation": True} if self.punctuation else chosen

    def fit(self, text: TextOrPieces, specials: Sequence[str] = ()) -> Tokenizer:
        """A vocabulary of ``text``, behind the special tokens."""
        return TOKENIZERS[self.level].fit(text, specials=specials, **self._chosen())

    def to_dict(self) -> dict[str, Any]:
        """Return the canonical form."""
        return {**described(self), "split": list(self.split)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DataConfig:
        """The inverse of ``to_dict``.

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


@dataclass(frozen=True)
class Dataset:
    """A vocabulary and the batches of each part; a part of fraction 0 is None."""

    tokenizer: Tokenizer
    train: Batches
    validation: Batches | None
    test: Batches | None


FEW_TOKENS, FEW_RECORDS = 1_000, 20
SPREAD = 1.5  # nats, standard deviation of a character's loss, 1.56 under a trigram model of English plays


def doubt(data: Dataset) -> str | None:
    """Why the validation says little, if it is so small that it does, with its standard error."""
    validation = data.validation
    if validation is None:
        return None
    tokens, records = validation.tokens_per_epoch, None
    if isinstance(validation, RecordBatches):
        tokens, records = _different(validation)
    if tokens >= FEW_TOKENS and (records is None or records >= FEW_RECORDS):
        return None
    what = f"{tokens:,} tokens" + ("" if records is None else f" in {records:,} different records")
    return (
        f"validation on {what} says little: its loss has a standard error of about ±{SPREAD / math.sqrt(tokens):.2f}; "
        "which step was best is then partly chance. More text, or a larger part for it in the split, would help"
    )


def cut_records(data: Dataset) -> str | None:
    """How many records are longer than the length that was asked for, if there are any; they lose their end."""
    parts = [part for part in (data.train, data.validation, data.test) if isinstance(part, RecordBatches)]
    if not parts:
        return None
    lengths = np.concatenate([np.diff(part.starts) - 1 for part in parts])
    limit, longest = parts[0].length, int(lengths.max())
    if longest <= limit:
        return None
    return (
        f"{int((lengths > limit).sum()):,} of {len(lengths):,} records are longer than {limit:,} tokens and lose their end, "
        f"so that a model does not learn where such a one stops; --length {longest} keeps all of them whole"
    )


def doubts(data: Dataset) -> list[str]:
    """What people should know of a data set before they train on it."""
    return [message for message in (cut_records(data), doubt(data)) if message]


def _different(batches: RecordBatches) -> tuple[int, int]:
    """Tokens and number of the different records; no more are counted once there are enough of both."""
    seen: set[bytes] = set()
    tokens = 0
    for start, end, length in zip(batches.starts, batches.starts[1:], batches.lengths, strict=False):
        record = batches.ids[start:end].tobytes()
        if record not in seen:
            seen.add(record)
            tokens += int(length)
        if tokens >= FEW_TOKENS and len(seen) >= FEW_RECORDS:
            break
    return tokens, len(seen)


def fit_tokenizer(corpus: Corpus, train: str | Sequence[str], config: DataConfig) -> Tokenizer:
    """A vocabulary: every character of the corpus, or the words or byte pairs of its training part."""
    specials = (BOS, EOS) if config.batching == "records" else ()
    if config.level == "char":
        # records are never joined, so a line end between them is no character of theirs
        return config.fit(corpus.text if config.batching == "stream" else "".join(corpus.records), specials)
    text = train if isinstance(train, str) else "\n".join(train)
    if config.level == "word" and not any(
        character.isalnum() or (config.punctuation and not character.isspace()) for character in text
    ):
        raise CorpusError(f"{corpus.name}: too little text for the train part (no word); add text or change the split")
    return config.fit(text, specials)


def fit_text(name: str, text: Iterable[str], config: DataConfig) -> Tokenizer:
    """A vocabulary of a text in pieces that cut no word in two, without tokens that mark records."""
    tokenizer = config.fit(text)
    if len(tokenizer.vocabulary) == 0 or tokenizer.vocabulary == (UNK,):
        raise CorpusError(f"{name}: too little text for the train part (no word); add text or change the split")
    check_varied(name, tokenizer, config)
    return tokenizer


def check_varied(name: str, tokenizer: Tokenizer, config: DataConfig) -> None:
    """Check that there are different tokens to predict.

    Raises:
        CorpusError: the text consists of one token.
        ConfigError: the vocabulary may hold no more than one.
    """
    if len(tokenizer.vocabulary) > 1:
        return
    if config.vocab_size is not None and config.vocab_size < 2:
        raise ConfigError(f"vocab_size: got {config.vocab_size}, needs a whole number of at least 2")
    what = "character" if config.level == "char" else config.level
    raise CorpusError(
        f"{name}: holds one {what} alone, {tokenizer.vocabulary[0]!r}, so that there is nothing to learn; "
        "give a text of different ones"
    )


def joined_batches(name: str, tokenizer: Tokenizer, parts: Sequence[NDArray], config: DataConfig) -> Dataset:
    """A data set of the ids of three parts.

    Raises:
        CorpusError: a part that should exist is too short to hold a single prediction.
    """
    made: list[Batches | None] = []
    for part, ids, fraction in zip(PARTS, parts, config.split, strict=True):
        try:
            made.append(StreamBatches(ids, config.batch_size, config.length) if fraction else None)
        except CorpusError as error:
            raise CorpusError(f"{name}: too little text for the {part} part ({error}); encode more text") from error
    train, validation, test = made
    assert train is not None  # check_fractions: the first fraction is above 0
    return Dataset(tokenizer, train, validation, test)


def prepare(corpus: Corpus, config: DataConfig, tokenizer: Tokenizer | None = None) -> Dataset:
    """Split, fit the vocabulary (unless one is given), encode and batch.

    Raises:
        CorpusError: a part that should exist is too short to hold a single prediction.
    """
    split = split_corpus(corpus, config.batching, config.split, config.seed)
    tokenizer = tokenizer or fit_tokenizer(corpus, split.train, config)

    def part(name: str, fraction: float) -> Batches | None:
        if fraction == 0:
            return None
        try:
            return make_batches(getattr(split, name), tokenizer, config.batch_size, config.length)
        except CorpusError as error:
            raise CorpusError(
                f"{corpus.name}: too little text for the {name} part ({error}); add text or change the split"
            ) from error

    train = part("train", config.split[0])
    assert train is not None  # check_fractions: the first fraction is above 0
    return Dataset(tokenizer, train, part("validation", config.split[1]), part("test", config.split[2]))
