"""The training loop on every engine."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from tolerances import assert_close
from training_runs import TEXT, Log, engine, experiment

from unrolled.engine.data.corpus import Corpus
from unrolled.engine.data.streams import StreamBatches
from unrolled.engine.errors import ConfigError, DivergedError
from unrolled.engine.models.dropout import Dropout, Masks
from unrolled.engine.models.heads.next_token import TokenMetrics
from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.layers.output_loss import LossSums
from unrolled.engine.optimizers.config import OptimizerConfig
from unrolled.engine.optimizers.gradient_scaling import clip_scale
from unrolled.engine.optimizers.schedules import DecayConfig
from unrolled.engine.runs.experiment import prepare_run
from unrolled.engine.runs.run_folder import RunFolder
from unrolled.engine.signals import StopRequest
from unrolled.engine.storage.checkpoint import load_checkpoint
from unrolled.engine.storage.description import text_preprocessing
from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.engine.training import loop
from unrolled.engine.training.config import TrainingConfig
from unrolled.engine.training.events import SampleEvent
from unrolled.engine.training.loop import train
from unrolled.engine.training.observers import SampleWriter, TrainingObserver
from unrolled.engine.training.result import TrainingResult
from unrolled.engine.training.trainable import EngineTrainable, StepResult, Trainable
from unrolled.export.training_engines import TRAINABLES, make_trainable


def stream(config: LanguageModelConfig, tokens: int = 600) -> StreamBatches:
    """Return text with a pattern to learn: each id follows from the previous one, with some noise."""
    rng = np.random.default_rng(0)
    ids = (np.arange(tokens) * 3 + rng.integers(0, 2, tokens)) % config.vocab_size
    return StreamBatches(ids.astype(np.uint8), batch_size=4, length=7)


CURVES = {
    "sgd": OptimizerConfig("sgd", 0.5, momentum=0.9, weight_decay=1e-3),
    "rmsprop": OptimizerConfig("rmsprop", 0.01, weight_decay=1e-3),
    "adam": OptimizerConfig("adam", 0.01, weight_decay=1e-3),
    "adamw": OptimizerConfig("adamw", 0.01),
}


@pytest.mark.parametrize("optimizer", CURVES)
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_twenty_steps_of_all_engines_have_one_loss_curve(cell: str, optimizer: str) -> None:
    config = models.config(cell, 2, dropout=0.2)
    curves = {}
    for name in TRAINABLES:
        trainable = engine(name, config, CURVES[optimizer])
        curves[name] = train(trainable, stream(config), None, TrainingConfig(steps=20, seed=3)).losses
    assert len(curves["numpy"]) == 20
    for name, losses in curves.items():
        assert_close(np.array(losses), np.array(curves["numpy"]), "curve", what=name)


@pytest.mark.parametrize("dropout", [Dropout(0.2, 0.3), Dropout(0.2, 0.3, variational=True)])
def test_dropout_everywhere_has_one_loss_curve_on_all_engines(dropout: Dropout) -> None:
    config = models.config("lstm", 2, dropout=0.2)
    settings = TrainingConfig(steps=20, seed=3, dropout=dropout)
    curves = {name: train(engine(name, config), stream(config), None, settings).losses for name in TRAINABLES}
    plain = train(engine("numpy", config), stream(config), None, TrainingConfig(steps=20, seed=3)).losses
    for name, losses in curves.items():
        assert_close(np.array(losses), np.array(curves["numpy"]), "curve", what=name)
    with pytest.raises(AssertionError):
        assert_close(np.array(plain), np.array(curves["numpy"]), "curve")


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_smoothed_labels_have_one_loss_curve_on_all_engines(dtype: type) -> None:
    config, rule = models.config("lstm", 1), OptimizerConfig("adam", 0.01, label_smoothing=0.2)
    curves = {
        name: train(engine(name, config, rule, dtype), stream(config), None, TrainingConfig(steps=20)).losses
        for name in TRAINABLES
    }
    plain = train(engine("numpy", config), stream(config), None, TrainingConfig(steps=20)).losses
    for name, losses in curves.items():
        assert_close(np.array(losses, dtype), np.array(curves["numpy"], dtype), "curve", what=name)
    with pytest.raises(AssertionError):
        assert_close(np.array(plain), np.array(curves["numpy"]), "curve")


@pytest.mark.parametrize("name", TRAINABLES)
def test_float32_training_stays_on_the_float64_curve(name: str) -> None:
    config = models.config("lstm", 2)
    exact = train(engine("numpy", config), stream(config), None, TrainingConfig(steps=20)).losses
    got = train(engine(name, config, dtype=np.float32), stream(config), None, TrainingConfig(steps=20)).losses
    assert_close(np.array(got, np.float32), np.array(exact, np.float32), "curve")


def test_alarm_another_seed_of_dropout_is_another_curve() -> None:
    config = models.config("gru", 2, dropout=0.3)
    curves = [
        train(engine("numpy", config), stream(config), None, TrainingConfig(steps=5, seed=seed)).losses
        for seed in (0, 1)
    ]
    with pytest.raises(AssertionError):
        assert_close(np.array(curves[0]), np.array(curves[1]), "curve")


@pytest.mark.parametrize("name", TRAINABLES)
def test_training_learns_and_is_repeatable(name: str) -> None:
    config = models.config("lstm", 1)
    runs = [train(engine(name, config), stream(config), None, TrainingConfig(epochs=12)) for _ in range(2)]
    assert runs[0].losses == runs[1].losses
    assert np.mean(runs[0].losses[-10:]) < 0.6 * np.mean(runs[0].losses[:10])


def scored(monkeypatch: pytest.MonkeyPatch, trainable: Trainable, losses: list[float]) -> None:
    """Make validations return these losses, one after another."""
    found = iter(losses)
    monkeypatch.setattr(loop, "evaluate", lambda *arguments: TokenMetrics(next(found), 0.5, 10))


def test_a_plateau_lowers_the_rate_and_patience_ends_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    config = models.config("rnn", 1)
    data, trainable, log = stream(config), engine("numpy", config), Log()
    scored(monkeypatch, trainable, [3, 2, 2.5, 2.5, 2.5, 1.9, 2, 2, 2, 2])
    settings = TrainingConfig(
        steps=100, validate_every=2, schedule="plateau", decay=DecayConfig(0.5, patience=1), patience=4
    )  # fmt: skip
    result = train(trainable, data, data, settings, [log])
    assert (result.steps, result.best_step, result.stale, result.plateaus) == (20, 12, 4, 3)
    rates = [event.learning_rate / 0.01 for event in log.steps][1::2]
    assert rates == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize("name", TRAINABLES)
def test_a_loss_summed_over_time_and_gradients_clipped_by_value(name: str) -> None:
    config = models.config("gru", 1)
    batch, state, rate = models.batch(config), models.state(config), 0.1
    gradients = EngineTrainable(config.spec, models.params(config), OptimizerConfig()).gradients(batch, state).params
    before, factor = models.params(config), batch.weight / models.B
    trainable = engine(name, config, OptimizerConfig("sgd", clip_value=0.02, sum_over_time=True))
    norm = trainable.train_step(batch, state, rate, None).grad_norm
    clipped = {key: np.clip(value * factor, -0.02, 0.02) for key, value in gradients.items()}
    assert norm == pytest.approx(np.sqrt(sum((value**2).sum() for value in clipped.values())), rel=1e-9)
    assert any((np.abs(value * factor) > 0.02).any() for value in gradients.values())
    scale = clip_scale(norm, 1.0)
    for key, value in trainable.export_params().items():
        assert_close(value, before[key] - rate * scale * clipped[key], "engine", what=key)


def test_limits_and_intervals() -> None:
    config = models.config("rnn", 1)
    data = stream(config)
    assert data.batches_per_epoch == 22
    log = Log()
    result = train(engine("numpy", config), data, data, TrainingConfig(epochs=2, validate_every=15), [log])
    assert (result.steps, result.epochs, len(log.steps), log.ended) == (44, 2.0, 44, 1)
    assert [event.step for event in log.validations] == [15, 30, 44]
    assert log.steps[-1].done == 1.0
    assert result.count == 2 * data.tokens_per_epoch
    assert result.best is not None
    assert result.best.loss == min(event.metrics.loss for event in log.validations)
    assert log.validations[0].best


def test_seconds_end_a_training_by_the_clock_that_is_given() -> None:
    config = models.config("rnn", 1)
    ticks = iter(np.arange(0, 1000, 0.5))
    result = train(
        engine("numpy", config), stream(config), None, TrainingConfig(seconds=20), clock=lambda: float(next(ticks))
    )
    assert 20 <= result.seconds <= 23  # the clock moves by half a second at each of the reads of the last step


def test_a_state_that_is_reset_is_zero_in_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    config, seen = models.config("rnn", 1), []
    for reset in (False, True):
        trainable = engine("numpy", config)
        step = trainable.train_step
        monkeypatch.setattr(
            trainable, "train_step", lambda b, s, *rest, step=step: seen.append(s.any()) or step(b, s, *rest)
        )
        train(trainable, stream(config), None, TrainingConfig(steps=3, reset=reset))
    assert seen == [False, True, True, False, False, False]


def test_cosine_rate_reaches_the_optimiser() -> None:
    config = models.config("rnn", 1)
    log = Log()
    train(engine("numpy", config), stream(config), None, TrainingConfig(steps=4, schedule="cosine"), [log])
    expected = [0.01 * 0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    np.testing.assert_allclose([event.learning_rate for event in log.steps], expected, rtol=1e-12)


@pytest.mark.parametrize("name", TRAINABLES)
def test_divergence_is_an_error_and_leaves_the_parameters(name: str) -> None:
    config = models.config("rnn_relu", 1)
    trainable = engine(name, config)
    bad = models.params(config)
    bad["output.bias"][0] = 1e308
    bad["output.bias"][1] = -1e308
    broken = make_trainable(name, config.spec, bad, OptimizerConfig(), 1.0)
    with pytest.raises(DivergedError, match=r"step 1: loss .*lower learning rate"), np.errstate(all="ignore"):
        train(broken, stream(config), None, TrainingConfig(steps=3))
    for key, value in broken.export_params().items():
        np.testing.assert_array_equal(value, bad[key])
    assert train(trainable, stream(config), None, TrainingConfig(steps=3)).steps == 3


def test_a_validation_loss_that_is_nan_is_divergence_and_never_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = models.config("gru", 1)
    data, trainable = stream(config), engine("numpy", config)
    monkeypatch.setattr(
        trainable, "evaluate", lambda batch, state: (LossSums(math.nan, batch.weight, (0, batch.weight)), state)
    )
    tokenizer = CharTokenizer([chr(97 + i) for i in range(config.vocab_size)])
    with RunFolder(tmp_path / "run", text_preprocessing(tokenizer), {}) as folder:
        folder.start(trainable)
        with pytest.raises(
            DivergedError,
            match=r"step 4: validation loss nan, gradient norm 0\.\d+: .*lower learning rate \(now 0\.01\)",
        ):
            train(trainable, data, data, TrainingConfig(epochs=5, schedule="constant", validate_every=4), [folder])
    assert not (tmp_path / "run").exists()


def with_losses(losses: list[float]) -> tuple[TrainingResult, list[str]]:
    """Train with the given losses of steps, as multiples of a blind guess's; return the result and the warnings."""
    config = models.config("rnn", 1)
    told: list[str] = []

    class Told(TrainingObserver):
        def on_warning(self, message: str) -> None:
            told.append(message)

    guess, steps = math.log(config.vocab_size), iter(losses)
    trainable = engine("numpy", config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            trainable,
            "train_step",
            lambda *arguments: StepResult(
                LossSums(28 * guess * next(steps), 28, (0, 28)), 7.5, models.state(config, 4)
            ),
        )
        return train(trainable, stream(config), None, TrainingConfig(steps=len(losses)), [Told()]), told


