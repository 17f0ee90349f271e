"""Checkpoints: bit-for-bit round trips, atomic writing, and a named error for every kind of damage."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path

import models
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from unrolled.engine.errors import ConfigError, ModelFileError
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.parameters import parameter_count, parameter_shapes
from unrolled.engine.storage import atomic_files
from unrolled.engine.storage.checkpoint import load_checkpoint, resolve_model_file, save_checkpoint
from unrolled.engine.storage.description import text_preprocessing
from unrolled.engine.tokenizers.characters import CharTokenizer


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_round_trip_bit_for_bit(tmp_path: Path, cell: str, tied: bool) -> None:
    saved = models.checkpoint(cell, tie_weights=tied)
    save_checkpoint(tmp_path / "a.safetensors", saved)
    loaded = load_checkpoint(tmp_path / "a.safetensors")
    assert (loaded.config, loaded.tokenizer, loaded.training) == (saved.config, saved.tokenizer, saved.training)
    assert set(loaded.params) == set(saved.params)
    for name, value in saved.params.items():
        assert loaded.params[name].dtype == value.dtype
        assert loaded.params[name].tobytes() == value.tobytes()
    save_checkpoint(tmp_path / "b.safetensors", loaded)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_run_folder_means_its_best_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.safetensors", models.checkpoint("gru"))
    assert resolve_model_file(tmp_path).name == "last.safetensors"
    save_checkpoint(tmp_path / "best.safetensors", models.checkpoint("rnn"))
    assert load_checkpoint(tmp_path).config.cell == "rnn"


def test_every_truncation_is_a_named_error(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, models.checkpoint())
    data = path.read_bytes()
    for percent in range(100):
        path.write_bytes(data[: len(data) * percent // 100])
        with pytest.raises(ModelFileError, match=r"a\.safetensors"):
            load_checkpoint(path)


def test_a_flipped_byte_in_the_header_never_crashes(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, models.checkpoint())
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    header = int.from_bytes(data[:8], "little") + 8
    for position in rng.integers(0, header, 200):
        damaged = bytearray(data)
        damaged[position] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        with contextlib.suppress(ModelFileError):
            load_checkpoint(path)


def _rewrite(path: Path, changed: dict[str, object] | None = None, **tensors: np.ndarray) -> None:
    with safe_open(path, framework="numpy") as file:
        described = json.loads(file.metadata()["unrolled"])
    save_file({**load_file(path), **tensors}, path, {"unrolled": json.dumps({**described, **(changed or {})})})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format_version": 99}, "format 99; this release reads 1 and 2"),
        ({"config": None}, "its metadata has no config"),
        ({"training": []}, "its metadata has no training"),
        ({"config": {"cell": "lstm", "vocab_size": 11, "layers": 2}}, "unknown setting layers"),
        ({"config": {"cell": "lstm"}}, "vocab_size missing"),
        ({"tokenizer": {}}, "tokenizer: not a valid description"),
        ({"tokenizer": CharTokenizer("ab").to_dict()}, "tokeniser has 2 tokens, the model 11"),
    ],
)
def test_wrong_metadata_is_a_named_error(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, models.checkpoint())
    _rewrite(path, changed)
    with pytest.raises(ModelFileError, match=message):
        load_checkpoint(path)


def test_metadata_that_is_not_json_is_a_named_error(tmp_path: Path) -> None:
    for text, message in (("{", "not JSON"), ("[]", "JSON list")):
        save_file({"a": np.zeros(1, np.float32)}, tmp_path / "a.safetensors", {"unrolled": text})
        with pytest.raises(ModelFileError, match=message):
            load_checkpoint(tmp_path / "a.safetensors")


def test_wrong_tensors_are_named_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    good = models.checkpoint()
    nan = good.params["rnn.weight_hh_l1"].copy()
    nan[2, 3] = np.nan
    cases = [
        ({"rnn.weight_hh_l1": nan}, r"rnn\.weight_hh_l1 holds 1 values that are NaN or infinite"),
        ({"output.bias": np.zeros(5, np.float32)}, r"output\.bias has shape \(5,\), the config asks for \(11,\)"),
        ({"extra": np.zeros(5, np.float32)}, "extra not expected"),
        ({"output.weight": good.params["output.weight"].astype(np.float64)}, "dtype float64, the others float32"),
    ]
    for tensors, message in cases:
        save_checkpoint(path, good)
        _rewrite(path, **tensors)
        with pytest.raises(ModelFileError, match=message):
            load_checkpoint(path)


def test_alarm_a_changed_weight_or_vocabulary_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    good = models.checkpoint()
    changed = good.params["output.bias"].copy()
    changed.view(np.uint32)[2] ^= 1
    swapped = {**good.tokenizer.to_dict(), "vocabulary": list(good.tokenizer.vocabulary[::-1])}
    for metadata, tensors in ((None, {"output.bias": changed}), ({"tokenizer": swapped}, {})):
        save_checkpoint(path, good)
        _rewrite(path, metadata, **tensors)
        with pytest.raises(ModelFileError, match="damaged: weights, config or tokenizer"):
            load_checkpoint(path)


def test_a_foreign_safetensors_file_is_a_named_error(tmp_path: Path) -> None:
    save_file({"weight": np.zeros((2, 2), np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(ModelFileError, match="not one of unrolled's checkpoints"):
        load_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", ["missing", "missing.safetensors", "."])
def test_what_is_not_there_is_a_named_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelFileError, match=r"no such file or folder|no run folder"):
        load_checkpoint(tmp_path / name)


def test_a_failed_write_leaves_the_earlier_checkpoint_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, models.checkpoint())
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, models.checkpoint("gru"))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_tokenizer_and_model_must_be_of_one_size() -> None:
    with pytest.raises(ModelFileError, match="tokeniser has 3 tokens"):
        dataclasses.replace(models.checkpoint(), preprocessing=text_preprocessing(CharTokenizer("abc")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cell": "lstmm"}, "'lstmm' is not known; choose one of rnn, rnn_relu, gru, lstm"),
        ({"hidden_size": 0}, "hidden_size: got 0"),
        ({"hidden_size": True}, "hidden_size: got True"),
        ({"num_layers": 1.5}, "num_layers: got 1.5"),
        ({"vocab_size": 1}, "vocab_size: got 1"),
        ({"num_layers": 2, "dropout": 1.0}, "dropout: got 1.0"),
        ({"dropout": 0.5}, "there is one layer"),
        ({"tie_weights": True}, "needs embedding_size = hidden_size"),
        ({"tie_weights": 1}, "tie_weights: got 1"),
    ],
)
def test_bad_configs_are_named(settings: dict[str, object], message: str) -> None:
    values = {"cell": "lstm", "vocab_size": 5, "embedding_size": 3, "hidden_size": 4, **settings}
    with pytest.raises(ConfigError, match=message):
        LanguageModelConfig.from_dict(values)


def test_config_round_trip_and_sizes() -> None:
    config = LanguageModelConfig("gru", 11, 4, 6, num_layers=2)
    assert LanguageModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.state_shape(3) == (1, 2, 3, 6)
    assert parameter_shapes(config.spec)["rnn.weight_ih_l1"] == (18, 6)
    assert parameter_count(config.spec) == 44 + (18 * 4 + 18 * 6 + 36) + (18 * 6 + 18 * 6 + 36) + 66 + 11


def test_parameters_have_the_names_and_shapes_of_torch() -> None:
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    for cell, make in {"rnn": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}.items():
        config = models.config(cell, 2)
        expected = {f"rnn.{k}": tuple(v.shape) for k, v in make(models.E, models.H, 2).state_dict().items()}
        ours = {name: shape for name, shape in parameter_shapes(config.spec).items() if name.startswith("rnn.")}
        assert ours == expected
