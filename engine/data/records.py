"""Batches of records: one record per row, padded to the longest of the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.data.batches import check_sizes
from unrolled.engine.data.id_arrays import collect_ids
from unrolled.engine.errors import ConfigError, CorpusError
from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.tokenizers.vocabulary import smallest_unsigned

BUCKET_BATCHES = 64  # number of batches whose records are sorted by length together


@dataclass(frozen=True)
class RecordBatches:
    """Batches with one record per row, from <bos> to <eos>, padded to the longest of the batch; the loss masks padding out.

    A shuffled epoch puts records of similar length into one batch: records are shuffled, then sorted by length within buckets
    of ``BUCKET_BATCHES`` batches, then the batches are shuffled. So batches differ between epochs and contain little padding.

    Args:
        ids: all records one after the other, each with its <bos> and <eos>; (N,) of any unsigned dtype.
        starts: (R + 1,) the index at which each record starts, and the end of the last.
        batch_size: records per batch.
        length: maximum number of predicted tokens of a record; longer records are truncated.
    """

    ids: NDArray
    starts: NDArray[np.int64]
    batch_size: int
    length: int
    padding_id: ClassVar[int] = 0  # any id works: padded positions are masked

    def __post_init__(self) -> None:
        check_sizes(self.batch_size, self.length)
        if len(self.starts) < 2:
            raise CorpusError("there is no record to read")

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Return the number of predicted tokens of each record (R,)."""
        return np.minimum(np.diff(self.starts) - 1, self.length)

    @property
    def batches_per_epoch(self) -> int:
        return -(-(len(self.starts) - 1) // self.batch_size)

    @property
    def tokens_per_epoch(self) -> int:
        return int(self.lengths.sum())

    def _rows(self, rng: np.random.Generator | None, lengths: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Yield the indices of the records of each batch."""
        if rng is None:
            yield from _cut(np.arange(len(lengths)), self.batch_size)
            return
        batches = []
        for bucket in _cut(rng.permutation(len(lengths)), BUCKET_BATCHES * self.batch_size):
            batches += _cut(bucket[np.argsort(lengths[bucket], kind="stable")], self.batch_size)
        for place in rng.permutation(len(batches)):
            yield batches[place]

    def epoch(self, rng: np.random.Generator | None) -> Iterator[Batch]:
        lengths = self.lengths
        for rows in self._rows(rng, lengths):
            T, B = int(lengths[rows].max()), len(rows)
            inputs = np.full((T, B), self.padding_id, np.int64)
            targets = np.full((T, B), self.padding_id, np.int64)
            for b, row in enumerate(rows):
                start, n = self.starts[row], lengths[row]
                inputs[:n, b] = self.ids[start : start + n]
                targets[:n, b] = self.ids[start + 1 : start + n + 1]
            mask = np.arange(T)[:, None] < lengths[rows][None, :]
            yield Batch.of_tokens(inputs, targets, mask)


def _cut(records: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [records[first : first + size] for first in range(0, len(records), size)]


def encode_records(records: Sequence[str], tokenizer: Tokenizer) -> tuple[NDArray, NDArray[np.int64]]:
    """Return the ids of all records, each from <bos> to <eos>, and the index at which each starts (R + 1,)."""
    if tokenizer.bos_id is None or tokenizer.eos_id is None:
        raise ConfigError("records need <bos> and <eos> in the vocabulary; fit the tokeniser with them as specials")
    dtype = smallest_unsigned(len(tokenizer.vocabulary))
    bos, eos = np.array([tokenizer.bos_id], dtype), np.array([tokenizer.eos_id], dtype)
    lengths: list[int] = []

    def pieces() -> Iterator[NDArray]:
        for record in records:
            ids = np.concatenate([bos, *tokenizer.encode_pieces(record), eos])
            lengths.append(len(ids))
            yield ids

    ids = collect_ids(pieces(), dtype, sum(len(record) + 2 for record in records))
    return ids, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
