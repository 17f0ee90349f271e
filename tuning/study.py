"""The study: which trials run, on which workers, and what becomes of them.

One process holds the study and asks Optuna; workers train. The sampler is seeded anew for each trial, by the study's seed
and the number of trials before, so that a study that was killed goes on as it would have gone. That holds for one job, trials
limited by steps or epochs, and the pruners "median" and "none": "hyperband" goes by the numbers of trials, and one that was
killed keeps its own.

Sources: sampler, J. Bergstra et al., "Algorithms for Hyper-Parameter Optimization" (2011); pruners, D. Golovin et al.,
"Google Vizier" (2017), section 3.2 (median), and L. Li et al., "Hyperband" (2018).
"""

from __future__ import annotations

import queue
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unrolled.engine.canonical import canonical
from unrolled.engine.checks import check_choice
from unrolled.engine.data.corpus import Corpus
from unrolled.engine.data.splits import DEFAULT_SPLIT
from unrolled.engine.data.token_files import EncodedCorpus
from unrolled.engine.errors import ConfigError, UnrolledError
from unrolled.engine.runs.recipe import experiment_of, with_limit
from unrolled.engine.signals import StopRequest
from unrolled.engine.storage.json_text import finite
from unrolled.export.training_engines import TRAINABLES
from unrolled.tuning.space import Numbers, Space, check_space, usual_values
from unrolled.tuning.storage import OUTCOME, close_trial, counted, import_optuna, open_study, quiet
from unrolled.tuning.trial import RUNGS
from unrolled.tuning.worker import FAILED, FATAL, REFUSED, pack_corpus
from unrolled.tuning.workers import Message, Worker, threads_of

STARTUP = 5  # trials before the sampler has something to go by, and before any is given up
FIRST_RUNG = 2  # at which one may be
# So many in a row, before anything succeeded, end the study. Settings that do not go together are part of a mixed space, and
# the sampler needs some trials to keep away from them; a process that fails will fail again.
IN_A_ROW = {FAILED: 3, REFUSED: 20}
PRUNERS: dict[str, Callable[[Any], Any]] = {
    "median": lambda optuna: optuna.pruners.MedianPruner(n_startup_trials=STARTUP - 1, n_warmup_steps=FIRST_RUNG),
    "hyperband": lambda optuna: optuna.pruners.HyperbandPruner(min_resource=1, max_resource=RUNGS, reduction_factor=3),
    "none": lambda optuna: optuna.pruners.NopPruner(),
}


class StudyError(UnrolledError):
    """A study cannot go on; what it has so far is kept."""


