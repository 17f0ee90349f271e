"""Large vocabularies: no engine allocates all logits, and the results equal those with all of them."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import models
import numpy as np
import pytest
from tolerances import assert_close
from typer.testing import CliRunner

from unrolled.bench.memory import logits_mb, measure_memory, parameters_mb
from unrolled.bench.peers.workloads import Workload
from unrolled.cli.app import app
from unrolled.engine.errors import ConfigError
from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.models.layers import output_loss
from unrolled.engine.models.layers.output_loss import LossSums
from unrolled.engine.network.language_model import LanguageModel
from unrolled.engine.optimizers.config import OptimizerConfig
from unrolled.engine.training import evaluation
from unrolled.engine.training.evaluation import step_evaluator
from unrolled.export.training_engines import TRAINABLES, make_trainable

BYTES = 300  # of logits in float64 at a time: 3 positions of 11 tokens


def trainable(engine: str, **settings: Any) -> Any:
    if engine == "torch":
        pytest.importorskip("torch", reason="the torch extra is not installed")
    config = models.config("lstm", **settings)
    rule = OptimizerConfig("adam", 0.01, label_smoothing=0.1)
    return make_trainable(engine, config.spec, models.params(config), rule, 1.0)


def flat(sums: LossSums) -> tuple[float, ...]:
    return sums.loss, sums.weight, *sums.details


def some(batch: Batch, kind: str) -> Batch:
    """Return the batch with all positions counted, some, or none."""
    masks = {"all": np.ones_like(batch.weights), "some": batch.weights, "none": np.zeros_like(batch.weights)}
    return batch._replace(weights=masks[kind])


@pytest.mark.parametrize("kind", ["all", "some", "none"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_pieces_give_what_the_whole_gives(engine: str, tied: bool, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, pieces = trainable(engine, tie_weights=tied), trainable(engine, tie_weights=tied)
    batch, state = some(models.batch(models.config("lstm", tie_weights=tied)), kind), models.state(whole.spec)
    expected = [whole.train_step(batch, state, 0.01, None) for _ in range(3)]
    scored = whole.evaluate(batch, state)[0]
    monkeypatch.setattr(output_loss, "LOGITS_BYTES", BYTES)
    got = [pieces.train_step(batch, state, 0.01, None) for _ in range(3)]
    assert_close([flat(step.loss) for step in got], [flat(step.loss) for step in expected], "invariant", np.float64)
    assert_close([step.grad_norm for step in got], [step.grad_norm for step in expected], "invariant", np.float64)
    assert_close(flat(pieces.evaluate(batch, state)[0]), flat(scored), "invariant", np.float64)
    for name, value in whole.export_params().items():
        assert_close(pieces.export_params()[name], value, "engine", np.float64, name)


def test_alarm_a_piece_is_a_share_of_the_batch_and_not_its_own_mean() -> None:
    model = trainable("numpy")
    batch, state = models.batch(models.config("lstm")), models.state(model.spec)
    whole = model.gradients(batch, state)
    first = model.gradients(batch._replace(weights=batch.weights & (np.arange(models.T) < 2)[:, None]), state)
    rest = model.gradients(batch._replace(weights=batch.weights & (np.arange(models.T) >= 2)[:, None]), state)
    shares = np.array([first.loss.weight, rest.loss.weight]) / whole.loss.weight
    assert_close(first.flat * shares[0] + rest.flat * shares[1], whole.flat, "invariant", np.float64)
    with pytest.raises(AssertionError):
        assert_close((first.flat + rest.flat) / 2, whole.flat, "invariant", np.float64)


@pytest.mark.parametrize("N", [1, 3, 4, 7])
def test_pieces_cover_all_positions_once(N: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_loss, "LOGITS_BYTES", BYTES)
    pieces = [np.arange(N)[piece] for piece in output_loss.logit_pieces(N, models.V, np.dtype(np.float64))]
    np.testing.assert_array_equal(np.concatenate(pieces), np.arange(N))
    assert all(len(piece) <= 3 for piece in pieces)
    assert len(list(output_loss.logit_pieces(2, 10**9, np.dtype(np.float64)))) == 2  # a position at a time at least


def peak_of_a_step(engine: str, batch: Batch, model: Any) -> int:
    """Return the peak of the bytes that a step and an evaluation allocate."""
    state = models.state(model.spec, batch.batch_size, np.float32)
    tracemalloc.start()
    try:
        model.train_step(batch, state, 0.01, None)
        model.evaluate(batch, state)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_step_in_numpy_holds_less_than_all_logits_and_the_whole_holds_more(monkeypatch: pytest.MonkeyPatch) -> None:
    config = models.config("rnn", 1, vocab_size=3000)
    batch = models.batch(config, 32, 32, masked=False)
    all_logits = 4 * batch.targets.size * config.vocab_size  # 12 MB

    def peak() -> int:
        model = make_trainable("numpy", config.spec, models.params(config, np.float32), OptimizerConfig("adam"), 1.0)
        return peak_of_a_step("numpy", batch, model)

    monkeypatch.setattr(output_loss, "LOGITS_BYTES", 1 << 19)
    assert peak() < all_logits / 2
    monkeypatch.setattr(output_loss, "LOGITS_BYTES", 1 << 30)
    assert peak() > 2 * all_logits


def test_a_model_that_is_scored_by_its_steps_is_asked_for_few_logits_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    config = models.config("gru")
    model = LanguageModel(config, models.params(config))
    batch, state = models.batch(config), models.state(config)
    expected, expected_state = step_evaluator(model)(batch, state)
    asked: list[int] = []
    step = model.step

    def counted(tokens: Any, state: Any) -> Any:
        asked.append(tokens.size)
        return step(tokens, state)

    monkeypatch.setattr(model, "step", counted)
    monkeypatch.setattr(evaluation, "LOGITS_BYTES", 4 * models.V * models.B * 2)  # two steps of all rows
    got, got_state = step_evaluator(model)(batch, state)
    assert asked == [6, 6, 3]
    assert_close(flat(got), flat(expected), "invariant", np.float64)
    assert_close(got_state, expected_state, "invariant", np.float64)


@pytest.mark.slow
@pytest.mark.parametrize("engine", TRAINABLES)
def test_a_training_process_stays_below_an_array_of_all_logits(engine: str) -> None:
    if engine == "torch":
        pytest.importorskip("torch", reason="the torch extra is not installed")
    work = Workload("train", "lstm", 1, 16, 128, 128, 16_000, 16)  # all logits: 1,000 MB
    found = measure_memory(engine, work)
    if found["added_mb"] is None:
        pytest.skip("this system does not tell how much memory a process had")
    assert parameters_mb(work) < found["added_mb"] < logits_mb(work) / 2


def test_the_command_shows_what_was_measured(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    sizes = "--hidden 8 --batch 2 --length 4 --vocab 9 --engines numpy"
    result = CliRunner().invoke(app, ["bench", "memory", *sizes.split(), "--json", str(file)])
    assert result.exit_code == 0, result.output
    assert "weights, gradients and two moments" in result.stdout
    line = json.loads(file.read_text())
    assert (line["suite"], line["engine"], line["vocab"], line["length"]) == ("memory", "numpy", 9, 4)
    assert line["peak_mb"] is None or f"{line['peak_mb']:,.0f}" in result.stdout
    with pytest.raises(ConfigError, match="engine: numpy failed: TypeError"):
        measure_memory("numpy", SimpleNamespace(to_dict=lambda: {"vocab": 9}))  # type: ignore[arg-type]
