"""One trial: a short training of the base recipe with some settings changed, given up where others were better by then."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from unrolled.engine.data.batches import Batches
from unrolled.engine.data.corpus import Corpus
from unrolled.engine.data.data_config import DataConfig
from unrolled.engine.data.dataset import Dataset
from unrolled.engine.data.dataset_warnings import dataset_warnings
from unrolled.engine.data.records import RecordBatches
from unrolled.engine.data.streams import StreamBatches
from unrolled.engine.data.token_files import EncodedCorpus
from unrolled.engine.errors import CorpusError, divergence_error
from unrolled.engine.runs.experiment import PreparedRun, make_dataset, prepare_run
from unrolled.engine.runs.recipe import make_experiment
from unrolled.engine.training.evaluation import evaluate
from unrolled.engine.training.events import StepEvent, ValidationEvent
from unrolled.engine.training.loop import train
from unrolled.engine.training.observers import TrainingObserver
from unrolled.engine.training.result import TrainingResult
from unrolled.engine.training.trainable import Trainable
from unrolled.engine.training.validation_budget import share_of_work
from unrolled.export.training_engines import make_trainable
from unrolled.tuning.outcomes import TrialOutcome

RUNGS = 10  # equal shares of a trial's budget, behind each of which but the last it is held against the others
PULSE_S = 0.5  # between two signs of life


class TrialListener(Protocol):
    """Who is told how a trial goes."""

    def pulse(self, done: float, step: int, loss: float) -> None:
        """The share of the budget that is used up, and the last step's training loss."""
        ...

    def warn(self, message: str) -> None:
        """What people should know of the data, before the first step."""
        ...

    def wants_more(self, rung: int, loss: float) -> bool:
        """The validation loss at a rung; whether the trial is to go on."""
        ...


class PrunedError(Exception):
    """A trial was given up."""


class Datasets:
    """A corpus that is encoded once; batches of other sizes are cut from the same ids.

    Args:
        corpus: what trials are trained on.
        lanes: rows of validation batches, the same for all trials: a lane begins with a state of zeros, so that more of
            them make a loss look worse. None: as many as in training.
    """

    def __init__(self, corpus: Corpus | EncodedCorpus, lanes: int | None = None) -> None:
        self.corpus, self.lanes = corpus, lanes
        self._made: dict[DataConfig, Dataset] = {}

    def get(self, data: DataConfig) -> Dataset:
        key = replace(data, batch_size=1, length=1)  # the rest decides the ids
        if key not in self._made:
            self._made[key] = make_dataset(self.corpus, data)
        made = self._made[key]
        return Dataset(
            made.tokenizer,
            _cut(made.train, data.batch_size, data.length),
            made.validation and _cut(made.validation, self.lanes or data.batch_size, data.length),
            made.test and _cut(made.test, data.batch_size, data.length),
        )


def _cut(batches: Batches, batch_size: int, length: int) -> Batches:
    assert isinstance(batches, StreamBatches | RecordBatches)
    return replace(batches, batch_size=batch_size, length=length)


def prepare_trial(datasets: Datasets, options: Mapping[str, Any]) -> PreparedRun:
    """What ``train`` would make of the options, on data that is encoded already."""
    experiment = make_experiment(options)
    engine, precision = options.get("engine", "numba"), options.get("precision", "float32")
    return prepare_run(
        datasets.corpus,
        experiment,
        lambda config, params, optimizer, clip: make_trainable(engine, config, params, optimizer, clip, precision),
        datasets.get(experiment.data),
    )


def run_trial(
    datasets: Datasets,
    options: Mapping[str, Any],
    listener: TrialListener,
    clock: Callable[[], float] = time.perf_counter,
    rungs: bool = True,
) -> TrialOutcome:
    """Train by the options, and write nothing.

    Args:
        rungs: whether the trial is validated at each rung and may be given up there.

    Raises:
        PrunedError: the listener wanted no more.
        DivergedError: loss or gradient became NaN or infinite, or the loss exploded.
        ConfigError: the options do not go together.
        CorpusError: the corpus has no validation part.
    """
    run = prepare_trial(datasets, options)
    validation = run.dataset.validation
    if validation is None:  # of a token file, which has its own split
        raise CorpusError(f"{datasets.corpus.name}: has no validation part, which a search goes by; encode it with one")
    for message in dataset_warnings(run.dataset):
        listener.warn(message)
    watch = _RungValidation(run.trainable, validation, listener, clock, rungs)
    result = train(run.trainable, run.dataset.train, validation, run.experiment.training, [watch], clock)
    assert result.best is not None  # validated behind the last step
    share = share_of_work(result.validation_tokens + watch.validation_tokens, result.tokens)
    return TrialOutcome(
        result.best.loss, result.steps, result.best_step, result.epochs, result.seconds, result.tokens_per_s, share
    )


class _RungValidation(TrainingObserver):
    """Validates at each rung, whether or not the training itself does, so that trials are compared at equal budgets."""

    def __init__(
        self,
        trainable: Trainable,
        validation: Batches,
        listener: TrialListener,
        clock: Callable[[], float],
        rungs: bool,
    ) -> None:
        self.trainable, self.validation, self.listener, self.clock = trainable, validation, listener, clock
        self.rungs, self.validation_tokens = rungs, 0  # the second of the validations at rungs alone
        self._rung, self._best, self._told = 0, math.inf, -math.inf

    def on_step(self, event: StepEvent) -> None:
        if self.clock() - self._told >= PULSE_S:
            self._told = self.clock()
            self.listener.pulse(event.done, event.step, event.loss)
        rung = int(event.done * RUNGS)
        if not (self.rungs and self._rung < rung < RUNGS):
            return
        self._rung = rung
        metrics = evaluate(self.trainable.evaluate, self.trainable.config, self.validation, self.trainable.dtype)
        loss = metrics.loss
        self.validation_tokens += metrics.tokens
        if not math.isfinite(loss):
            raise divergence_error(event.step, f"validation loss {loss:.4g}", event.grad_norm, event.learning_rate)
        self._best = min(self._best, loss)
        if not self.listener.wants_more(rung, self._best):
            raise PrunedError

    def on_validation(self, event: ValidationEvent, trainable: Trainable, result: TrainingResult) -> None:
        self._best = min(self._best, event.metrics.loss)
