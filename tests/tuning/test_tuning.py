"""Tests of studies: search space, trials, files on the disk, and the recipe of the best trial."""

from __future__ import annotations

import inspect
import json
import math
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from unrolled.cli.app import app, run
from unrolled.cli.options.groups import settings_of_verb
from unrolled.cli.options.training import TRAINING, TRAINING_OUTPUT
from unrolled.cli.verbs.lr_find import lr_find
from unrolled.cli.verbs.train import train
from unrolled.cli.verbs.tune import tune
from unrolled.engine.cores import usable_cores
from unrolled.engine.data.config import DataConfig
from unrolled.engine.data.corpus import Corpus
from unrolled.engine.data.readers.options import ReadOptions
from unrolled.engine.data.token_file_writer import encode_files
from unrolled.engine.data.token_files import read_encoded
from unrolled.engine.errors import ConfigError, CorpusError, ModelFileError
from unrolled.engine.optimizers.config import OPTIMIZERS
from unrolled.engine.processes.worker import Delivery, WorkerProcess
from unrolled.engine.runs.experiment import Experiment
from unrolled.engine.runs.recipe import TRAINING_SETTINGS, make_experiment
from unrolled.engine.settings import NotSearched, settings_of
from unrolled.engine.storage.checkpoint import load_checkpoint
from unrolled.engine.training.validation_budget import share_of_work
from unrolled.export.training_engines import TRAINABLES
from unrolled.tuning import study as studies
from unrolled.tuning import trial as trials
from unrolled.tuning.outcomes import StudyResult, Trial, ranked
from unrolled.tuning.plan import PRUNERS, Plan, threads_of
from unrolled.tuning.plots import draw_study
from unrolled.tuning.recipes import recipe_text, write_best
from unrolled.tuning.space import Choices, Numbers, check_space, parse_space, searchable, usual_values
from unrolled.tuning.storage import JOURNAL, OUTCOME, counted, open_study, quiet
from unrolled.tuning.study import StudyError, StudyLoop, StudyObserver, run_study
from unrolled.tuning.trial import Datasets, PrunedError, prepare_trial, run_trial

TEXT = "the quick brown fox jumps over the lazy dog; pack my box with five dozen jugs.\n" * 40
CORPUS = Corpus("fox.txt", TEXT)
BASE: dict[str, Any] = {
    "engine": "numpy", "hidden": 8, "embed": 6, "batch": 4, "length": 8, "steps": 10, "seed": 3,
}  # fmt: skip
FLAGS = tuple(part for name, value in BASE.items() for part in (f"--{name}", str(value)))


def plan(*searches: str, trials: int = 3, **options: Any) -> Plan:
    base = {**BASE, **options}
    return Plan(base, parse_space(searches, base), trials)


class Quiet:
    """Listener that lets every trial continue, and records its calls."""

    def __init__(self, until: int = 99) -> None:
        self.until, self.losses, self.warnings = until, {}, []  # type: ignore[var-annotated]

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def pulse(self, done: float, step: int, loss: float) -> None:
        assert 0 < done <= 1

    def wants_more(self, rung: int, loss: float) -> bool:
        self.losses[rung] = loss
        return rung < self.until


# The space


def test_ranges_and_choices_have_the_types_of_their_options() -> None:
    space = parse_space(
        ("lr=1e-4:1e-1:log", "--hidden=16:64", "output-dropout=0:0.5", "cell=lstm,gru", "clip-value=none,1", "tie=false,true"),
        {},
    )  # fmt: skip
    assert space == {
        "lr": Numbers(1e-4, 1e-1, log=True),
        "hidden": Numbers(16, 64),
        "output_dropout": Numbers(0.0, 0.5),
        "cell": Choices(("lstm", "gru")),
        "clip_value": Choices((None, 1.0)),
        "tie": Choices((False, True)),
    }
    hidden = space["hidden"]
    assert isinstance(hidden, Numbers)
    assert isinstance(hidden.low, int)
    again = parse_space([f"{name}={domain}" for name, domain in space.items()], {})
    assert again == space


