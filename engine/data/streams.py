"""Batches of one long stream: lanes whose state is carried from chunk to chunk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.data.batches import check_sizes
from unrolled.engine.data.id_arrays import collect_ids
from unrolled.engine.errors import CorpusError
from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.tokenizers.vocabulary import smallest_unsigned


@dataclass(frozen=True)
class StreamBatches:
    """Batches of one stream in B lanes: lane b is a contiguous part of the stream, read in order in chunks of T tokens.

    The state is carried from chunk to chunk (truncated back-propagation through time: R. J. Williams and J. Peng, "An
    Efficient Gradient-Based Algorithm for On-Line Training of Recurrent Network Trajectories", 1990). The remainder at the
    end of the stream, fewer tokens than lanes, is dropped; the last chunk may be shorter.

    Args:
        ids: (N,) of any unsigned dtype.
        batch_size: B, the number of lanes; a stream shorter than B + 1 tokens has fewer.
        length: T, tokens per chunk.
    """

    ids: NDArray
    batch_size: int
    length: int

    def __post_init__(self) -> None:
        check_sizes(self.batch_size, self.length)
        if len(self.ids) < 2:
            raise CorpusError(f"a stream needs at least two tokens, got {len(self.ids)}")

    @property
    def _lanes(self) -> tuple[int, int]:
        """Return the number of lanes, and of tokens per lane."""
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
            # The compact, possibly memory-mapped ids are converted one chunk at a time.
            x = np.ascontiguousarray(inputs[:, chunk].T, np.int64)
            y = np.ascontiguousarray(targets[:, chunk].T, np.int64)
            yield Batch.of_tokens(x, y, carry=start > 0)


def encode_stream(text: str, tokenizer: Tokenizer) -> NDArray:
    """Return the ids (N,) of a text in the smallest unsigned dtype, memory-mapped beyond ``MEMORY_LIMIT``."""
    dtype = smallest_unsigned(len(tokenizer.vocabulary))
    return collect_ids(tokenizer.encode_pieces(text), dtype, len(text))
