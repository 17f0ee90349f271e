"""Splits of a corpus into training, validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from unrolled.engine.checks import check_choice
from unrolled.engine.data.corpus import Corpus
from unrolled.engine.errors import ConfigError, CorpusError, SettingName

PARTS = ("train", "validation", "test")
DEFAULT_SPLIT = (0.9, 0.05, 0.05)  # fractions of the characters of a text, or of the records
BATCHINGS = ("stream", "records")


class CorpusSplit(NamedTuple):
    """Three parts of a corpus, each one text or a tuple of records; a part may be empty."""

    train: str | tuple[str, ...]
    validation: str | tuple[str, ...]
    test: str | tuple[str, ...]


def parse_fractions(split: str | Sequence[float]) -> tuple[float, ...]:
    """Return the fractions in a string, separated by commas; fractions are returned as they are.

    Raises:
        ConfigError: a fraction is not a number.
    """
    if not isinstance(split, str):
        return tuple(split)
    try:
        return tuple(float(part) for part in split.split(","))
    except ValueError as error:
        raise ConfigError(
            SettingName("split"), f": got {split!r}, needs three fractions, for instance 0.9,0.05,0.05"
        ) from error


def check_fractions(fractions: Sequence[float]) -> tuple[float, float, float]:
    """Return three fractions after checking that they are not negative, sum to 1, and the first is positive."""
    try:
        values = tuple(float(value) for value in fractions)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            SettingName("split"), f": got {fractions!r}, needs three fractions, for instance 0.9,0.05,0.05"
        ) from error
    if len(values) != 3 or min(values) < 0 or values[0] <= 0 or not abs(sum(values) - 1) <= 1e-6:
        raise ConfigError(
            SettingName("split"),
            f": got {', '.join(map(str, fractions))}; needs three fractions for training, validation and test "
            "that sum to 1, the first above 0",
        )
    return values[0], values[1], values[2]


def split_corpus(
    corpus: Corpus, batching: str, fractions: Sequence[float] = DEFAULT_SPLIT, seed: int = 0
) -> CorpusSplit:
    """Split a corpus into training, validation and test.

    A stream is split in order: validation and test are its last parts, so they do not overlap training. Records are first
    shuffled by ``seed``, because lists are often sorted. Equal records go to the part of the first of them, so no record of
    training is in another part. If that would leave a part empty, the distinct records are split instead.

    Raises:
        CorpusError: there are fewer distinct records than parts.
    """
    check_choice("batching", batching, BATCHINGS)
    train, validation, _ = check_fractions(fractions)
    content: str | tuple[str, ...] = corpus.text if batching == "stream" else corpus.records
    if isinstance(content, tuple):
        order = np.random.default_rng(seed).permutation(len(content))
        content = tuple(content[i] for i in order)
    first, second = round(len(content) * train), round(len(content) * (train + validation))
    if isinstance(content, tuple):
        return _split_records(content, first, second)
    return CorpusSplit(content[:first], content[first:second], content[second:])


def _split_records(records: tuple[str, ...], first: int, second: int) -> CorpusSplit:
    """Split at two indices; a repeated record goes to the part of its first occurrence."""
    home: dict[str, int] = {}
    for i, record in enumerate(records):
        home.setdefault(record, (i >= first) + (i >= second))
    sizes = (first, second - first, len(records) - second)
    if set(home.values()) != {part for part, size in enumerate(sizes) if size}:
        home = _split_distinct(list(home), sizes)
    parts: tuple[list[str], ...] = ([], [], [])
    for record in records:
        parts[home[record]].append(record)
    return CorpusSplit(*map(tuple, parts))


def _split_distinct(distinct: list[str], sizes: tuple[int, int, int]) -> dict[str, int]:
    """Return the part of each distinct record: in proportion to ``sizes``, at least one record for each size above 0."""
    N, K, left = sum(sizes), len(distinct), sum(size > 0 for size in sizes)
    if left > K:
        raise CorpusError(
            f"the {N:,} records are only {K} different one{'s' if K > 1 else ''}, too few for {left} parts that have none "
            "in common; add others, or leave parts out of the split, as 1,0,0 does"
        )
    home, begin, total = {}, 0, 0
    for part, size in enumerate(sizes):
        if size:
            total, left = total + size, left - 1
            end = min(max(round(K * total / N), begin + 1), K - left)
            home.update(dict.fromkeys(distinct[begin:end], part))
            begin = end
    return home
