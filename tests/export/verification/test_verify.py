"""Verification of exported files: good ones pass, and every kind of change fails with a message that names it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import models
import mutations
import numpy as np
import onnx
import pytest
from exports import KINDS, STORED, exported

from unrolled.engine.errors import ModelFileError
from unrolled.engine.models.step_contract import STEP, Draws, StepModel
from unrolled.engine.storage.checkpoint import Checkpoint, save_checkpoint
from unrolled.engine.storage.description import text_preprocessing
from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.engine.tokenizers.vocabulary import EOS
from unrolled.export.formats import export_model
from unrolled.export.verification.checks import Check, CheckFailed
from unrolled.export.verification.verify import verify
from unrolled.export.verification.writing_checks import check_pieces
from unrolled.runtime import load


def assert_found(checks: list[Check], expected: str = "") -> None:
    """Check that only the last check failed, and that it is the expected one, if one is given."""
    assert not checks[-1].ok, f"{checks[-1].name}: passed"
    assert all(check.ok for check in checks[:-1])
    assert expected in ("", checks[-1].name), checks[-1]


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("cell", models.ALL_CELLS)
@pytest.mark.parametrize("kind", KINDS)
def test_verify_passes_what_we_export(tmp_path: Path, kind: str, cell: str, beside: bool) -> None:
    checkpoint = models.checkpoint(cell)
    path = exported(checkpoint, tmp_path, kind)
    if beside:
        save_checkpoint(tmp_path / "best.safetensors", checkpoint)
    checks = list(verify(path, load))
    assert [check.detail for check in checks if not check.ok] == []
    names = {check.name for check in checks}
    steps, writes = {"shapes", "chunks", "values", "tokens"}, {"written tokens", "written pieces"}
    own = {"own step", "own tokens"}
    assert {"names", "digest"} <= names
    assert (steps <= names) is (kind != "onnx generate")
    assert (writes <= names) is (kind != "onnx")
    assert (own <= names) is (kind == "torchscript")
    assert ("sizes (best.safetensors)" in names) is beside


def test_verify_does_not_take_another_model_beside_for_its_own(tmp_path: Path) -> None:
    path = exported(models.checkpoint("gru"), tmp_path)
    save_checkpoint(tmp_path / "best.safetensors", models.checkpoint("lstm"))
    assert all(check.ok for check in verify(path, load))
    failed = [check for check in verify(path, load, models.checkpoint("lstm")) if not check.ok]
    assert [check.name for check in failed] == ["sizes"]
    assert "gru 2 × 6 with 11 tokens, the checkpoint a lstm" in failed[0].detail
    other = models.checkpoint("gru")
    other.params["output.bias"][3] += 0.01
    assert [check.name for check in verify(path, load, other) if not check.ok] == ["values"]


def test_verify_holds_a_checkpoint_against_another(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "best.safetensors", models.checkpoint("gru"))
    assert all(check.ok for check in verify(tmp_path / "best.safetensors", load))
    other = models.checkpoint("gru")
    other.params["output.bias"][0] += 1
    failed = [check.name for check in verify(tmp_path / "best.safetensors", load, other) if not check.ok]
    assert failed == ["values"]


def changed(path: Path, change: mutations.Change) -> list[Check]:
    """Return the checks of an ONNX file after a change."""
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    return list(verify(path, load))


@pytest.mark.parametrize(
    ("cell", "mutation"), [(cell, name) for cell in mutations.MUTATIONS for name in mutations.MUTATIONS[cell]]
)
def test_alarm_verify_catches_a_changed_graph(tmp_path: Path, cell: str, mutation: str) -> None:
    change, expected = mutations.MUTATIONS[cell][mutation]
    assert_found(changed(exported(models.checkpoint(cell), tmp_path), change), expected)


WRITING = [(cell, name) for cell, changes in mutations.WRITING_MUTATIONS.items() for name in changes]


@pytest.mark.parametrize("form", ["generate", "both"])
@pytest.mark.parametrize("loop", mutations.LOOPS)
@pytest.mark.parametrize(("cell", "mutation"), WRITING)
def test_alarm_verify_catches_a_changed_loop(tmp_path: Path, cell: str, mutation: str, loop: str, form: str) -> None:
    path = exported(models.checkpoint(cell), tmp_path, f"onnx {form}")
    assert_found(changed(path, lambda model: mutations.WRITING_MUTATIONS[cell][mutation](model, loop)))


SMALLER = [(stored, name) for stored, changes in mutations.SMALLER_MUTATIONS.items() for name in changes]


@pytest.mark.parametrize(("stored", "mutation"), SMALLER)
def test_alarm_verify_catches_a_changed_smaller_file(tmp_path: Path, stored: str, mutation: str) -> None:
    checkpoint = models.checkpoint("lstm", hidden_size=24, embedding_size=24)
    checkpoint.params["output.weight"] *= (
        10  # logits as large as a trained model's, against which the tolerance is small
    )
    path = export_model(checkpoint, tmp_path / "model.onnx", "onnx", "step", weights=STORED[stored])
    change, expected = mutations.SMALLER_MUTATIONS[stored][mutation]
    assert_found(changed(path, change), expected)


def _flip_a_bit(model: onnx.ModelProto) -> None:
    value = mutations.array(model, "rnn.weight_ih_l1")
    value.view(np.uint32).reshape(-1)[7] ^= 1
    mutations.set_initializer(model, "rnn.weight_ih_l1", value)


def _reverse_vocabulary(model: onnx.ModelProto) -> None:
    key = "unrolled.tokenizer"
    values = json.loads(next(prop.value for prop in model.metadata_props if prop.key == key))
    mutations.set_metadata(model, key, json.dumps({**values, "vocabulary": values["vocabulary"][::-1]}))


@pytest.mark.parametrize("change", [_flip_a_bit, _reverse_vocabulary])
def test_alarm_verify_catches_what_no_logit_shows(tmp_path: Path, change: mutations.Change) -> None:
    assert_found(changed(exported(models.checkpoint("gru"), tmp_path), change), "digest")


@pytest.mark.parametrize("kind", ["onnx", "onnx generate"])
def test_alarm_verify_catches_a_truncated_vocabulary(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ModelFileError, match="tokeniser has 10 tokens, the model 11"):
        changed(exported(models.checkpoint("gru"), tmp_path, kind), mutations.truncate_vocabulary)


def ending(cell: str) -> Checkpoint:
    """Return a model whose texts end: every eleventh token is <eos>."""
    checkpoint = models.checkpoint(cell)
    tokenizer = CharTokenizer([*checkpoint.tokenizer.vocabulary[:-1], EOS])
    return dataclasses.replace(checkpoint, preprocessing=text_preprocessing(tokenizer))


@pytest.mark.parametrize("program", mutations.PROGRAMS)
def test_alarm_verify_catches_a_changed_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    old, new, expected = mutations.PROGRAMS[program]
    module = mutations.changed_program(old, new, tmp_path)
    monkeypatch.setattr("unrolled.export.torch.torchscript.make_torch_model", module.make_torch_model)
    path = exported(ending("lstm"), tmp_path, "torchscript")
    assert_found(list(verify(path, load)), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_verify_passes_files_whose_texts_end(tmp_path: Path, kind: str) -> None:
    assert all(check.ok for check in verify(exported(ending("gru"), tmp_path, kind), load))


class Counting:
    """A WritingModel that counts up to <eos>, each row in its own strides, and starts again after <eos>."""

    STRIDES = np.array([1, 90, 1])
    engine, digest, capabilities = "counting", "", STEP | {"write"}

    def __init__(self, forgets: bool = False) -> None:
        self.config = models.config("rnn", vocab_size=200)
        self.tokenizer = CharTokenizer([*(chr(200 + i) for i in range(199)), EOS])
        self.training: dict[str, object] = {}
        self.forgets = forgets  # its position, when it continues

    def step(self, tokens: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    def write(
        self, tokens: np.ndarray, lengths: np.ndarray, state: np.ndarray, draws: Draws
    ) -> tuple[np.ndarray, np.ndarray]:
        eos, rows = self.config.vocab_size - 1, []
        token = tokens[lengths - 1, np.arange(len(lengths))] + (self.forgets and draws.first_step > 0)
        token = np.where(token >= eos, 0, token)
        for _ in range(draws.steps):
            token = np.minimum(token + self.STRIDES[draws.sequences], eos)
            rows.append(token)
            if (token == eos).all():
                break
        return np.stack(rows), np.zeros(state.shape, np.float32) + token[:, None]


def test_a_row_that_ended_in_the_first_piece_of_a_text_is_no_fault() -> None:
    assert "its pieces" in check_pieces(Counting())
    with pytest.raises(CheckFailed, match="in two pieces is another"):
        check_pieces(Counting(forgets=True))


class _Twisted:
    """A model whose second row reads the first row's state."""

    def __init__(self, model: StepModel) -> None:
        self.model, self.config, self.tokenizer, self.engine = model, model.config, model.tokenizer, model.engine
        self.capabilities = STEP

    def step(self, tokens: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.model.step(tokens, np.ascontiguousarray(np.roll(state, 1, axis=2)))


def test_alarm_verify_catches_states_that_wander_between_rows(tmp_path: Path) -> None:
    path = exported(models.checkpoint(), tmp_path)
    checks = list(verify(path, lambda file: _Twisted(load(file))))
    assert (checks[-1].name, checks[-1].ok) == ("chunks", False)


@pytest.mark.parametrize("golden", ['[{"prompt": "x"}]', "[1]", "{}", '[{"prompt": [99]}]', "["])
def test_golden_cases_of_the_wrong_kind_are_a_named_error(tmp_path: Path, golden: str) -> None:
    path = exported(models.checkpoint("gru"), tmp_path)
    model = onnx.load(path)
    mutations.set_metadata(model, "unrolled.golden", golden)
    onnx.save(model, path)
    with pytest.raises(ModelFileError, match="golden"):
        list(verify(path, load))