def test_a_loss_that_explodes_ends_the_training() -> None:
    explodes = (
        r"step 51: for 50 steps the loss has been above 3 times that of a blind guess \(now .*gradient norm 7\.5.*try"
    )
    with pytest.raises(DivergedError, match=explodes):
        with_losses([1.0] + [3.1] * 50)
    with pytest.raises(DivergedError, match="step 70"):
        with_losses([20.0] * 20 + [61.0] * 50)


@pytest.mark.parametrize(
    ("losses", "warned"),
    [
        ([1.0] + [2.9] * 120, 0),
        ([1.0] + ([3.1] * 49 + [2.9]) * 3, 0),  # it comes back, again and again
        ([20.0] * 20 + list(np.linspace(50, 1, 100)), 1),  # large initial weights; it falls
        ([20.0] * 120, 1),
    ],
)
def test_a_loss_that_is_high_and_does_not_explode_is_let_be(losses: list[float], warned: int) -> None:
    result, told = with_losses(losses)
    assert (result.steps, len(told)) == (len(losses), warned)
    assert all("step 50: for 50 steps the loss" in message and "at first; try initial" in message for message in told)


def test_an_explosion_keeps_the_best_checkpoint(tmp_path: Path) -> None:
    run = prepare_run(
        Corpus("fox", TEXT),
        replace(
            experiment(),
            training=TrainingConfig(steps=200, validate_every=4, schedule="step", decay=DecayConfig(1.0)),
            optimizer=OptimizerConfig("sgd", 0.1),
            clip_norm=None,
        ),
    )
    step = run.trainable.train_step

    def wild(batch: Batch, state: np.ndarray, rate: float, masks: Masks | None) -> StepResult:
        return step(batch, state, rate if run.trainable.optimizer.updates[0] < 12 else 1e3, masks)  # type: ignore[attr-defined]

    run.trainable.train_step = wild  # type: ignore[method-assign]
    with pytest.raises(DivergedError, match=r"step \d+: for 50 steps .* gradient norm .* lower learning rate"):
        run.run(tmp_path / "run")
    result = load_checkpoint(tmp_path / "run" / "best.safetensors").training["result"]
    assert result["best_step"] == result["steps"] <= 12


