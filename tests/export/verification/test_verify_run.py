"""Verification of files of form run: good ones of every description pass, and every kind of change fails by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import pytest
from exports import STORED, exported
from run_mutations import RUN_MUTATIONS

from unrolled.engine.errors import ModelFileError
from unrolled.engine.storage.checkpoint import Checkpoint, save_checkpoint
from unrolled.export.formats import export_model
from unrolled.export.verification.checks import Check, CheckFailed
from unrolled.export.verification.model_file import ModelFile
from unrolled.export.verification.run_checks import check_against_params, check_own_weights, check_run_lengths
from unrolled.export.verification.verify import verify
from unrolled.runtime import load

ALL_INPUTS = models.MIXTURES[-1]
KINDS = ("onnx", "torchscript")


def names_of(checks: list[Check]) -> list[str]:
    """Return the names of checks that all passed."""
    assert [check.detail for check in checks if not check.ok] == []
    return [check.name for check in checks]


def assert_found(checks: list[Check], expected: str) -> None:
    """Check that only the last check failed, and that it is the expected one."""
    assert not checks[-1].ok, f"{checks[-1].name}: passed"
    assert all(check.ok for check in checks[:-1])
    assert checks[-1].name == expected, checks[-1]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", models.ALL_CELLS)
@pytest.mark.parametrize("kind", KINDS)
def test_verify_passes_what_we_export(tmp_path: Path, kind: str, cell: str, bidirectional: bool) -> None:
    checkpoint = models.spec_checkpoint(models.spec(cell, ALL_INPUTS, 3, bidirectional))
    path = exported(checkpoint, tmp_path, kind)
    save_checkpoint(tmp_path / "best.safetensors", checkpoint)
    checks = list(verify(path, load))
    structure = ["names", "axes", "specification"] if kind == "onnx" else ["names"]
    chunks = [] if bidirectional else ["chunks"]
    own = ["lengths", "values", "digest", "weights"]
    compared = ["sizes (best.safetensors)", "values (best.safetensors)"]
    assert names_of(checks) == [*structure, "shapes", *chunks, *own, *compared]
    directions = "bidirectional " if bidirectional else ""
    assert f"{directions}{cell} 3 × 6 from static, values, categories, tokens to step_labels" == checks[-2].detail


@pytest.mark.parametrize("head", ["step_labels", "next_token"])
@pytest.mark.parametrize("inputs", models.MIXTURES)
def test_verify_passes_every_mixture_of_inputs(tmp_path: Path, inputs: str, head: str) -> None:
    if head == "next_token" and ("tokens" not in inputs or inputs == "tokens"):
        pytest.skip("is no model, or a language model")
    checkpoint = models.spec_checkpoint(models.spec("gru", inputs, 1, head=head))
    assert "lengths" in names_of(list(verify(exported(checkpoint, tmp_path), load)))


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_verify_passes_every_storage(tmp_path: Path, stored: str, bidirectional: bool) -> None:
    checkpoint = models.spec_checkpoint(models.spec("lstm", ALL_INPUTS, 2, bidirectional))
    save_checkpoint(tmp_path / "best.safetensors", checkpoint)
    path = export_model(checkpoint, tmp_path / "model.onnx", "onnx", weights=STORED[stored])
    names = names_of(list(verify(path, load)))
    assert ("values (best.safetensors)" in names) is (stored == "float32")
    assert "weights" in names


def quantized_file(folder: Path, seed: int) -> Path:
    """Return an export with int8 products, whose large weights make them differ from the reference by more than 0.1."""
    spec = models.spec("lstm", ALL_INPUTS, 2)
    params = {name: value * 8 for name, value in models.params(spec, np.float32, seed).items()}
    checkpoint = replace(models.spec_checkpoint(spec), params=params)
    return export_model(checkpoint, folder / f"{seed}.onnx", "onnx", weights=STORED["quantized"])


def test_verify_passes_int8_products_of_large_weights(tmp_path: Path) -> None:
    path = quantized_file(tmp_path, 1)
    assert "weights" in names_of(list(verify(path, load)))
    file = ModelFile(path)
    with pytest.raises(CheckFailed, match="off by up to"):
        check_against_params(file.runner(), file.params(file.spec), STORED["quantized"].tolerance)


def test_alarm_int8_products_of_other_weights_are_found(tmp_path: Path) -> None:
    file, other = (ModelFile(quantized_file(tmp_path, seed)) for seed in (1, 2))
    with pytest.raises(CheckFailed, match="logits of rows of"):
        check_own_weights(other.runner(), file, STORED["quantized"])


@pytest.mark.parametrize(
    ("model", "mutation"), [(model, name) for model, changes in RUN_MUTATIONS.items() for name in changes]
)
def test_alarm_verify_catches_a_changed_graph(tmp_path: Path, model: tuple[str, bool], mutation: str) -> None:
    change, expected = RUN_MUTATIONS[model][mutation]
    cell, bidirectional = model
    path = exported(models.spec_checkpoint(models.spec(cell, ALL_INPUTS, 2, bidirectional)), tmp_path)
    graph = onnx.load(path)
    change(graph)
    onnx.save(graph, path)
    assert_found(list(verify(path, load)), expected)


def test_a_checkpoint_is_held_against_another(tmp_path: Path) -> None:
    checkpoint = models.spec_checkpoint(models.spec("gru", "values+static", 2, bidirectional=True))
    path = tmp_path / "best.safetensors"
    save_checkpoint(path, checkpoint)
    assert names_of(list(verify(path, load))) == ["shapes", "lengths", "sizes", "values"]
    other = replace(checkpoint, params={name: value.copy() for name, value in checkpoint.params.items()})
    other.params["rnn.weight_hh_l0_reverse"][2, 3] += 0.1
    assert_found(list(verify(path, load, other)), "values")
    one_direction = models.spec_checkpoint(models.spec("gru", "values+static", 2))
    checks = list(verify(path, load, one_direction))
    assert_found(checks, "sizes")
    assert "bidirectional gru 2 × 6 from values, static to step_labels, the checkpoint a gru 2 × 6" in checks[-1].detail
    assert checks[-1].detail.endswith("they differ in core")
    other = scaled_otherwise(checkpoint)
    assert_found(found := list(verify(path, load, other)), "sizes")
    assert found[-1].detail.endswith("they differ in inputs")


def test_a_language_model_is_not_held_against_another_kind_of_model(tmp_path: Path) -> None:
    path = exported(models.checkpoint("gru"), tmp_path)
    checks = list(verify(path, load, models.spec_checkpoint(models.spec("gru", "tokens"))))
    assert_found(checks, "sizes")
    assert "gru 2 × 6 with 11 tokens, the checkpoint a gru 2 × 6 from tokens to step_labels" in checks[-1].detail


def test_alarm_weights_that_are_not_those_of_the_program_are_found(tmp_path: Path) -> None:
    """The digest and the golden cases fit the program, the file's own weights do not."""
    checkpoint = models.spec_checkpoint(models.spec("lstm", "values", 2, bidirectional=True))
    path = exported(checkpoint, tmp_path)
    graph = onnx.load(path)
    weight = next(tensor for tensor in graph.graph.initializer if tensor.name == "rnn.weight_hh_l0")
    graph.graph.initializer.append(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 1.1, "other"))
    for node in graph.graph.node:
        node.input[:] = ["other" if name == weight.name else name for name in node.input]
    onnx.save(graph, path)
    assert_found(list(verify(path, load)), "values")
    golden = next(prop for prop in graph.metadata_props if prop.key == "unrolled.golden")
    changed = {name: value.copy() for name, value in checkpoint.params.items()}
    for name in ("rnn.weight_hh_l0", "rnn.weight_hh_l0_reverse"):
        changed[name] *= np.float32(1.1)
    other = exported(replace(checkpoint, params=changed), tmp_path / "other")
    golden.value = next(prop.value for prop in onnx.load(other).metadata_props if prop.key == "unrolled.golden")
    onnx.save(graph, path)
    assert_found(list(verify(path, load)), "weights")


