"""Learning-rate range test: the rate rises exponentially, step by step, while the loss falls and then explodes.

Source: L. N. Smith, "Cyclical Learning Rates for Training Neural Networks" (2017), section 3.3; in the form of fastai's and
Lightning's ``lr_find``: exponential instead of linear, with a smoothed loss, stopped when that loss has exploded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

import numpy as np

from unrolled.engine.errors import ConfigError, DivergedError
from unrolled.engine.optimizers.config import OPTIMIZERS
from unrolled.engine.optimizers.schedules import SchedulePosition
from unrolled.engine.runs.experiment import PreparedRun
from unrolled.engine.settings import Range, Setting, check_settings
from unrolled.engine.training.config import TrainingConfig
from unrolled.engine.training.events import StepEvent
from unrolled.engine.training.loop import train
from unrolled.engine.training.observers import TrainingObserver

SPAN = (1 / 200, 5000)  # times the optimizer's usual rate: 1e-5 to 10 for adam
DEFAULT_STEPS = 200
FEWEST_TEST_STEPS, MOST_TEST_STEPS = 20, 100_000
TEST_STEPS = Range(f"{FEWEST_TEST_STEPS} to {MOST_TEST_STEPS}, for a curve", FEWEST_TEST_STEPS, MOST_TEST_STEPS)
NEW_SHARE = 0.1  # of a new loss in the running mean whose explosion ends the test
EXPLODED = 4.0  # times the lowest running mean
WIDTH = 1 / 40  # of the planned steps: standard deviation of the bell that smooths the curve
REACH = 5  # standard deviations at which the bell is cut off
EDGE = 5  # points at the start, where the bell is cut off, that are not searched for the steepest descent


@dataclass(frozen=True)
class RangeTest:
    """Curve of a range test, and the rates that it suggests.

    ``suggestion`` is a tenth of the rate with the lowest smoothed loss; ``steepest``, the other customary rule, is where the
    loss falls fastest in the logarithm of the rate. Both are None if the loss never fell. A language model's loss falls
    fastest while it learns the frequencies of tokens, which low rates learn too: the steepest rate is not the suggestion.
    """

    rates: list[float]
    losses: list[float]  # of each training step before its update, nats a token
    exploded: bool  # whether the loss exploded before the last planned step
    interrupted: bool = False
    planned: int | None = None  # training steps; None: the number of losses
    smoothed: list[float] = field(init=False)
    suggestion: float | None = field(init=False, default=None)
    steepest: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        smoothed = smooth(self.losses, WIDTH * (self.planned or len(self.losses)))
        object.__setattr__(self, "smoothed", [float(value) for value in smoothed])
        lowest = int(np.argmin(smoothed)) if len(smoothed) else 0
        if lowest <= EDGE + 2:
            return
        slope = np.gradient(smoothed, np.log(self.rates))[EDGE : lowest + 1]
        object.__setattr__(self, "suggestion", self.rates[lowest] / 10)
        object.__setattr__(self, "steepest", self.rates[EDGE + int(slope.argmin())])

    def smoothed_at(self, rate: float) -> float:
        """Return the smoothed loss at a rate, interpolated in its logarithm."""
        return float(np.interp(math.log(rate), np.log(self.rates), self.smoothed))

    def lines(self) -> list[dict[str, Any]]:
        """Return a JSON object for each training step: step, learning_rate, loss, smoothed."""
        rows = zip(self.rates, self.losses, self.smoothed, strict=True)
        return [
            {"step": step, "learning_rate": rate, "loss": loss, "smoothed": smoothed}
            for step, (rate, loss, smoothed) in enumerate(rows, 1)
        ]


def smooth(losses: Sequence[float], width: float) -> np.ndarray:
    """Return means weighted by a bell of standard deviation ``width``, which do not lag as a running mean does."""
    n = len(losses)
    if n == 0:
        return np.zeros(0)
    reach = min(math.ceil(REACH * width), n - 1)
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(width, 1e-9)) ** 2)
    inner = slice(reach, reach + n)
    sums, weights = (np.convolve(values, bell)[inner] for values in (np.asarray(losses, np.float64), np.ones(n)))
    return sums / weights


@dataclass(frozen=True)
class _Rising(TrainingConfig):
    """Settings of a run whose rate rises from ``low`` to ``high``; ``usual`` is the rate that it replaces."""

    low: float = SPAN[0]
    high: float = SPAN[1]
    usual: float = 1.0

    def rate_factor(self, step: int, position: SchedulePosition) -> float:
        assert self.steps is not None
        return self.low * (self.high / self.low) ** (step / (self.steps - 1)) / self.usual


class _ExplodedError(Exception):
    """The loss exploded."""


class _RateWatch(TrainingObserver):
    """Observer that records rates and losses, and raises if the running mean of the loss explodes."""

    def __init__(self, observer: TrainingObserver) -> None:
        self.rates: list[float] = []
        self.losses: list[float] = []
        self._observer, self._mean, self._lowest = observer, 0.0, math.inf

    def on_step(self, event: StepEvent) -> None:
        self.rates.append(event.learning_rate)
        self.losses.append(event.loss)
        self._observer.on_step(event)
        self._mean += NEW_SHARE * (event.loss - self._mean)
        smoothed = self._mean / (1 - (1 - NEW_SHARE) ** event.step)
        self._lowest = min(self._lowest, smoothed)
        if smoothed > EXPLODED * self._lowest:
            raise _ExplodedError


@dataclass(frozen=True)
class Sweep:
    """The learning rates of a range test.

    Args:
        low, high: rates of the first and the last training step; None: ``SPAN`` around the optimizer's usual rate.
        updates: number of training steps, unless the loss explodes earlier.

    Raises:
        ConfigError: the number of steps is out of range.
    """

    low: Annotated[
        float | None,
        Setting("low", "Learning rate of the first update.", default="the optimiser's usual one / 200"),
    ] = None
    high: Annotated[
        float | None,
        Setting("high", "Learning rate of the last update.", default="the optimiser's usual one × 5000"),
    ] = None
    updates: Annotated[int, Setting("updates", "How many, unless the loss explodes before.", range=TEST_STEPS)] = (
        DEFAULT_STEPS
    )

    def __post_init__(self) -> None:
        check_settings(self)


def range_test(run: PreparedRun, sweep: Sweep = Sweep(), observer: TrainingObserver | None = None) -> RangeTest:
    """Test the learning rates of a prepared run; its trainable is restored afterwards.

    Data, dropout and clipping are the run's; its limits, schedule, warm-up and validation have no effect.

    Args:
        run: the run.
        sweep: the learning rates.
        observer: its ``on_step`` is called.

    Raises:
        ConfigError: a rate is out of range.
        DivergedError: the loss exploded at the first rates.
    """
    usual = OPTIMIZERS[run.experiment.optimizer.name].default_learning_rate
    low = usual * SPAN[0] if sweep.low is None else sweep.low
    high, steps = usual * SPAN[1] if sweep.high is None else sweep.high, sweep.updates
    if not 0 < low < high < math.inf:
        raise ConfigError(f"low and high: got {low:g} and {high:g}, need two rates above 0, the second above the first")
    trainable, given = run.trainable, run.experiment.training
    kept = {f.name: getattr(given, f.name) for f in fields(given) if f.name in ("seed", "dropout", "reset")}
    rising = _Rising(steps=steps, validate_every=steps, low=low, high=high, usual=trainable.learning_rate, **kept)
    watch, before = _RateWatch(observer or TrainingObserver()), trainable.training_state()
    exploded = interrupted = False
    try:
        interrupted = train(trainable, run.dataset.train, None, rising, [watch]).interrupted
    except (_ExplodedError, DivergedError):
        if len(watch.losses) < FEWEST_TEST_STEPS // 2:
            raise DivergedError(f"the loss exploded after {len(watch.losses)} steps; begin with a lower rate") from None
        exploded = True
    finally:
        trainable.load_training_state(before)
    return RangeTest(watch.rates, watch.losses, exploded, interrupted, steps)