def test_ctrl_c_ends_the_step_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    config = models.config("gru", 1)
    trainable = engine("numpy", config)
    step = trainable.train_step
    finished: list[int] = []

    def interrupted(*arguments: Any) -> StepResult:
        if len(finished) == 2:
            signal.raise_signal(signal.SIGINT)
        result = step(*arguments)
        finished.append(1)
        return result

    monkeypatch.setattr(trainable, "train_step", interrupted)
    before = signal.getsignal(signal.SIGINT)
    result = train(trainable, stream(config), None, TrainingConfig(steps=10))
    assert (result.interrupted, result.steps, len(finished)) == (True, 3, 3)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_ctrl_c_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop.received
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("hook", ["on_step", "on_interval", "sample"])
def test_a_process_alone_stops_before_the_next_step_wherever_ctrl_c_is_pressed(hook: str) -> None:
    config, calls = models.config("rnn", 1), []

    class Press(TrainingObserver):
        def count(self, *given: object) -> None:
            calls.append(given)
            if len(calls) == 3:
                signal.raise_signal(signal.SIGINT)

    observer = Press()
    setattr(observer, hook, observer.count)
    settings = TrainingConfig(steps=10, validate_every=1)
    result = train(engine("numpy", config), stream(config), None, settings, [observer])
    assert (result.interrupted, result.steps, len(calls)) == (True, 3, 3)


