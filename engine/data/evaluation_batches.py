"""Batches for evaluation: of a whole corpus, or of a part of the training corpus, split as in training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from unrolled.engine.checks import check_choice
from unrolled.engine.data.batches import Batches
from unrolled.engine.data.config import DataConfig
from unrolled.engine.data.corpus import BUILTIN, Corpus
from unrolled.engine.data.dataset import make_batches, prepare_dataset
from unrolled.engine.data.splits import BATCHINGS, PARTS
from unrolled.engine.data.streams import StreamBatches
from unrolled.engine.data.token_files import EncodedCorpus
from unrolled.engine.errors import ConfigError
from unrolled.engine.storage.json_text import object_in
from unrolled.engine.tokenizers.contract import Tokenizer


def batches_to_score(
    corpus: Corpus | EncodedCorpus,
    tokenizer: Tokenizer,
    record: dict[str, Any],
    part: str | None = None,
    batching: str | None = None,
    batch_size: int | None = None,
    length: int | None = None,
) -> Batches:
    """Return the batches of ``corpus`` or of a part of it.

    Args:
        corpus: the text to evaluate on.
        tokenizer: the model's tokeniser.
        record: the model's training record.
        part: one of ``PARTS``; the digest of the corpus must match the record. None: the whole corpus.
        batching: "stream" or "records"; None: "records" if the vocabulary has <bos>.
        batch_size, length: sizes of the batches; None: 1 and 512 for a whole corpus (records whole), those of the training
            for a part.

    Raises:
        ConfigError: the corpus is not the training corpus, a setting is unknown, or a token file was encoded with another
            vocabulary or split.
    """
    if isinstance(corpus, EncodedCorpus) and corpus.tokenizer.to_dict() != tokenizer.to_dict():
        raise ConfigError(f"{corpus.name}: encoded with another vocabulary than the model's; name the text itself")
    if part is not None:
        return _part(corpus, tokenizer, record, part, batching, batch_size, length)
    trained_on = object_in(record, "corpus")
    if corpus.name == BUILTIN and trained_on.get("sha256") not in (None, corpus.digest):
        raise ConfigError(f"name a corpus: the model was trained on {trained_on.get('name')}, not on the built-in one")
    return _whole_corpus(corpus, tokenizer, batching, batch_size or 1, length)


def _whole_corpus(
    corpus: Corpus | EncodedCorpus, tokenizer: Tokenizer, batching: str | None, batch_size: int, length: int | None
) -> Batches:
    batching = batching or ("records" if tokenizer.bos_id is not None else "stream")
    check_choice("batching", batching, BATCHINGS)
    if isinstance(corpus, EncodedCorpus):
        if batching != "stream":
            raise ConfigError("batching: a .tokens file is a stream; records are read from the text")
        return StreamBatches(corpus.ids, batch_size, length or 512)
    if batching == "stream":
        return make_batches(corpus.text, tokenizer, batch_size, length)
    if tokenizer.bos_id is None:
        raise ConfigError("batching: the model was trained on a stream and has no <bos>, which records need")
    return make_batches(corpus.records, tokenizer, batch_size, length)


def _part(
    corpus: Corpus | EncodedCorpus,
    tokenizer: Tokenizer,
    record: dict[str, Any],
    part: str,
    batching: str | None,
    batch_size: int | None,
    length: int | None,
) -> Batches:
    check_choice("part", part, PARTS)
    trained_on = object_in(record, "corpus")
    if trained_on.get("sha256") != corpus.digest:
        raise ConfigError(
            f"part: {corpus.name} is not the corpus that the model was trained on ({trained_on.get('name')}); "
            "name that one, read as it was then"
        )
    config = DataConfig.from_dict(object_in(record, "data"))
    if batching not in (None, config.batching):
        raise ConfigError(f"batching: the model was trained with {config.batching!r}, and so its parts are")
    config = replace(config, batch_size=batch_size or config.batch_size, length=length or config.length)
    if isinstance(corpus, EncodedCorpus):
        if tuple(config.split) != tuple(corpus.data["split"]):
            raise ConfigError(
                f"part: {corpus.name} was encoded with another split than the training's; name the text itself"
            )
        batches = corpus.prepare(config).part(part)
    else:
        batches = prepare_dataset(corpus, config, tokenizer).part(part)
    if batches is None:
        raise ConfigError(f"part: the training had no {part} part (split {', '.join(map(str, config.split))})")
    return batches
