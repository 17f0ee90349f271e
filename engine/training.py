"""The one training loop, for every engine: batches in, updates, validation at intervals, best and last checkpoint."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from unrolled.engine.batches import Batch, Batches
from unrolled.engine.checks import check_choice, check_seed
from unrolled.engine.contract import zero_state
from unrolled.engine.errors import ConfigError, DivergedError
from unrolled.engine.evaluation import Metrics, evaluate
from unrolled.engine.model import dropout_masks
from unrolled.engine.optim import SCHEDULES
from unrolled.engine.trainable import Trainable


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how to train; the first limit that is reached ends it.

    Args:
        epochs, steps, seconds: limits; at least one. Seconds are of the wall clock from the first step on, validation
            included, compilation not.
        schedule: a key of ``SCHEDULES``, over the share of the nearest limit that is used up.
        validate_every: steps between validations, and between saves; None: once an epoch, at most 250.
        seed: of the initial weights, of dropout and of the records' order.
    """

    epochs: int | None = None
    steps: int | None = None
    seconds: float | None = None
    schedule: str = "constant"
    validate_every: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {"epochs": self.epochs, "steps": self.steps, "seconds": self.seconds}
        if all(value is None for value in limits.values()):
            raise ConfigError("training needs a limit: epochs, steps or seconds")
        for name, value in {**limits, "validate_every": self.validate_every}.items():
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name}: got {value}, needs a number above 0")
        check_seed(self.seed)
        check_choice("schedule", self.schedule, SCHEDULES)

    def done(self, step: int, steps_per_epoch: int, seconds: float) -> float:
        """Share of the nearest limit that is used up; 1 and more: stop."""
        shares = [0.0]
        if self.epochs is not None:
            shares.append(step / (self.epochs * steps_per_epoch))
        if self.steps is not None:
            shares.append(step / self.steps)
        if self.seconds is not None:
            shares.append(seconds / self.seconds)
        return max(shares)


@dataclass(frozen=True)
class StepEvent:
    """One training step."""

    step: int  # from 1
    epoch: float  # passes over the training data so far
    seconds: float
    done: float  # share of the training, in [0, 1]
    loss: float  # mean, nats a token
    grad_norm: float
    learning_rate: float
    tokens: int  # of this step
    tokens_per_s: float  # of all steps so far, validation not counted


@dataclass(frozen=True)
class ValidationEvent:
    """One validation; ``best`` where its loss is the lowest so far."""

    step: int
    epoch: float
    seconds: float
    metrics: Metrics
    best: bool


@dataclass
class TrainingResult:
    """How the training went; what checkpoints record."""

    engine: str
    steps: int = 0
    epochs: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    tokens_per_s: float = 0.0
    first_call_s: float = 0.0  # compilation and first allocations, before the clock starts
    train_loss: float = math.nan
    best_step: int = 0
    best: Metrics | None = None
    last_step: int = 0  # of the last validation
    last: Metrics | None = None
    interrupted: bool = False
    losses: list[float] = field(default_factory=list, repr=False)  # a step

    def to_dict(self) -> dict[str, Any]:
        """For JSON: without the losses, which metrics.jsonl has."""
        values = asdict(self)
        del values["losses"]
        for key in ("best", "last"):
            metrics = getattr(self, key)
            values[key] = metrics.to_dict() if metrics else None
        values["train_loss"] = self.train_loss if math.isfinite(self.train_loss) else None
        return values


class Observer:
    """Watches a training; override what is of interest."""

    def on_step(self, event: StepEvent) -> None: ...

    def on_validation(self, event: ValidationEvent, trainable: Trainable, result: TrainingResult) -> None: ...

    def on_interval(self, trainable: Trainable, result: TrainingResult) -> None:
        """Every ``validate_every`` steps, behind the validation if there is one: the time to save."""

    def on_end(self, trainable: Trainable, result: TrainingResult) -> None: ...


def _endless(batches: Batches, seed: int) -> Iterator[Batch]:
    """Epoch after epoch, each shuffled by its own generator, so that an epoch's order depends on seed and number alone."""
    epoch = 0
    while True:
        yield from batches.epoch(np.random.default_rng((seed, 1, epoch)))
        epoch += 1


def train(
    trainable: Trainable,
    data: Batches,
    validation: Batches | None,
    config: TrainingConfig,
    observers: Sequence[Observer] = (),
    clock: Callable[[], float] = time.perf_counter,
) -> TrainingResult:
    """Train until a limit is reached or Ctrl-C is pressed; either way ``on_end`` is called with what there is.

    Raises:
        DivergedError: loss or gradient became NaN or infinite; the parameters are those before that step, and the
            checkpoints written so far stay.
    """
    loop = _Loop(trainable, data, validation, config, observers, clock)
    with _CtrlC() as ctrl_c:
        try:
            loop.run(ctrl_c)
        except KeyboardInterrupt:
            loop.result.interrupted = True
    for observer in observers:
        observer.on_end(trainable, loop.result)
    return loop.result


