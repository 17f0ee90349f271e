"""Checks of batches: exact values of one, the totals of an epoch, and the rows of records."""

from __future__ import annotations

import numpy as np

from unrolled.engine.data.batches import Batches
from unrolled.engine.data.records import RecordBatches
from unrolled.engine.models.inputs.batch import TOKENS, Batch


def check(batch: Batch, inputs: list, targets: list, mask: list, carry: bool) -> None:
    """Check the exact values and dtypes of one batch."""
    assert set(batch.inputs) == {TOKENS}
    assert batch.lengths is None
    np.testing.assert_array_equal(batch.inputs[TOKENS], np.array(inputs, np.int64), strict=True)
    np.testing.assert_array_equal(batch.targets, np.array(targets, np.int64), strict=True)
    np.testing.assert_array_equal(batch.weights, np.array(mask, np.bool_), strict=True)
    assert batch.carry is carry


def check_totals(batches: Batches) -> None:
    """Check that the totals that a data set reports match its epochs, shuffled or not."""
    for rng in (None, np.random.default_rng(5)):
        epoch = list(batches.epoch(rng))
        assert len(epoch) == batches.batches_per_epoch
        assert sum(batch.weight for batch in epoch) == batches.tokens_per_epoch


def rows(batches: RecordBatches, rng: np.random.Generator | None) -> list[tuple[int, ...]]:
    """Return each record of an epoch: its first input and its targets, without padding."""
    return [
        (int(batch.inputs[TOKENS][0, b]), *map(int, batch.targets[batch.weights[:, b], b]))
        for batch in batches.epoch(rng)
        for b in range(batch.batch_size)
    ]
