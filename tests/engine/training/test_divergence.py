"""The guard that finds a training that has diverged although its loss is finite."""

from __future__ import annotations

import pytest

from unrolled.engine.errors import DivergedError
from unrolled.engine.training.divergence import HIGH_STEPS, DivergenceGuard


def first_report(losses: list[float]) -> tuple[int, str | None]:
    """Return the step of the first warning or error, and the warning."""
    guard = DivergenceGuard(guess_loss=2.0)
    for step, loss in enumerate(losses, 1):
        try:
            warning = guard.check(step, loss, 1.5, 0.01)
        except DivergedError:
            return step, None
        if warning is not None:
            return step, warning
    return 0, None


def test_a_loss_far_above_guess_and_start_is_an_error() -> None:
    assert first_report([2.0] + [6.1] * HIGH_STEPS) == (HIGH_STEPS + 1, None)
    guard = DivergenceGuard(2.0)
    for step, loss in enumerate([2.0] + [6.1] * (HIGH_STEPS - 1), 1):
        assert guard.check(step, loss, 1.5, 0.01) is None
    message = r"step 51: for 50 steps .* above 3 times .*now 6\.1, a guess has 2.*norm 1\.5.*now 0\.01"
    with pytest.raises(DivergedError, match=message):
        guard.check(HIGH_STEPS + 1, 6.1, 1.5, 0.01)


def test_a_loss_that_is_high_from_the_first_step_is_a_warning() -> None:
    step, warning = first_report([7.0] * 60)
    assert step == HIGH_STEPS
    assert warning is not None
    assert "it was 7 at first; try initial weights in a smaller range" in warning


def test_a_low_loss_in_between_starts_the_count_again() -> None:
    assert first_report([2.0] + ([6.1] * (HIGH_STEPS - 1) + [5.9]) * 3) == (0, None)
