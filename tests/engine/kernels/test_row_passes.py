"""Passes over rows as vector IR: sums of rows, and the two passes of a softmax, for rows of every length."""

from __future__ import annotations

import numpy as np
import pytest
from jit import compiled
from numpy.typing import NDArray
from tolerances import assert_close

from unrolled.engine.kernels.jit.target import TARGET
from unrolled.engine.kernels.simd.row_sums import make_add_rows
from unrolled.engine.kernels.simd.softmax import exp_below, largest_of

LANES = TARGET.vector_bytes // 4
COUNTS = [*range(1, 2 * LANES + 2), 5 * LANES + 1]
BEFORE = 3  # items before those of a row

_add_four = make_add_rows(4)


@compiled
def add_four(source: NDArray, at: int, row: int, total: NDArray, total_at: int, count: int) -> None:
    _add_four(source, at, row, total, total_at, count)


@compiled
def softmax(x: NDArray, at: int, count: int) -> tuple[float, float]:
    """Run both passes; return the maximum and the sum of e^x."""
    highest = largest_of(x, at, count)
    return highest, exp_below(x, at, count, highest)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_four_rows_are_added_in_pairs_to_as_many_items_as_asked_for(dtype: type) -> None:
    rng = np.random.default_rng(0)
    for count in COUNTS:
        rows, total = rng.standard_normal((4, count + 7)).astype(dtype), rng.standard_normal(count + 9).astype(dtype)
        expected = total.copy()
        one, two, three, four = rows[:, 2 : 2 + count]
        expected[BEFORE : BEFORE + count] += (one + two) + (three + four)
        add_four(rows.reshape(-1), 2, count + 7, total, BEFORE, count)
        np.testing.assert_array_equal(total, expected, err_msg=f"{count} items")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("beyond", [np.nan, np.inf, 1e30, 0])  # what memory holds to the end of the last register
def test_a_softmax_is_that_of_numpy_and_reads_nothing_beyond_its_row(dtype: type, beyond: float) -> None:
    rng = np.random.default_rng(0)
    for count in COUNTS:
        x = np.full(BEFORE + count + LANES, beyond, dtype)
        row = x[BEFORE : BEFORE + count]
        row[:] = 5 * rng.standard_normal(count)
        row[rng.integers(count)] -= 200  # e^x is 0 in float32
        before, exact = x[:BEFORE].copy(), row.astype(np.float64)
        highest, total = softmax(x, BEFORE, count)
        expected = np.exp(exact - exact.max())
        assert highest == exact.max()
        assert_close(row, expected, "engine", dtype, f"{count} numbers")
        assert_close(np.array(total / expected.sum()), np.array(1.0), "engine", dtype, f"sum of {count} numbers")
        np.testing.assert_array_equal(x[:BEFORE], before)
        with pytest.raises(AssertionError):
            assert_close(row, np.exp(exact - exact.max() - 0.1), "engine", dtype)


def test_a_nan_reaches_the_sum_wherever_it_is() -> None:
    for place in range(LANES + 2):
        x = np.zeros(3 * LANES, np.float32)
        x[place] = np.nan
        assert np.isnan(softmax(x, 0, LANES + 2)[1]), place
