"""The interface of data sets: batches of inputs and targets, independent of their origin."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Protocol

import numpy as np

from unrolled.engine.errors import ConfigError, SettingName
from unrolled.engine.models.inputs.batch import Batch


class Batches(Protocol):
    """A data set that yields its batches epoch by epoch."""

    @property
    def batches_per_epoch(self) -> int:
        """Return the number of batches of one pass."""
        ...

    @property
    def tokens_per_epoch(self) -> int:
        """Return the number of positions of one pass that count in the loss."""
        ...

    def epoch(self, rng: np.random.Generator | None) -> Iterator[Batch]:
        """Yield the batches of one pass; ``rng`` shuffles records, None keeps their order. A stream is always in order."""
        ...


def check_sizes(batch_size: int, length: int) -> None:
    """Check that both sizes are at least 1."""
    for name, value in (("batch_size", batch_size), ("length", length)):
        if value < 1:
            raise ConfigError(SettingName(name), f": got {value}, needs at least 1")


def batches_after(data: Batches, seed: int, step: int) -> Iterator[Batch]:
    """Yield the batches after training step ``step``, epoch after epoch without end.

    Each epoch is shuffled by its own generator, so its order depends only on the seed and the number of the epoch.
    """
    epoch, taken = divmod(step, data.batches_per_epoch)
    while True:
        yield from islice(data.epoch(np.random.default_rng((seed, 1, epoch))), taken, None)
        epoch, taken = epoch + 1, 0
