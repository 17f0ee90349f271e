"""Tests of the learning-rate range test: its curve, its suggestions, and that the model is restored."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from unrolled.cli.app import app
from unrolled.engine.data.corpus import Corpus
from unrolled.engine.errors import ConfigError, DivergedError
from unrolled.export.training_engines import TRAINABLES
from unrolled.tuning.range_test import RangeTest, Sweep, range_test, smooth
from unrolled.tuning.trial import Datasets, prepare_trial

TEXT = "the quick brown fox jumps over the lazy dog; pack my box with five dozen jugs.\n" * 40
CORPUS = Corpus("fox.txt", TEXT)
BASE = {"engine": "numpy", "hidden": 8, "embed": 6, "batch": 4, "length": 8, "seed": 3, "steps": 1}


@pytest.mark.parametrize("engine", TRAINABLES)
def test_the_rate_rises_exponentially_and_the_model_stays_as_it_was(engine: str) -> None:
    if engine == "torch":
        pytest.importorskip("torch", reason="the torch extra is not installed")
    run = prepare_trial(Datasets(CORPUS), {**BASE, "engine": engine, "schedule": "cosine", "warmup": 5})
    before = run.trainable.training_state()
    test = range_test(run, Sweep(1e-4, 0.1, 31))
    after = run.trainable.training_state()
    assert set(after) == set(before)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, strict=True)
    np.testing.assert_allclose(test.rates, np.geomspace(1e-4, 0.1, 31), rtol=1e-12)
    assert (len(test.losses), test.exploded, test.interrupted) == (31, False, False)
    assert test.losses[-1] < test.losses[0] - 0.3


def test_an_explosion_ends_the_test_and_the_model_stays_as_it_was() -> None:
    run = prepare_trial(Datasets(CORPUS), {**BASE, "optimizer": "sgd", "clip": 0})
    before = run.trainable.training_state()
    test = range_test(run, Sweep(1e-3, 1e9, 200))
    assert test.exploded
    assert 20 < len(test.losses) < 200
    np.testing.assert_array_equal(run.trainable.training_state()["params"], before["params"])
    assert test.suggestion is not None
    assert test.steepest is not None
    assert 1e-3 < test.steepest < test.rates[int(np.argmin(test.smoothed))] == pytest.approx(10 * test.suggestion)


def test_suggestions_of_a_curve_that_is_known() -> None:
    """Return a loss that falls from 3 to 1, fastest at a rate of 0.01, and rises steeply from a rate of 1 on."""
    rates = np.geomspace(1e-5, 10, 200)
    x = np.log10(rates)
    losses = 2 - np.tanh(2 * (x + 2)) + np.exp(6 * (x - 0.3))
    test = RangeTest(list(rates), list(losses), exploded=True)
    assert test.steepest == pytest.approx(0.01, rel=0.15)
    lowest = rates[int(losses.argmin())]
    assert test.suggestion == pytest.approx(lowest / 10, rel=0.35)


def test_alarm_a_curve_that_never_falls_suggests_nothing() -> None:
    rates = list(np.geomspace(1e-5, 10, 100))
    test = RangeTest(rates, list(np.linspace(3, 9, 100)), exploded=False)
    assert (test.suggestion, test.steepest) == (None, None)
    empty = RangeTest([], [], exploded=False, interrupted=True)
    assert (empty.suggestion, empty.smoothed, empty.lines()) == (None, [], [])


def test_smoothing_keeps_constants_and_lines_and_does_not_lag() -> None:
    np.testing.assert_allclose(smooth([2.0] * 30, 3), 2.0, rtol=1e-12)
    ramp = np.arange(60.0)
    np.testing.assert_allclose(smooth(list(ramp), 2)[15:-15], ramp[15:-15], rtol=1e-9)
    assert smooth([0.0] * 20 + [1.0] + [0.0] * 20, 2).argmax() == 20
    assert len(smooth([], 2)) == 0


@pytest.mark.parametrize(("n", "width"), [(1, 5.0), (2, 5.0), (30, 0.5), (30, 25.0), (301, 7.5)])
def test_smoothing_is_the_mean_weighted_by_a_bell(n: int, width: float) -> None:
    losses, places = np.random.default_rng(0).normal(size=n), np.arange(n)
    bell = np.exp(-0.5 * ((places[:, None] - places) / width) ** 2)
    np.testing.assert_allclose(smooth(list(losses), width), bell @ losses / bell.sum(1), rtol=0, atol=1e-5)


def test_the_bell_grows_with_the_steps_that_were_planned_and_long_curves_fit_in_memory() -> None:
    rates, losses = np.geomspace(1e-5, 10, 400), np.random.default_rng(0).normal(size=400)
    test = RangeTest(list(rates), list(losses), exploded=True, planned=800)
    np.testing.assert_allclose(test.smoothed, smooth(list(losses), 20.0), rtol=1e-12)
    whole = RangeTest(list(rates), list(losses), exploded=True)
    np.testing.assert_allclose(whole.smoothed, smooth(list(losses), 10.0), rtol=1e-12)
    assert len(smooth([1.0] * 30_000, 750.0)) == 30_000  # a matrix would be 7 GB


@pytest.mark.parametrize(
    ("low", "high", "steps", "message"),
    [
        (0, 1, 50, "two rates above 0"),
        (1, 1, 50, "two rates"),
        (1e-3, math.inf, 50, "two rates"),
        (1e-3, 1, 19, "updates: got 19, needs 20 to 100000"),
        (1e-3, 1, 100_001, "updates: got 100001"),
    ],
)
def test_rates_and_steps_are_checked(low: float, high: float, steps: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        range_test(prepare_trial(Datasets(CORPUS), BASE), Sweep(low, high, steps))


def test_an_explosion_at_once_is_an_error() -> None:
    run = prepare_trial(Datasets(CORPUS), {**BASE, "optimizer": "sgd", "clip": 0})
    with pytest.raises(DivergedError, match="begin with a lower rate"):
        range_test(run, Sweep(1e20, 1e30, 50))


def test_the_command_writes_curve_and_picture_and_takes_recipes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fox.txt").write_text(TEXT)
    (tmp_path / "r.toml").write_text('hidden = 8\nembed = 6\nbatch = 4\nlength = 8\nschedule = "cosine"\nseconds = 5\n')
    command = ["lr-find", str(tmp_path / "fox.txt"), "--recipe", str(tmp_path / "r.toml"), "--engine", "numpy",
               "-o", str(tmp_path / "lr"), "--updates", "40", "--json"]  # fmt: skip
    app(command, standalone_mode=False)
    figures = json.loads(capsys.readouterr().out)
    lines = [json.loads(line) for line in (tmp_path / "lr" / "lr.jsonl").read_text().splitlines()]
    assert len(lines) == figures["updates"]
    assert lines[0]["learning_rate"] == pytest.approx(2e-5)
    assert list(lines[0]) == ["step", "learning_rate", "loss", "smoothed"]
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    assert (tmp_path / "lr" / "lr.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match=r"lr\.jsonl: exists; name another output, or say --overwrite"):
        app(command, standalone_mode=False)
    app([*command, "--overwrite"], standalone_mode=False)


def test_without_matplotlib_no_picture_of_an_earlier_curve_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):  # even if they are loaded
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "fox.txt").write_text(TEXT)
    (tmp_path / "lr.png").write_bytes(b"of another curve")
    sizes = ("--hidden", "8", "--embed", "6", "--batch", "4", "--length", "8", "--engine", "numpy", "--updates", "20")
    command = ["lr-find", str(tmp_path / "fox.txt"), *sizes, "-o", str(tmp_path)]
    with pytest.raises(ConfigError, match=r"lr\.png: exists"):
        app(command, standalone_mode=False)
    assert (tmp_path / "lr.png").exists()
    app([*command, "--overwrite"], standalone_mode=False)
    assert (tmp_path / "lr.jsonl").exists()
    assert not (tmp_path / "lr.png").exists()
    assert "no picture of the curve" in "".join(capsys.readouterr())


@pytest.mark.parametrize("verb", ["lr-find", "tune"])
def test_searches_refuse_to_run_in_several_processes(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{verb}: runs in one process only; start it without torchrun"):
        app([verb, "-o", str(tmp_path / "s")], standalone_mode=False)
    assert not (tmp_path / "s").exists()
