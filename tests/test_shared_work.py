"""Whichever way threads share out a step, by rows of the batch or by columns, its results are the reference's."""

from __future__ import annotations

from typing import Any

import models
import numpy as np
import pytest
from test_bitwise import on_threads
from tolerances import assert_close

from unrolled.engine.kernels import layers, transposed
from unrolled.engine.kernels.transposed import add_transposed_product
from unrolled.engine.model import LanguageModel


@pytest.fixture
def divided(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """In how many parts each product adds up its rows, and from how many ranges of them each part takes its own."""
    seen: list[tuple[int, int]] = []
    add = transposed._add_transposed_product

    def call(*args: Any) -> None:
        seen.append(args[12:14])
        add(*args)

    monkeypatch.setattr(transposed, "_add_transposed_product", call)
    return seen


# 24 rows of a batch are two threads' 12 each, in fours; 20 are not, and 1 is a product without steps
@pytest.mark.parametrize(("batch", "steps"), [(64, 20), (24, 40), (20, 40), (1, 1203)])
@pytest.mark.parametrize("places", [1, 5])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_transposed_product_of_two_halves_equals_the_reference_on_any_threads(
    batch: int, steps: int, places: int, dtype: type, divided: list[tuple[int, int]]
) -> None:
    rng = np.random.default_rng(batch)
    K, M, N, column, scale = batch * steps, 37, 45, 3, np.sqrt(batch * steps)
    a, b = rng.standard_normal((K, column + M + 9)).astype(dtype), rng.standard_normal((K, N)).astype(dtype)
    where = rng.integers(0, places, K)
    exact = a.astype(np.float64)
    product = (1 + exact[:, column : column + M].T @ b) / scale
    totals = np.ones((places, column + M + 5))
    np.add.at(totals[:, column:], where, exact[:, column : column + M + 5])
    results = []
    for threads in (1, 2, 2):
        c, sums = np.ones((M, N), dtype), np.ones((places, column + M + 5), dtype)
        with on_threads(threads):
            add_transposed_product(a, b, c, sums, where, column=column, batch=batch)
        assert_close(c / scale, product, "engine", dtype, "product")
        assert_close(sums / scale, totals / scale, "engine", dtype, "sums")
        results.append((c, sums))
    assert divided == [(2, steps if batch in (64, 24) else 1)] * 3
    for on_one, once, again in zip(*results, strict=True):
        np.testing.assert_array_equal(once, again)
        np.testing.assert_array_equal(once, on_one)
    with pytest.raises(AssertionError):
        assert_close(c / scale, (1 + exact[:, column : column + M][: K // 2].T @ b[: K // 2]) / scale, "engine", dtype)


def test_a_product_with_few_rows_is_added_up_in_one_piece(divided: list[tuple[int, int]]) -> None:
    rng = np.random.default_rng(0)
    a, b, c = rng.standard_normal((90, 50)), rng.standard_normal((90, 20)), np.zeros((50, 20))
    sums = np.zeros((1, 50))
    for threads in (1, 2):
        with on_threads(threads):
            add_transposed_product(a, b, c, sums, np.zeros(90, np.int64))
    assert_close(c / 2, a.T @ b, "engine")
    assert_close(sums[0] / 2, a.sum(0), "engine")
    assert divided == [(1, 1)] * 2


@pytest.mark.parametrize("cell", models.ALL_CELLS)
@pytest.mark.parametrize("rows", [32, 40])  # the threads' shares of a batch are whole tiles, and are not
def test_gradients_of_a_batch_whose_rows_are_shared_out_equal_the_reference(
    cell: str, rows: int, divided: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared: list[int] = []
    output_rows = layers._output_rows
    monkeypatch.setattr(layers, "_output_rows", lambda *args: shared.append(args[-2]) or output_rows(*args))
    config = models.config(cell, 2)
    batch, state = models.batch(config, 9, rows), models.state(config, rows)
    expected = LanguageModel(config, models.params(config), "numpy").gradients(batch, state, None)
    with on_threads(2):
        got = LanguageModel(config, models.params(config), "numba").gradients(batch, state, None)
    assert shared == [9 if rows == 32 else 1]
    assert (2, 9) in divided
    assert got.loss.correct == expected.loss.correct
    assert_close(got.loss.loss, expected.loss.loss, "engine", what="loss")
    for name, value in expected.params.items():
        assert_close(got.params[name], value, "engine", what=name)
