"""A data set of random batches for a model of any description, whose rows have lengths of 1 to T."""

from __future__ import annotations

from collections.abc import Iterator

import models
import numpy as np

from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.models.spec import ModelSpec


class RaggedBatches:
    """Batches whose sizes differ, with NaN and wild ids in the padding.

    Args:
        count: the number of batches of an epoch.
        seed: of the first batch.
        rows: B of the first batch; the others have as many or up to three more.
    """

    def __init__(self, spec: ModelSpec, count: int, seed: int = 0, rows: int = 4) -> None:
        self.batches = [_batch(spec, seed + number, rows + number % 4) for number in range(count)]

    @property
    def batches_per_epoch(self) -> int:
        return len(self.batches)

    @property
    def tokens_per_epoch(self) -> int:
        return sum(int((batch.weights > 0).sum()) for batch in self.batches)

    def epoch(self, rng: np.random.Generator | None) -> Iterator[Batch]:
        order = np.arange(len(self.batches)) if rng is None else rng.permutation(len(self.batches))
        for number in order:
            yield self.batches[number]


def _batch(spec: ModelSpec, seed: int, rows: int) -> Batch:
    steps = 5 + seed % 4
    return models.spec_batch(spec, steps, rows, seed, models.ragged(steps, rows, seed))
