"""Resuming: a run that is killed or fails at any moment, and is started again, ends like an uninterrupted one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import run_command
from frozen.freeze import StopAt
from resumable_runs import EXPERIMENT, TEXT, assert_same_end, prepared, with_training

from unrolled.engine.errors import ConfigError, ModelFileError, SaveError
from unrolled.engine.kernels.simd import bf16
from unrolled.engine.models.heads.next_token import NextTokenHead, TokenMetrics
from unrolled.engine.optimizers.config import OPTIMIZERS, OptimizerConfig
from unrolled.engine.optimizers.schedules import DecayConfig
from unrolled.engine.runs.experiment import Experiment, ModelSettings
from unrolled.engine.runs.metrics_log import read_metrics, step_lines
from unrolled.engine.runs.resume_file import RESUME, load_resume_state, recorded_settings
from unrolled.engine.storage import locks
from unrolled.engine.storage.checkpoint import load_checkpoint
from unrolled.engine.storage.locks import LOCK_FILE, FolderLock
from unrolled.engine.training.config import TrainingConfig
from unrolled.engine.training.events import StepEvent
from unrolled.export.training_engines import TRAINABLES

HEAD = NextTokenHead(2)


@pytest.mark.parametrize(
    ("engine", "batching"), [("numpy", "stream"), ("numba", "stream"), ("torch", "stream"), ("numpy", "records")]
)
def test_stopped_twice_and_resumed_is_as_never_stopped(engine: str, batching: str, tmp_path: Path) -> None:
    data = replace(EXPERIMENT.data, batching=batching, length=40)
    experiment = replace(EXPERIMENT, data=data)
    text = "".join(f"{number} {line}" for number, line in enumerate(TEXT.splitlines(keepends=True)))
    prepared(experiment, engine, text).run(tmp_path / "whole")
    for step in (10, 31):
        with pytest.raises(RuntimeError):
            prepared(experiment, engine, text).run(tmp_path / "run", observers=[StopAt(step)], resume=True)
    result = prepared(experiment, engine, text).run(tmp_path / "run", resume=True)
    assert (result.steps, len(result.losses)) == (33, 5)
    assert_same_end(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("engine", TRAINABLES)
def test_every_optimizer_goes_on_where_it_was(engine: str, optimizer: str, tmp_path: Path) -> None:
    rule = OptimizerConfig(optimizer, 0.01, 0.01, momentum=0.9 if optimizer == "sgd" else 0.0)
    experiment = replace(EXPERIMENT, optimizer=rule)
    prepared(experiment, engine).run(tmp_path / "whole")
    with pytest.raises(RuntimeError):
        prepared(experiment, engine).run(tmp_path / "run", observers=[StopAt(16)])
    prepared(experiment, engine).run(tmp_path / "run", resume=True)
    assert_same_end(tmp_path / "run", tmp_path / "whole")


@pytest.mark.skipif(not bf16.available(), reason="this processor has no AVX512-BF16")
def test_products_in_bfloat16_go_on_where_they_were(tmp_path: Path) -> None:
    prepared(engine="numba", precision="bf16").run(tmp_path / "whole")
    with pytest.raises(RuntimeError):
        prepared(engine="numba", precision="bf16").run(tmp_path / "run", observers=[StopAt(16)])
    with pytest.raises(ConfigError, match="engine was numba-bf16, now numba"):
        prepared(engine="numba").run(tmp_path / "run", resume=True)
    prepared(engine="numba", precision="bf16").run(tmp_path / "run", resume=True)
    assert_same_end(tmp_path / "run", tmp_path / "whole")


def test_a_run_goes_on_with_its_normalisation(tmp_path: Path) -> None:
    words = replace(EXPERIMENT, data=replace(EXPERIMENT.data, level="word", normalize="none"))
    prepared(words).run(tmp_path / "run")
    with pytest.raises(ConfigError, match="normalize was none, now NFC; give the earlier ones"):
        prepared(replace(words, data=replace(words.data, normalize=None))).run(tmp_path / "run", resume=True)
    prepared(words).run(tmp_path / "run", resume=True)


def test_a_run_of_words_that_0_1_0_began_goes_on_as_it_began(tmp_path: Path) -> None:
    """Such a run has no word about normalisation; the command that began it resumes it."""
    (tmp_path / "text.txt").write_text("nai\u0308ve words of a text, and more of them\n" * 40, encoding="utf-8")
    command = [
        "train",
        str(tmp_path / "text.txt"),
        "--level",
        "word",
        "--engine",
        "numpy",
        "--hidden",
        "5",
        "--embed",
        "4",
    ]
    command += ["--schedule", "constant", "--no-samples", "-o"]
    run_command(*command, str(tmp_path / "whole"), "--normalize", "none", "--steps", "6")
    run_command(*command, str(tmp_path / "run"), "--normalize", "none", "--steps", "3")
    assert "normalize" not in recorded_settings(tmp_path / "run" / RESUME)["data"]
    run_command(*command, str(tmp_path / "run"), "--resume", "--steps", "6")
    digests = [load_checkpoint(tmp_path / name / "last.safetensors").digest for name in ("run", "whole")]
    assert digests[0] == digests[1]
    run_command(*command, str(tmp_path / "new"), "--resume", "--steps", "3")
    assert "na\u00efve" in load_checkpoint(tmp_path / "new").tokenizer.vocabulary
    assert recorded_settings(tmp_path / "text.txt") == recorded_settings(tmp_path / "none") == {}


def test_alarm_one_moment_that_is_off_is_another_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared().run(tmp_path / "whole")
    with pytest.raises(RuntimeError):
        prepared().run(tmp_path / "run", observers=[StopAt(16)])
    run = prepared()
    load = type(run.trainable).load_training_state

    def off(self: Any, arrays: dict[str, Any]) -> None:
        arrays["second"][3] *= 1.001
        load(self, arrays)

    monkeypatch.setattr(type(run.trainable), "load_training_state", off)
    run.run(tmp_path / "run", resume=True)
    with pytest.raises(AssertionError):
        assert_same_end(tmp_path / "run", tmp_path / "whole")


class Crash(BaseException):
    """Simulated kill: nothing after it runs, and no error handler catches it."""


def crash_at(operation: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Crash at the given file operation and refuse all later ones, like a killed process."""
    seen: list[str] = []

    def counted(name: str, original: Any) -> Any:
        def run(*arguments: Any, **settings: Any) -> Any:
            seen.append(name)
            if len(seen) > operation:
                raise Crash
            return original(*arguments, **settings)

        return run

    for name in ("fsync", "replace", "truncate", "unlink"):
        monkeypatch.setattr(os, name, counted(name, getattr(os, name)))
    for name in ("replace", "unlink"):
        monkeypatch.setattr(Path, name, counted(name, getattr(Path, name)))
    return seen


