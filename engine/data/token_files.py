"""Token files: a corpus encoded once, in bounded memory, and mapped from the disk whenever it is trained on.

A token file is a .safetensors file: one tensor ``ids`` of the smallest unsigned type, those of training, validation and test
one after the other, and under ``unrolled`` in the metadata a JSON object: format_version, tokenizer, corpus (name, characters,
sha256), data (the settings that decided the ids) and parts (how many ids each part has).
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.canonical import later_settings
from unrolled.engine.data.batches import write_ids
from unrolled.engine.data.corpus import Corpus, read_corpus
from unrolled.engine.data.dataset import DataConfig, Dataset, fit_text, joined_batches
from unrolled.engine.data.readers import READERS, Reading, ReadOptions
from unrolled.engine.data.sources import STDIN, Source, ending, is_unnamed, short_name, shown
from unrolled.engine.errors import ConfigError, CorpusError, ModelFileError
from unrolled.engine.process_group import SINGLE_PROCESS, Group
from unrolled.engine.storage.atomic_files import replacing
from unrolled.engine.storage.checkpoint import METADATA_KEY
from unrolled.engine.storage.json_text import parse_json, to_json
from unrolled.engine.tokenizers import pieces
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.tokenizers.pieces import whole_words
from unrolled.engine.tokenizers.registry import TOKENIZERS, tokenizer_from_dict
from unrolled.engine.tokenizers.vocabulary import smallest_unsigned

TOKENS_SUFFIX = ".tokens"
TOKENS_FORMAT = 1
ID_SETTINGS = ("level", "split", "lowercase", "punctuation", "vocab_size", "unknown")  # that decide the ids
DTYPES: dict[str, np.dtype] = {"U8": np.dtype("<u1"), "U16": np.dtype("<u2"), "U32": np.dtype("<u4")}
CHECKED_IDS = 1 << 22  # ids that are looked at together
MOST_HEADER = 100_000_000  # bytes, as safetensors has it


@dataclass(frozen=True)
class EncodedCorpus:
    """What a token file holds; ``ids`` (N,) are mapped, and read when they are needed."""

    name: str
    characters: int
    digest: str
    tokenizer: Tokenizer
    ids: NDArray
    parts: tuple[int, int, int]
    data: dict[str, Any]

    def read_as(self, batching: str) -> tuple[Reading, ...]:
        """Return nothing: a token file has no records."""
        return ()

    def settle(self, config: DataConfig) -> DataConfig:
        """``config`` with the settings that decided the ids.

        Raises:
            ConfigError: it asks for something else.
        """
        given, usual = ({**asdict(one), "split": list(one.split)} for one in (config, DataConfig()))
        for name in ID_SETTINGS:
            if given[name] not in (usual[name], self.data[name]):
                raise ConfigError(
                    f"{name}: got {given[name]!r}, but {self.name} was encoded with {self.data[name]!r}; encode it anew"
                )
        if config.batching != "stream":
            raise ConfigError(f"batching: a {TOKENS_SUFFIX} file is a stream; records are read from the text")
        return replace(config, **{**self.data, "split": tuple(self.data["split"])})

    def prepare(self, config: DataConfig) -> Dataset:
        """The three parts in batches, without a copy of the ids."""
        ends = np.cumsum(self.parts)
        ids = [self.ids[end - size : end] for end, size in zip(ends, self.parts, strict=True)]
        return joined_batches(self.name, self.tokenizer, ids, self.settle(config))


def open_corpus(
    sources: Sequence[str | Path], options: ReadOptions, group: Group = SINGLE_PROCESS
) -> Corpus | EncodedCorpus:
    """Open a token file, where one is named alone; else read what ``read_corpus`` reads.

    Each process of a ``group`` reads the files for itself; of pipes, which one alone can read, all get what that one read.
    """
    if group.size > 1 and any(is_unnamed(source) for source in sources):
        return group.shared(lambda: open_corpus(sources, options))
    if len(sources) == 1 and Path(sources[0]).suffix == TOKENS_SUFFIX:
        if options != ReadOptions():
            given = ", ".join(options.of_records) or "--encoding"
            raise CorpusError(
                f"{shown(sources[0])}: {given}: for text; a {TOKENS_SUFFIX} file holds ids, leave that out"
            )
        return read_encoded(sources[0])
    return read_corpus(sources, options)


def encode_files(sources: Sequence[str | Path], output: Path, config: DataConfig, encoding: str = "utf-8") -> int:
    """Write the token file of a text in one or several files; return how many bytes of text they hold.

    An earlier output is replaced when the new one is whole.
    The text is read piece by piece, two or three times over; memory does not grow with it. What can be read only once, as
    a pipe, is copied beside the output first, and the copy removed at the end.

    Raises:
        CorpusError: a file is missing, not in that encoding, no plain text, holds too little, or changes meanwhile.
    """
    names = [str(source) for source in sources]
    if not names or any(name == STDIN or ending(name) in READERS for name in names):
        hint = "; /dev/stdin names standard input" if STDIN in names else ""
        raise CorpusError(
            "encode: needs plain text files, which are read more than once; "
            f"got {', '.join(map(shown, names)) or 'none'}{hint}"
        )
    if config.batching != "stream":
        raise ConfigError("batching: encode writes a stream")
    with ExitStack() as stack:
        opened = [stack.enter_context(Source(name, encoding).rereadable(output.parent)) for name in names]
        return _encode(opened, output, config)


def _encode(sources: Sequence[Source], output: Path, config: DataConfig) -> int:
    name = ", ".join(source.name for source in sources)
    survey, again = _Survey(), _Survey()
    chunks = survey.watch(_read(sources))
    if config.level == "char":
        tokenizer = fit_text(name, chunks, config)
    else:
        for _ in chunks:
            pass
        head = (chunk for part, chunk in _cut(_read(sources), survey.cuts(config)) if part == 0)
        tokenizer = fit_text(name, whole_words(head, TOKENIZERS[config.level].boundary), config)
    data = {name: value for name, value in config.to_dict().items() if name in ID_SETTINGS}
    described = {
        "format_version": TOKENS_FORMAT,
        "corpus": {
            "name": ", ".join(short_name(source.path) for source in sources),
            "characters": survey.characters,
            "sha256": survey.digest,
        },
        "data": data,
        "tokenizer": tokenizer.to_dict(),
    }
    with replacing(output) as file:
        _write(file, _cut(again.watch(_read(sources)), survey.cuts(config)), tokenizer, described)
        if again.digest != survey.digest:
            raise CorpusError(f"{name}: changed while it was read; encode it when nothing writes it any more")
    return survey.bytes


class _Survey:
    """How long a text is, and its digest, found while it passes."""

    def __init__(self) -> None:
        self.characters = self.bytes = 0
        self._hash = hashlib.sha256()

    def watch(self, chunks: Iterable[str]) -> Iterator[str]:
        for chunk in chunks:
            self.characters += len(chunk)
            data = chunk.encode()
            self.bytes += len(data)
            self._hash.update(data)
            yield chunk

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def cuts(self, config: DataConfig) -> tuple[int, int]:
        """Where validation and test begin, as ``split_corpus`` has it."""
        train, validation, _ = config.split
        return round(self.characters * train), round(self.characters * (train + validation))


def _read(sources: Sequence[Source]) -> Iterator[str]:
    """The text of the sources, joined by line ends, in pieces."""
    for place, source in enumerate(sources):
        if place > 0:
            yield "\n"
        blank = True
        for chunk in source.pieces(pieces.PIECE_CHARS):
            blank = blank and not chunk.strip()
            yield chunk
        if blank:
            raise CorpusError(f"{source.name}: holds no text")


def _cut(chunks: Iterable[str], cuts: tuple[int, int]) -> Iterator[tuple[int, str]]:
    """Pieces of text with the number of the part that each is of."""
    start = 0
    for chunk in chunks:
        end = start + len(chunk)
        borders = [start, *(cut for cut in cuts if start < cut < end), end]
        for first, last in pairwise(borders):
            yield sum(cut <= first for cut in cuts), chunk[first - start : last - start]
        start = end


def _write(file: IO[bytes], pieces: Iterable[tuple[int, str]], tokenizer: Tokenizer, described: dict[str, Any]) -> None:
    """Header and ids; how many there are is known at the end, so room is left for the header's numbers."""
    dtype = smallest_unsigned(len(tokenizer.vocabulary))
    room = len(_header(described, [2**62] * 3, dtype)) + 8
    room += -room % 8
    file.seek(8 + room)
    parts = [0, 0, 0]
    for part, group in groupby(pieces, key=lambda piece: piece[0]):
        for ids in tokenizer.encode_pieces(
            whole_words((text for _, text in group), TOKENIZERS[tokenizer.level].boundary)
        ):
            write_ids(file, ids)
            parts[part] += len(ids)
    file.seek(0)
    file.write(struct.pack("<Q", room) + _header(described, parts, dtype).ljust(room))