class _CtrlC:
    """Ctrl-C as a request that the loop looks at between two steps, so that no update or file is left half done.

    A second one interrupts at once. Outside the main thread, where Python allows no handler, nothing changes.
    """

    pressed = False

    def __enter__(self) -> _CtrlC:
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def _press(self, number: int, frame: object) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True

    def __exit__(self, *error: object) -> None:
        if self._main:
            signal.signal(signal.SIGINT, self._before)


class _Loop:
    def __init__(
        self,
        trainable: Trainable,
        data: Batches,
        validation: Batches | None,
        config: TrainingConfig,
        observers: Sequence[Observer],
        clock: Callable[[], float],
    ) -> None:
        self.trainable, self.data, self.validation = trainable, data, validation
        self.config, self.observers, self.clock = config, observers, clock
        self.result = TrainingResult(trainable.engine)
        self.validate_every = config.validate_every or min(data.batches_per_epoch, 250)
        self.busy = 0.0  # seconds spent in steps

    def run(self, ctrl_c: _CtrlC) -> None:
        config, trainable = self.config, self.trainable
        model, dtype = trainable.config, trainable.dtype
        self._warm_up()
        drop = np.random.default_rng((config.seed, 2))
        batches = _endless(self.data, config.seed)
        begin = self.clock()
        state, done, step = None, 0.0, 0
        while done < 1:
            if ctrl_c.pressed:
                raise KeyboardInterrupt
            started = self.clock()
            batch = next(batches)
            T, B = batch.inputs.shape
            if state is None or not batch.carry:
                state = zero_state(model, B, dtype)
            rate = trainable.learning_rate * SCHEDULES[config.schedule](done)
            outcome = trainable.train_step(batch, state, rate, dropout_masks(model, T, B, drop, dtype))
            state, step = outcome.state, step + 1
            self.busy += self.clock() - started
            seconds = self.clock() - begin
            done = config.done(step, self.data.batches_per_epoch, seconds)
            loss = outcome.loss.loss / max(outcome.loss.tokens, 1)
            self._record(step, seconds, min(done, 1.0), loss, outcome.grad_norm, rate, outcome.loss.tokens)
            if step % self.validate_every == 0 or done >= 1:
                self._interval(step, self.clock() - begin)
                done = max(done, config.done(step, self.data.batches_per_epoch, self.clock() - begin))
            self.result.seconds = self.clock() - begin

    def _warm_up(self) -> None:
        started = self.clock()
        batch = next(self.data.epoch(np.random.default_rng((self.config.seed, 1, 0))))
        self.trainable.warm_up(batch, zero_state(self.trainable.config, batch.inputs.shape[1], self.trainable.dtype))
        self.result.first_call_s = self.clock() - started

    def _record(
        self, step: int, seconds: float, done: float, loss: float, norm: float, rate: float, tokens: int
    ) -> None:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise DivergedError(
                f"step {step}: loss {loss:.4g}, gradient norm {norm:.4g}; try a lower learning rate "
                f"(now {rate:.4g}) or stronger clipping"
            )
        result = self.result
        result.steps, result.epochs = step, step / self.data.batches_per_epoch
        result.tokens += tokens
        result.tokens_per_s = result.tokens / max(self.busy, 1e-9)
        result.train_loss, result.seconds = loss, seconds
        result.losses.append(loss)
        event = StepEvent(step, result.epochs, seconds, done, loss, norm, rate, tokens, result.tokens_per_s)
        for observer in self.observers:
            observer.on_step(event)

    def _interval(self, step: int, seconds: float) -> None:
        if self.validation is not None:
            self._validate(self.validation, step, seconds)
        for observer in self.observers:
            observer.on_interval(self.trainable, self.result)

    def _validate(self, validation: Batches, step: int, seconds: float) -> None:
        trainable, result = self.trainable, self.result
        metrics = evaluate(trainable.evaluate, trainable.config, validation, trainable.dtype)
        if not math.isfinite(metrics.loss):
            raise DivergedError(f"step {step}: validation loss {metrics.loss}; try a lower learning rate")
        best = result.best is None or metrics.loss < result.best.loss
        result.last, result.last_step = metrics, step
        if best:
            result.best, result.best_step = metrics, step
        event = ValidationEvent(step, result.epochs, seconds, metrics, best)
        for observer in self.observers:
            observer.on_validation(event, trainable, result)
