"""Batches after a training step, in epochs of a fixed order; and the checks of batches can fail."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import numpy as np
import pytest
from batch_checks import check, check_totals

from unrolled.engine.data.batches import batches_after
from unrolled.engine.data.records import RecordBatches
from unrolled.engine.models.inputs.batch import Batch

GOOD = Batch.of_tokens(np.array([[1], [2]]), np.array([[2], [3]]), np.array([[True], [False]]), carry=True)


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": {"tokens": np.array([[1], [9]])}},
        {"inputs": {"tokens": np.array([[1], [2]], np.int32)}},
        {"targets": np.array([[2, 3]])},
        {"weights": np.array([[True], [True]])},
        {"weights": np.array([[1], [0]])},
        {"carry": False},
    ],
)
def test_check_can_fail(change: dict[str, Any]) -> None:
    check(GOOD, [[1], [2]], [[2], [3]], [[1], [0]], True)
    with pytest.raises(AssertionError):
        check(GOOD._replace(**change), [[1], [2]], [[2], [3]], [[1], [0]], True)


@pytest.mark.parametrize(("count", "tokens"), [(2, 1), (1, 2), (0, 1)])
def test_check_totals_can_fail(count: int, tokens: int) -> None:
    class Claims:
        def __init__(self, count: int, tokens: int) -> None:
            self.batches_per_epoch, self.tokens_per_epoch = count, tokens

        def epoch(self, rng: np.random.Generator | None) -> Iterator[Batch]:
            yield GOOD

    check_totals(Claims(1, 1))
    with pytest.raises(AssertionError):
        check_totals(Claims(count, tokens))


@pytest.mark.parametrize("step", [0, 1, 3, 4, 7, 8])
def test_batches_after_a_step_are_those_of_a_run_from_the_start(step: int) -> None:
    """The order of an epoch depends on the seed and the number of the epoch only."""
    ids = np.arange(21, dtype=np.uint8)
    data = RecordBatches(ids, np.arange(0, 22, 3), 2, 5)  # 7 records of 2 predicted tokens, 4 batches an epoch
    assert data.batches_per_epoch == 4

    def first_ids(seed: int, step: int, count: int) -> list[list[int]]:
        return [batch.inputs["tokens"][0].tolist() for batch in islice(batches_after(data, seed, step), count)]

    whole = first_ids(3, 0, 12)
    assert first_ids(3, step, 12 - step) == whole[step:]
    assert first_ids(4, 0, 12) != whole
    for epoch in (whole[:4], whole[4:8]):
        assert sorted(chain.from_iterable(epoch)) == list(range(0, 21, 3))
    assert whole[:4] != whole[4:8]