def _header(described: dict[str, Any], parts: list[int], dtype: np.dtype) -> bytes:
    N = sum(parts)
    kind = next(name for name, known in DTYPES.items() if known.itemsize == dtype.itemsize)
    ids = {"dtype": kind, "shape": [N], "data_offsets": [0, N * dtype.itemsize]}
    return to_json({"__metadata__": {METADATA_KEY: to_json({**described, "parts": parts})}, "ids": ids}).encode()


def read_encoded(path: str | Path) -> EncodedCorpus:
    """Open a token file and check all of it.

    Raises:
        CorpusError: missing, damaged, of another kind or version.
    """
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            (room,) = struct.unpack("<Q", file.read(8))
            if not 0 < room <= min(MOST_HEADER, size - 8):
                raise ModelFileError("no header that fits the file")
            header = parse_json(file.read(room).decode(), "its header")
        return _checked(Path(path), header, 8 + room, size)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror})") from error
    except (KeyError, TypeError, ValueError, struct.error) as error:
        raise CorpusError(f"{path}: not a readable {TOKENS_SUFFIX} file ({error})") from error


def _checked(path: Path, header: dict[str, Any], start: int, size: int) -> EncodedCorpus:
    described = parse_json(header["__metadata__"][METADATA_KEY], "its metadata")
    if described["format_version"] != TOKENS_FORMAT:
        raise ModelFileError(f"format {described['format_version']!r}; this release reads {TOKENS_FORMAT}")
    tokenizer = tokenizer_from_dict(described["tokenizer"])
    dtype, V = DTYPES[header["ids"]["dtype"]], len(tokenizer.vocabulary)
    parts, corpus = described["parts"], described["corpus"]
    later = {name: value for name, value in later_settings(DataConfig).items() if name in ID_SETTINGS}
    data = {**later, **described["data"]}
    if len(parts) != 3 or not all(type(n) is int and n >= 0 for n in parts) or dtype != smallest_unsigned(V):
        raise ModelFileError("parts or type of its ids are damaged")
    if size != start + sum(parts) * dtype.itemsize:
        raise ModelFileError(f"{size} bytes, needs {start + sum(parts) * dtype.itemsize}")
    if set(data) != set(ID_SETTINGS) or not isinstance(corpus["characters"], int) or data["level"] != tokenizer.level:
        raise ModelFileError("its settings are damaged")
    DataConfig(**data)
    with open(path, "rb") as file:  # through the mapping, all of the file would become resident
        file.seek(start)
        while len(block := np.fromfile(file, dtype, CHECKED_IDS)):
            if block.max() >= V:
                raise ModelFileError(f"id {block.max()} is outside the vocabulary of {V}")
    ids: NDArray = np.zeros(0, dtype)
    if sum(parts):
        ids = np.memmap(path, dtype, "r", start, (sum(parts),))
    first, second, third = parts
    return EncodedCorpus(
        str(corpus["name"]), corpus["characters"], str(corpus["sha256"]), tokenizer, ids, (first, second, third), data
    )