def crashed(operation: int, folder: Path, **settings: Any) -> bool:
    """Return whether a run reached its given file operation, where it crashed."""
    held: list[int] = []
    take = locks._lock
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locks, "_lock", lambda handle: (take(handle), held.append(handle)))
        crash_at(operation, patch)
        try:
            prepared().run(folder, **settings)
        except Crash:
            for handle in held:
                os.close(handle)  # as the end of the process does
            return True
    return False


@pytest.mark.parametrize(
    ("earlier", "every"),
    [
        (False, 9),
        (True, 9),
        pytest.param(False, 1, marks=pytest.mark.slow),
        pytest.param(True, 1, marks=pytest.mark.slow),
    ],
)
def test_a_crash_at_any_file_operation_loses_nothing(earlier: bool, every: int, tmp_path: Path) -> None:
    prepared().run(tmp_path / "whole")
    other = replace(EXPERIMENT, training=replace(EXPERIMENT.training, steps=8))
    operation, going = 0, True
    while going:
        folder = tmp_path / f"run{operation}"
        if earlier:
            prepared(other).run(folder)
            (folder / "curve.png").write_text("the earlier run's")
            before = load_resume_state(folder / RESUME, HEAD).run
        going = crashed(operation, folder, overwrite=earlier)
        if earlier and load_resume_state(folder / RESUME, HEAD).run == before:
            prepared().run(folder, overwrite=True)  # nothing was saved yet: the earlier run is whole
        else:
            crashed(2, folder, resume=True)  # once more, while it puts right what the first left
            prepared().run(folder, resume=True)
        assert_same_end(folder, tmp_path / "whole")
        assert not (folder / "curve.png").exists()
        operation += every
    assert operation > 30  # the alarm: there were so many places to stop at


