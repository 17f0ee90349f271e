"""Studies: the loop that starts trials on worker processes and records their outcomes.

One process owns the study and asks Optuna; worker processes train. The sampler is seeded anew for each trial, by the study's
seed and the number of earlier trials, so that a study that was killed continues with the trials that it would have had. That
holds for one job, trials limited by steps or epochs, and the pruners "median" and "none": "hyperband" depends on the numbers
of trials, and a trial that was killed keeps its number.

Sources: sampler, J. Bergstra et al., "Algorithms for Hyper-Parameter Optimization" (2011); pruners, D. Golovin et al.,
"Google Vizier" (2017), section 3.2 (median), and L. Li et al., "Hyperband" (2018).
"""

from __future__ import annotations

import queue
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unrolled.engine.data.corpus import Corpus
from unrolled.engine.data.token_files import EncodedCorpus
from unrolled.engine.errors import UnrolledError
from unrolled.engine.processes.messages import Message
from unrolled.engine.processes.worker import Delivery, WorkerDiedError, WorkerError, WorkerProcess
from unrolled.engine.signals import StopRequest
from unrolled.tuning.outcomes import FAILED, FATAL, REFUSED, StudyResult, Trial, ranked
from unrolled.tuning.plan import PRUNERS, STARTUP, Plan, threads_of
from unrolled.tuning.space import Numbers, usual_values
from unrolled.tuning.storage import OUTCOME, close_trial, counted, import_optuna, open_study, quiet
from unrolled.tuning.trial_process import TrialProcess, pack_corpus

# So many failures in a row, before any trial succeeded, end the study. Settings that do not go together are part of a mixed
# space, and the sampler needs some trials to learn to avoid them; a process that fails will fail again.
IN_A_ROW = {FAILED: 3, REFUSED: 20}
POLL_S = 0.1  # seconds between two polls for Ctrl-C


class StudyError(UnrolledError):
    """A study cannot continue; the trials that it has are kept."""


class StudyObserver:
    """Observer of a study; its methods do nothing, and a subclass overrides some of them."""

    def on_begin(self, trials: list[Trial]) -> None:
        """Receive the trials that an earlier process finished."""

    def on_start(self, trial: Trial) -> None:
        """Receive a trial before its first step."""

    def on_pulse(self, trial: Trial, done: float, step: int) -> None:
        """Receive the progress of a running trial; ``done`` is the share of its budget."""

    def on_rung(self, trial: Trial) -> None:
        """Receive a running trial with a new validation loss."""

    def on_end(self, trial: Trial) -> None:
        """Receive a trial that ended."""

    def on_warning(self, message: str) -> None:
        """Receive a warning about the data by whose loss trials are compared; each message comes once."""


def run_study(
    corpus: Corpus | EncodedCorpus,
    sources: list[str],
    plan: Plan,
    folder: Path,
    resume: bool = False,
    observer: StudyObserver | None = None,
    overwrite: bool = False,
) -> StudyResult:
    """Run trials until all are done, the time is up, or Ctrl-C is pressed; the folder is updated after each.

    Args:
        corpus: training and validation text.
        sources: the corpus's files; each worker process opens a token file by itself.
        plan: the space and the limits.
        folder: of the study.
        resume: continue the study in the folder.
        observer: receives each trial.
        overwrite: replace the study in the folder when the new one starts.

    Raises:
        ConfigError: the folder holds another study, or this one without ``resume`` or ``overwrite``.
        MissingDependencyError: Optuna or the engine's library is not installed.
        StudyError: no trial can succeed; the message has the reason.
    """
    optuna = import_optuna()
    with quiet(), open_study(folder, plan.settings(corpus), resume, overwrite) as study:
        loop = StudyLoop(optuna, study, plan, pack_corpus(corpus, sources), observer or StudyObserver())
        with StopRequest() as stop:
            try:
                loop.run(stop)
            except KeyboardInterrupt:
                loop.interrupted = True
            finally:
                loop.stop()
        return StudyResult(ranked(loop.trials()), loop.interrupted)


