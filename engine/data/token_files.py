"""Token files: a corpus that is encoded once and memory-mapped for training.

A token file is a .safetensors file. Its only tensor ``ids``, of the smallest unsigned dtype, contains the ids of training,
validation and test one after the other. The metadata key ``unrolled`` is a JSON object: format_version, tokenizer, corpus
(name, characters, sha256), data (the settings that determine the ids) and parts (the number of ids of each part).
"""

from __future__ import annotations

import os
import struct
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.canonical import later_settings
from unrolled.engine.data.config import DataConfig
from unrolled.engine.data.dataset import Dataset, dataset_from_ids
from unrolled.engine.data.readers.options import Reading
from unrolled.engine.errors import ConfigError, CorpusError, ModelFileError, SettingName
from unrolled.engine.storage.checkpoint import METADATA_KEY
from unrolled.engine.storage.json_text import parse_json
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.tokenizers.registry import tokenizer_from_dict
from unrolled.engine.tokenizers.vocabulary import smallest_unsigned

TOKENS_SUFFIX = ".tokens"
TOKENS_FORMATS = (1, 2)  # 2: the tokeniser normalises, or splits by white space
ID_SETTINGS = (
    "level",
    "split",
    "lowercase",
    "normalize",
    "punctuation",
    "vocab_size",
    "unknown",
)  # that determine the ids
DTYPES: dict[str, np.dtype] = {"U8": np.dtype("<u1"), "U16": np.dtype("<u2"), "U32": np.dtype("<u4")}
CHECKED_IDS = 1 << 22  # ids read and checked at a time
MOST_HEADER = 100_000_000  # bytes, the limit of safetensors


@dataclass(frozen=True)
class EncodedCorpus:
    """The content of a token file; ``ids`` (N,) are memory-mapped and loaded on use."""

    name: str
    characters: int
    digest: str
    tokenizer: Tokenizer
    ids: NDArray
    parts: tuple[int, int, int]
    data: dict[str, Any]

    def read_as(self, batching: str) -> tuple[Reading, ...]:
        """Return an empty tuple: a token file has no records."""
        return ()

    def settle(self, config: DataConfig) -> DataConfig:
        """Return ``config`` with the settings that determined the ids.

        Raises:
            ConfigError: ``config`` contradicts these settings.
        """
        given, default = ({**asdict(settings), "split": list(settings.split)} for settings in (config, DataConfig()))
        for name in ID_SETTINGS:
            if given[name] not in (default[name], self.data[name]):
                raise ConfigError(
                    SettingName(name),
                    f": got {given[name]!r}, but {self.name} was encoded with {self.data[name]!r}; encode it anew",
                )
        if config.batching != "stream":
            raise ConfigError(
                SettingName("batching"), f": a {TOKENS_SUFFIX} file is a stream; records are read from the text"
            )
        return replace(config, **{**self.data, "split": tuple(self.data["split"])})

    def prepare(self, config: DataConfig) -> Dataset:
        """Return the data set of the three parts, without a copy of the ids."""
        ends = np.cumsum(self.parts)
        ids = [self.ids[end - size : end] for end, size in zip(ends, self.parts, strict=True)]
        return dataset_from_ids(self.name, self.tokenizer, ids, self.settle(config))


def read_encoded(path: str | Path) -> EncodedCorpus:
    """Open and fully check a token file.

    Raises:
        CorpusError: the file is missing, damaged, or of another kind or version.
    """
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            (header_size,) = struct.unpack("<Q", file.read(8))
            if not 0 < header_size <= min(MOST_HEADER, size - 8):
                raise ModelFileError("no header that fits the file")
            header = parse_json(file.read(header_size).decode(), "its header")
        return _checked(Path(path), header, 8 + header_size, size)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror})") from error
    except (KeyError, TypeError, ValueError, struct.error) as error:
        raise CorpusError(f"{path}: not a readable {TOKENS_SUFFIX} file ({error})") from error


def _checked(path: Path, header: dict[str, Any], start: int, size: int) -> EncodedCorpus:
    metadata = parse_json(header["__metadata__"][METADATA_KEY], "its metadata")
    if metadata["format_version"] not in TOKENS_FORMATS:
        readable = " and ".join(map(str, TOKENS_FORMATS))
        raise ModelFileError(f"format {metadata['format_version']!r}; this release reads {readable}")
    tokenizer = tokenizer_from_dict(metadata["tokenizer"])
    if metadata["format_version"] != tokenizer.format_version:
        raise ModelFileError(f"its tokenizer needs format {tokenizer.format_version}, not {metadata['format_version']}")
    dtype, V = DTYPES[header["ids"]["dtype"]], len(tokenizer.vocabulary)
    parts, corpus = metadata["parts"], metadata["corpus"]
    later = {name: value for name, value in later_settings(DataConfig).items() if name in ID_SETTINGS}
    data = {**later, **metadata["data"]}
    if len(parts) != 3 or not all(type(n) is int and n >= 0 for n in parts) or dtype != smallest_unsigned(V):
        raise ModelFileError("parts or type of its ids are damaged")
    if size != start + sum(parts) * dtype.itemsize:
        raise ModelFileError(f"{size} bytes, needs {start + sum(parts) * dtype.itemsize}")
    if set(data) != set(ID_SETTINGS) or not isinstance(corpus["characters"], int) or data["level"] != tokenizer.level:
        raise ModelFileError("its settings are damaged")
    DataConfig(**data)
    with open(path, "rb") as file:  # a check through the mapping would make the whole file resident
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