def test_a_run_that_is_finished_stays_as_it_is(tmp_path: Path) -> None:
    prepared().run(tmp_path / "whole")
    before = load_checkpoint(tmp_path / "whole" / "best.safetensors").digest
    result = prepared().run(tmp_path / "whole", resume=True)
    assert (result.steps, result.losses) == (33, [])
    assert load_checkpoint(tmp_path / "whole" / "best.safetensors").digest == before


@pytest.mark.parametrize("engine", TRAINABLES)
def test_averaged_weights_go_on(engine: str, tmp_path: Path) -> None:
    experiment = replace(EXPERIMENT, training=replace(EXPERIMENT.training, average=0.9))
    prepared(experiment, engine).run(tmp_path / "whole")
    for step in (10, 31):
        with pytest.raises(RuntimeError):
            prepared(experiment, engine).run(tmp_path / "run", observers=[StopAt(step)], resume=True)
    prepared(experiment, engine).run(tmp_path / "run", resume=True)
    assert_same_end(tmp_path / "run", tmp_path / "whole")


def test_counts_of_plateaus_and_early_stopping_go_on(tmp_path: Path) -> None:
    training = TrainingConfig(
        epochs=9, schedule="plateau", validate_every=3, decay=DecayConfig(0.3), warmup=20, patience=4
    )
    experiment = replace(EXPERIMENT, training=training, optimizer=OptimizerConfig("sgd", 20.0))
    result = prepared(experiment).run(tmp_path / "whole")
    assert result.plateaus > 1
    for step in (8, 26, 38):
        with pytest.raises(RuntimeError):
            prepared(experiment).run(tmp_path / "run", observers=[StopAt(step)], resume=True)
    again = prepared(experiment).run(tmp_path / "run", resume=True)
    assert (again.steps, again.plateaus, again.stale) == (result.steps, result.plateaus, result.stale)
    assert_same_end(tmp_path / "run", tmp_path / "whole")


def test_more_steps_are_added_where_the_rate_does_not_follow_the_limit(tmp_path: Path) -> None:
    prepared(with_training(schedule="constant")).run(tmp_path / "whole")
    prepared(with_training(schedule="constant", steps=14)).run(tmp_path / "run")
    prepared(with_training(schedule="constant")).run(tmp_path / "run", resume=True)
    assert_same_end(tmp_path / "run", tmp_path / "whole")
    prepared().run(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"steps was 33, now 50.*the schedule follows the limit"):
        prepared(with_training(steps=50)).run(tmp_path / "other", resume=True)


@pytest.mark.parametrize(
    ("experiment", "text", "message"),
    [
        (replace(EXPERIMENT, clip_norm=2.0), TEXT, "clip_norm was 1.0, now 2.0"),
        (replace(EXPERIMENT, model=ModelSettings("lstm", 5, 7, 2, 0.3)), TEXT, "cell was gru, now lstm"),
        (with_training(seed=5), TEXT, "seed was 4, now 5"),
        (
            EXPERIMENT,
            TEXT + "a",
            "the corpus is not the one that the run began with: fox had 948 characters, fox has 949",
        ),
        (EXPERIMENT, TEXT.replace("fox", "cat"), "has 948, others"),
    ],
)
def test_another_corpus_or_setting_is_named_and_harms_nothing(
    experiment: Experiment, text: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError):
        prepared().run(tmp_path / "run", observers=[StopAt(16)])
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(ConfigError, match=message):
        prepared(experiment, text=text).run(tmp_path / "run", resume=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_what_cannot_be_resumed_is_said(tmp_path: Path) -> None:
    prepared().run(tmp_path / "run")
    with pytest.raises(ConfigError, match="give one of them"):
        prepared().run(tmp_path / "run", overwrite=True, resume=True)
    resume, metrics = tmp_path / "run" / RESUME, tmp_path / "run" / "metrics.jsonl"
    whole = resume.read_bytes()
    for damaged, message in (
        (whole[:-9], "not a readable"),
        (whole[:-9] + b"\x01" * 9, "the tensors are not those that were saved"),
        (whole.replace(b"format_version", b"format_versiom", 1), "format None; this release goes on from 1"),
        (whole.replace(b"best_step", b"best_stop", 1), "damaged: its metadata"),
    ):
        resume.write_bytes(damaged)
        with pytest.raises(ModelFileError, match=message):
            prepared().run(tmp_path / "run", resume=True)
    resume.write_bytes(whole)
    metrics.write_text("{}\n")
    with pytest.raises(ModelFileError, match="shorter than the run left it"):
        prepared().run(tmp_path / "run", resume=True)
    resume.unlink()
    with pytest.raises(ConfigError, match="cannot be resumed"):
        prepared().run(tmp_path / "run", resume=True)


def test_one_process_at_a_time_and_a_lock_left_behind_stops_nobody(tmp_path: Path) -> None:
    held = FolderLock(tmp_path)
    with pytest.raises(ConfigError, match=f"process {os.getpid()} is at work in this folder"):
        prepared().run(tmp_path)
    held.release()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / LOCK_FILE).write_text(str(os.getpid()))  # of a process that lives, but holds nothing
    FolderLock(tmp_path).release()


