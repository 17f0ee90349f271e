"""Learning-rate schedules."""

from __future__ import annotations

import pytest

from unrolled.engine.optimizers.schedules import LIMIT_INDEPENDENT, SCHEDULES, DecayConfig, SchedulePosition
from unrolled.engine.training.config import TrainingConfig


def test_schedules_start_at_one_and_fall() -> None:
    start, decay = SchedulePosition(0.0, 0, 0), DecayConfig(0.5, after=2)
    assert {name: schedule(start, decay) for name, schedule in SCHEDULES.items()} == dict.fromkeys(SCHEDULES, 1)
    assert SCHEDULES["cosine"](SchedulePosition(0.5, 0, 0), decay) == pytest.approx(0.5)
    assert SCHEDULES["cosine"](SchedulePosition(1.0, 0, 0), decay) == pytest.approx(0.0)
    assert SCHEDULES["linear"](SchedulePosition(0.25, 0, 0), decay) == pytest.approx(0.75)
    assert [SCHEDULES["step"](SchedulePosition(0, epoch, 0), decay) for epoch in range(5)] == [1, 1, 0.5, 0.25, 0.125]
    assert [SCHEDULES["plateau"](SchedulePosition(0, 9, times), decay) for times in range(3)] == [1, 0.5, 0.25]
    config = TrainingConfig(steps=10, warmup=4)
    assert [config.rate_factor(step, start) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


def test_only_schedules_that_ignore_the_limit_are_independent_of_it() -> None:
    decay = DecayConfig(0.5)
    early, late = SchedulePosition(0.2, 3, 0), SchedulePosition(0.7, 3, 0)
    unchanged = {name for name, schedule in SCHEDULES.items() if schedule(early, decay) == schedule(late, decay)}
    assert unchanged == {*LIMIT_INDEPENDENT, "plateau"}
    assert not TrainingConfig(steps=9, schedule="step").depends_on_limit
    assert TrainingConfig(steps=9, schedule="step", patience=2).depends_on_limit
    assert TrainingConfig(steps=9, schedule="plateau").depends_on_limit