class StudyLoop:
    """A study at work: its trials, worker processes and failures."""

    def __init__(self, optuna: Any, study: Any, plan: Plan, corpus: Mapping[str, Any], observer: StudyObserver) -> None:
        self.optuna, self.study, self.plan, self.corpus, self.observer = optuna, study, plan, corpus, observer
        self.study.pruner = PRUNERS[plan.pruner](optuna)
        self.distributions = {name: _distribution(optuna, domain) for name, domain in plan.space.items()}
        self.inbox: queue.Queue[Delivery] = queue.Queue()
        self.workers: list[TrialProcess] = []
        self.running: dict[WorkerProcess, Any] = {}  # Optuna's trials
        self.interrupted = False
        self.failures: Counter[str] = Counter()  # by state, since the last trial that trained
        self.warned: set[str] = set()
        self.started = time.monotonic()

    def run(self, stop: StopRequest) -> None:
        """Start trials and receive their messages until none is left.

        Raises:
            KeyboardInterrupt: a stop was requested.
            StudyError: no trial can succeed.
        """
        self.observer.on_begin(self.trials())
        while True:
            while len(self.running) < self.plan.jobs and self._may_start():
                self._start()
            if not self.running:
                return
            try:
                delivery = self.inbox.get(timeout=POLL_S)
            except queue.Empty:
                delivery = None
            if stop.received:
                raise KeyboardInterrupt
            if delivery is not None and delivery.worker in self.running:
                self._receive(*delivery)

    def trials(self) -> list[Trial]:
        """Return all trials except those that were killed."""
        return [_view(trial) for trial in counted(self.study)]

    def _may_start(self) -> bool:
        if self.plan.minutes is not None and time.monotonic() - self.started >= 60 * self.plan.minutes:
            return False
        return len(counted(self.study)) < self.plan.trials

    def _start(self) -> None:
        place = len(counted(self.study))
        self.study.sampler = self._sampler(place)
        trial = self.study.ask(self.distributions)
        worker = self._free_worker()
        self.running[worker] = trial
        self.observer.on_start(self._current(trial))
        rungs = self.plan.pruner != "none"  # without a pruner the losses at rungs are not needed
        worker.send({"options": self.plan.options_of(trial.params), "lanes": self.plan.lanes, "rungs": rungs})

    def _sampler(self, place: int) -> Any:
        """Return the sampler of the trial at a place; the first trial has the usual settings, for a comparison."""
        seed = int(np.random.SeedSequence((self.plan.options.get("seed", 0), place)).generate_state(1)[0])
        sampler = self.optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP, constant_liar=True)
        usual = usual_values(self.plan.space, self.plan.options) if place == 0 else None
        return self.optuna.samplers.PartialFixedSampler(usual, sampler) if usual else sampler

    def _free_worker(self) -> TrialProcess:
        for worker in self.workers:
            if worker.alive and worker not in self.running:
                return worker
        for worker in [worker for worker in self.workers if not worker.alive]:
            self.workers.remove(worker)
            worker.stop()
        self.workers.append(TrialProcess(self.corpus, threads_of(self.plan.jobs), self.inbox))
        return self.workers[-1]

    def _receive(self, worker: WorkerProcess, values: Message | WorkerError) -> None:
        trial = self.running[worker]
        if isinstance(values, WorkerError):
            worker.stop()  # a process that still runs may answer the failed trial after the next one has started
            self._end(worker, {"state": FAILED, "message": _reason(values)})
        elif values["kind"] == "pulse":
            self.observer.on_pulse(self._current(trial), values["done"], values["step"])
        elif values["kind"] == "warning":
            if values["message"] not in self.warned:
                self.warned.add(values["message"])
                self.observer.on_warning(values["message"])
        elif values["kind"] == "rung":
            trial.report(values["loss"], values["rung"])
            more = not trial.should_prune()
            worker.send({"more": more})
            if more:
                self.observer.on_rung(self._current(trial))
        else:
            self._end(worker, {name: value for name, value in values.items() if name != "kind"})

    def _end(self, worker: WorkerProcess, outcome: dict[str, Any]) -> None:
        trial = self.running.pop(worker)
        if outcome["state"] == FATAL:
            close_trial(self.optuna, self.study, trial.number, None)
            raise StudyError(outcome["message"])
        trial.set_user_attr(OUTCOME, outcome)  # first: if the process is killed in between, the next start reads it
        close_trial(self.optuna, self.study, trial.number, outcome)
        self.observer.on_end(self._current(trial))
        self._count(outcome)

    def _count(self, outcome: dict[str, Any]) -> None:
        """Count failures in a row; raise StudyError if there are too many and no trial succeeded."""
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

    def _current(self, trial: Any) -> Trial:
        """Return one of Optuna's trials with its newest values."""
        return _view(self.study.get_trials(deepcopy=False)[trial.number])

    def stop(self) -> None:
        """End the worker processes; running trials get no outcome and do not count."""
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
    state, losses = outcome.pop("state", "running"), trial.intermediate_values
    loss = outcome.pop("loss", min(losses.values(), default=None))
    return Trial(trial.number, state, loss, dict(trial.params), max(losses, default=0), outcome)


def _reason(error: WorkerError) -> str:
    """Return why a trial's process failed; the last line is of no use if a signal ended the process."""
    if not isinstance(error, WorkerDiedError):
        return str(error)
    line = f": {error.last_line}" if error.last_line and error.code > 0 else ""
    return f"the process ended with code {error.code}{line}"