def test_a_line_that_is_cut_is_left_out_of_the_metrics(tmp_path: Path) -> None:
    lines = '{"event": "step", "step": 1}\n{"event": "sample", "step": 1, "text": "ü"}\n{"event": "step", "st'.encode()
    (tmp_path / "metrics.jsonl").write_bytes(lines)
    assert list(read_metrics(tmp_path, "step")) == [{"event": "step", "step": 1}]
    (tmp_path / "metrics.jsonl").write_bytes(lines + b"\n")
    with pytest.raises(ModelFileError, match="a line is not JSON"):
        list(read_metrics(tmp_path, "step"))


FULL = ("metrics.jsonl", RESUME, "best.safetensors", "last.safetensors")  # in the order of a save


@pytest.mark.parametrize("call", [0, 1, 2, 3, 4, 5])
def test_a_disk_that_fills_up_keeps_the_last_save(call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared().run(tmp_path / "whole")
    sync, calls = os.fsync, iter(range(1000))

    def full(handle: int) -> None:
        if next(calls) >= call + 4:  # four of the first save: lines, state, two checkpoints
            raise OSError(28, "No space left on device")
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            SaveError, match=r"cannot be written \(No space left on device\); the last save, of step "
        ) as told:
            prepared().run(tmp_path / "run")
    assert isinstance(told.value, OSError)
    state = load_resume_state(tmp_path / "run" / RESUME, HEAD)
    assert f"of step {state.result.steps}, is intact: once there is room, --resume goes on" in str(told.value)
    assert str(tmp_path / "run" / FULL[call % 4]) in str(told.value)
    assert load_checkpoint(tmp_path / "run").training["result"]["steps"] >= 7
    prepared().run(tmp_path / "run", resume=True)
    assert_same_end(tmp_path / "run", tmp_path / "whole")


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: Any) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        with pytest.raises(ConfigError, match=r"cannot be written \(Permission denied\)$"):
            prepared().run(tmp_path / "run")
    with pytest.raises(RuntimeError):
        prepared().run(tmp_path / "run", observers=[StopAt(16)])
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        with pytest.raises(ConfigError, match=r"\(Permission denied\); the run in it stays as it is"):
            prepared().run(tmp_path / "run", resume=True)
    monkeypatch.setattr(os, "truncate", refused)
    with pytest.raises(SaveError, match=r"\(Permission denied\); the last save, of step 14, is intact"):
        prepared().run(tmp_path / "run", resume=True)


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.argv = ["unrolled", *sys.argv[2:]]
from unrolled.cli.main import main
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of file sizes here")
def test_the_command_without_room_names_the_file_and_how_to_go_on(tmp_path: Path) -> None:
    corpus, folder = tmp_path / "fox.txt", tmp_path / "run"
    corpus.write_text(TEXT * 5)
    arguments = ["train", str(corpus), "-o", str(folder), "--engine", "numpy", *COMMAND, "--resume"]
    arguments = [part.format(steps=600) for part in arguments]
    limited = [sys.executable, "-c", LIMITED, "120000", *arguments]  # metrics.jsonl comes to it
    done = subprocess.run(limited, capture_output=True, text=True, env={**os.environ, "COLUMNS": "400"}, check=False)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    saved = load_resume_state(folder / RESUME, HEAD).result.steps
    assert 20 <= saved < 600
    assert last == (
        f"error: {folder / 'metrics.jsonl'}: cannot be written (File too large); the last save, of step {saved}, is intact: "
        "once there is room, --resume goes on from it"
    )
    for name, given in (("run", folder), ("whole", tmp_path / "whole")):
        with start("numpy", corpus, given, 600, "--resume") as process:
            assert json.loads(process.communicate()[0])["steps"] == 600, name
    assert_same_end(folder, tmp_path / "whole")


