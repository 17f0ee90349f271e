"""The verbs on files of models that are no language models: export, verify, info."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import models
import pytest
from commands import run_command

from unrolled.engine.storage.checkpoint import save_checkpoint


def run(*arguments: str, code: int = 0) -> Any:
    return run_command(*arguments, code=code, COLUMNS="200", PYTHONIOENCODING="utf-8")


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoint of a bidirectional tagger of all kinds of inputs, and its ONNX file."""
    folder = tmp_path_factory.mktemp("tagger")
    checkpoint = models.spec_checkpoint(models.spec("lstm", models.MIXTURES[-1], bidirectional=True))
    save_checkpoint(folder / "best.safetensors", checkpoint)
    written = json.loads(run("export", str(folder), "--weights", "fp16", "--json").stdout)
    assert (written["form"], written["weights"]) == ("run", "fp16")
    return folder


def test_verify_names_its_checks(tagger: Path) -> None:
    report = json.loads(run("verify", str(tagger / "model.onnx"), "--json").stdout)
    assert [check["name"] for check in report["checks"]] == [
        "names", "axes", "specification", "shapes", "lengths", "values", "digest", "weights", "sizes (best.safetensors)",
    ]  # fmt: skip
    assert report["ok"] is True


def test_verify_of_a_damaged_file_exits_with_1(tagger: Path, tmp_path: Path) -> None:
    data = bytearray((tagger / "model.onnx").read_bytes())
    data[data.index(b"output.weight") - 100] ^= 0x40  # in the weights, whichever they are
    (tmp_path / "model.onnx").write_bytes(data)
    assert "FAILED" in run("verify", str(tmp_path / "model.onnx"), code=1).stdout


def test_info_shows_inputs_core_head_and_capabilities(tagger: Path) -> None:
    values = json.loads(run("info", str(tagger / "model.onnx"), "--json").stdout)
    assert (values["form"], values["weights"], values["capabilities"]) == ("run", "fp16", "run")
    assert list(values["model"]["inputs"]) == ["static", "values", "categories", "tokens"]
    assert values["model"]["core"]["bidirectional"] is True
    assert values["model"]["head"] == {"kind": "step_labels", "classes": models.C}
    assert values["tokenizers"]["tokens"]["tokens"] == models.V
    shown = run("info", str(tagger)).stdout
    assert all(part in shown for part in ("bidirectional  True", "step_labels", "categories"))


def test_export_refuses_what_the_model_has_not(tagger: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (("--form", "step"), "form of onnx: got 'step', choose one of run"),
        (("--format", "web"), "format: web is for language models; the head of this model is step_labels"),
        (("--measure", __file__), "measure: compares language models; the head of this model is step_labels"),
    ):
        done = run("export", str(tagger), "-o", str(tmp_path / "model.onnx"), *arguments, code=2)
        assert message in done.stderr
        assert not list(tmp_path.iterdir())
