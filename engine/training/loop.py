"""The one training loop, for every engine: batches in, updates, validation at intervals, best and last checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.canonical import completed
from unrolled.engine.checks import check_choice, check_seed
from unrolled.engine.data.batches import Batch, Batches, batches_from
from unrolled.engine.errors import ConfigError, diverged
from unrolled.engine.models.dropout import NO_DROPOUT, Dropout, dropout_masks
from unrolled.engine.models.step_contract import zero_state
from unrolled.engine.optimizers.schedules import SCHEDULES, DecayConfig, SchedulePosition
from unrolled.engine.process_group import SINGLE_PROCESS, Group
from unrolled.engine.signals import StopRequest
from unrolled.engine.training.evaluation import Metrics, evaluate
from unrolled.engine.training.events import SampleEvent, StepEvent, ValidationEvent
from unrolled.engine.training.trainable import StepResult, Trainable
from unrolled.engine.training.validation_budget import SHARE, affordable, intervals, share_of_work


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how to train; the first limit that is reached ends it.

    Args:
        epochs, steps, seconds: limits; at least one. Epochs may be a fraction. Seconds are of the wall clock from the
            first step on, validation included, compilation not.
        schedule: a key of ``SCHEDULES``, over the share of the nearest limit that is used up.
        validate_every: steps between validations, and between saves; None: saves once an epoch, at most every 250 steps,
            and validations at as many of them as ``validation_share`` allows.
        seed: of the initial weights, of dropout and of the records' order.
        dropout: of inputs and outputs; between layers it is the model's.
        decay: constants of the schedules "step" and "plateau".
        warmup: steps over which the rate rises linearly from nothing, times whatever the schedule says.
        patience: validations without a better loss after which training stops; None: never.
        average: decay of the moving average of the weights that is evaluated and saved; None: the weights themselves.
        reset: begin every batch with a state of zeros, instead of carrying it on where a batch continues the last.
        validation_share: the most that validations take of the training's work where ``validate_every`` is None, counted
            in tokens; the validation after the last step takes place even if it exceeds it alone. None: any share,
            as in 0.1.0.
    """

    epochs: float | None = None
    steps: int | None = None
    seconds: float | None = None
    schedule: str = "cosine"
    validate_every: int | None = None
    seed: int = 0
    dropout: Dropout = NO_DROPOUT
    decay: DecayConfig = field(default_factory=DecayConfig)
    warmup: int = 0
    patience: int | None = None
    average: float | None = None
    reset: bool = False
    validation_share: float | None = SHARE

    def __post_init__(self) -> None:
        limits = {"epochs": self.epochs, "steps": self.steps, "seconds": self.seconds}
        if all(value is None for value in limits.values()):
            raise ConfigError("training needs a limit: epochs, steps or seconds")
        for name, value in {**limits, "validate_every": self.validate_every}.items():
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name}: got {value}, needs a number above 0")
        for name, value, least in (("warmup", self.warmup, 0), ("patience", self.patience, 1)):
            if value is not None and value < least:
                raise ConfigError(f"{name}: got {value}, needs at least {least}")
        for name, value in (("average", self.average), ("validation_share", self.validation_share)):
            if value is not None and not 0 < value < 1:
                raise ConfigError(f"{name}: got {value}, needs a number between 0 and 1")
        check_seed(self.seed)
        check_choice("schedule", self.schedule, SCHEDULES)

    @property
    def bound(self) -> float | None:
        """Return the share that validations are held to; None: any, as where ``validate_every`` says when they take place."""
        return self.validation_share if self.validate_every is None else None

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

    def rate_factor(self, step: int, position: SchedulePosition) -> float:
        """What the learning rate is multiplied by in the step after ``step`` steps."""
        warm = min((step + 1) / self.warmup, 1.0) if self.warmup else 1.0
        return warm * SCHEDULES[self.schedule](position, self.decay)


