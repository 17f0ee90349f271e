"""One trial: a short training run of the base recipe with some settings changed, pruned if others were better at a rung."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from unrolled.engine.data.batches import Batches
from unrolled.engine.data.config import DataConfig
from unrolled.engine.data.corpus import Corpus
from unrolled.engine.data.dataset import Dataset
from unrolled.engine.data.dataset_warnings import dataset_warnings
from unrolled.engine.data.records import RecordBatches
from unrolled.engine.data.streams import StreamBatches
from unrolled.engine.data.token_files import EncodedCorpus
from unrolled.engine.errors import CorpusError
from unrolled.engine.models.heads.head import selecting_metric
from unrolled.engine.runs.experiment import PreparedRun, make_dataset, prepare_run
from unrolled.engine.runs.recipe import make_experiment
from unrolled.engine.training.divergence import check_finite
from unrolled.engine.training.evaluation import evaluate
from unrolled.engine.training.events import StepEvent, ValidationEvent
from unrolled.engine.training.loop import train
from unrolled.engine.training.observers import TrainingObserver
from unrolled.engine.training.result import TrainingResult
from unrolled.engine.training.trainable import Trainable
from unrolled.engine.training.validation_budget import share_of_work
from unrolled.export.training_engines import make_trainable
from unrolled.tuning.outcomes import TrialOutcome

RUNGS = 10  # equal shares of a trial's budget, after each of which but the last it is compared with the others
PULSE_S = 0.5  # seconds between two reports of progress


class TrialListener(Protocol):
    """Receiver of the progress of a trial, which decides whether it continues."""

    def pulse(self, done: float, step: int, loss: float) -> None:
        """Receive the share of the budget that is used, the last training step and its loss."""
        ...

    def warn(self, message: str) -> None:
        """Receive a warning about the data, before the first step."""
        ...

    def wants_more(self, rung: int, cost: float) -> bool:
        """Return whether a trial is to continue whose best validation up to a rung has this cost, see ``Metric.cost``."""
        ...


class PrunedError(Exception):
    """A trial was pruned."""


class Datasets:
    """Datasets of one corpus, which is encoded once; batches of other sizes are cut from the same ids.

    Args:
        corpus: training and validation text.
        lanes: rows of validation batches, the same for all trials: each lane starts from a zero state, so more lanes raise
            the loss. None: as many as in training.
    """

    def __init__(self, corpus: Corpus | EncodedCorpus, lanes: int | None = None) -> None:
        self.corpus, self.lanes = corpus, lanes
        self._made: dict[DataConfig, Dataset] = {}

    def get(self, data: DataConfig) -> Dataset:
        """Return the dataset of some settings."""
        key = replace(data, batch_size=1, length=1)  # the ids depend on the other settings
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
    """Return the run that ``train`` would prepare from the options, on data that is already encoded."""
    experiment = make_experiment(options)
    engine, precision = options.get("engine", "numba"), options.get("precision", "float32")
    return prepare_run(
        datasets.corpus,
        experiment,
        lambda spec, params, optimizer, clip: make_trainable(engine, spec, params, optimizer, clip, precision),
        datasets.get(experiment.data),
    )


def run_trial(
    datasets: Datasets,
    options: Mapping[str, Any],
    listener: TrialListener,
    clock: Callable[[], float] = time.perf_counter,
    rungs: bool = True,
) -> TrialOutcome:
    """Train with the options; no file is written.

    Args:
        datasets: of the corpus.
        options: of ``train``, by the names of recipes.
        listener: receives the progress.
        clock: seconds, for the limit of a trial and the reports of progress.
        rungs: whether the trial is validated at each rung and may be pruned there.

    Raises:
        PrunedError: the listener pruned the trial.
        DivergedError: loss or gradient became NaN or infinite, or the loss exploded.
        ConfigError: the options do not go together.
        CorpusError: the corpus has no validation part.
    """
    run = prepare_trial(datasets, options)
    validation = run.dataset.validation
    if validation is None:  # a token file has its own split
        raise CorpusError(f"{datasets.corpus.name}: has no validation part, which a search goes by; encode it with one")
    for message in dataset_warnings(run.dataset):
        listener.warn(message)
    watch = _RungValidation(run.trainable, validation, listener, clock, rungs)
    result = train(run.trainable, run.dataset.train, validation, run.experiment.training, [watch], clock)
    assert result.best is not None  # validated after the last step
    share = share_of_work(result.validation_count + watch.validation_count, result.count)
    cost = selecting_metric(run.trainable.spec.head).cost(result.best)
    return TrialOutcome(cost, result.steps, result.best_step, result.epochs, result.seconds, result.count_per_s, share)


class _RungValidation(TrainingObserver):
    """Observer that validates at each rung, in addition to the run itself, so that trials are compared at equal budgets."""

    def __init__(
        self,
        trainable: Trainable,
        validation: Batches,
        listener: TrialListener,
        clock: Callable[[], float],
        rungs: bool,
    ) -> None:
        self.trainable, self.validation, self.listener, self.clock = trainable, validation, listener, clock
        self.rungs, self.validation_count = rungs, 0  # the second counts validations at rungs only
        self._rung, self._best, self._reported = 0, math.inf, -math.inf

    def on_step(self, event: StepEvent) -> None:
        if self.clock() - self._reported >= PULSE_S:
            self._reported = self.clock()
            self.listener.pulse(event.done, event.step, event.loss)
        rung = int(event.done * RUNGS)
        if not (self.rungs and self._rung < rung < RUNGS):
            return
        self._rung = rung
        spec = self.trainable.spec
        metrics = evaluate(self.trainable.evaluate, spec, self.validation, self.trainable.dtype)
        self.validation_count += metrics.count
        check_finite(spec.head, metrics, event.step, event.grad_norm, event.learning_rate)
        self._best = min(self._best, selecting_metric(spec.head).cost(metrics))
        if not self.listener.wants_more(rung, self._best):
            raise PrunedError

    def on_validation(self, event: ValidationEvent, trainable: Trainable, result: TrainingResult) -> None:
        self._best = min(self._best, selecting_metric(trainable.spec.head).cost(event.metrics))