def test_all_observers_get_the_samples_that_one_of_them_writes() -> None:
    config, seen = models.config("rnn", 1), []

    class Look(TrainingObserver):
        def on_sample(self, event: SampleEvent) -> None:
            seen.append((event.step, event.text))

    texts = iter("abcd")
    observers = [Look(), SampleWriter(lambda trainable: f"{next(texts)} by {trainable.engine}"), Look()]
    train(engine("numpy", config), stream(config), None, TrainingConfig(steps=5, validate_every=2), observers)
    assert seen == [(step, f"{text} by numpy") for step, text in ((2, "a"), (4, "b"), (5, "c")) for _ in range(2)]


class _Interrupting(StreamBatches):
    def epoch(self, rng: np.random.Generator | None) -> Iterator[Batch]:
        for number, batch in enumerate(super().epoch(rng)):
            if number == 6:
                raise KeyboardInterrupt
            yield batch


def test_ctrl_c_keeps_what_there_is(tmp_path: Path) -> None:
    config = models.config("gru", 1)
    data = stream(config)
    tokenizer = CharTokenizer([chr(97 + i) for i in range(config.vocab_size)])
    trainable = engine("numpy", config)
    with RunFolder(tmp_path / "run", text_preprocessing(tokenizer), {}) as folder:
        folder.start(trainable)
        result = train(
            trainable,
            _Interrupting(data.ids, 4, 7),
            data,
            TrainingConfig(epochs=5, schedule="constant", validate_every=4),
            [folder],
        )
    assert result.interrupted
    assert result.steps == 6
    last = load_checkpoint(tmp_path / "run" / "last.safetensors")
    for name, value in trainable.export_params().items():
        np.testing.assert_array_equal(last.params[name], value)
    assert last.training["result"]["interrupted"] is True


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs a limit"),
        ({"steps": 0}, "steps: got 0"),
        ({"seconds": math.inf}, "seconds: got inf"),
        ({"epochs": 1, "schedule": "sine"}, "schedule: got 'sine'"),
        ({"epochs": 1, "validate_every": -1}, "validate_every: got -1"),
        ({"epochs": 1, "average": 1.0}, "average: got 1.0"),
        ({"epochs": 1, "warmup": -1}, "warmup: got -1"),
        ({"epochs": 1, "patience": 0}, "patience: got 0"),
    ],
)
def test_bad_training_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingConfig(**settings)  # type: ignore[arg-type]
