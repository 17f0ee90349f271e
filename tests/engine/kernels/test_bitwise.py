"""Bitwise reproducibility of the compiled engine: a row in any batch, a repeated training run, any number of threads."""

from __future__ import annotations

from typing import Any

import models
import numpy as np
import pytest
from numba_threads import on_threads
from numpy.typing import NDArray

from unrolled.engine.kernels.recurrent import scan, work_partition
from unrolled.engine.models.dropout import dropout_masks
from unrolled.engine.models.inputs.batch import TOKENS
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.parameters import Params
from unrolled.engine.network.language_model import LanguageModel
from unrolled.engine.optimizers.config import OptimizerConfig
from unrolled.engine.training.trainable import EngineTrainable

STEPS, ROWS = 4, 64
BATCHES = (1, 2, 3, 5, 7, 8, 9, 16, 17, 33, 64)  # around the tiles of 8, 4, 2, 1 rows
THREADS = (1, 2)


def assert_same(got: NDArray, expected: NDArray, what: str) -> None:
    """Compare bit by bit: 0 and -0 differ."""
    np.testing.assert_array_equal(got.view(np.int32), expected.view(np.int32), err_msg=what)


# 3 tokens are fewer than any batch's, 300 more than any, 50 in between: two ways of the first product
@pytest.mark.parametrize("V", [3, 50, 300])
@pytest.mark.parametrize("H", [37, 64])
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_a_row_is_the_same_alone_in_any_batch_anywhere_and_on_any_threads(cell: str, H: int, V: int) -> None:
    config = models.config(cell, 2, hidden_size=H, embedding_size=19, vocab_size=V)
    model = LanguageModel(config, models.params(config, np.float32), "numba")
    tokens = models.batch(config, STEPS, ROWS).inputs[TOKENS]
    state = models.state(config, ROWS, np.float32)

    def step(rows: NDArray | list[int]) -> tuple[NDArray, NDArray]:
        return model.step(np.ascontiguousarray(tokens[:, rows]), np.ascontiguousarray(state[:, :, rows]))

    alone = [step([row]) for row in range(ROWS)]
    logits, states = np.concatenate([a[0] for a in alone], axis=1), np.concatenate([a[1] for a in alone], axis=2)
    rng = np.random.default_rng(H + V)
    for threads in THREADS:
        with on_threads(threads):
            for size in BATCHES:
                rows = rng.permutation(ROWS)[:size]
                got, moved = step(rows)
                assert_same(got, logits[:, rows], f"logits, {size} rows, {threads} threads")
                assert_same(moved, states[:, :, rows], f"states, {size} rows, {threads} threads")


def trained(config: LanguageModelConfig, optimizer: str, threads: int, seed: int = 0) -> Params:
    """Return the parameters after six training steps on small and large batches, so that layers are divided both ways."""
    params = models.params(config, np.float32)
    with on_threads(threads):
        trainable = EngineTrainable(config.spec, params, OptimizerConfig(optimizer), clip_norm=1.0, backend="numba")
        for number, rows in enumerate((3, 17, 32, 17, 33, 2)):
            batch = models.batch(config, 6, rows, seed + number)
            masks = dropout_masks(config.spec, 6, rows, np.random.default_rng(number))
            trainable.train_step(batch, models.state(config, rows, np.float32), 0.01, masks)
        return trainable.export_params()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(("layers", "H", "V"), [(1, 37, 11), (3, 64, 11), (2, 64, 300)])
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_training_again_gives_the_same_parameters_on_any_threads(
    cell: str, layers: int, H: int, V: int, optimizer: str
) -> None:
    config = models.config(cell, layers, hidden_size=H, vocab_size=V, dropout=0.2 if layers > 1 else 0.0)
    expected = trained(config, optimizer, 2)
    for threads in (2, *THREADS):
        got = trained(config, optimizer, threads)
        for name, value in expected.items():
            assert_same(got[name], value, f"{name}, {threads} threads")


@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_large_weights_that_are_shared_out_by_units_train_the_same_parameters(
    cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, shared = models.config(cell, 2, hidden_size=64, embedding_size=19), []

    def share(*arguments: Any) -> work_partition.Split:
        shared.append(work_partition.split(*arguments))
        return shared[-1]

    monkeypatch.setattr(scan, "split", share)
    monkeypatch.setattr(work_partition, "_SMALL", 0)
    by_rows = trained(config, "adamw", 2)
    assert {found.by_units for found in shared} == {True, False}  # of 17 and 33 rows, and of 2 and 3
    shared.clear()
    monkeypatch.setattr(work_partition, "_LARGE", 0)
    monkeypatch.setattr(work_partition, "_FEW_ROWS", 17)
    by_units = trained(config, "adamw", 2)
    assert {found.by_units for found in shared} == {True}
    for name, value in by_rows.items():
        assert_same(by_units[name], value, name)


def test_weights_count_as_large_by_their_bytes() -> None:
    def panels(size: int) -> NDArray:
        return np.empty((size // 4 // 32, 1, 32), np.float32)

    with on_threads(2):
        for size, rows, by_units in (
            (2 << 20, 31, True),
            (2 << 20, 32, False),
            (2 << 19, 4, False),
            (2 << 19, 3, True),
            (1 << 17, 3, True),
            ((1 << 17) - 128, 1, False),
        ):
            assert work_partition.split(rows, 512, panels(size)).by_units == by_units
    with on_threads(1):
        assert not work_partition.split(3, 512, panels(2 << 20)).by_units


def test_alarm_other_batches_train_other_parameters() -> None:
    config = models.config("gru", 1)
    one, other = trained(config, "adamw", 2), trained(config, "adamw", 2, seed=1)
    for name in one:
        with pytest.raises(AssertionError):
            assert_same(one[name], other[name], name)


def test_alarm_a_bit_is_noticed() -> None:
    values = np.linspace(-1, 1, 9, dtype=np.float32)
    for wrong in (np.nextafter(values, np.float32(2)), -values[::-1]):
        with pytest.raises(AssertionError):
            assert_same(wrong, values, "values")
