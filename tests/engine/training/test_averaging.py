"""The moving average of the weights is evaluated and saved, and the training is the same as without it."""

from __future__ import annotations

import models
import numpy as np
import pytest
from tolerances import assert_close

from unrolled.engine.errors import ModelFileError
from unrolled.engine.optimizers.config import OptimizerConfig
from unrolled.engine.training.averaging import AveragedTrainable
from unrolled.engine.training.trainable import Trainable
from unrolled.export.training_engines import TRAINABLES, make_trainable

CONFIG = models.config("gru", 1)
BATCH, STATE = models.batch(CONFIG), models.state(CONFIG)


def engine(name: str) -> Trainable:
    if name == "torch":
        pytest.importorskip("torch", reason="the torch extra is not installed")
    return make_trainable(name, CONFIG.spec, models.params(CONFIG), OptimizerConfig("adam", 0.05), 1.0)


@pytest.mark.parametrize("name", TRAINABLES)
def test_the_average_is_its_formula_and_the_weights_learn_as_without_it(name: str) -> None:
    plain, averaged = engine(name), AveragedTrainable(engine(name), 0.5)
    expected = plain.export_params()
    for n in range(1, 16):
        one = plain.train_step(BATCH, STATE, 0.05, None)
        other = averaged.train_step(BATCH, STATE, 0.05, None)
        assert (one.loss, one.grad_norm) == (other.loss, other.grad_norm)  # though evaluated in between
        decay = min(0.5, (1 + n) / (10 + n))
        for key, value in plain.export_params().items():
            expected[key] = decay * expected[key] + (1 - decay) * value
        shown = make_trainable("numpy", CONFIG.spec, expected, OptimizerConfig()).evaluate(BATCH, STATE)[0]
        assert averaged.evaluate(BATCH, STATE)[0].loss == pytest.approx(shown.loss, rel=1e-9)
    for key, value in averaged.export_params().items():
        assert_close(value, expected[key], "engine", what=key)
    logits = make_trainable("numpy", CONFIG.spec, expected, OptimizerConfig()).step(BATCH.inputs, STATE)[0]["logits"]
    assert_close(averaged.step(BATCH.inputs, STATE)[0]["logits"], logits, "engine")
    state = averaged.training_state()
    with pytest.raises(AssertionError):  # the alarm: weights and average are not the same
        assert_close(averaged.inner.export_params()["output.bias"], expected["output.bias"], "engine")
    again = AveragedTrainable(engine(name), 0.5)
    again.load_training_state(state)
    np.testing.assert_array_equal(again.export_params()["output.bias"], averaged.export_params()["output.bias"])
    with pytest.raises(ModelFileError, match="averaged weights are missing"):
        again.load_training_state(plain.training_state())
