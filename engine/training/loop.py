"""The training loop of every engine: batches, updates, validation at intervals, best and last checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from unrolled.engine.data.batches import Batches, batches_after
from unrolled.engine.errors import divergence_error
from unrolled.engine.models.dropout import Masks, dropout_masks
from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.models.step_contract import zero_state
from unrolled.engine.optimizers.schedules import SchedulePosition
from unrolled.engine.process_group import SINGLE_PROCESS, Group
from unrolled.engine.signals import StopRequest
from unrolled.engine.training.config import TrainingConfig
from unrolled.engine.training.divergence import DivergenceGuard, check_finite
from unrolled.engine.training.evaluation import evaluate
from unrolled.engine.training.events import SampleEvent, StepEvent, ValidationEvent
from unrolled.engine.training.observers import TrainingObserver
from unrolled.engine.training.result import TrainingResult
from unrolled.engine.training.trainable import StepResult, Trainable
from unrolled.engine.training.validation_budget import fits_budget, plan_intervals


def train(
    trainable: Trainable,
    data: Batches,
    validation: Batches | None,
    config: TrainingConfig,
    observers: Sequence[TrainingObserver] = (),
    clock: Callable[[], float] = time.perf_counter,
    start: TrainingResult | None = None,
    group: Group = SINGLE_PROCESS,
) -> TrainingResult:
    """Train until a limit is reached or Ctrl-C is pressed; in both cases ``on_end`` receives the result so far.

    SIGTERM has the effect of Ctrl-C, unless the calling program has a handler of its own.

    Args:
        start: the result so far of a training to continue, with ``trainable`` in the state of that time. The steps that
            follow are bit for bit those of an uninterrupted training if the limit is one of epochs or steps.
        group: the processes that train together; all of them stop at the same step.

    Raises:
        DivergedError: loss or gradient became NaN or infinite, and the parameters are those before that step; or the loss
            exploded. Checkpoints written so far are kept.
    """
    loop = _TrainingLoop(trainable, data, validation, config, observers, clock, group)
    if start is not None:
        loop.result = replace(start, losses=[], interrupted=False, between_steps=True)
    with StopRequest() as stop:
        try:
            loop.run(stop)
        except KeyboardInterrupt:
            loop.result.interrupted = True
    for observer in observers:
        observer.on_end(trainable, loop.result)
    return loop.result


class _TrainingLoop:
    def __init__(
        self,
        trainable: Trainable,
        data: Batches,
        validation: Batches | None,
        config: TrainingConfig,
        observers: Sequence[TrainingObserver],
        clock: Callable[[], float],
        group: Group,
    ) -> None:
        self.trainable, self.data, self.validation = trainable, data, validation
        self.config, self.observers, self.clock, self.group = config, observers, clock, group
        self.result = TrainingResult(trainable.engine)
        self.guard = DivergenceGuard(trainable.spec.head.guess_loss)
        self.intervals = plan_intervals(config.validate_every, config.validation_bound, data, validation)
        self.started_at = 0.0  # on the clock, as if the training had run without a pause
        self.stopping: float = False  # any process had received a stop request when the group last agreed
        self.norm = self.rate = math.nan  # gradient norm and learning rate of the last step

    def run(self, stop: StopRequest) -> None:
        """Train from ``result`` to the first limit.

        Raises:
            KeyboardInterrupt: a process of the group received a stop request.
        """
        result = self.result
        done = self._share_done(result.seconds)
        if done >= 1:
            return
        self._warm_up()
        batches = batches_after(self.data, self.config.seed, result.steps)
        (self.stopping,) = self.group.largest(stop.received)
        self.started_at = self.clock() - result.seconds
        while done < 1:
            if self.stopping or (self.group.size == 1 and stop.received):  # single process: no need to agree
                raise KeyboardInterrupt
            started = self.clock()
            batch = next(batches)
            result.between_steps = False
            position = SchedulePosition(done, result.steps // self.data.batches_per_epoch, result.plateaus)
            rate = self.trainable.learning_rate * self.config.rate_factor(result.steps, position)
            outcome = self._step(batch, rate)
            result.steps += 1
            result.step_seconds += self.clock() - started
            result.seconds = self._agree(stop)
            done = self._share_done(result.seconds)
            self._record(min(done, 1.0), outcome, rate)
            if result.steps % self.intervals.save == 0 or done >= 1:
                self._end_interval(validates=self._validates(done))
                done = max(done, self._share_done(self._agree(stop)))
            result.between_steps = True
            result.seconds = self._seconds()

    def _seconds(self) -> float:
        """Return the seconds of this training so far, in this process."""
        return self.clock() - self.started_at

    def _agree(self, stop: StopRequest) -> float:
        """Return the seconds so far of the slowest process, so that all decide alike.

        Stop requests are exchanged in the same call, once a step, because a collective takes time.
        """
        seconds, self.stopping = self.group.largest(self._seconds(), stop.received)
        return seconds

    def _share_done(self, seconds: float) -> float:
        if self.config.patience is not None and self.result.stale >= self.config.patience:
            return 1.0
        return self.config.share_done(self.result.steps, self.data.batches_per_epoch, seconds)

    def _warm_up(self) -> None:
        """Compile and allocate before the clock of the training starts."""
        started = self.clock()
        batch = next(self.data.epoch(np.random.default_rng((self.config.seed, 1, 0))))
        self.trainable.warm_up(batch, zero_state(self.trainable.spec, batch.batch_size, self.trainable.dtype))
        self.result.first_call_s = self.clock() - started

    def _step(self, batch: Batch, rate: float) -> StepResult:
        """Update the parameters from one batch, and keep the state after it."""
        T, B = self.trainable.spec.batch_shape(batch.inputs)
        state = self.result.state
        if state is None or not batch.carry or self.config.reset:
            state = zero_state(self.trainable.spec, B, self.trainable.dtype)
        outcome = self.trainable.train_step(batch, state, rate, self._masks(T, B))
        self.result.state = outcome.state
        return outcome

    def _masks(self, T: int, B: int) -> Masks | None:
        """Return the dropout masks of this step, from a generator of its own: they depend on seed and step alone."""
        spec, dropout = self.trainable.spec, self.config.dropout
        if not dropout.drops(spec):
            return None
        rng = np.random.default_rng((self.config.seed, 2, self.result.steps))
        return dropout_masks(spec, T, B, rng, self.trainable.dtype, dropout)

    def _record(self, done: float, outcome: StepResult, rate: float) -> None:
        """Add a step to the result, report it to the observers and check that the training has not diverged."""
        result, norm = self.result, outcome.grad_norm
        metrics = self.trainable.spec.head.metrics_of(outcome.loss)
        loss, count = metrics.loss, metrics.count
        self.norm, self.rate = norm, rate
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise divergence_error(result.steps, f"loss {loss:.4g}", norm, rate)
        result.epochs = result.steps / self.data.batches_per_epoch
        result.count += count
        result.count_per_s = result.count / max(result.step_seconds, 1e-9)
        result.train_loss = loss
        result.losses.append(loss)
        event = StepEvent(
            result.steps, result.epochs, result.seconds, done, loss, norm, rate, count, result.count_per_s, metrics
        )
        for observer in self.observers:
            observer.on_step(event)
        warning = self.guard.check(result.steps, loss, norm, rate)
        if warning is not None:
            for observer in self.observers:
                observer.on_warning(warning)

    def _validates(self, done: float) -> bool:
        """Return whether a validation is due after this step; without a validation part, whether one would be."""
        result, share = self.result, self.config.validation_bound
        if done >= 1 or share is None:
            return True
        due = result.steps % self.intervals.validate == 0
        size = self.validation.tokens_per_epoch if self.validation is not None else 0
        return due and fits_budget(share, size, result.validation_count, result.count)

    def _end_interval(self, validates: bool) -> None:
        """Validate and collect samples if it is time, then have the observers save."""
        if validates:
            if self.validation is not None:
                self._validate(self.validation)
            for text in [observer.sample(self.trainable) for observer in self.observers]:
                if text is not None:
                    for observer in self.observers:
                        observer.on_sample(SampleEvent(self.result.steps, text))
        self.result.between_steps, self.result.seconds = True, self._seconds()
        for observer in self.observers:
            observer.on_interval(self.trainable, self.result)

    def _validate(self, validation: Batches) -> None:
        trainable, result = self.trainable, self.result
        metrics = evaluate(trainable.evaluate, trainable.spec, validation, trainable.dtype)
        check_finite(trainable.spec.head, metrics, result.steps, self.norm, self.rate)
        best = result.add_validation(trainable.spec.head, metrics, self.config.decay.patience)
        event = ValidationEvent(result.steps, result.epochs, self._seconds(), metrics, best)
        for observer in self.observers:
            observer.on_validation(event, trainable, result)