def test_inputs_and_outputs_in_the_metadata_must_be_those_of_the_spec(tmp_path: Path) -> None:
    path = exported(models.spec_checkpoint(models.spec("lstm", ALL_INPUTS)), tmp_path)
    for key, old, new, message in (
        ("inputs", '"float32"', '"float64"', "inputs are not those that form run of the spec has"),
        ("outputs", '"batch", 10', '"batch", 9', "outputs are not those"),
        ("task", "step_labels", "next_token", "task is 'next_token', the head of the spec is step_labels"),
        ("form", "run", "step", "form: got 'step', choose one of run"),
        ("state", "[2, 2, null, 6]", "[2, 2, null, 7]", "state has shape"),
        ("state", '"initial"', '"first"', "state has no initial, the spec asks for zeros"),
        ("spec", '"classes": 10', '"classes": 9', "outputs are not those"),
        ("spec", '"classes": 10', '"classes": 1000000000', "the config asks for"),
        ("preprocessing", "tokens", "token", "preprocessing: got 'token'; the inputs are"),
        ("format_version", "2", "3", "export format '3'; this release reads 1 and 2"),
    ):
        graph = onnx.load(path)
        entry = next(prop for prop in graph.metadata_props if prop.key == f"unrolled.{key}")
        assert old in entry.value
        entry.value = entry.value.replace(old, new, 1)
        onnx.save(graph, tmp_path / "changed.onnx")
        with pytest.raises(ModelFileError, match=message):
            list(verify(tmp_path / "changed.onnx", load))


