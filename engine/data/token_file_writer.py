"""Encode text to a token file, piece by piece in bounded memory."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby, pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np

from unrolled.engine.data.config import DataConfig
from unrolled.engine.data.dataset import fit_pieces
from unrolled.engine.data.id_arrays import write_ids
from unrolled.engine.data.readers.file_names import STDIN, format_suffix, printable_name, short_name
from unrolled.engine.data.readers.registry import READERS
from unrolled.engine.data.readers.sources import Source
from unrolled.engine.data.token_files import DTYPES, ID_SETTINGS
from unrolled.engine.errors import ConfigError, CorpusError
from unrolled.engine.storage.atomic_files import replacing
from unrolled.engine.storage.checkpoint import METADATA_KEY
from unrolled.engine.storage.json_text import to_json
from unrolled.engine.tokenizers import pieces
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.tokenizers.pieces import whole_words
from unrolled.engine.tokenizers.vocabulary import smallest_unsigned


def encode_files(sources: Sequence[str | Path], output: Path, config: DataConfig, encoding: str = "utf-8") -> int:
    """Write the token file of a text in one or more files; return the number of bytes of the text in UTF-8.

    An existing output is replaced only once the new one is complete. The text is read piece by piece, two or three times, so
    memory does not grow with it. A source that can be read only once, such as a pipe, is first copied next to the output; the
    copy is removed at the end.

    Raises:
        CorpusError: a file is missing, not in that encoding, no plain text, too short, or changes during encoding.
    """
    names = [str(source) for source in sources]
    if not names or any(name == STDIN or format_suffix(name) in READERS for name in names):
        hint = "; /dev/stdin names standard input" if STDIN in names else ""
        raise CorpusError(
            "encode: needs plain text files, which are read more than once; "
            f"got {', '.join(map(printable_name, names)) or 'none'}{hint}"
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
    if config.level == "char" and config.boundary is None:
        tokenizer = fit_pieces(name, chunks, config)
    else:
        for _ in chunks:
            pass
        # Words and byte pairs are those of the training part, characters those of all parts, each of which is normalised alone.
        parts = _pieces_of_parts(_cut(_read(sources), survey.cuts(config)), config.boundary)
        tokenizer = fit_pieces(name, (piece for part, piece in parts if part == 0 or config.level == "char"), config)
    data = {name: value for name, value in config.to_dict().items() if name in ID_SETTINGS}
    metadata = {
        "format_version": tokenizer.format_version,
        "corpus": {
            "name": ", ".join(short_name(source.path) for source in sources),
            "characters": survey.characters,
            "sha256": survey.digest,
        },
        "data": data,
        "tokenizer": tokenizer.to_dict(),
    }
    with replacing(output) as file:
        _write(file, _cut(again.watch(_read(sources)), survey.cuts(config)), tokenizer, metadata)
        if again.digest != survey.digest:
            raise CorpusError(f"{name}: changed while it was read; encode it when nothing writes it any more")
    return survey.bytes


class _Survey:
    """Counts of the characters and bytes of a text, and its digest, computed while its chunks pass through."""

    def __init__(self) -> None:
        self.characters = self.bytes = 0
        self._hash = hashlib.sha256()

    def watch(self, chunks: Iterable[str]) -> Iterator[str]:
        """Yield the chunks unchanged."""
        for chunk in chunks:
            self.characters += len(chunk)
            data = chunk.encode()
            self.bytes += len(data)
            self._hash.update(data)
            yield chunk

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the text in UTF-8, the same as ``Corpus.digest``."""
        return self._hash.hexdigest()

    def cuts(self, config: DataConfig) -> tuple[int, int]:
        """Return the indices at which validation and test start, the same as in ``split_corpus``."""
        train, validation, _ = config.split
        return round(self.characters * train), round(self.characters * (train + validation))


def _read(sources: Sequence[Source]) -> Iterator[str]:
    """Yield the text of the sources, joined by line ends, in chunks."""
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
    """Yield the chunks split at ``cuts``, each with the number of its part."""
    start = 0
    for chunk in chunks:
        end = start + len(chunk)
        edges = [start, *(cut for cut in cuts if start < cut < end), end]
        for first, last in pairwise(edges):
            yield sum(cut <= first for cut in cuts), chunk[first - start : last - start]
        start = end


def _part_of(chunk: tuple[int, str]) -> int:
    return chunk[0]


def _pieces_of_parts(chunks: Iterable[tuple[int, str]], boundary: re.Pattern[str] | None) -> Iterator[tuple[int, str]]:
    """Yield the texts of the parts in pieces that split no word, each with the number of its part."""
    for part, group in groupby(chunks, key=_part_of):
        yield from ((part, piece) for piece in whole_words((text for _, text in group), boundary))


def _write(file: IO[bytes], chunks: Iterable[tuple[int, str]], tokenizer: Tokenizer, metadata: dict[str, Any]) -> None:
    """Write ids and header; the header needs the final numbers of ids, so it is written last, into reserved space."""
    dtype = smallest_unsigned(len(tokenizer.vocabulary))
    header_size = len(_header(metadata, [2**62] * 3, dtype)) + 8
    header_size += -header_size % 8
    file.seek(8 + header_size)
    parts = [0, 0, 0]
    for part, group in groupby(_pieces_of_parts(chunks, tokenizer.boundary), key=_part_of):
        for ids in tokenizer.encode_pieces(text for _, text in group):
            write_ids(file, ids)
            parts[part] += len(ids)
    file.seek(0)
    file.write(struct.pack("<Q", header_size) + _header(metadata, parts, dtype).ljust(header_size))


def _header(metadata: dict[str, Any], parts: list[int], dtype: np.dtype) -> bytes:
    N = sum(parts)
    kind = next(name for name, known in DTYPES.items() if known.itemsize == dtype.itemsize)
    ids = {"dtype": kind, "shape": [N], "data_offsets": [0, N * dtype.itemsize]}
    return to_json({"__metadata__": {METADATA_KEY: to_json({**metadata, "parts": parts})}, "ids": ids}).encode()
