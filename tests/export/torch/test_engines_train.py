"""The training loop with taggers of two directions and ragged rows: all engines follow one curve."""

from __future__ import annotations

from collections.abc import Iterator

import models
import numpy as np
import pytest
from numpy.typing import NDArray
from ragged_batches import RaggedBatches
from tolerances import assert_close

from unrolled.engine.models.dropout import Dropout
from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.optimizers.config import OptimizerConfig
from unrolled.engine.training.config import TrainingConfig
from unrolled.engine.training.loop import train
from unrolled.export.training_engines import TRAINABLES, make_trainable

pytest.importorskip("torch", reason="the torch extra is not installed")

STEPS = 20


class WithoutLengths(RaggedBatches):
    """Batches with a common mistake: what stands in the padding is read."""

    def epoch(self, rng: np.random.Generator | None) -> Iterator[Batch]:
        for batch in super().epoch(rng):
            inputs = {name: np.nan_to_num(np.maximum(array, 0)) for name, array in batch.inputs.items()}
            yield batch._replace(inputs=inputs, lengths=None, targets=np.maximum(batch.targets, 0))


def curve(
    engine: str, cell: str, dtype: type, batches: type[RaggedBatches] = RaggedBatches, inputs: str = models.MIXTURES[-1]
) -> NDArray:
    """Return losses of 20 training steps, and loss and accuracy of the best validation."""
    spec = models.spec(cell, inputs, 2, True, dropout=0.2)
    optimizer = OptimizerConfig("adamw", 0.02, label_smoothing=0.1)
    trainable = make_trainable(engine, spec, models.params(spec, dtype), optimizer, 1.0)
    config = TrainingConfig(steps=STEPS, seed=3, validate_every=5, dropout=Dropout(0.1, 0.2))
    result = train(trainable, batches(spec, 6), RaggedBatches(spec, 2, 50), config)
    assert len(result.losses) == STEPS
    assert result.best is not None
    best = result.best.to_dict()
    return np.array([*result.losses, best["loss"], best["accuracy"]])


@pytest.mark.parametrize(("cell", "dtype"), [*((cell, np.float32) for cell in models.ALL_CELLS), ("lstm", np.float64)])
def test_all_engines_follow_the_losses_of_the_reference(cell: str, dtype: type) -> None:
    reference = curve("numpy", cell, dtype)
    assert reference[STEPS - 1] < reference[0]
    for engine in TRAINABLES.keys() - {"numpy"}:
        assert_close(curve(engine, cell, dtype), reference, "curve", dtype, engine)


@pytest.mark.parametrize("T", [1, 5])
@pytest.mark.parametrize("engine", TRAINABLES)
def test_batches_may_be_views_of_any_strides_or_read_only(engine: str, T: int) -> None:
    spec = models.spec("gru", "tokens+values")
    batch, state = models.spec_batch(spec, T, 3), models.state(spec, 3)
    trainable = make_trainable(engine, spec, models.params(spec, np.float32), OptimizerConfig())
    state = state.astype(np.float32)
    expected, _ = trainable.evaluate(batch, state)
    turned = {name: array[::-1].copy()[::-1] for name, array in batch.inputs.items()}
    views = batch._replace(
        inputs=turned, targets=batch.targets[::-1].copy()[::-1], weights=batch.weights[::-1].copy()[::-1]
    )
    assert views.targets.strides[0] < 0
    for array in (*turned.values(), views.targets, views.weights):
        array.flags.writeable = False
    assert trainable.evaluate(views, state)[0] == expected
    assert np.isfinite(trainable.train_step(views, state, 1e-3, None).grad_norm)


@pytest.mark.parametrize("engine", TRAINABLES)
def test_alarm_padding_that_is_read_is_noticed(engine: str) -> None:
    with pytest.raises(AssertionError):
        assert_close(
            curve(engine, "gru", np.float32, WithoutLengths), curve("numpy", "gru", np.float32), "curve", np.float32
        )