@dataclass
class TrainingResult:
    """How the training went; what checkpoints record."""

    engine: str
    steps: int = 0
    epochs: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    step_seconds: float = 0.0  # of these, spent in steps
    tokens_per_s: float = 0.0
    first_call_s: float = 0.0  # compilation and first allocations, before the clock starts
    train_loss: float = math.nan
    best_step: int = 0
    best: Metrics | None = None
    last_step: int = 0  # of the last validation
    last: Metrics | None = None
    validation_tokens: int = 0  # predicted in all validations so far
    stale: int = 0  # validations since the best one
    plateaus: int = 0  # how often the rate went down because of them
    stale_plateau: int = 0  # validations since the best one or the last time that the rate went down
    interrupted: bool = False
    losses: list[float] = field(default_factory=list, repr=False)  # a step, of those that this call made
    state: NDArray | None = field(default=None, repr=False)  # (S, L, B, H) after the last step
    whole: bool = field(default=True, repr=False)  # false in the middle of a step or its validation

    def to_dict(self) -> dict[str, Any]:
        """For JSON: all but the losses, which metrics.jsonl has, and what only the next step needs."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in NOT_RECORDED}
        for key in ("best", "last"):
            values[key] = values[key].to_dict() if values[key] else None
        values["train_loss"] = self.train_loss if math.isfinite(self.train_loss) else None
        values["validation_share"] = self.validation_share
        return values

    @property
    def validation_share(self) -> float:
        """Return the share of the work so far that went into validations, counted in tokens."""
        return share_of_work(self.validation_tokens, self.tokens)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingResult:
        """Return the result of what ``to_dict`` made, also of 0.1.0's, which counted no tokens of validations.

        Raises:
            ConfigError: a value is missing, unknown or of the wrong kind.
        """
        values = completed(cls, values)
        values.pop("validation_share", None)
        if set(values) != {f.name for f in fields(cls)} - set(NOT_RECORDED):
            raise ConfigError(f"training result: got {', '.join(sorted(values)) or 'nothing'}")
        for key in ("best", "last"):
            if values[key] is not None:
                values[key] = Metrics.from_dict(values[key])
        if values["train_loss"] is None:
            values["train_loss"] = math.nan
        return cls(**values)


HIGH_LOSS, HIGH_STEPS = 3, 50  # times that of a guess, so many steps in a row
NOT_RECORDED = ("losses", "state", "whole")

Sampler = Callable[[Trainable], str]


class Observer:
    """Watches a training; override what is of interest."""

    def on_step(self, event: StepEvent) -> None: ...

    def on_validation(self, event: ValidationEvent, trainable: Trainable, result: TrainingResult) -> None: ...

    def sample(self, trainable: Trainable) -> str | None:
        """Return a text by the live model after a validation, or at a save without one; all observers get it; None: none."""
        return None

    def on_sample(self, event: SampleEvent) -> None: ...

    def on_interval(self, trainable: Trainable, result: TrainingResult) -> None:
        """Save; called at each interval of saves, after the validation if there is one."""

    def on_end(self, trainable: Trainable, result: TrainingResult) -> None: ...

    def on_warning(self, message: str) -> None:
        """Something that people should know, and that does not stop the training."""


class SampleWriter(Observer):
    """Has a sample written by ``sampler``."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def sample(self, trainable: Trainable) -> str | None:
        return self.sampler(trainable)


def train(
    trainable: Trainable,
    data: Batches,
    validation: Batches | None,
    config: TrainingConfig,
    observers: Sequence[Observer] = (),
    clock: Callable[[], float] = time.perf_counter,
    start: TrainingResult | None = None,
    group: Group = SINGLE_PROCESS,
) -> TrainingResult:
    """Train until a limit is reached or Ctrl-C is pressed; either way ``on_end`` is called with what there is.

    SIGTERM does what Ctrl-C does, unless the program around has a handler of its own.

    Args:
        start: the result so far of the training that is to go on; ``trainable`` is as it was then. What then follows
            is what would have followed without the pause, to the bit where the limit is one of epochs or steps.
        group: the processes that train together; all of them stop at the same step.

    Raises:
        DivergedError: loss or gradient became NaN or infinite, and the parameters are those before that step; or the loss
            exploded. The checkpoints written so far stay.
    """
    loop = _Loop(trainable, data, validation, config, observers, clock, group)
    if start is not None:
        loop.result = replace(start, losses=[], interrupted=False, whole=True)
    with StopRequest() as stop:
        try:
            loop.run(stop)
        except KeyboardInterrupt:
            loop.result.interrupted = True
    for observer in observers:
        observer.on_end(trainable, loop.result)
    return loop.result


