"""Tests of the comparison of engines, which must also report differences, and of the pictures of training runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest

from unrolled.bench.machine.system import system_info
from unrolled.bench.parity.agreement import Implementation, compare, default_prompts, implementations, measure_agreement
from unrolled.bench.parity.divergence import BORDER, Divergence, border_margins, first_divergences
from unrolled.engine.data.config import DataConfig
from unrolled.engine.data.corpus import Corpus
from unrolled.engine.errors import ModelFileError
from unrolled.engine.models.heads.next_token import NextTokenHead
from unrolled.engine.runs.experiment import Experiment, ModelSettings, prepare_run
from unrolled.engine.sampling.config import SamplingConfig
from unrolled.engine.sampling.philox import uniforms
from unrolled.engine.storage.checkpoint import Checkpoint, save_checkpoint
from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.engine.training.config import TrainingConfig
from unrolled.export.formats import export_model
from unrolled.report.loss_curves import draw_loss_curves


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "logits": rng.standard_normal((6, 2, 5)).astype(np.float32),
        "greedy": rng.integers(0, 5, (2, 10)),
        "sampled": rng.integers(0, 5, (2, 10)),
    }


def test_agreement_of_equal_arrays_is_complete() -> None:
    assert measure_agreement(arrays(), arrays()) == {
        "max_logit_error": 0.0,
        "greedy_match": 1.0,
        "sampled_match": 1.0,
        "equal_texts": 1.0,
    }


def test_alarm_agreement_notices_every_difference() -> None:
    got = arrays()
    got["logits"][3, 1, 2] += 0.5
    got["greedy"][0, 9] += 1
    got["sampled"][1, 9] += 1
    assert measure_agreement(got, arrays())["equal_texts"] == 0.5
    got["sampled"][:] = -1
    result = measure_agreement(got, arrays())
    assert result["max_logit_error"] == pytest.approx(0.5, rel=1e-6)
    assert (result["greedy_match"], result["sampled_match"]) == (0.95, 0.0)
    got["logits"][0, 0, 0] = np.nan
    assert measure_agreement(got, arrays())["max_logit_error"] == np.inf
    with pytest.raises(ModelFileError, match="logits"):
        measure_agreement({**arrays(), "logits": np.zeros((1, 2, 5), np.float32)}, arrays())


def test_alarm_a_file_with_other_weights_disagrees(tmp_path: Path) -> None:
    checkpoint = models.checkpoint("lstm")
    save_checkpoint(tmp_path / "best.safetensors", checkpoint)
    params = {
        **checkpoint.params,
        "output.bias": checkpoint.params["output.bias"] + np.arange(models.V, dtype=np.float32),
    }
    other = Checkpoint.of_language_model(checkpoint.config, params, checkpoint.tokenizer)
    path = export_model(other, tmp_path / "other.onnx", "onnx")
    compared = [
        implementations(tmp_path)[0],
        Implementation("other", str(path), None),
        Implementation("gone", "gone.onnx", None),
    ]
    reference, changed, missing = compare(compared, ["ab", "c"], tokens=20, number=3)
    assert (reference.max_logit_error, reference.greedy_match, reference.sampled_match) == (0.0, 1.0, 1.0)
    assert changed.max_logit_error == pytest.approx(models.V - 1, rel=1e-3)
    assert changed.sampled_match is not None
    assert changed.sampled_match < 0.9
    assert (reference.equal_texts, reference.divergences) == (1.0, ())
    assert changed.divergences is not None
    assert changed.equal_texts == 1 - len(changed.divergences) / 6
    assert not any(one["explained"] for one in changed.to_dict()["divergences"])
    assert missing.error is not None
    assert "no such file" in missing.error


class Fixed:
    """Model whose logits are always the same."""

    engine = "fixed"

    def __init__(self, logits: list[float]) -> None:
        self.logits = np.array(logits, np.float32)
        self.config = models.config("rnn", 1, vocab_size=len(logits))

    def step(self, tokens: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.broadcast_to(self.logits, (*tokens.shape, len(self.logits))), state


def test_divergences_are_the_first_ones_with_their_distance_from_the_border() -> None:
    model: Any = Fixed(np.log([0.5, 0.25, 1e-9, 0.25]).tolist())
    expected = np.array([[0, 1, 3, 3], [1, 1, 1, 1], [3, 3, 1, 0], [0, 3, -1, -1]])
    got = np.array([[0, 1, 1, 0], [1, 1, 1, 1], [3, 0, 0, 0], [0, 3, 1, -1]])
    indices = np.array([4, 5, 6, 7])
    prompts = [np.array([0])] * 4
    found = first_divergences(model, prompts, indices, expected, got, SamplingConfig(seed=9))
    u = [uniforms(9, np.array([index]), step)[0] for index, step in ((4, 2), (6, 1))]
    borders = [(0.75, 0.75 + 1e-9), (0.5, 0.75 + 1e-9)]
    margins = [max(abs(border - at) for border in pair) for pair, at in zip(borders, u, strict=True)]
    assert [(one.index, one.step, one.expected, one.got) for one in found] == [
        (4, 2, 3, 1),
        (6, 1, 3, 0),
        (7, 2, -1, 1),
    ]
    assert [one.margin for one in found[:2]] == pytest.approx(margins, abs=1e-7)
    assert found[2].margin is None
    assert not any(one.explained for one in found)


def test_only_a_draw_on_the_border_of_tokens_that_are_left_is_explained() -> None:
    logits = np.log([[0.5, 0.25, 1e-9, 0.25]])
    for u, pair, top_k, explained in (
        (0.5 + BORDER / 2, (0, 1), 0, True),
        (0.5 - 2 * BORDER, (1, 0), 0, False),
        (0.75, (1, 3), 0, True),  # across a token of hardly any probability
        (0.75, (1, 2), 3, False),  # top_k removed token 2
        (0.5, (0, 3), 0, False),
        (0.5, (0, 4), 0, False),
        (np.nan, (0, 1), 0, False),
    ):
        margin = border_margins(logits, np.array([pair]), np.array([u]), SamplingConfig(top_k=top_k))[0]
        assert Divergence(0, 0, *pair, margin).explained is explained, (u, pair)


def test_implementations_are_engines_then_files(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "best.safetensors", models.checkpoint())
    (tmp_path / "model.onnx").write_bytes(b"")
    names = [one.name for one in implementations(tmp_path)]
    assert names == ["numpy", "numba", "torch", "torchscript", "onnxruntime", "model.onnx"]


def test_default_prompts_can_be_read_by_the_tokenizer() -> None:
    tokenizer = CharTokenizer(["<bos>", "<eos>", "<", "a", "b"])
    prompts = default_prompts(tokenizer)
    assert len({len(prompt) for prompt in prompts}) == len(prompts)
    assert all(len(tokenizer.encode(prompt)) == len(prompt) for prompt in prompts)


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_curves_of_several_runs_are_one_picture(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    text = Corpus("abc", "abcabcabd" * 100)
    for name in ("one", "two"):
        experiment = Experiment(
            TrainingConfig(steps=8, validate_every=4), DataConfig(batch_size=2, length=9), ModelSettings("rnn", 4, 5)
        )
        prepare_run(text, experiment).run(tmp_path / name)
    picture = tmp_path / f"curves{suffix}"
    draw_loss_curves({name: tmp_path / name for name in ("one", "two")}, picture, NextTokenHead.metrics[0], "title")
    assert picture.stat().st_size > 5000


def test_system_info_names_processor_and_versions() -> None:
    values = system_info()
    assert values["processor"]
    assert set(values["versions"]) >= {"numpy", "numba", "onnxruntime"}
