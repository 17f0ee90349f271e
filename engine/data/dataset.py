"""Data sets for training: a tokeniser, and batches of the three parts of a corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.data.batches import Batches
from unrolled.engine.data.config import DataConfig
from unrolled.engine.data.corpus import Corpus
from unrolled.engine.data.records import RecordBatches, encode_records
from unrolled.engine.data.splits import PARTS, CorpusSplit, split_corpus
from unrolled.engine.data.streams import StreamBatches, encode_stream
from unrolled.engine.errors import ConfigError, CorpusError, SettingName
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.tokenizers.pieces import TextOrPieces, split_pieces
from unrolled.engine.tokenizers.vocabulary import BOS, EOS, SPECIALS

PartContent = TypeVar("PartContent")


@dataclass(frozen=True)
class Dataset:
    """A tokeniser and the batches of each part; a part of fraction 0 is None."""

    tokenizer: Tokenizer
    train: Batches
    validation: Batches | None
    test: Batches | None

    def part(self, name: str) -> Batches | None:
        """Return the batches of one of ``PARTS``."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]


def fit_tokenizer(corpus: Corpus, split: CorpusSplit, config: DataConfig) -> Tokenizer:
    """Return a tokeniser of all characters of the corpus, or of the words or byte pairs of its training part."""
    specials = (BOS, EOS) if config.batching == "records" else ()
    if config.level == "char":
        return config.fit(_characters(corpus, split, config), specials)
    train = split.train
    text = train if isinstance(train, str) else "\n".join(train)
    if not _has_word(text, config):
        raise CorpusError(f"{corpus.name}: too little text for the train part (no word); add text or change the split")
    return config.fit(text, specials)


def _characters(corpus: Corpus, split: CorpusSplit, config: DataConfig) -> TextOrPieces:
    """Return the text whose characters are the vocabulary; records without line ends, because they are never joined."""
    if config.boundary is None:
        return corpus.text if config.batching == "stream" else "".join(corpus.records)
    # Each text that is encoded alone is normalised alone: a mark at its beginning combines with nothing before it.
    encoded = chain.from_iterable((part,) if isinstance(part, str) else part for part in split)
    return chain.from_iterable(split_pieces(text, config.boundary) for text in encoded)


def _has_word(text: str, config: DataConfig) -> bool:
    """Return whether a text has a word, for levels of words."""
    if config.level == "whitespace":
        return not text.isspace() and text != ""
    if config.level == "word":
        return any(character.isalnum() or (config.punctuation and not character.isspace()) for character in text)
    return True


def fit_pieces(name: str, text: Iterable[str], config: DataConfig) -> Tokenizer:
    """Return a tokeniser fitted to pieces of a text that split no word, without <bos> and <eos>."""
    tokenizer = config.fit(text)
    if all(token in SPECIALS for token in tokenizer.vocabulary):
        raise CorpusError(f"{name}: too little text for the train part (no word); add text or change the split")
    check_several_tokens(name, tokenizer, config)
    return tokenizer


def check_several_tokens(name: str, tokenizer: Tokenizer, config: DataConfig) -> None:
    """Check that the vocabulary has at least two tokens, since a single one leaves nothing to predict.

    Raises:
        CorpusError: the text consists of one repeated token.
        ConfigError: ``vocab_size`` is below 2.
    """
    if len(tokenizer.vocabulary) > 1:
        return
    if config.vocab_size is not None and config.vocab_size < 2:
        raise ConfigError(SettingName("vocab_size"), f": got {config.vocab_size}, needs a whole number of at least 2")
    what = "character" if config.level == "char" else config.level
    raise CorpusError(
        f"{name}: holds one {what} alone, {tokenizer.vocabulary[0]!r}, so that there is nothing to learn; "
        "give a text of different ones"
    )


def make_batches(
    part: str | tuple[str, ...], tokenizer: Tokenizer, batch_size: int, length: int | None
) -> StreamBatches | RecordBatches:
    """Return the batches of one part of a split: a stream for a text, or records.

    Args:
        length: T of a stream (None: 512), or the maximum number of predicted tokens of a record (None: of the longest).

    Raises:
        CorpusError: the part is too short for a single prediction.
    """
    if isinstance(part, str):
        return StreamBatches(encode_stream(part, tokenizer), batch_size, length or 512)
    ids, starts = encode_records(part, tokenizer)
    return RecordBatches(ids, starts, batch_size, length or max(int(np.diff(starts).max(initial=0)) - 1, 1))


def _dataset_of(
    name: str,
    tokenizer: Tokenizer,
    config: DataConfig,
    contents: Sequence[PartContent],
    make: Callable[[PartContent], Batches],
    remedy: str,
) -> Dataset:
    """Return a data set whose parts ``make`` builds; ``remedy`` ends the error message for a part that is too short."""
    made: list[Batches | None] = []
    for part, content, fraction in zip(PARTS, contents, config.split, strict=True):
        try:
            made.append(make(content) if fraction else None)
        except CorpusError as error:
            raise CorpusError(f"{name}: too little text for the {part} part ({error}); {remedy}") from error
    train, validation, test = made
    assert train is not None  # check_fractions: the first fraction is above 0
    return Dataset(tokenizer, train, validation, test)


def dataset_from_ids(name: str, tokenizer: Tokenizer, parts: Sequence[NDArray], config: DataConfig) -> Dataset:
    """Return the data set of three parts that are already encoded.

    Raises:
        CorpusError: a part with a fraction above 0 is too short for a single prediction.
    """

    def make(ids: NDArray) -> Batches:
        return StreamBatches(ids, config.batch_size, config.length)

    return _dataset_of(name, tokenizer, config, parts, make, "encode more text")


def prepare_dataset(corpus: Corpus, config: DataConfig, tokenizer: Tokenizer | None = None) -> Dataset:
    """Split a corpus, fit a tokeniser unless one is given, encode and batch.

    Raises:
        CorpusError: a part with a fraction above 0 is too short for a single prediction.
    """
    split = split_corpus(corpus, config.batching, config.split, config.seed)
    fitted = tokenizer or fit_tokenizer(corpus, split, config)

    def make(content: str | tuple[str, ...]) -> Batches:
        return make_batches(content, fitted, config.batch_size, config.length)

    return _dataset_of(corpus.name, fitted, config, split, make, "add text or change the split")
