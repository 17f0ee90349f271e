"""The result of a training: its JSON form, and the counts of validations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from unrolled.engine.errors import ConfigError
from unrolled.engine.models.heads.next_token import NextTokenHead, TokenMetrics
from unrolled.engine.training.result import TrainingResult

HEAD = NextTokenHead(65)


def test_the_json_form_is_read_back_without_losses_and_state() -> None:
    result = TrainingResult(
        "numpy", steps=7, count=300, validation_count=100, losses=[1.0], state=np.ones((1, 1, 2, 3))
    )
    result.best = result.last = TokenMetrics(1.5, 0.25, 100)
    values = result.to_dict(HEAD)
    assert list(values)[:3] == ["engine", "steps", "epochs"]
    assert not {"losses", "state", "between_steps"} & set(values)
    assert values["train_loss"] is None
    assert values["validation_share"] == pytest.approx(0.1)  # a third of the work of 300 trained tokens
    again = TrainingResult.from_dict(values, HEAD)
    assert (again.steps, again.best, again.losses, again.state) == (7, TokenMetrics(1.5, 0.25, 100), [], None)
    assert math.isnan(again.train_loss)


@pytest.mark.parametrize("change", [{"steps": 1, "unknown": 2}, {"engine": None}])
def test_unknown_and_missing_values_are_refused(change: dict[str, object]) -> None:
    values = {**TrainingResult("numpy").to_dict(HEAD), **change}
    if change == {"engine": None}:
        del values["engine"]
    with pytest.raises(ConfigError, match="training result: got"):
        TrainingResult.from_dict(values, HEAD)


def test_validations_without_a_better_loss_are_counted() -> None:
    result, counts = TrainingResult("numpy"), []
    for step, loss in enumerate([3.0, 2.0, 2.5, 2.5, 2.5, 1.0], 1):
        result.steps = step
        best = result.add_validation(HEAD, TokenMetrics(loss, 0.0, 10), plateau_patience=1)
        counts.append((best, result.stale, result.stale_plateau, result.plateaus))
    assert counts == [
        (True, 0, 0, 0), (True, 0, 0, 0), (False, 1, 1, 0), (False, 2, 0, 1), (False, 3, 1, 1), (True, 0, 0, 1),
    ]  # fmt: skip
    assert (result.best_step, result.last_step, result.validation_count) == (6, 6, 60)