def test_every_searchable_option_has_a_usual_range_that_works_somewhere() -> None:
    reasons = {
        name: definition.setting.search.what
        for name, definition in TRAINING_SETTINGS.definitions.items()
        if isinstance(definition.setting.search, NotSearched)
    }
    assert {*searchable(), *reasons} == set(TRAINING_SETTINGS.definitions)
    assert all(reasons.values())
    companions = {
        "init_scale": {"init": "uniform"},
        "dropout": {"layers": 2},
        "tie": {"hidden": 128},
        "momentum": {"optimizer": "sgd"},
        "alpha": {"optimizer": "rmsprop"},
    }
    for name in searchable():
        options = {"steps": 1, **companions.get(name, {})}
        check_space(parse_space([name], options), options)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_usual_learning_rates_are_around_the_optimisers(optimizer: str) -> None:
    rates = parse_space([], {"optimizer": optimizer})["lr"]
    assert isinstance(rates, Numbers)
    assert rates.low < OPTIMIZERS[optimizer].default_learning_rate < rates.high
    both = parse_space(["lr", "optimizer=sgd,adam"], {})["lr"]
    assert isinstance(both, Numbers)
    assert (both.low, both.high) == (pytest.approx(2e-4), pytest.approx(10.0))


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("hiden=1:2", "'hiden' is no setting; there are cell"),
        ("level=char,word", "level is not searched: losses a token of two vocabularies do not compare"),
        ("steps=1:2", "steps is not searched"),
        ("lr=1", "needs two different values or more"),
        ("lr=1,1", "needs two different values or more"),
        ("lr=0:1:log", "log needs numbers above 0"),
        ("lr=2:1", "the first number must be below the second"),
        ("lr=1:2:lin", "needs LOW:HIGH or LOW:HIGH:log"),
        ("lr=1:inf", "needs a finite number"),
        ("lr=a:b", "got 'a', needs a number"),
        ("hidden=1.5:3", r"got '1\.5', needs a whole number"),
        ("hidden=none,3", "got 'none', needs a whole number"),
        ("cell=1:2", "takes choices, for instance cell=rnn"),
        ("tie=yes,no", "got 'yes', needs true or false"),
        ("=1:2", "'' is no setting"),
        ("init-scale=2:1", "search: init-scale=2:1: the first number must be below the second"),
        ("init_scale=1", "search: init-scale=1: needs two different values or more"),
        ("sum-over-time=1:2", "search: sum-over-time=1:2: takes choices, for instance sum-over-time=false,true"),
        ("sum-over-time=yes,no", "search: sum-over-time: got 'yes', needs true or false"),
        ("weight-decay=0:x", "search: weight-decay: got 'x', needs a number"),
    ],
)
def test_what_cannot_be_searched_is_said(search: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_space([search], {})


def test_two_of_a_name_and_records_of_two_lengths_are_refused() -> None:
    with pytest.raises(ConfigError, match="lr is given twice"):
        parse_space(["lr", "lr=1:2"], {})
    with pytest.raises(ConfigError, match="clip-value is given twice"):
        parse_space(["clip-value", "clip_value=1:2"], {})
    with pytest.raises(ConfigError, match="length cuts records"):
        parse_space(["length"], {"batching": "records"})


def test_a_value_that_never_works_is_an_error_before_the_study() -> None:
    with pytest.raises(ConfigError, match=r"search: dropout=0.5 never works: dropout: 0.5 acts between layers"):
        plan("dropout=0:0.5")
    plan("dropout=0:0.5", "layers=1,2")  # works with two
    with pytest.raises(ConfigError, match="cell=lstn never works"):
        plan("cell=gru,lstn")
    with pytest.raises(ConfigError, match="goes by the loss on a validation part"):
        plan("lr", split="0.9,0,0.1")
    with pytest.raises(ConfigError, match="split: got 'a,b', needs three fractions"):
        plan("lr", split="a,b")
    with pytest.raises(ConfigError, match="trials: got 0"):
        plan("lr", trials=0)
    with pytest.raises(ConfigError, match="pruner: got 'x', choose one of median"):
        Plan(BASE, parse_space(["lr"], BASE), pruner="x")


@pytest.mark.parametrize(
    "searches", [("optimizer=adam,sgd", "momentum=0.9,0"), ("optimizer=sgd,adam", "momentum=0,0.9")]
)
def test_the_order_of_choices_makes_no_space_invalid(searches: tuple[str, ...]) -> None:
    assert set(plan(*searches).space) == {"optimizer", "momentum"}


def test_fixed_options_may_need_those_that_are_searched() -> None:
    a_plan = plan("init=uniform,xavier", "lr", init_scale=0.1)  # the usual initial weights have no scale
    assert usual_values(a_plan.space, a_plan.options) is None
    a_plan = plan("lr", optimizer="sgd")
    assert usual_values(a_plan.space, a_plan.options) == {"lr": OPTIMIZERS["sgd"].default_learning_rate}


# Options


def test_options_make_the_experiment_and_nothing_else_does() -> None:
    assert make_experiment({}) == make_experiment({"epochs": 10, "output": "x", "json": True})
    made = make_experiment(
        {"hidden": 7, "lr": 0.5, "split": "0.8,0.1,0.1", "clip": 0, "seed": 4, "decay_after": 3, "init": "xavier"}
    )
    assert (made.model.hidden_size, made.optimizer.learning_rate, made.clip_norm) == (7, 0.5, None)
    assert (made.data.split, made.data.seed, made.training.seed) == ((0.8, 0.1, 0.1), 4, 4)
    assert (made.training.decay.after, made.initial.kind, made.training.epochs) == (3, "xavier", 10)
    assert make_experiment({"steps": 5}).training.epochs is None


def test_kinds_of_options_are_those_of_the_fields() -> None:
    names = ("hidden", "lr", "tie", "cell", "clip", "forget_bias", "split")
    found = {name: TRAINING_SETTINGS.definitions[name] for name in names}
    assert {name: (definition.kind, definition.can_be_unset) for name, definition in found.items()} == {
        "hidden": (int, False),
        "lr": (float, True),
        "tie": (bool, False),
        "cell": (str, False),
        "clip": (float, False),
        "forget_bias": (float, True),
        "split": (str, False),
    }


# Trials


@pytest.mark.parametrize("engine", TRAINABLES)
def test_a_trial_is_what_train_would_do_and_is_watched_at_each_rung(engine: str, tmp_path: Path) -> None:
    if engine == "torch":
        pytest.importorskip("torch", reason="the torch extra is not installed")
    options = {**BASE, "engine": engine, "steps": 20, "output_dropout": 0.1}
    listener = Quiet()
    outcome = run_trial(Datasets(CORPUS), options, listener)
    result = prepare_trial(Datasets(CORPUS), options).run(tmp_path / "run")
    assert result.best is not None
    assert outcome.loss == result.best.loss  # bit for bit: validating at rungs changes nothing
    assert (outcome.steps, outcome.best_step) == (20, result.best_step)
    assert list(listener.losses) == list(range(1, 10))
    assert all(math.isfinite(loss) for loss in listener.losses.values())
    assert sorted(listener.losses.values(), reverse=True) == list(listener.losses.values())


def test_a_trial_counts_its_validations_and_without_rungs_has_none_but_its_own(tmp_path: Path) -> None:
    options = {**BASE, "steps": 20}
    run = prepare_trial(Datasets(CORPUS), options)
    assert run.dataset.validation is not None
    result, size = run.run(tmp_path / "run"), run.dataset.validation.tokens_per_epoch
    watched, alone = Quiet(), Quiet()
    at_rungs = run_trial(Datasets(CORPUS), options, watched)
    outcome = run_trial(Datasets(CORPUS), options, alone, rungs=False)
    assert (len(watched.losses), alone.losses) == (9, {})
    assert (outcome.loss, outcome.best_step) == (at_rungs.loss, at_rungs.best_step)
    assert outcome.validation_share == result.validation_share
    assert at_rungs.validation_share == share_of_work(result.validation_count + 9 * size, result.count)


def test_a_trial_that_is_not_wanted_ends_at_that_rung() -> None:
    listener = Quiet(until=4)
    with pytest.raises(PrunedError):
        run_trial(Datasets(CORPUS), BASE, listener)
    assert list(listener.losses) == [1, 2, 3, 4]


def test_a_corpus_is_encoded_once_for_all_batch_sizes_and_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = trials.make_dataset
    monkeypatch.setattr(trials, "make_dataset", lambda *given: calls.append(1) or original(*given))
    datasets = Datasets(CORPUS, lanes=2)
    for batch, length in ((4, 8), (8, 8), (3, 16)):
        experiment = make_experiment({**BASE, "batch": batch, "length": length})
        made = datasets.get(experiment.data)
        assert next(made.train.epoch(None)).targets.shape == (length, batch)
        assert made.validation is not None
        assert next(made.validation.epoch(None)).batch_size == 2
    assert len(calls) == 1


def test_a_trial_warns_of_a_small_validation_part() -> None:
    listener = Quiet()
    run_trial(Datasets(CORPUS), {**BASE, "split": "0.9,0.1,0"}, listener)
    assert [message.partition(":")[0] for message in listener.warnings] == ["validation on 312 tokens says little"]
    run_trial(Datasets(CORPUS), {**BASE, "split": "0.6,0.4,0"}, listener)
    assert len(listener.warnings) == 1


# The study


def search(folder: Path, a_plan: Plan, resume: bool = False, observer: StudyObserver | None = None) -> StudyResult:
    pytest.importorskip("optuna", reason="the tune extra is not installed")
    return run_study(CORPUS, [], a_plan, folder, resume, observer)


def figures(result: StudyResult) -> list[tuple[Any, ...]]:
    return [(t.state, t.loss, tuple(t.params.items())) for t in result.trials]


class Stop(StudyObserver):
    """Observer that raises at the start of a trial, at a rung or at an end, in place of a kill."""

    def __init__(self, at: str, number: int) -> None:
        self.at, self.number = at, number

    def _look(self, at: str, trial: Trial) -> None:
        if (self.at, self.number) == (at, trial.number):
            raise RuntimeError("killed")

    def on_start(self, trial: Trial) -> None:
        self._look("start", trial)

    def on_rung(self, trial: Trial) -> None:
        self._look("rung", trial)

    def on_end(self, trial: Trial) -> None:
        self._look("end", trial)


class Warned(StudyObserver):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def on_warning(self, message: str) -> None:
        self.messages.append(message)


def test_a_study_warns_once_of_a_small_validation_part(tmp_path: Path) -> None:
    observer = Warned()
    search(tmp_path / "study", plan("lr", trials=3, split="0.9,0.1,0"), observer=observer)
    assert len(observer.messages) == 1
    assert "says little" in observer.messages[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyResult]:
    folder = tmp_path_factory.mktemp("studies") / "whole"
    return folder, search(folder, plan("lr", "batch=2,4", trials=7))


def test_a_study_ranks_its_trials_and_starts_with_the_given_settings(whole: tuple[Path, StudyResult]) -> None:
    result = whole[1]
    assert len(result.trials) == 7
    assert result.best is not None
    complete = [t.loss for t in result.trials if t.state == "complete" and t.loss is not None]
    assert complete == sorted(complete)
    first = next(t for t in result.trials if t.number == 0)
    assert first.params == {"lr": OPTIMIZERS["adam"].default_learning_rate, "batch": 4}
    options = {**BASE, **result.best.params}
    assert run_trial(Datasets(CORPUS, lanes=2), options, Quiet()).loss == result.best.loss


@pytest.mark.parametrize(("at", "number"), [("start", 0), ("rung", 2), ("end", 5)])
def test_a_study_that_stopped_continues_as_if_it_had_not(
    at: str, number: int, whole: tuple[Path, StudyResult], tmp_path: Path
) -> None:
    a_plan = plan("lr", "batch=2,4", trials=7)
    with pytest.raises(RuntimeError, match="killed"):
        search(tmp_path / "s", a_plan, observer=Stop(at, number))
    with open(tmp_path / "s" / JOURNAL, "ab") as journal:
        journal.write(b'{"op_code":9,"half a li')  # left by a kill in the middle of a write
    resumed = search(tmp_path / "s", a_plan, resume=True)
    assert figures(resumed) == figures(whole[1])


def test_more_trials_are_added_and_none_is_run_again(whole: tuple[Path, StudyResult], tmp_path: Path) -> None:
    search(tmp_path / "s", plan("lr", "batch=2,4", trials=2))
    more = search(tmp_path / "s", plan("lr", "batch=2,4", trials=7), resume=True)
    assert figures(more) == figures(whole[1])
    again = search(tmp_path / "s", plan("lr", "batch=2,4", trials=7), resume=True, observer=Stop("start", 7))
    assert figures(again) == figures(more)


def test_a_study_records_a_normal_form_where_release_0_1_0_had_none() -> None:
    """A study of words that 0.1.0 began does not go on with another vocabulary, whose losses do not compare."""
    corpus = Corpus("fox.txt", TEXT)
    recorded = [
        plan("lr", level=level, normalize=form).settings(corpus)["options"].get("normalize")
        for level, form in (("char", None), ("char", "NFD"), ("word", "none"), ("word", None), ("whitespace", None))
    ]
    assert recorded == [None, "NFD", None, "NFC", "NFC"]


def test_another_study_in_the_folder_is_an_error_that_names_the_difference(whole: tuple[Path, StudyResult]) -> None:
    folder = whole[0]
    with pytest.raises(
        ConfigError,
        match=r"holds a study already \(study\.log.*\); name another folder, go on with it by --resume, or say --overwrite",
    ):
        search(folder, plan("lr", "batch=2,4"))
    for other, message in (
        (plan("lr", "batch=2,4", hidden=9), r"a study goes on .* hidden was 8, now 9"),
        (plan("lr=0.1:1", "batch=2,4"), r"lr was lr=0.0002:0.04:log, now lr=0.1:1"),
        (plan("lr"), r"batch was batch=2,4, now None"),
        (plan("lr", "batch=2,4", normalize="NFC"), r"normalize was None, now NFC"),
        (plan("lr", "batch=2,4", steps=11), r"steps was 10, now 11"),
    ):
        with pytest.raises(ConfigError, match=message):
            search(folder, other, resume=True)
    with pytest.raises(ConfigError, match="the corpus is not the one that the study began with: fox"):
        run_study(Corpus("fox.txt", TEXT + "!"), [], plan("lr", "batch=2,4"), folder, True)


def test_a_damaged_journal_is_said(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_bytes(b"no journal\n")
    with pytest.raises(ModelFileError, match="damaged, or no study"):
        search(tmp_path, plan("lr"), resume=True)
    assert (tmp_path / JOURNAL).read_bytes() == b"no journal\n"


def test_an_outcome_that_was_written_before_a_kill_counts(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="the tune extra is not installed")
    with quiet(), open_study(tmp_path / "s", {}, False) as study:
        study.ask()
        study.ask().set_user_attr(OUTCOME, {"state": "complete", "loss": 1.5})
    with quiet(), open_study(tmp_path / "s", {}, True) as study:
        (trial,) = counted(study)
        assert (trial.number, trial.value, trial.state.name) == (1, 1.5, "COMPLETE")
        assert len(study.get_trials()) == 2


def test_a_diverged_or_refused_trial_does_not_end_the_study(tmp_path: Path) -> None:
    a_plan = plan("lr=1e38,1e-3", "layers=1,2", "dropout=0,0.3", trials=8, optimizer="sgd", clip=0, steps=4)
    result = search(tmp_path / "s", a_plan)
    states = {t.state for t in result.trials}
    assert {"complete", "diverged", "refused"} <= states
    assert result.best is not None
    assert result.best.params["lr"] == 1e-3
    for trial in result.trials:
        if trial.state == "diverged":
            assert "lower learning rate" in trial.outcome["message"]


def test_a_study_in_which_no_trial_works_ends_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"20 trials in a row did not work, the last one: forget_bias"):
        search(tmp_path / "s", plan("lr", trials=99, cell="gru", forget_bias=1.0))
    tiny = Corpus("t.txt", "ab")
    with pytest.raises(StudyError, match=r"t.txt: too little text"):
        run_study(tiny, [], plan("lr"), tmp_path / "t")


class Scripted:
    """Worker whose trials end with the states of a script, without training."""

    alive, script = True, iter(())  # type: ignore[var-annotated]

    def __init__(self, corpus: Any, threads: int | None, inbox: Any) -> None:
        self.inbox = inbox

    def send(self, message: Any) -> None:
        state, loss = next(self.script), {"loss": 1.0}
        end = loss if state == "complete" else {"message": f"it {state}"}
        self.inbox.put(Delivery(self, {"kind": "end", "state": state, **end}))  # type: ignore[arg-type]

    def stop(self) -> None: ...


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("refused " * 19 + "complete", None),  # a mixed space
        ("refused " * 20, "20 trials in a row did not work, the last one: it refused"),
        ("failed failed diverged failed failed", None),
        ("refused failed failed refused failed", "5 trials in a row did not work, the last one: it failed"),
        ("complete failed failed failed failed", None),
    ],
)
def test_refused_trials_have_more_patience_than_failed_ones(
    script: str, message: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = script.split()
    monkeypatch.setattr(studies, "TrialProcess", Scripted)
    monkeypatch.setattr(Scripted, "script", iter(states))
    if message is None:
        result = search(tmp_path / "s", plan("lr", trials=len(states)))
        assert sorted(t.state for t in result.trials) == sorted(states)
    else:
        with pytest.raises(StudyError, match=message):
            search(tmp_path / "s", plan("lr", trials=99))


def test_a_token_file_without_a_validation_part_is_an_error(fox: str, tmp_path: Path) -> None:
    tokens = tmp_path / "fox.tokens"
    encode_files([fox], tokens, DataConfig(split=(1.0, 0.0, 0.0)))
    with pytest.raises(CorpusError, match=r"fox\.txt: has no validation part, .*; encode it with one"):
        run_trial(Datasets(read_encoded(tokens)), BASE, Quiet())
    with pytest.raises(StudyError, match="has no validation part"):
        run_command(str(tokens), *FLAGS, "-o", str(tmp_path / "s"))


def test_a_worker_that_dies_is_a_failed_trial(tmp_path: Path) -> None:
    class Killer(StudyObserver):
        def on_start(self, trial: Trial) -> None:
            if trial.number == 1:
                workers = next(iter(loops))
                workers.workers[0]._process.kill()

    loops: list[Any] = []
    begin = StudyLoop.run

    def run(loop: Any, stop: Any) -> None:
        loops.append(loop)
        begin(loop, stop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StudyLoop, "run", run)
        result = search(tmp_path / "s", plan("lr", trials=3), observer=Killer())
    assert sorted(t.state for t in result.trials) == ["complete", "complete", "failed"]
    failed = next(t for t in result.trials if t.state == "failed")
    assert "ended with code" in failed.outcome["message"]


# The first process answers a trial with a line that is no message and a late end; the others end their trials at once.
GARBAGE = """
import json, pathlib, sys
mark = pathlib.Path(sys.argv[1])
first = not mark.exists()
mark.touch()
sys.stdin.readline()  # the corpus
for _ in sys.stdin:
    lines = ["garbage", json.dumps({"kind": "end", "state": "complete", "loss": 7.0})] if first else [
        json.dumps({"kind": "end", "state": "complete", "loss": 1.0})]
    print("\\n".join(lines), flush=True)
"""


def test_a_process_that_answers_garbage_gets_no_further_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def process(corpus: Any, threads: int | None, inbox: Any) -> WorkerProcess:
        made = WorkerProcess([sys.executable, "-c", GARBAGE, str(tmp_path / "mark")], threads, inbox)
        made.send(corpus)
        return made

    monkeypatch.setattr(studies, "TrialProcess", process)
    trials = sorted(search(tmp_path / "s", plan("lr", trials=3)).trials, key=lambda trial: trial.number)
    assert [(trial.state, trial.loss) for trial in trials] == [("failed", None), ("complete", 1.0), ("complete", 1.0)]
    assert trials[0].outcome["message"].startswith("the process answered 'garbage', which is not a message")


def test_worse_trials_are_pruned(tmp_path: Path) -> None:
    result = search(tmp_path / "s", plan("lr=1e-7,0.02", trials=14, steps=40, hidden=16))
    given_up = [t for t in result.trials if t.state == "pruned"]
    assert given_up
    assert all(t.params["lr"] == 1e-7 for t in given_up)
    assert all(1 <= t.rung < 10 and t.loss is not None for t in given_up)


def test_ranking_puts_complete_ones_first_and_those_without_a_loss_last() -> None:
    made = [
        Trial(0, "diverged", None, {}),
        Trial(1, "pruned", 1.0, {}, rung=2),
        Trial(2, "complete", 3.0, {}),
        Trial(3, "pruned", 2.0, {}, rung=5),
        Trial(4, "complete", 2.5, {}),
    ]
    assert [t.number for t in ranked(made)] == [4, 2, 3, 1, 0]


def test_more_jobs_than_cores_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unrolled.tuning.plan.usable_cores", lambda: 5)
    assert (threads_of(1), threads_of(2), threads_of(5)) == (None, 2, 1)
    for jobs in (0, 6):
        with pytest.raises(ConfigError, match=f"jobs: got {jobs}, needs 1 to 5"):
            threads_of(jobs)


# The command


def run_command(*arguments: str) -> None:
    pytest.importorskip("optuna", reason="the tune extra is not installed")
    app(["tune", *arguments], standalone_mode=False)


@pytest.fixture
def fox(tmp_path: Path) -> str:
    (tmp_path / "fox.txt").write_text(TEXT)
    return str(tmp_path / "fox.txt")


@pytest.mark.parametrize(
    ("script", "line"),
    [
        ("failed failed", "no trial is complete, so there is no best one: 2 failed; the last one: it failed"),
        (
            "refused diverged",
            "no trial is complete, so there is no best one: 1 diverged, 1 refused; the last one: it diverged",
        ),
    ],
)
def test_a_study_without_a_complete_trial_ends_with_1_and_leaves_no_recipe(
    script: str,
    line: str,
    fox: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("optuna", reason="the tune extra is not installed")
    monkeypatch.setattr(studies, "TrialProcess", Scripted)
    monkeypatch.setattr(Scripted, "script", iter(script.split()))
    study = tmp_path / "study"
    study.mkdir()
    (study / "best.toml").write_text("lr = 1.0\n")  # of a study whose journal was removed
    arguments = ["unrolled", "tune", fox, *FLAGS, "--trials", "2", "-o", str(study)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--overwrite"])
    assert run() == 1
    assert line in capsys.readouterr().out
    assert not (study / "best.toml").exists()
    monkeypatch.setattr(sys, "argv", [*arguments, "--resume"])  # no trial is left, and none is complete
    assert run() == 1
    monkeypatch.setattr(Scripted, "script", iter(["complete"]))
    monkeypatch.setattr(sys, "argv", [*arguments, "--resume", "--trials", "3"])
    assert run() == 0
    assert (study / "best.toml").exists()


def test_train_takes_the_best_recipe_as_it_is(fox: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "base.toml").write_text('cell = "gru"\noutput-dropout = 0.2\nschedule = "cosine"\nsamples = false\n')
    base = ("--recipe", str(tmp_path / "base.toml"), *FLAGS, "--init", "uniform", "--split", "0.8,0.2,0")
    run_command(fox, *base, "--search", "lr", "--search", "clip-value=none,0.5", "--trials", "3", "-o",
                str(tmp_path / "s"), "--json")  # fmt: skip
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert [f"trial {number:>3}  " in captured.err for number in range(4)] == [True, True, True, False]
    best = report["trials"][0]
    recipe = tmp_path / "s" / "best.toml"
    run = tmp_path / "run"
    app(["train", fox, "--recipe", str(recipe), "--no-samples", "-o", str(run)], standalone_mode=False)
    record = load_checkpoint(run).training
    assert record["result"]["best"]["loss"] == best["loss"]
    assert record["optimizer"]["learning_rate"] == best["params"]["lr"]
    values = {name.replace("-", "_"): value for name, value in tomllib.loads(recipe.read_text()).items()}
    trial = make_experiment({**values, **best["params"]})
    assert record == {**_as_recorded(trial), "result": record["result"]}
    assert recipe.read_text().startswith(f"# Validation loss {best['loss']:.4f} nats a token, trial {best['number']} ")
    if "matplotlib" in sys.modules:
        assert (tmp_path / "s" / "tuning.png").read_bytes().startswith(b"\x89PNG")


def _as_recorded(experiment: Experiment) -> Mapping[str, Any]:
    return json.loads(json.dumps(experiment.record(CORPUS)))


def test_a_recipe_keeps_every_kind_of_value() -> None:
    options = {"lr": 1e-07, "hidden": 3, "tie": True, "cell": "gru", "column": 'a "b" \\ \x7f\n日'}
    text = recipe_text(options, {"lr": 0}, ["two\nlines"])
    assert tomllib.loads(text) == options
    assert text.startswith("# two lines\n\n# found\nlr = 1e-07\n")


def test_any_name_of_a_corpus_leaves_the_recipe_readable(tmp_path: Path) -> None:
    corpus = Corpus("\udcff\x00\x1b[1m\x7f\u2028日\nx = 1.txt", TEXT)
    trial = Trial(3, "complete", 1.5, {"lr": 0.1})
    write_best(tmp_path / "best.toml", trial, plan("lr"), corpus)
    text = (tmp_path / "best.toml").read_text(encoding="utf-8")
    assert "\n# on ???[1m? 日 x = 1.txt (" in text
    assert tomllib.loads(text)["lr"] == 0.1


def test_bad_input_starts_no_study(fox: str, tmp_path: Path) -> None:
    output = ("-o", str(tmp_path / "s"))
    for arguments, message in (
        (("--search", "x=1:2"), "is no setting"),
        (("--engine", "jax"), "engine: got 'jax'"),
        (("--jobs", "999"), "jobs: got 999"),
        (("--minutes", "0"), "minutes: got"),
        (("--hidden", "0"), "hidden_size"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_command(fox, *FLAGS, *output, *arguments)
    assert not (tmp_path / "s").exists()


def test_without_optuna_one_line_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch, fox: str) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r'tuning needs optuna: pip install "unrolled\[tune\]"'):
        app(["tune", fox], standalone_mode=False)


def _start(fox: str, output: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "unrolled.cli", "tune", fox, *FLAGS, "--steps", "60", "--trials", "6", "--resume"]
    return subprocess.Popen(
        [*command, "-o", str(output), "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_ends_with_what_is_done(fox: str, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="the tune extra is not installed")
    process = _start(fox, tmp_path / "s")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("trial   0"):
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert json.loads(out)["interrupted"]
    assert (tmp_path / "s" / "best.toml").exists()
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_killed_and_started_again_a_study_has_the_trials_that_it_would_have_had(
    fox: str, tmp_path: Path, kills: int
) -> None:
    pytest.importorskip("optuna", reason="the tune extra is not installed")
    whole = _start(fox, tmp_path / "whole")
    expected = json.loads(whole.communicate(timeout=120)[0])
    for attempt in range(kills):
        process = _start(fox, tmp_path / "s")
        time.sleep(2.5 + 0.37 * attempt)
        process.kill()
        process.communicate()
    last = _start(fox, tmp_path / "s")
    got = json.loads(last.communicate(timeout=120)[0])
    assert last.returncode == 0
    assert [(t["loss"], t["params"]) for t in got["trials"]] == [(t["loss"], t["params"]) for t in expected["trials"]]


def test_the_verbs_have_the_options_of_train_and_every_setting_has_its_place() -> None:
    def of(verb: Any) -> dict[str, Any]:
        return {
            name: parameter.default for name, parameter in inspect.signature(verb, eval_str=True).parameters.items()
        }

    settings = {name: value for name, value in of(train).items() if name in TRAINING.definitions}
    assert set(settings) == {*TRAINING_SETTINGS.definitions, *settings_of(ReadOptions), "engine", "precision"}
    assert set(settings_of_verb(train)) == {*settings, *TRAINING_OUTPUT.definitions}
    for verb in (tune, lr_find):
        assert settings.items() <= of(verb).items()


@pytest.mark.parametrize("pruner", PRUNERS)
def test_two_jobs_search_a_token_file_with_each_pruner(pruner: str, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="the tune extra is not installed")
    if usable_cores() < 2:
        pytest.skip("there is one core")
    (tmp_path / "fox.txt").write_text(TEXT)
    tokens = tmp_path / "fox.tokens"
    encode_files([tmp_path / "fox.txt"], tokens, DataConfig())
    a_plan = Plan(BASE, parse_space(["lr"], BASE), 4, jobs=2, pruner=pruner)
    result = run_study(read_encoded(tokens), [str(tokens)], a_plan, tmp_path / "s")
    assert [t.state for t in result.trials].count("complete") >= 1
    assert sorted(t.number for t in result.trials) == [0, 1, 2, 3]
    text = run_trial(Datasets(CORPUS), {**BASE, **result.trials[0].params}, Quiet())
    assert text.loss == result.trials[0].loss


@pytest.mark.parametrize(
    "states", [("complete", "pruned", "diverged", "complete"), ("pruned", "refused"), ("failed",), ()]
)
def test_a_picture_is_drawn_of_whatever_there_is(states: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    space = parse_space(["lr", "cell", "hidden=2:90", "clip-value=none,1", "tie"], {})
    made = [
        Trial(
            number,
            state,
            1.5 + number if state in ("complete", "pruned") else None,
            {"lr": 0.001 * (number + 1), "cell": "gru", "hidden": 7, "clip_value": None, "tie": True},
        )
        for number, state in enumerate(states)
    ]
    draw_study(ranked(made), space, tmp_path / "t.png", "50$ and $x")
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