COMMAND = (
    "--cell", "gru", "--layers", "2", "--dropout", "0.3", "--hidden", "16", "--embed", "8", "--batch", "4",
    "--length", "16", "--steps", "{steps}", "--validate-every", "20", "--schedule", "cosine", "--no-samples", "--json",
)  # fmt: skip


def start(engine: str, corpus: Path, folder: Path, steps: int, *more: str) -> subprocess.Popen[str]:
    command = ["train", str(corpus), "-o", str(folder), "--engine", engine, *COMMAND, *more]
    return subprocess.Popen(
        [sys.executable, "-m", "unrolled.cli", *(part.format(steps=steps) for part in command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def killed_and_resumed(engine: str, kills: int, tmp_path: Path, steps: int) -> None:
    """Kill a run of the command ``kills`` times, each a random time after its training started."""
    corpus = tmp_path / "fox.txt"
    corpus.write_text(TEXT * 5)
    with start(engine, corpus, tmp_path / "whole", steps) as process:
        training = json.loads(process.communicate()[0])["seconds"]  # without what a process needs to get there
    folder, killed, rng = tmp_path / "run", 0, random.Random(engine)
    for _ in range(kills):
        process = start(engine, corpus, folder, steps, "--resume")
        deadline = time.monotonic() + 60
        while process.poll() is None and not (folder / LOCK_FILE).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        if killed:
            time.sleep(rng.uniform(0, 1.5 * training / kills))
        else:
            time.sleep(rng.uniform(0, 0.3))
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert killed > kills // 2
    process = start(engine, corpus, folder, steps, "--resume")
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert json.loads(out)["steps"] == steps
    assert_same_end(folder, tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("engine", TRAINABLES)
def test_kill_9_again_and_again(engine: str, kills: int, tmp_path: Path) -> None:
    killed_and_resumed(engine, kills, tmp_path, 200 * kills)


def test_kill_9_at_a_random_moment_and_then_there_is_nothing_left_to_do(tmp_path: Path) -> None:
    killed_and_resumed("numpy", 1, tmp_path, 300)
    with start("numpy", tmp_path / "fox.txt", tmp_path / "run", 300, "--resume") as process:
        assert "the run is finished" in process.communicate()[1]
    assert_same_end(tmp_path / "run", tmp_path / "whole")


def test_the_line_of_a_step_is_what_an_encoder_makes_of_it() -> None:
    numbers = np.random.default_rng(3).standard_normal(7) * 10.0 ** np.arange(-9, 12, 3)
    epoch, seconds, loss, norm, rate, speed, accuracy = numbers.tolist()
    metrics = TokenMetrics(loss, accuracy, 2048)
    event = StepEvent(7, epoch, seconds, 0.5, loss, np.float64(norm), rate, 2048, speed, metrics)
    values = {
        "event": "step", "step": 7, "epoch": epoch, "seconds": seconds, "loss": loss, "grad_norm": norm,
        "learning_rate": rate, "tokens": 2048, "tokens_per_s": speed, "accuracy": accuracy,
    }  # fmt: skip
    line = step_lines(HEAD)
    assert line(event) == json.dumps(values) + "\n"
    assert json.loads(line(replace(event, learning_rate=1)))["learning_rate"] == 1
