"""Tests of pickling, copying and sending models, contexts, configs and results to processes."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest

from unrolled.engine.errors import ConfigError
from unrolled.engine.network.language_model import LanguageModel, TokenStepper
from unrolled.engine.optimizers.config import OptimizerConfig
from unrolled.engine.storage.checkpoint import load_checkpoint, save_checkpoint
from unrolled.engine.training.trainable import EngineTrainable
from unrolled.export.artifact.weight_storage import WeightStorage
from unrolled.export.formats import export_model
from unrolled.runtime import BeamConfig, Context, GenerationConfig, beam_search, generate, load, read, score, stream
from unrolled.runtime.models.engines import TokenizedModel, make_model

ENGINES = ("numpy", "numba", "torch", "torchscript", "onnxruntime")
FILES = {
    "step.onnx": ("onnx", "step", {}),
    "generate.onnx": ("onnx", "generate", {}),
    "both.onnx": ("onnx", "both", {}),
    "int8.onnx": ("onnx", "step", {"weights": WeightStorage("int8")}),
    "model.pt": ("torchscript", None, {}),
}
SETTINGS: dict[str, Any] = {"max_new_tokens": 9, "seed": 4, "temperature": 0.8}


def opened(where: Path, kind: str) -> Any:
    """Return a model of each kind, whose file has been removed."""
    if kind.startswith(("torch", "model.pt")):
        pytest.importorskip("torch")
    checkpoint = models.checkpoint("gru", 1)
    if kind in ENGINES:
        path = where / "model.safetensors"
        save_checkpoint(path, checkpoint)
        model = load(path, kind)
    else:
        format, form, settings = FILES[kind]
        path = export_model(checkpoint, where / kind, format, form, **settings)
        model = load(path)
    path.unlink()
    return model


def texts(model: Any) -> list[tuple[int, ...]]:
    return [one.tokens for one in generate(model, ["a", "bad"], **SETTINGS)]


@pytest.mark.parametrize("kind", [*ENGINES, *FILES])
def test_a_model_is_pickled_and_copied_without_its_file(tmp_path: Path, kind: str) -> None:
    model = opened(tmp_path, kind)
    expected = texts(model)  # before pickling, so that the model holds compiled code and packed weights
    for made in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.copy(model)):
        assert type(made) is type(model)
        assert (made.engine, made.digest, made.training) == (model.engine, model.digest, model.training)
        assert texts(made) == expected
    again = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(model))))
    assert texts(again) == expected


def test_a_model_in_bfloat16_stays_in_it(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, models.checkpoint("gru", 1))
    try:
        model = load(path, precision="bf16")
    except ConfigError:
        pytest.skip("this processor has no bfloat16")
    assert pickle.loads(pickle.dumps(model)).engine == model.engine == "numba-bf16"


def test_processes_take_models(tmp_path: Path) -> None:
    models_of = [opened(tmp_path, kind) for kind in ("numpy", "numba", "step.onnx")]
    write = partial(
        generate, prompts=["a", "bad"], **SETTINGS
    )  # which, unlike a test's function, any process can import
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        written = list(pool.map(write, models_of, timeout=300))
    assert [[one.tokens for one in found] for found in written] == [texts(model) for model in models_of]


def test_contexts_configs_and_results_are_pickled_and_copied(tmp_path: Path) -> None:
    model = make_model(models.checkpoint("gru", 1), "numpy")
    config = GenerationConfig(bad_words="b", **SETTINGS)
    text = generate(model, "a", config)[0]  # fills the caches of the config
    assert config.rules is not None
    beams = beam_search(model, "a", BeamConfig(num_beams=2, max_new_tokens=3))
    for value in (
        text,
        beams,
        config,
        BeamConfig(num_beams=2),
        model.config,
        models.checkpoint("gru", 1).tokenizer.to_dict(),
    ):
        assert pickle.loads(pickle.dumps(value)) == copy.deepcopy(value) == value
    assert generate(model, "a", pickle.loads(pickle.dumps(config)))[0] == text
    context = read(model, "abc")
    for made in (pickle.loads(pickle.dumps(context)), copy.deepcopy(context)):
        assert isinstance(made, Context)
        assert (made.tokens.tolist(), made.written, made.digest) == (context.tokens.tolist(), 0, context.digest)
        np.testing.assert_array_equal(made.state, context.state)
        assert generate(model, "d", context=made, **SETTINGS) == generate(model, "d", context=context, **SETTINGS)
    scored = score(model, "abc")[0]
    assert pickle.loads(pickle.dumps(scored)).logprob == scored.logprob


def test_a_checkpoint_is_pickled(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model.safetensors", models.checkpoint("gru", 1))
    checkpoint = load_checkpoint(tmp_path / "model.safetensors")
    assert pickle.loads(pickle.dumps(checkpoint)).digest == copy.deepcopy(checkpoint).digest == checkpoint.digest


@pytest.mark.parametrize("take", [pickle.dumps, copy.deepcopy, copy.copy])
def test_what_cannot_be_pickled_says_what_to_do(take: Any) -> None:
    model = make_model(models.checkpoint("gru", 1), "numpy")
    pieces = stream(model, "a", **SETTINGS)
    next(pieces)
    with pytest.raises(ConfigError, match=r"^stream: .* pickle the model and stream in the other process"):
        take(pieces)
    assert len("".join(pieces)) > 0  # and the stream continues
    checkpoint = models.checkpoint("gru", 1)
    trainable = EngineTrainable(checkpoint.spec, checkpoint.params, OptimizerConfig())
    with pytest.raises(ConfigError, match=r"^trainable: .* pass the Experiment and prepare it in the other process"):
        take(trainable)
    with pytest.raises(ConfigError, match=r"^model: .* save its checkpoint, and load that in the other process"):
        take(TokenizedModel("numpy", TokenStepper(trainable), checkpoint.tokenizer))
    network = LanguageModel(checkpoint.config, checkpoint.params)
    if take is not copy.copy:
        made = pickle.loads(pickle.dumps(network))
        assert made.engine == "numpy"
        np.testing.assert_array_equal(made.params["output.weight"], network.params["output.weight"])


def test_a_closed_stream_ends() -> None:
    pieces = stream(make_model(models.checkpoint("gru", 1), "numpy"), "a", **SETTINGS)
    next(pieces)
    pieces.close()
    assert list(pieces) == []


def test_alarm_another_model_writes_other_texts(tmp_path: Path) -> None:
    other = make_model(models.checkpoint("lstm", 1), "numpy")
    assert texts(pickle.loads(pickle.dumps(other))) != texts(make_model(models.checkpoint("gru", 1), "numpy"))
