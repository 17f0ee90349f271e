"""Files of format 2: the small ones that were written once load, compute the same, and are written again as they were."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from frozen import freeze_format_2
from tolerances import assert_close

from unrolled.engine.network.network import Network
from unrolled.engine.storage.checkpoint import load_checkpoint, save_checkpoint
from unrolled.export.artifact.golden_runs import Runner
from unrolled.export.artifact.metadata import PREFIX
from unrolled.export.formats import export_model
from unrolled.export.onnx.reader import read_onnx
from unrolled.export.onnx.runner import OnnxRunner
from unrolled.export.onnx.stepper import open_session
from unrolled.export.verification.verify import verify
from unrolled.runtime import load
from unrolled.runtime.models.engines import ENGINES

FILES = Path(__file__).parent / "frozen" / "format-2"
EXPECTED: dict[str, Any] = json.loads((FILES / "expected.json").read_text(encoding="utf-8"))
NAMES = ("tagger", "words")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files, as the current folder."""
    copy = tmp_path / "format-2"
    shutil.copytree(FILES, copy)
    monkeypatch.chdir(copy)
    return copy


def assert_values(model: Runner) -> None:
    got, expected = freeze_format_2.tagger_values(model), EXPECTED["tagger"]["values"]
    assert got.keys() == expected.keys() == {"logits", "final_state"}
    for name, values in got.items():
        assert_close(np.array(values, np.float32), np.array(expected[name], np.float32), "export", what=name)


def runner_of(kind: str) -> Runner:
    if kind == "file":
        return OnnxRunner(open_session(read_onnx(Path("tagger.onnx")).data, "file"), freeze_format_2.TAGGER, "file")
    opened = load_checkpoint("tagger.safetensors")
    return Network(opened.spec, opened.params, kind)


@pytest.mark.parametrize("kind", ["numpy", "numba", "file"])
def test_the_tagger_computes_the_same(kind: str) -> None:
    assert_values(runner_of(kind))


def test_alarm_a_tagger_that_computes_something_else_is_seen() -> None:
    opened = load_checkpoint("tagger.safetensors")
    opened.params["rnn.weight_hh_l1_reverse"][2, 1] += 0.05
    with pytest.raises(AssertionError):
        assert_values(Network(opened.spec, opened.params))


@pytest.mark.parametrize("engine", [*ENGINES, ""])
def test_the_words_are_read_and_written_the_same(engine: str) -> None:
    """The prompt is in NFD, and the vocabulary in NFC."""
    if engine in ("torch", "torchscript"):
        pytest.importorskip("torch", reason="the torch extra is not installed")
    model: Any = load("words.safetensors", engine) if engine else load("words.onnx")
    assert model.tokenizer.encode(freeze_format_2.PROMPT).tolist() == EXPECTED["words"]["ids"] == [3, 4, 10, 6, 7]
    assert freeze_format_2.texts_of(model) == EXPECTED["words"]["texts"]
    assert model.digest == EXPECTED["words"]["digest"]


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_is_written_as_it_was_byte_for_byte(name: str) -> None:
    opened = load_checkpoint(f"{name}.safetensors")
    assert opened.digest == EXPECTED[name]["digest"]
    assert opened.description.format_version == 2
    save_checkpoint("again.safetensors", opened)
    assert Path("again.safetensors").read_bytes() == Path(f"{name}.safetensors").read_bytes()


def graph_and_metadata(path: str) -> tuple[bytes, dict[str, str]]:
    """Return the graph, and the metadata except what a release or a processor decides: producer, golden cases."""
    model = onnx.load(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    for key in ("producer", "golden"):
        del metadata[PREFIX + key]
    return model.graph.SerializeToString(deterministic=True), metadata


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_is_written_as_it_was(name: str) -> None:
    export_model(load_checkpoint(f"{name}.safetensors"), Path("again.onnx"), "onnx")
    assert graph_and_metadata("again.onnx") == graph_and_metadata(f"{name}.onnx")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_what_it_was(name: str) -> None:
    checks = list(verify(Path(f"{name}.onnx"), load))
    assert [check.detail for check in checks if not check.ok] == []
    assert f"values ({name}.safetensors)" in [check.name for check in checks]


def test_alarm_another_order_of_inputs_is_another_file() -> None:
    opened = load_checkpoint("tagger.safetensors")
    other = replace(opened, spec=replace(opened.spec, inputs=opened.spec.inputs[::-1]))
    assert other.digest != opened.digest
    save_checkpoint("again.safetensors", other)
    assert Path("again.safetensors").read_bytes() != Path("tagger.safetensors").read_bytes()


def test_the_files_are_small() -> None:
    assert sum(path.stat().st_size for path in FILES.iterdir()) < 60_000
