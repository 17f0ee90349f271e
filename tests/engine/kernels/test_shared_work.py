"""A training step equals the reference however threads share it, by rows of the batch or by columns."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import models
import numpy as np
import pytest
from numba_threads import on_threads
from numpy.typing import NDArray
from tolerances import assert_close

from unrolled.engine.kernels.gemm import weight_gradient
from unrolled.engine.kernels.gemm.weight_gradient import Depth, add_transposed_product
from unrolled.engine.kernels.layers import output_loss
from unrolled.engine.kernels.threads import thread_pool
from unrolled.engine.network.network import Network

MORE_THREADS = (3, 4, 5, 16)


class Division(NamedTuple):
    """A product's rows of factors, the pieces in which they are added up, the ranges of rows in a piece, and the form."""

    rows: int
    pieces: int
    ranges: int
    packed: bool
    turned: bool


@pytest.fixture
def divided(monkeypatch: pytest.MonkeyPatch) -> list[Division]:
    """Record how products are divided from here on, and fill the memory that they allocate with NaN."""
    seen: list[Division] = []
    add, empty = weight_gradient._add_transposed_product, weight_gradient.empty
    names = list(inspect.signature(add).parameters)

    def call(*args: Any) -> None:
        given = dict(zip(names, args, strict=True))
        seen.append(Division(len(given["a"]), given["pieces"], given["count"], given["group"] > 0, given["turned"]))
        add(*args)

    def unfit(shape: tuple[int, ...], dtype: Any) -> NDArray:
        array = empty(shape, dtype)
        array[...] = np.nan if array.dtype.kind == "f" else 0
        return array

    monkeypatch.setattr(weight_gradient, "_add_transposed_product", call)
    monkeypatch.setattr(weight_gradient, "empty", unfit)
    return seen


# 24 rows of a batch are two pieces of 12, in fours; 20 are not, and 1 is a product without steps
@pytest.mark.parametrize(("batch", "steps"), [(64, 20), (24, 40), (20, 40), (1, 1203)])
@pytest.mark.parametrize("places", [1, 5])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("way", ["packed", "as it lies", "turned"])
def test_a_transposed_product_in_two_pieces_equals_the_reference_on_any_threads(
    batch: int, steps: int, places: int, dtype: type, way: str, divided: list[Division], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(batch)
    # 90 × 17 columns are more registers than 17 × 90, whose rows are those of one tile of each height
    K, (M, N), column, scale = batch * steps, (90, 17) if way == "turned" else (37, 45), 3, np.sqrt(batch * steps)
    if way == "packed":
        monkeypatch.setattr(weight_gradient, "LONGEST_A", 0)
    a, b = rng.standard_normal((K, column + M + 9)).astype(dtype), rng.standard_normal((K, N)).astype(dtype)
    where = rng.integers(0, places, K)

    def add() -> tuple[NDArray, NDArray]:
        c, sums = np.ones((M, N), dtype), np.ones((places, column + M + 5), dtype)
        add_transposed_product(a, b, c, sums, where, column=column, depth=Depth(batch))
        return c, sums

    with on_threads(1):
        c, sums = add()
    exact = a.astype(np.float64)
    product = (1 + exact[:, column : column + M].T @ b) / scale
    totals = np.ones((places, column + M + 5))
    np.add.at(totals[:, column:], where, exact[:, column : column + M + 5])
    assert_close(c / scale, product, "engine", dtype, "product")
    assert_close(sums / scale, totals / scale, "engine", dtype, "sums")
    for threads in (2, 2, *MORE_THREADS):  # of more parts than threads, a thread does several
        monkeypatch.setattr(weight_gradient, "get_num_threads", lambda threads=threads: threads)
        for one, again in zip((c, sums), add(), strict=True):
            np.testing.assert_array_equal(one, again, err_msg=f"{threads} threads")
    ranges = steps if batch in (64, 24) else 1
    assert set(divided) == {(K, 2, ranges, way == "packed", way == "turned")}
    with pytest.raises(AssertionError):
        assert_close(c / scale, (1 + exact[:, column : column + M][: K // 2].T @ b[: K // 2]) / scale, "engine", dtype)


@pytest.mark.parametrize(("K", "R"), [(90, 1), (300, 200)])
def test_a_product_of_few_rows_for_its_columns_or_sums_is_in_one_piece(K: int, R: int, divided: list[Division]) -> None:
    rng = np.random.default_rng(0)
    a, b, where = rng.standard_normal((K, 50)), rng.standard_normal((K, 20)), np.arange(K) % R
    for threads in (1, 2):
        c, sums = np.zeros((50, 20)), np.zeros((R, 50))
        with on_threads(threads):
            add_transposed_product(a, b, c, sums, where)
        assert_close(c, a.T @ b, "engine")
        assert_close(sums.sum(0), a.sum(0), "engine")
    assert [division[:3] for division in divided] == [(K, 1, 1)] * 2


@pytest.mark.parametrize("cell", models.ALL_CELLS)
# pieces of 16 rows; two pieces of 40 and more in each share; shares that are not whole tiles
@pytest.mark.parametrize("rows", [32, 160, 36])
def test_gradients_of_a_batch_whose_rows_are_shared_out_equal_the_reference(
    cell: str, rows: int, divided: list[Division], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared: list[int] = []
    output_rows = output_loss._output_rows
    place = list(inspect.signature(output_rows).parameters).index("ranges")

    def call(*args: Any) -> None:
        shared.append(args[place])
        output_rows(*args)

    monkeypatch.setattr(output_loss, "_output_rows", call)
    steps = 9
    config = models.config(cell, 2)
    batch, state = models.batch(config, steps, rows), models.state(config, rows)
    expected = Network(config.spec, models.params(config), "numpy").gradients(batch, state, None)
    with on_threads(2):
        got = Network(config.spec, models.params(config), "numba").gradients(batch, state, None)
    assert shared == [steps if rows != 36 else 1]
    of_steps = [division[:3] for division in divided if division.rows == steps * rows]
    assert len(of_steps) >= 4  # output, both products of the second layer, the first layer's
    assert set(of_steps) == {(steps * rows, 2, steps if rows != 36 else 1)}
    assert got.loss.details == expected.loss.details
    assert_close(got.loss.loss, expected.loss.loss, "engine", what="loss")
    for name, value in expected.params.items():
        assert_close(got.params[name], value, "engine", what=name)


def test_pieces_of_logits_are_the_same_on_any_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    config = models.config("gru", 1, vocab_size=300)
    batch, state = models.batch(config, 30, 10), models.state(config, 10, np.float32)
    model = Network(config.spec, models.params(config, np.float32), "numba")
    monkeypatch.setattr(output_loss, "LOGITS_BYTES", 100 * 4 * 304)  # 128 positions of 300
    results = []
    for threads in (1, 2):
        with on_threads(threads):
            results.append(model.gradients(batch, state, None).flat.copy())
    for module in (output_loss, thread_pool):  # of the loss alone, and of all that run on every thread
        monkeypatch.setattr(module, "get_num_threads", lambda: 16)
    results.append(model.gradients(batch, state, None).flat.copy())
    for one in results[1:]:
        np.testing.assert_array_equal(one, results[0])
    assert np.abs(results[0]).max() > 0