class _Loop:
    def __init__(
        self,
        trainable: Trainable,
        data: Batches,
        validation: Batches | None,
        config: TrainingConfig,
        observers: Sequence[Observer],
        clock: Callable[[], float],
        group: Group,
    ) -> None:
        self.trainable, self.data, self.validation = trainable, data, validation
        self.config, self.observers, self.clock, self.group = config, observers, clock, group
        self.pressed: float = False  # Ctrl-C, in any process, when they last asked each other
        self.result = TrainingResult(trainable.engine)
        self.first = math.nan  # loss of the first step
        self.high = 0  # steps in a row whose loss is far above that of a guess
        self.exploding = 0  # steps in a row whose loss is far above the first one, too
        self.norm = self.rate = math.nan  # gradient norm and learning rate of the last step
        self.intervals = intervals(config.validate_every, config.bound, data, validation)
        self.validated = validation.tokens_per_epoch if validation is not None else 0  # tokens of each validation

    def run(self, stop: StopRequest) -> None:
        result = self.result
        done = self._done(result.seconds)
        if done >= 1:
            return
        self._warm_up()
        batches = batches_from(self.data, self.config.seed, result.steps)
        (self.pressed,) = self.group.largest(stop.received)
        begin = self.clock() - result.seconds
        while done < 1:
            if self.pressed or (self.group.size == 1 and stop.received):  # who is alone need not ask
                raise KeyboardInterrupt
            started = self.clock()
            batch = next(batches)
            result.whole = False
            position = SchedulePosition(done, result.steps // self.data.batches_per_epoch, result.plateaus)
            rate = self.trainable.learning_rate * self.config.rate_factor(result.steps, position)
            outcome = self._step(batch, rate)
            result.steps += 1
            result.step_seconds += self.clock() - started
            result.seconds = self._ask(begin, stop)
            done = self._done(result.seconds)
            self._record(min(done, 1.0), outcome, rate)
            if result.steps % self.intervals.save == 0 or done >= 1:
                self._interval(begin, self._validates(done))
                done = max(done, self._done(self._ask(begin, stop)))
            result.whole = True
            result.seconds = self.clock() - begin

    def _ask(self, begin: float, stop: StopRequest) -> float:
        """Seconds so far, of the slowest process, so that all come to the same conclusions; once a step, for it takes time."""
        seconds, self.pressed = self.group.largest(self.clock() - begin, stop.received)
        return seconds

    def _done(self, seconds: float) -> float:
        if self.config.patience is not None and self.result.stale >= self.config.patience:
            return 1.0
        return self.config.done(self.result.steps, self.data.batches_per_epoch, seconds)

    def _step(self, batch: Batch, rate: float) -> StepResult:
        model, dtype, state = self.trainable.config, self.trainable.dtype, self.result.state
        T, B = batch.inputs.shape
        if state is None or not batch.carry or self.config.reset:
            state = zero_state(model, B, dtype)
        masks = None
        if self.config.dropout.drops(model):
            # a generator a step: what is dropped depends on seed and step alone
            rng = np.random.default_rng((self.config.seed, 2, self.result.steps))
            masks = dropout_masks(model, T, B, rng, dtype, self.config.dropout)
        outcome = self.trainable.train_step(batch, state, rate, masks)
        self.result.state = outcome.state
        return outcome

    def _warm_up(self) -> None:
        started = self.clock()
        batch = next(self.data.epoch(np.random.default_rng((self.config.seed, 1, 0))))
        self.trainable.warm_up(batch, zero_state(self.trainable.config, batch.inputs.shape[1], self.trainable.dtype))
        self.result.first_call_s = self.clock() - started

    def _record(self, done: float, outcome: StepResult, rate: float) -> None:
        result, norm, tokens = self.result, outcome.grad_norm, outcome.loss.tokens
        loss, accuracy = outcome.loss.loss / max(tokens, 1), outcome.loss.correct / max(tokens, 1)
        self.norm, self.rate = norm, rate
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise diverged(result.steps, f"loss {loss:.4g}", norm, rate)
        result.epochs = result.steps / self.data.batches_per_epoch
        result.tokens += tokens
        result.tokens_per_s = result.tokens / max(result.step_seconds, 1e-9)
        result.train_loss = loss
        result.losses.append(loss)
        event = StepEvent(
            result.steps, result.epochs, result.seconds, done, loss, norm, rate, tokens, result.tokens_per_s, accuracy
        )
        for observer in self.observers:
            observer.on_step(event)
        self._watch(loss)

    def _watch(self, loss: float) -> None:
        """Stop where the loss has exploded though it is finite, and say so where it is as high from the first step on.

        A run that learns is never there: with uniform probabilities it has the loss of a guess, and what begins above it,
        because initial weights are large, falls.
        """
        guess = math.log(self.trainable.config.vocab_size)
        self.first = loss if math.isnan(self.first) else self.first
        self.high = self.high + 1 if loss > HIGH_LOSS * guess else 0
        self.exploding = self.exploding + 1 if loss > HIGH_LOSS * max(guess, self.first) else 0
        if HIGH_STEPS not in (self.high, self.exploding):
            return
        far = f"for {HIGH_STEPS} steps the loss has been above {HIGH_LOSS} times that of a blind guess"
        figures = f"now {loss:.4g}, a guess has {guess:.4g}"
        if self.exploding == HIGH_STEPS:
            raise diverged(self.result.steps, f"{far} ({figures})", self.norm, self.rate)
        if self.high == HIGH_STEPS:
            for observer in self.observers:
                observer.on_warning(
                    f"step {self.result.steps}: {far} ({figures}), and it was {self.first:.4g} at first; "
                    f"try initial weights in a smaller range, or a lower learning rate (now {self.rate:.4g})"
                )

    def _validates(self, done: float) -> bool:
        """Return whether the training validates after this step, or would if it had a validation part."""
        result, share = self.result, self.config.bound
        if done >= 1 or share is None:
            return True
        due = result.steps % self.intervals.validate == 0
        return due and affordable(share, self.validated, result.validation_tokens, result.tokens)

    def _interval(self, begin: float, validates: bool) -> None:
        if validates:
            if self.validation is not None:
                self._validate(self.validation, begin)
            for text in [observer.sample(self.trainable) for observer in self.observers]:
                if text is not None:
                    for observer in self.observers:
                        observer.on_sample(SampleEvent(self.result.steps, text))
        self.result.whole, self.result.seconds = True, self.clock() - begin
        for observer in self.observers:
            observer.on_interval(self.trainable, self.result)

    def _validate(self, validation: Batches, begin: float) -> None:
        trainable, result = self.trainable, self.result
        metrics = evaluate(trainable.evaluate, trainable.config, validation, trainable.dtype)
        if not math.isfinite(metrics.loss):
            raise diverged(result.steps, f"validation loss {metrics.loss:.4g}", self.norm, self.rate)
        result.validation_tokens += metrics.tokens
        best = result.best is None or metrics.loss < result.best.loss
        result.last, result.last_step = metrics, result.steps
        self._count(best)
        if best:
            result.best, result.best_step = metrics, result.steps
        event = ValidationEvent(result.steps, result.epochs, self.clock() - begin, metrics, best)
        for observer in self.observers:
            observer.on_validation(event, trainable, result)

    def _count(self, best: bool) -> None:
        """Count validations without a better loss, for early stopping and for the schedule "plateau"."""
        result = self.result
        result.stale, result.stale_plateau = (0, 0) if best else (result.stale + 1, result.stale_plateau + 1)
        if result.stale_plateau > self.config.decay.patience:
            result.plateaus, result.stale_plateau = result.plateaus + 1, 0