@dataclass(frozen=True)
class Plan:
    """What a study does.

    Args:
        options: of ``train``, all that are fixed, by the names of recipes.
        space: what is searched in their place.
        trials: how many there are to be in all, earlier ones of the folder included.
        minutes: after which no trial begins; those that run are finished.
        jobs: trials at a time, each in a process with its share of the cores.
        pruner: a key of ``PRUNERS``.
    """

    options: Mapping[str, Any]
    space: Space
    trials: int = 20
    minutes: float | None = None
    jobs: int = 1
    pruner: str = "median"

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", with_limit(self.options))
        check_choice("pruner", self.pruner, PRUNERS)
        check_choice("engine", self.options.get("engine", "numba"), TRAINABLES)
        if self.trials < 1:
            raise ConfigError(f"trials: got {self.trials}, needs at least 1")
        if self.minutes is not None and not self.minutes > 0:
            raise ConfigError(f"minutes: got {self.minutes}, needs a number above 0")
        threads_of(self.jobs)
        check_space(self.space, self.options)
        split = self.options.get("split", DEFAULT_SPLIT)
        # alone, because the other options need not go together without those that are searched
        if not experiment_of({"split": split}).data.split[1]:
            raise ConfigError(f"split: got {split}; a search goes by the loss on a validation part")

    @property
    def lanes(self) -> int | None:
        """Rows of the validation's batches where batch sizes differ; fewer lanes begin less often from nothing."""
        domain = self.space.get("batch")
        return None if domain is None else min(int(value) for value in domain.extremes if value is not None)

    def options_of(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """All options of a trial, what is unset left out, as a recipe has them."""
        return {name: value for name, value in {**self.options, **params}.items() if value is not None}

    def settings(self, corpus: Corpus | EncodedCorpus) -> dict[str, Any]:
        """All that decides what the trials are, for the folder."""
        fixed = canonical(Plan, {name: value for name, value in self.options.items() if name not in self.space})
        named = {"name": corpus.name, "characters": corpus.characters, "sha256": corpus.digest}
        space = {name: f"{name}={domain}" for name, domain in self.space.items()}
        return finite({"corpus": named, "options": fixed, "search": space, "study": {"pruner": self.pruner}})


@dataclass(frozen=True)
class Trial:
    """A trial as it stands.

    ``state`` is "running", "complete", "pruned" (given up), "diverged", "refused" (settings that do not go together) or
    "failed"; ``loss`` is the lowest validation loss that was seen, None where there was none.
    """

    number: int
    state: str
    loss: float | None
    params: dict[str, Any]
    rung: int = 0
    outcome: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        values = asdict(self)
        return {**values, **values.pop("outcome")}


class StudyObserver:
    """Watches a study; override what is of interest."""

    def on_begin(self, trials: list[Trial]) -> None:
        """The trials that are there already."""

    def on_start(self, trial: Trial) -> None: ...

    def on_pulse(self, trial: Trial, done: float, step: int) -> None:
        """A sign of life; ``done`` is the share of the trial's budget."""

    def on_rung(self, trial: Trial) -> None:
        """A running trial has a validation loss."""

    def on_end(self, trial: Trial) -> None: ...

    def on_warning(self, message: str) -> None:
        """What people should know of the data that trials are held against each other on; each message once."""


@dataclass(frozen=True)
class StudyResult:
    """What a study came to, best first."""

    trials: list[Trial]
    interrupted: bool

    @property
    def best(self) -> Trial | None:
        return self.trials[0] if self.trials and self.trials[0].state == "complete" else None


def ranked(trials: list[Trial]) -> list[Trial]:
    """Complete ones by their loss, then those that were given up, those that came furthest first, then the others."""

    def place(trial: Trial) -> tuple[float, ...]:
        loss = float("inf") if trial.loss is None else trial.loss
        order = {"complete": 0, "pruned": 1}.get(trial.state, 2)
        return order, -trial.rung if order else 0, loss, trial.number

    return sorted(trials, key=place)


def run_study(
    corpus: Corpus | EncodedCorpus,
    sources: list[str],
    plan: Plan,
    folder: Path,
    resume: bool = False,
    observer: StudyObserver | None = None,
    overwrite: bool = False,
) -> StudyResult:
    """Search, until the trials are there, the time is over, or Ctrl-C is pressed; the folder has them one by one.

    Args:
        corpus: what is trained on.
        sources: the corpus's files, of which a token file is opened by each worker.
        plan: what is searched, and how long.
        folder: of the study.
        resume: go on with the study that is there.
        observer: is told of each trial.
        overwrite: replace the study that is there, when the new one begins.

    Raises:
        ConfigError: the folder holds another study, or this one and neither ``resume`` nor ``overwrite`` is said.
        MissingDependencyError: Optuna or the engine's library is not installed.
        StudyError: no trial can succeed; says why.
    """
    optuna = import_optuna()
    with quiet(), open_study(folder, plan.settings(corpus), resume, overwrite) as study:
        loop = _Loop(optuna, study, plan, pack_corpus(corpus, sources), observer or StudyObserver())
        with StopRequest() as stop:
            try:
                loop.run(stop)
            except KeyboardInterrupt:
                loop.interrupted = True
            finally:
                loop.stop()
        return StudyResult(ranked(loop.trials()), loop.interrupted)


class _Loop:
    def __init__(self, optuna: Any, study: Any, plan: Plan, corpus: Mapping[str, Any], observer: StudyObserver) -> None:
        self.optuna, self.study, self.plan, self.corpus, self.observer = optuna, study, plan, corpus, observer
        self.study.pruner = PRUNERS[plan.pruner](optuna)
        self.distributions = {name: _distribution(optuna, domain) for name, domain in plan.space.items()}
        self.inbox: queue.Queue[Message] = queue.Queue()
        self.workers: list[Worker] = []
        self.running: dict[Worker, Any] = {}  # to Optuna's trials
        self.interrupted = False
        self.failures: Counter[str] = Counter()  # by state, since the last trial that could be trained
        self.warned: set[str] = set()
        self.begun = time.monotonic()

    def run(self, stop: StopRequest) -> None:
        self.observer.on_begin(self.trials())
        while True:
            while len(self.running) < self.plan.jobs and self._may_begin():
                self._begin()
            if not self.running:
                return
            try:
                message = self.inbox.get(timeout=0.1)
            except queue.Empty:
                message = None
            if stop.received:
                raise KeyboardInterrupt
            if message is not None and message.worker in self.running:
                self._hear(message.worker, message.values)

    def trials(self) -> list[Trial]:
        return [_view(trial) for trial in counted(self.study)]

    def _may_begin(self) -> bool:
        if self.plan.minutes is not None and time.monotonic() - self.begun >= 60 * self.plan.minutes:
            return False
        return len(counted(self.study)) < self.plan.trials

    def _begin(self) -> None:
        place = len(counted(self.study))
        self.study.sampler = self._sampler(place)
        trial = self.study.ask(self.distributions)
        worker = self._free_worker()
        self.running[worker] = trial
        self.observer.on_start(self._seen(trial))
        rungs = self.plan.pruner != "none"  # without a pruner nobody asks for the losses at rungs
        worker.send({"options": self.plan.options_of(trial.params), "lanes": self.plan.lanes, "rungs": rungs})

    def _sampler(self, place: int) -> Any:
        """The first trial has the settings that a training has without a search, for a comparison."""
        seed = int(np.random.SeedSequence((self.plan.options.get("seed", 0), place)).generate_state(1)[0])
        sampler = self.optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP, constant_liar=True)
        usual = usual_values(self.plan.space, self.plan.options) if place == 0 else None
        return self.optuna.samplers.PartialFixedSampler(usual, sampler) if usual else sampler

    def _free_worker(self) -> Worker:
        for worker in self.workers:
            if worker.alive and worker not in self.running:
                return worker
        for worker in [worker for worker in self.workers if not worker.alive]:
            self.workers.remove(worker)
            worker.stop()
        self.workers.append(Worker(self.corpus, threads_of(self.plan.jobs), self.inbox))
        return self.workers[-1]

    def _hear(self, worker: Worker, values: dict[str, Any]) -> None:
        trial = self.running[worker]
        if values["kind"] == "pulse":
            self.observer.on_pulse(self._seen(trial), values["done"], values["step"])
        elif values["kind"] == "warning":
            if values["message"] not in self.warned:
                self.warned.add(values["message"])
                self.observer.on_warning(values["message"])
        elif values["kind"] == "rung":
            trial.report(values["loss"], values["rung"])
            more = not trial.should_prune()
            worker.send({"more": more})
            if more:
                self.observer.on_rung(self._seen(trial))
        else:
            self._end(worker, {name: value for name, value in values.items() if name != "kind"})

    def _end(self, worker: Worker, outcome: dict[str, Any]) -> None:
        trial = self.running.pop(worker)
        if outcome["state"] == FATAL:
            close_trial(self.optuna, self.study, trial.number, None)
            raise StudyError(outcome["message"])
        trial.set_user_attr(OUTCOME, outcome)  # first: if a kill comes between, the next start reads it
        close_trial(self.optuna, self.study, trial.number, outcome)
        self.observer.on_end(self._seen(trial))
        self._count(outcome)

    def _count(self, outcome: dict[str, Any]) -> None:
        """End a study in which nothing works."""
        state = outcome["state"]
        if state not in IN_A_ROW:
            self.failures.clear()
            return
        self.failures[state] += 1
        if self.failures[state] < IN_A_ROW[state]:
            return
        if not any(t.state in ("complete", "pruned") for t in self.trials()):
            count = self.failures.total()
            raise StudyError(f"{count} trials in a row did not work, the last one: {outcome['message']}")

    def _seen(self, trial: Any) -> Trial:
        return _view(self.study.get_trials(deepcopy=False)[trial.number])

    def stop(self) -> None:
        """End the workers; trials that run become as if they had not been."""
        for worker in self.workers:
            worker.stop()
        for trial in self.running.values():
            close_trial(self.optuna, self.study, trial.number, None)
        self.running.clear()


def _distribution(optuna: Any, domain: Any) -> Any:
    kinds = optuna.distributions
    if not isinstance(domain, Numbers):
        return kinds.CategoricalDistribution(domain.values)
    made = kinds.IntDistribution if isinstance(domain.low, int) else kinds.FloatDistribution
    return made(domain.low, domain.high, log=domain.log)


def _view(trial: Any) -> Trial:
    outcome = dict(trial.user_attrs.get(OUTCOME, {}))
    state, seen = outcome.pop("state", "running"), trial.intermediate_values
    loss = outcome.pop("loss", min(seen.values(), default=None))
    return Trial(trial.number, state, loss, dict(trial.params), max(seen, default=0), outcome)