def other_params(change: Callable[[dict[str, np.ndarray]], None]) -> Callable[[Checkpoint], Checkpoint]:
    def changed(checkpoint: Checkpoint) -> Checkpoint:
        params = {name: value.copy() for name, value in checkpoint.params.items()}
        change(params)
        return replace(checkpoint, params=params)

    return changed


def exchange_directions(params: dict[str, np.ndarray]) -> None:
    for name in [name for name in params if name.endswith("_l0")]:
        params[name], params[f"{name}_reverse"] = params[f"{name}_reverse"], params[name]


def exchange_gates(params: dict[str, np.ndarray]) -> None:
    params["rnn.weight_hh_l1"] = np.roll(params["rnn.weight_hh_l1"], models.H, axis=0)


def reverse_classes(params: dict[str, np.ndarray]) -> None:
    for name in ("output.weight", "output.bias"):
        params[name] = params[name][::-1].copy()


def change_weight(params: dict[str, np.ndarray]) -> None:
    params["embeddings.categories.weight"][:, 3] *= 1.1


def scaled_otherwise(checkpoint: Checkpoint) -> Checkpoint:
    inputs = [replace(each, scale=(2.0, 0.5, 1.0, 30.0, 0.7, 1.2, 5.0)) if each.name == "values" else each
              for each in checkpoint.spec.inputs]  # fmt: skip
    return replace(checkpoint, spec=replace(checkpoint.spec, inputs=tuple(inputs)))


@pytest.mark.parametrize(
    "change",
    [
        *map(other_params, (exchange_directions, exchange_gates, reverse_classes, change_weight)),
        scaled_otherwise,
    ],
    ids=("directions", "gates", "classes", "weight", "scale"),
)
def test_alarm_verify_catches_another_program(
    tmp_path: Path, change: Callable[[Checkpoint], Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    from unrolled.export.torch import torchscript

    script = torchscript.script
    monkeypatch.setattr(torchscript, "script", lambda checkpoint: script(change(checkpoint)))
    checkpoint = models.spec_checkpoint(models.spec("lstm", ALL_INPUTS, 2, bidirectional=True))
    assert_found(list(verify(exported(checkpoint, tmp_path, "torchscript"), load)), "values")


def test_alarm_verify_catches_a_program_that_ignores_lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    from unrolled.export.torch import run_program, torchscript

    def script(checkpoint: Checkpoint) -> Any:
        program = run_program.script_network(checkpoint.spec, checkpoint.float32())
        return torch.jit.script(run_program.RunProgram(checkpoint.spec, program.full, program.full))

    monkeypatch.setattr(torchscript, "script", script)
    for bidirectional in (False, True):
        checkpoint = models.spec_checkpoint(models.spec("gru", "values", 2, bidirectional))
        assert_found(list(verify(exported(checkpoint, tmp_path, "torchscript"), load)), "lengths")


def test_alarm_a_program_that_depends_on_steps_after_the_longest_row_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = ModelFile(exported(models.spec_checkpoint(models.spec("gru", "values", 1)), tmp_path)).runner()
    results = runner._results

    def changed(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        is_longer = given["values"].shape[0] > given["lengths"].max()
        return {name: value * (1.01 if is_longer else 1) for name, value in results(given).items()}

    check_run_lengths(runner, STORED["float32"])
    monkeypatch.setattr(runner, "_results", changed)
    with pytest.raises(CheckFailed, match="padded by 2 more time steps"):
        check_run_lengths(runner, STORED["float32"])
