"""Ids to batches, in two ways: lanes of one long stream, or padded records.

Both yield ``Batch``; a training step does not know which of the two it was.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.checks import check_choice
from unrolled.engine.data.corpus import Corpus
from unrolled.engine.errors import ConfigError, CorpusError
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.tokenizers.vocabulary import smallest_unsigned

MEMORY_LIMIT = 256 * 2**20  # bytes of ids beyond which they are mapped from a file
BUCKET = 64  # batches whose records are sorted by length together
DEFAULT_SPLIT = (0.9, 0.05, 0.05)  # of the characters of a text, or of the records


class Batch(NamedTuple):
    """One step's data."""

    inputs: NDArray[np.int64]  # (T, B)
    targets: NDArray[np.int64]  # (T, B), the token after each input
    mask: NDArray[np.bool_]  # (T, B), false where a record is over
    carry: bool  # whether each row continues the row of the batch before, so that the state is kept

    @property
    def tokens(self) -> int:
        """Positions that count in the loss."""
        return int(self.mask.sum())

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Positions that count, a row (B,)."""
        return self.mask.sum(axis=0)


class Batches(Protocol):
    """A data set in batches."""

    @property
    def batches_per_epoch(self) -> int: ...
    @property
    def tokens_per_epoch(self) -> int: ...
    def epoch(self, rng: np.random.Generator | None) -> Iterator[Batch]:
        """One pass over the data; ``rng`` shuffles where order is free, None keeps the order."""
        ...


@dataclass(frozen=True)
class StreamBatches:
    """Contiguous lanes of one stream: lane b reads its own part from left to right, chunk by chunk.

    The state is carried from chunk to chunk (truncated back-propagation through time: R. J. Williams and J. Peng, "An
    Efficient Gradient-Based Algorithm for On-Line Training of Recurrent Network Trajectories", 1990). The stream's last
    tokens, fewer than there are lanes, are left out; the last chunk may be shorter.

    Args:
        ids: (N,) of any unsigned type.
        batch_size: lanes B; fewer where the stream is shorter than B + 1 tokens.
        length: T, tokens a chunk.
    """

    ids: NDArray
    batch_size: int
    length: int

    def __post_init__(self) -> None:
        _check_sizes(self.batch_size, self.length)
        if len(self.ids) < 2:
            raise CorpusError(f"a stream needs at least two tokens, got {len(self.ids)}")

    @property
    def _lanes(self) -> tuple[int, int]:
        """How many lanes, and tokens a lane."""
        predicted = len(self.ids) - 1
        lanes = min(self.batch_size, predicted)
        return lanes, predicted // lanes

    @property
    def batches_per_epoch(self) -> int:
        return -(-self._lanes[1] // self.length)

    @property
    def tokens_per_epoch(self) -> int:
        lanes, size = self._lanes
        return lanes * size

    def epoch(self, rng: np.random.Generator | None) -> Iterator[Batch]:
        lanes, size = self._lanes
        inputs = self.ids[: lanes * size].reshape(lanes, size)
        targets = self.ids[1 : lanes * size + 1].reshape(lanes, size)
        for start in range(0, size, self.length):
            chunk = slice(start, min(start + self.length, size))
            # only this chunk leaves the compact, perhaps memory-mapped, ids
            x = np.ascontiguousarray(inputs[:, chunk].T, np.int64)
            y = np.ascontiguousarray(targets[:, chunk].T, np.int64)
            yield Batch(x, y, np.ones(x.shape, np.bool_), carry=start > 0)


@dataclass(frozen=True)
class RecordBatches:
    """One record a row, from <bos> to <eos>, padded to the batch's longest; padding is masked out of the loss.

    Where order is free, records of about one length share a batch: they are shuffled, those of ``BUCKET`` batches at a time are
    sorted by length, and then the batches are shuffled. Each epoch has other batches, and little padding.

    Args:
        ids: all records one after the other, each with its <bos> and <eos>; (N,) of any unsigned type.
        starts: (R + 1,) where each record starts, and the end of the last.
        batch_size: records a batch.
        length: the longest record in predicted tokens; a longer one is cut there.
    """

    ids: NDArray
    starts: NDArray[np.int64]
    batch_size: int
    length: int
    padding_id: ClassVar[int] = 0  # any id will do: padded positions are masked

    def __post_init__(self) -> None:
        _check_sizes(self.batch_size, self.length)
        if len(self.starts) < 2:
            raise CorpusError("there is no record to read")

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Predicted tokens of each record (R,)."""
        return np.minimum(np.diff(self.starts) - 1, self.length)

    @property
    def batches_per_epoch(self) -> int:
        return -(-(len(self.starts) - 1) // self.batch_size)

    @property
    def tokens_per_epoch(self) -> int:
        return int(self.lengths.sum())

    def _rows(self, rng: np.random.Generator | None, lengths: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """The records of each batch."""
        if rng is None:
            yield from _cut(np.arange(len(lengths)), self.batch_size)
            return
        batches = []
        for bucket in _cut(rng.permutation(len(lengths)), BUCKET * self.batch_size):
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
            yield Batch(inputs, targets, mask, carry=False)


def _cut(records: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [records[first : first + size] for first in range(0, len(records), size)]


def _check_sizes(batch_size: int, length: int) -> None:
    for name, value in (("batch_size", batch_size), ("length", length)):
        if value < 1:
            raise ConfigError(f"{name}: got {value}, needs at least 1")


BATCHINGS = ("stream", "records")


def batches_from(data: Batches, seed: int, step: int) -> Iterator[Batch]:
    """Batches of the steps after ``step``, epoch after epoch.

    Each epoch is shuffled by its own generator, so that its order depends on seed and number alone.
    """
    epoch, taken = divmod(step, data.batches_per_epoch)
    while True:
        yield from islice(data.epoch(np.random.default_rng((seed, 1, epoch))), taken, None)
        epoch, taken = epoch + 1, 0


class Split(NamedTuple):
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


def split_corpus(corpus: Corpus, batching: str, fractions: Sequence[float] = DEFAULT_SPLIT, seed: int = 0) -> Split:
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
    return Split(content[:first], content[first:second], content[second:])


def _split_records(records: tuple[str, ...], first: int, second: int) -> Split:
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
    return Split(*map(tuple, parts))


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


def write_ids(file: IO[bytes], ids: NDArray) -> None:
    """Write ``ids`` as bytes; the error of ``ndarray.tofile`` does not say why the disk takes no more."""
    file.write(np.ascontiguousarray(ids).data)


def _collect(pieces: Iterable[NDArray], dtype: np.dtype, expected: int) -> NDArray:
    """Join pieces of ids; beyond MEMORY_LIMIT they go to a temporary file that is mapped and vanishes with the array."""
    if expected * dtype.itemsize <= MEMORY_LIMIT:
        collected = list(pieces)
        return np.concatenate(collected) if collected else np.zeros(0, dtype)
    with tempfile.NamedTemporaryFile(prefix="unrolled-ids-", delete=False) as file:
        path = Path(file.name)
        try:
            for piece in pieces:
                write_ids(file, piece)
            file.flush()
            return np.memmap(path, dtype, mode="r") if path.stat().st_size else np.zeros(0, dtype)
        except OSError as error:
            error.filename = error.filename or str(path)
            raise
        finally:
            # the mapping keeps the data; where a mapped file cannot be removed, it stays in the temporary folder
            with contextlib.suppress(OSError):
                path.unlink()


def encode_stream(text: str, tokenizer: Tokenizer) -> NDArray:
    """Ids (N,) of a text in the smallest unsigned dtype, memory-mapped beyond ``MEMORY_LIMIT``."""
    dtype = smallest_unsigned(len(tokenizer.vocabulary))
    return _collect(tokenizer.encode_pieces(text), dtype, len(text))


def encode_records(records: Sequence[str], tokenizer: Tokenizer) -> tuple[NDArray, NDArray[np.int64]]:
    """Ids of all records, each from <bos> to <eos>, and where each starts (R + 1,)."""
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

    ids = _collect(pieces(), dtype, sum(len(record) + 2 for record in records))
    return ids, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


def make_batches(
    part: str | tuple[str, ...], tokenizer: Tokenizer, batch_size: int, length: int
) -> StreamBatches | RecordBatches:
    """Batches of one part of a split: a text becomes a stream, records stay records.

    Raises:
        CorpusError: the part is too short to hold a single prediction.
    """
    if isinstance(part, str):
        return StreamBatches(encode_stream(part, tokenizer), batch_size, length)
    ids, starts = encode_records(part, tokenizer)
    return RecordBatches(ids, starts, batch_size, length)
