"""Held-out text of a run: the validation part of its corpus if that can be found, else another text."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.data.config import DataConfig
from unrolled.engine.data.corpus import BUILTINS, Corpus, read_corpus
from unrolled.engine.data.readers.file_names import format_suffix
from unrolled.engine.data.readers.registry import READERS
from unrolled.engine.data.splits import split_corpus
from unrolled.engine.errors import ConfigError, CorpusError, UnrolledError
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.engine.storage.json_text import object_in
from unrolled.engine.tokenizers.contract import Tokenizer


@dataclass(frozen=True)
class HeldOut:
    """Rows of ids, each read from a zero state, and a description of their source."""

    rows: list[NDArray[np.int64]]
    source: str


def find_corpus(checkpoint: Checkpoint, run: Path, given: Corpus | None) -> Corpus:
    """Return the corpus to read: ``given``, else the run's own, a built-in one or a file of its name here or near the run.

    The run's own corpus must have the digest of the training's text.

    Raises:
        CorpusError: none is found; the message says what to do.
    """
    if given is not None:
        return given
    trained_on = object_in(checkpoint.training, "corpus")
    name, digest = str(trained_on.get("name", "")), trained_on.get("sha256")
    if name in BUILTINS:
        with contextlib.suppress(CorpusError):  # this Python lacks the built-in corpus
            corpus = BUILTINS[name]()
            if corpus.digest == digest:
                return corpus
    missing = f"{name or 'its corpus'} is not in this folder or beside the run; name a text with --text"
    if name in BUILTINS:
        missing = f"{name} of this Python is not that of the training; name a text with --text"
    for folder in (Path(), run, run.parent, run.parent.parent):
        path = folder / name
        if not name or Path(name).name != name or not os.path.isfile(path):  # Path.is_file raises where a name is long
            continue
        try:
            corpus = read_corpus([path])
            if corpus.digest == digest:
                return corpus
            missing = f"{path} does not hold the text of the training; name a text with --text"
        except CorpusError as error:
            missing = f"{error}; name a text with --text"
        if format_suffix(path) in READERS:
            missing = f"{path}: its column or field is not recorded; give --text {path} with --column or --field"
    raise CorpusError(missing)


def held_out(checkpoint: Checkpoint, corpus: Corpus, most: int) -> HeldOut:
    """Return up to ``most`` ids of ``corpus``: of its validation part if the model was trained on it, else of its beginning.

    Raises:
        UnrolledError: the text is too short, or not in the vocabulary.
    """
    tokenizer = checkpoint.tokenizer
    records = tokenizer.bos_id is not None
    content: str | tuple[str, ...] = corpus.records if records else corpus.text
    source = f"the beginning of {corpus.name}, which is not the corpus that it was trained on as a whole"
    if object_in(checkpoint.training, "corpus").get("sha256") == corpus.digest:
        content, source = _held_out_part(checkpoint, corpus, records)
    rows = _id_rows(content, tokenizer, most)
    if not rows:
        raise CorpusError(f"{corpus.name}: too little text to read")
    return HeldOut(rows, source)


def _held_out_part(checkpoint: Checkpoint, corpus: Corpus, records: bool) -> tuple[str | tuple[str, ...], str]:
    """Return a part of the corpus that was not trained on, if there is one, and its description."""
    try:
        config = DataConfig.from_dict(object_in(checkpoint.training, "data"))
    except ConfigError:
        config = DataConfig(batching="records" if records else "stream")
    split = split_corpus(corpus, config.batching, config.split, config.seed)
    for part, content in (("validation", split.validation), ("test", split.test)):
        if content:
            return content, f"the {part} part of {corpus.name}"
    return split.train, f"the beginning of {corpus.name}, all of which it was trained on"


def _end_of_token(content: str, end: int, tokenizer: Tokenizer) -> int:
    """Return the first position from ``end`` on that does not cut a token in two."""
    if tokenizer.boundary is None or end >= len(content):
        return end
    match = tokenizer.boundary.search(content, end)
    return match.start() if match else len(content)


def _id_rows(content: str | tuple[str, ...], tokenizer: Tokenizer, most: int) -> list[NDArray[np.int64]]:
    """Return ids in rows of at least one prediction.

    A token has at least one character, so that ``most`` + 1 characters are encoded first, and more only if needed.
    """
    if isinstance(content, str):
        end = _end_of_token(content, most + 1, tokenizer)
        ids = tokenizer.encode(content[:end])
        while len(ids) <= most and end < len(content):
            end = _end_of_token(content, 4 * end, tokenizer)
            ids = tokenizer.encode(content[:end])
        return [ids[: most + 1]] if len(ids) > 1 else []
    bos, eos = tokenizer.bos_id, tokenizer.eos_id
    rows: list[NDArray[np.int64]] = []
    total = 0
    for record in content:
        if total >= most:
            break
        inner = tokenizer.encode(record).tolist()
        row = np.array([bos, *inner, *([] if eos is None else [eos])], np.int64)[: most - total + 1]
        if len(row) > 1:
            rows.append(row)
            total += len(row) - 1
    return rows


def try_held_out(checkpoint: Checkpoint, run: Path, given: Corpus | None, most: int) -> HeldOut | str:
    """Return the text for a run's figures, or the reason why there is none."""
    try:
        return held_out(checkpoint, find_corpus(checkpoint, run, given), most)
    except UnrolledError as error:
        return str(error)
