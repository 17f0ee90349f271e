"""Default validations take a bounded share of a training, counted in tokens; a given interval is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import models
import numpy as np
import pytest
from frozen.freeze import StopAt
from resumable_runs import assert_same_end, prepared, with_training
from training_runs import Log, engine

from unrolled.cli.app import app
from unrolled.engine.data.batches import Batches
from unrolled.engine.data.records import RecordBatches
from unrolled.engine.data.streams import StreamBatches
from unrolled.engine.errors import ConfigError
from unrolled.engine.models.heads.head import Head
from unrolled.engine.models.heads.next_token import NextTokenHead
from unrolled.engine.runs.experiment import Experiment
from unrolled.engine.runs.metrics_log import read_metrics
from unrolled.engine.runs.resume_file import RESUME, load_resume_state
from unrolled.engine.storage.checkpoint import BEST_CHECKPOINT, load_checkpoint, resolve_model_file
from unrolled.engine.training.config import TrainingConfig
from unrolled.engine.training.events import StepEvent
from unrolled.engine.training.loop import train
from unrolled.engine.training.result import TrainingResult
from unrolled.engine.training.trainable import Trainable
from unrolled.engine.training.validation_budget import (
    VALIDATION_SHARE,
    fits_budget,
    plan_intervals,
    share_of_work,
)

HEAD = NextTokenHead(models.V)


def ids(tokens: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 7, tokens + 1).astype(np.uint8)


@pytest.mark.parametrize(
    ("trained", "batch", "length", "validated", "expected"),
    [
        (929_589, 20, 20, 73_760, (250, 1250)),  # Penn Treebank: a fifth of the work every 250 steps
        (1_003_854, 32, 64, 55_769, (250, 250)),  # a megabyte, split as by default: 3.5%
        (1_003_854, 32, 64, 111_540, (250, 500)),
        (1_003_854, 32, 128, 111_540, (246, 246)),  # an epoch
        (20_000, 32, 64, 1_111, (10, 10)),
        (20_000, 32, 64, 20_000, (10, 70)),  # 6.3 epochs pay for one
    ],
)
def test_the_interval_is_as_long_as_pays_for_a_validation(
    trained: int, batch: int, length: int, validated: int, expected: tuple[int, int]
) -> None:
    data, validation = StreamBatches(ids(trained), batch, length), StreamBatches(ids(validated), 1, length)
    found = plan_intervals(None, VALIDATION_SHARE, data, validation)
    assert found == expected
    work = validated / 3  # a forward pass is a third of a step
    tokens = found.validate * data.tokens_per_epoch / data.batches_per_epoch
    assert work / (work + tokens) <= 0.05
    assert (
        plan_intervals(None, None, data, validation)
        == plan_intervals(None, VALIDATION_SHARE, data, None)
        == (expected[0], expected[0])
    )
    assert plan_intervals(17, VALIDATION_SHARE, data, validation) == (17, 17)


def test_the_share_of_the_work_counts_a_forward_pass_as_a_third() -> None:
    assert share_of_work(0, 0) == 0
    assert share_of_work(3_000, 19_000) == pytest.approx(0.05)
    assert share_of_work(73_760, 160_000) == pytest.approx(0.1332, abs=1e-4)
    assert fits_budget(0.05, 1_500, 0, 19_001)  # with the one at the end
    assert not fits_budget(0.05, 1_500, 0, 18_999)


class Saves(Log):
    """A log that also records the steps of saves."""

    def __init__(self) -> None:
        super().__init__()
        self.saved: list[int] = []

    def on_interval(self, trainable: Trainable, result: TrainingResult) -> None:
        self.saved.append(result.steps)


def trained(
    config: TrainingConfig, validated: int = 400, data: Batches | None = None, **settings: Callable[[], float]
) -> tuple[TrainingResult, Saves]:
    model, log = models.config("rnn", 1), Saves()
    data = data or StreamBatches(ids(604), 4, 7)  # 22 steps of 28 tokens an epoch
    validation = StreamBatches(ids(validated), 4, 7)
    return train(engine("numpy", model), data, validation, config, [log], **settings), log


def test_validations_are_apart_enough_and_saves_come_as_before() -> None:
    result, log = trained(TrainingConfig(steps=400))
    # 2,533 tokens, 92 steps, pay for one; at step 110 the one at the end would not be paid for
    assert [event.step for event in log.validations] == [220, 330, 400]
    assert log.saved == [*range(22, 400, 22), 400]
    assert (result.validation_count, result.last_step) == (1200, 400)
    assert result.validation_share == 400 / (400 + result.count) < VALIDATION_SHARE
    assert TrainingResult.from_dict(result.to_dict(HEAD), HEAD).validation_count == 1200
    assert result.to_dict(HEAD)["validation_share"] == result.validation_share


@pytest.mark.parametrize("steps", [1, 21, 22, 110, 219, 220, 221, 330, 700])
def test_a_run_of_any_length_keeps_to_the_share_unless_the_last_validation_alone_exceeds_it(steps: int) -> None:
    result, log = trained(TrainingConfig(steps=steps))
    assert log.validations[-1].step == steps
    assert result.validation_share <= VALIDATION_SHARE or len(log.validations) == 1


def test_records_of_uneven_lengths_keep_to_the_share() -> None:
    lengths = np.random.default_rng(1).permutation(np.r_[np.full(90, 3), np.full(10, 60)])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    data = RecordBatches(ids(int(starts[-1])), starts, 2, 64)
    for steps in range(50, 400, 37):
        result, log = trained(TrainingConfig(steps=steps), 200, data)
        assert result.validation_share <= VALIDATION_SHARE or len(log.validations) == 1


def test_a_training_limited_by_the_clock_validates_at_the_same_steps() -> None:
    ticks = iter(np.arange(0, 1e6, 0.01))
    result, log = trained(TrainingConfig(seconds=15), clock=lambda: float(next(ticks)))
    assert [event.step for event in log.validations][:2] == [220, 330]
    assert log.validations[-1].step == result.steps > 330
    assert result.validation_share <= VALIDATION_SHARE


def test_what_is_asked_for_is_obeyed_and_counted() -> None:
    result, log = trained(TrainingConfig(steps=40, validate_every=10))
    assert [event.step for event in log.validations] == log.saved == [10, 20, 30, 40]
    assert result.validation_share == share_of_work(1600, result.count) > 0.3
    anything, log = trained(TrainingConfig(steps=66, validation_share=None))
    assert [event.step for event in log.validations] == [22, 44, 66]
    assert anything.validation_share > 0.1
    result, log = trained(TrainingConfig(steps=200, validation_share=0.2))
    assert [event.step for event in log.validations] == [44, 66, 88, 110, 132, 154, 176, 198, 200]


def test_without_a_validation_part_there_are_saves() -> None:
    log = Saves()
    result = train(
        engine("numpy", models.config("rnn", 1)), StreamBatches(ids(604), 4, 7), None, TrainingConfig(steps=50), [log]
    )
    assert (log.saved, log.validations, result.validation_share) == ([22, 44, 50], [], 0.0)


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_a_share_is_a_fraction(share: float) -> None:
    with pytest.raises(ConfigError, match=r"validation_share: got .*, needs a number between 0 and 1"):
        TrainingConfig(steps=1, validation_share=share)


# Resuming

USUAL = with_training(validate_every=None, steps=90)  # epochs of 15 steps; every validation needs 23 of them


def test_a_resumed_run_validates_where_it_would_have(tmp_path: Path) -> None:
    prepared(USUAL).run(tmp_path / "whole")
    assert [line["step"] for line in read_metrics(tmp_path / "whole", "validation")] == [60, 90]
    for step in (20, 47, 70):
        with pytest.raises(RuntimeError):
            prepared(USUAL).run(tmp_path / "run", observers=[StopAt(step)], resume=True)
    result = prepared(USUAL).run(tmp_path / "run", resume=True)
    assert_same_end(tmp_path / "run", tmp_path / "whole")
    assert result.last is not None
    assert result.validation_count == 2 * result.last.count


class InterruptAt(StopAt):
    """Press Ctrl-C twice in a step."""

    def on_step(self, event: StepEvent) -> None:
        if event.step == self.step:
            raise KeyboardInterrupt


def test_an_interruption_before_the_first_validation_leaves_no_best_that_is_older_than_the_last(tmp_path: Path) -> None:
    def shown() -> int:
        recorded = load_checkpoint(resolve_model_file(tmp_path / "run")).training
        return int(recorded["result"]["steps"])

    assert prepared(USUAL).run(tmp_path / "run", observers=[InterruptAt(20)]).best is None
    assert ((tmp_path / "run" / BEST_CHECKPOINT).exists(), shown()) == (True, 20)
    with pytest.raises(RuntimeError):
        prepared(USUAL).run(tmp_path / "run", observers=[StopAt(47)], resume=True)
    assert shown() == 45
    prepared(USUAL).run(tmp_path / "run", resume=True)
    assert (tmp_path / "run" / BEST_CHECKPOINT).exists()


def as_of_the_first_release(folder: Path, monkeypatch: pytest.MonkeyPatch, experiment: Experiment) -> None:
    """Stop a run after 40 steps, with the settings of 0.1.0, which had no share of validations."""
    values = TrainingResult.to_dict

    def old(self: TrainingResult, head: Head) -> dict[str, object]:
        return {n: v for n, v in values(self, head).items() if n not in ("validation_share", "validation_tokens")}

    monkeypatch.setattr(TrainingResult, "to_dict", old)
    with pytest.raises(RuntimeError):
        prepared(experiment).run(folder, observers=[StopAt(40)])
    monkeypatch.undo()
    content = (folder / RESUME).read_bytes()
    assert b"validation_share" not in content
    assert b"validation_tokens" not in content


def test_a_run_of_the_first_release_goes_on_with_its_validations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbounded = with_training(validate_every=None, steps=90, validation_share=None)
    prepared(unbounded).run(tmp_path / "whole")
    assert [line["step"] for line in read_metrics(tmp_path / "whole", "validation")] == [15, 30, 45, 60, 75, 90]
    as_of_the_first_release(tmp_path / "run", monkeypatch, unbounded)
    result = prepared(USUAL).run(tmp_path / "run", resume=True)
    assert_same_end(tmp_path / "run", tmp_path / "whole")
    assert result.last is not None
    assert result.validation_count == 6 * result.last.count
    again = prepared(USUAL).run(tmp_path / "run", resume=True)
    assert again.steps == 90


def test_alarm_the_bound_would_have_been_another_end(tmp_path: Path) -> None:
    prepared(USUAL).run(tmp_path / "bounded")
    prepared(with_training(validate_every=None, steps=90, validation_share=None)).run(tmp_path / "whole")
    with pytest.raises(AssertionError):
        assert_same_end(tmp_path / "bounded", tmp_path / "whole")


def test_another_share_is_another_run(tmp_path: Path) -> None:
    prepared(USUAL).run(tmp_path / "run")
    other = replace(USUAL, training=replace(USUAL.training, validation_share=0.1))
    with pytest.raises(ConfigError, match=r"validation_share was 0\.05, now 0\.1"):
        prepared(other).run(tmp_path / "run", resume=True)


def test_an_explicit_interval_is_written_as_the_first_release_wrote_it(tmp_path: Path) -> None:
    prepared().run(tmp_path / "run")
    state = load_resume_state(tmp_path / "run" / RESUME, HEAD)
    assert "validation_share" not in state.settings["training"]
    assert state.settings["training"]["validate_every"] == 7


# The command

TEXT = "the quick brown fox jumps over the lazy dog; pack my box with five dozen jugs.\n" * 40


def command(tmp_path: Path, *arguments: str) -> None:
    (tmp_path / "fox.txt").write_text(TEXT)
    sizes = ("--engine", "numpy", "--batch", "4", "--length", "8", "--hidden", "5", "--embed", "4", "--no-samples")
    app(
        ["train", str(tmp_path / "fox.txt"), "-o", str(tmp_path / "run"), *sizes, *arguments],
        standalone_mode=False,
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ("--split", "0.7,0.3,0", "--steps", "10"),
            "1 validation on 944 tokens took 49.6% of the work, counted in tokens; the one at the end alone is more than "
            "the 5% that the default keeps to",
        ),
        (
            ("--split", "0.7,0.3,0", "--steps", "10", "--validate-every", "5"),
            "2 validations on 944 tokens took 66.3% of the work, counted in tokens",
        ),
        (("--epochs", "3"), "3 validations on 156 tokens took 1.8% of the work, counted in tokens"),
    ],
)
def test_the_command_prints_the_share(
    arguments: tuple[str, ...], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(tmp_path, *arguments)
    assert line in capsys.readouterr().out.splitlines()
    command(tmp_path, *arguments, "--overwrite", "--json")
    result = json.loads(capsys.readouterr().out)
    assert f"took {result['validation_share']:.1%} of the work" in line
    assert result["validation_tokens"] % result["last"]["tokens"] == 0
    recorded = load_checkpoint(tmp_path / "run" / "last.safetensors").training["result"]
    assert recorded["validation_share"] == result["validation_share"]
