"""The contract of all data sets in batches; a training step does not know how one came about."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ConfigError


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


def check_sizes(batch_size: int, length: int) -> None:
    for name, value in (("batch_size", batch_size), ("length", length)):
        if value < 1:
            raise ConfigError(f"{name}: got {value}, needs at least 1")


def batches_after(data: Batches, seed: int, step: int) -> Iterator[Batch]:
    """Batches of the steps after ``step``, epoch after epoch.

    Each epoch is shuffled by its own generator, so that its order depends on seed and number alone.
    """
    epoch, taken = divmod(step, data.batches_per_epoch)
    while True:
        yield from islice(data.epoch(np.random.default_rng((seed, 1, epoch))), taken, None)
        epoch, taken = epoch + 1, 0
