"""The checks of batches can fail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from batch_checks import check, check_totals

from unrolled.engine.data.batches import Batch

GOOD = Batch(np.array([[1], [2]]), np.array([[2], [3]]), np.array([[True], [False]]), carry=True)


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": np.array([[1], [9]])},
        {"inputs": np.array([[1], [2]], np.int32)},
        {"targets": np.array([[2, 3]])},
        {"mask": np.array([[True], [True]])},
        {"mask": np.array([[1], [0]])},
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
