"""A corpus in parts for training, validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from unrolled.engine.checks import check_choice
from unrolled.engine.data.corpus import Corpus
from unrolled.engine.errors import ConfigError, CorpusError

PARTS = ("train", "validation", "test")
DEFAULT_SPLIT = (0.9, 0.05, 0.05)  # of the characters of a text, or of the records
BATCHINGS = ("stream", "records")


class CorpusSplit(NamedTuple):
    """A corpus in three parts, each one text or a tuple of records; a part may be empty."""

    train: str | tuple[str, ...]
    validation: str | tuple[str, ...]
    test: str | tuple[str, ...]


def check_fractions(fractions: Sequence[float]) -> tuple[float, float, float]:
    """Three fractions, none negative, the first positive, that sum to 1."""
    values = tuple(float(value) for value in fractions)
    if len(values) != 3 or min(values) < 0 or values[0] <= 0 or not abs(sum(values) - 1) <= 1e-6:
        raise ConfigError(
            f"split: got {', '.join(map(str, fractions))}; needs three fractions for training, validation and test "
            "that sum to 1, the first above 0"
        )
    return values[0], values[1], values[2]


def split_corpus(
    corpus: Corpus, batching: str, fractions: Sequence[float] = DEFAULT_SPLIT, seed: int = 0
) -> CorpusSplit:
    """Cut a corpus into training, validation and test.

    A stream is cut in order (validation and test are its last parts, so neither overlaps what was trained on). Records are
    shuffled by ``seed`` first, because lists are often sorted; equal ones go where the first of them goes, so that none is
    validated on that was trained on. Where that would leave a part without any, the different ones are what is cut.

    Raises:
        CorpusError: there are fewer different records than parts.
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
    """Cut at two places; a record that was there before goes to its first part."""
    home: dict[str, int] = {}
    for i, record in enumerate(records):
        home.setdefault(record, (i >= first) + (i >= second))
    sizes = (first, second - first, len(records) - second)
    if set(home.values()) != {part for part, size in enumerate(sizes) if size}:
        home = _shared_out(list(home), sizes)
    parts: tuple[list[str], ...] = ([], [], [])
    for record in records:
        parts[home[record]].append(record)
    return CorpusSplit(*map(tuple, parts))


def _shared_out(different: list[str], sizes: tuple[int, int, int]) -> dict[str, int]:
    """The part of each of a few different records: in the proportion of ``sizes``, at least one where that is not 0."""
    N, K, left = sum(sizes), len(different), sum(size > 0 for size in sizes)
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
            home.update(dict.fromkeys(different[begin:end], part))
            begin = end
    return home
