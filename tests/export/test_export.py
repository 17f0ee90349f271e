"""Exported files against the NumPy engine, and the errors of damaged ones."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import models
import mutations
import numpy as np
import onnx
import pytest
from exports import KINDS, STORED, exported
from tolerances import assert_close

from unrolled.engine.errors import ConfigError, ModelFileError
from unrolled.engine.models.step_contract import zero_state
from unrolled.engine.runs.run_files import EXPORTS
from unrolled.engine.storage.checkpoint import Checkpoint, save_checkpoint
from unrolled.export.artifact.golden_cases import golden_cases, greedy_tokens
from unrolled.export.artifact.metadata import DEFAULTS, KEYS, PREFIX, parse_metadata
from unrolled.export.artifact.weight_storage import NUMBER_FORMATS, as_restored, restore
from unrolled.export.formats import FORMATS as ALL_FORMATS
from unrolled.export.formats import SINGLE_FILES as FORMATS
from unrolled.export.formats import default_name, export_model
from unrolled.export.onnx.cells import reorder_gates
from unrolled.export.onnx.weights import read_params
from unrolled.export.verification.verify import verify
from unrolled.export.web import MODEL
from unrolled.runtime import generate, load
from unrolled.runtime.models.engines import make_model

PROMPTS = ["a", "bcd", "fghijk", "ka"]


@pytest.mark.parametrize("variant", [(1, {}), (3, {}), (2, {"tie_weights": True}), (2, {"dropout": 0.5})])
@pytest.mark.parametrize("cell", models.ALL_CELLS)
@pytest.mark.parametrize("name", FORMATS)
def test_logits_and_states_at_sizes_never_traced(tmp_path: Path, name: str, cell: str, variant: tuple) -> None:
    checkpoint = models.checkpoint(cell, variant[0], **variant[1])
    model, reference = load(exported(checkpoint, tmp_path, name)), make_model(checkpoint, "numpy")
    assert (model.config, model.tokenizer) == (checkpoint.config, checkpoint.tokenizer)
    for T, B in ((1, 1), (1, 4), (6, 1), (17, 5)):
        tokens = models.batch(model.config, T, B).inputs["tokens"]
        state = models.state(model.config, B, np.float32)
        logits, moved = model.step(tokens, state)
        expected, expected_state = reference.step(tokens, state)
        assert_close(logits, expected, "export", what=f"logits at {T}, {B}")
        assert_close(moved, expected_state, "export", what=f"state at {T}, {B}")


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", models.ALL_CELLS)
@pytest.mark.parametrize("runner", [*KINDS, "numba", "torch"])
def test_500_tokens_are_those_of_numpy(tmp_path: Path, runner: str, cell: str, layers: int) -> None:
    checkpoint = models.checkpoint(cell, layers, hidden_size=24)
    if runner == "torch":
        pytest.importorskip("torch", reason="the torch extra is not installed")
    model = load(exported(checkpoint, tmp_path, runner)) if runner in KINDS else make_model(checkpoint, runner)
    reference = make_model(checkpoint, "numpy")
    for settings in ({"do_sample": False}, {"seed": 5}, {"seed": 6, "temperature": 0.8, "top_k": 6, "top_p": 0.9}):
        got = generate(model, PROMPTS, max_new_tokens=500, **settings)
        expected = generate(reference, PROMPTS, max_new_tokens=500, **settings)
        assert [row.tokens for row in got] == [row.tokens for row in expected]
        assert all(len(row.tokens) == 500 for row in got)


@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_torchscript_generates_by_itself(tmp_path: Path, cell: str) -> None:
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    from unrolled.engine.sampling.philox import uniforms
    from unrolled.export.torch.torchscript import read_torchscript

    checkpoint = models.checkpoint(cell)
    path = exported(checkpoint, tmp_path, "torchscript")
    module, _ = read_torchscript(path)
    encoded = [checkpoint.tokenizer.encode(prompt) for prompt in PROMPTS]
    lengths = torch.tensor([len(ids) for ids in encoded])
    prompt = torch.zeros((int(lengths.max()), len(encoded)), dtype=torch.int64)
    for b, ids in enumerate(encoded):
        prompt[: len(ids), b] = torch.from_numpy(ids)
    state = torch.from_numpy(zero_state(checkpoint.config, len(encoded)))
    u = torch.from_numpy(np.stack([uniforms(7, np.arange(len(encoded)), step) for step in range(40)]))
    for arguments, settings in (
        ((0.9, 5, 0.8), {"temperature": 0.9, "top_k": 5, "top_p": 0.8}),
        ((1.0, 0, 1.0), {}),
        ((1.0, 1, 1.0), {"do_sample": False}),
    ):
        tokens, _ = module.generate(prompt, lengths, state, u, *arguments)
        expected = generate(make_model(checkpoint, "numpy"), PROMPTS, max_new_tokens=40, seed=7, **settings)
        assert tokens.T.tolist() == [list(row.tokens) for row in expected]


@pytest.mark.parametrize("kind", KINDS)
def test_a_language_model_of_bare_ids_is_not_exported(tmp_path: Path, kind: str) -> None:
    checkpoint = Checkpoint(models.config("gru").spec, models.params(models.config("gru"), np.float32), {})
    with pytest.raises(ModelFileError, match="this language model has no tokenizer"):
        exported(checkpoint, tmp_path, kind)
    assert list(tmp_path.iterdir()) == []


def test_onnx_is_written_and_run_without_torch_or_numba(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "best.safetensors", models.checkpoint())
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "sys.modules['numba'] = None\n"
        "from pathlib import Path\n"
        "from unrolled.engine.storage.checkpoint import load_checkpoint\n"
        "from unrolled.export.formats import export_model\n"
        "from unrolled.runtime import generate, load\n"
        "folder = Path(sys.argv[1])\n"
        "path = export_model(load_checkpoint(folder), folder / 'model.onnx', 'onnx')\n"
        "print(len(generate(load(path), ['abc'], max_new_tokens=7)[0].tokens))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "7"), done.stderr


def test_graph_uses_standard_operators_and_stores_weights_once(tmp_path: Path) -> None:
    checkpoint = models.checkpoint("lstm", 2, tie_weights=True)
    model = onnx.load(exported(checkpoint, tmp_path))
    assert {node.domain for node in model.graph.node} == {""}
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    stored = sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)
    assert stored == sum(value.size for value in checkpoint.params.values())


def test_metadata_describes_the_model(tmp_path: Path) -> None:
    checkpoint = models.checkpoint("gru")
    values = {p.key: p.value for p in onnx.load(exported(checkpoint, tmp_path)).metadata_props}
    assert set(values) == {PREFIX + key for key in (*KEYS[1], *DEFAULTS, "weights")}
    assert json.loads(values["unrolled.config"]) == checkpoint.config.to_dict()
    assert json.loads(values["unrolled.tokenizer"]) == checkpoint.tokenizer.to_dict()
    assert json.loads(values["unrolled.state"])["shape"] == [1, 2, None, models.H]
    assert parse_metadata(values, "file").golden == golden_cases(make_model(checkpoint, "numpy"))


def test_gate_orders() -> None:
    rows = np.arange(8).reshape(8, 1)
    np.testing.assert_array_equal(reorder_gates(rows, (0, 3, 1, 2))[:, 0], [0, 1, 6, 7, 2, 3, 4, 5])


def test_the_files_that_a_new_run_removes_are_the_default_outputs() -> None:
    names = {name: default_name(name) for name in ALL_FORMATS}
    assert names == {"onnx": "model.onnx", "torchscript": "model.pt", "web": "web"}
    assert set(EXPORTS) == {f"{name}/{MODEL}" if ALL_FORMATS[kind].is_folder else name for kind, name in names.items()}


@pytest.mark.parametrize("name", FORMATS)
def test_a_wrong_ending_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="needs the ending"):
        export_model(models.checkpoint(), tmp_path / "model.bin", name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("cell", "tied", "form"),
    [*((cell, False, "both") for cell in models.ALL_CELLS), ("lstm", True, "both"), ("gru", False, "step")],
)
@pytest.mark.parametrize("stored", STORED)
def test_smaller_files_compute_with_the_weights_that_come_back(
    tmp_path: Path, stored: str, cell: str, tied: bool, form: str
) -> None:
    checkpoint = models.checkpoint(cell, 2, tie_weights=tied, hidden_size=24)
    weights = STORED[stored]
    path = export_model(checkpoint, tmp_path / "model.onnx", "onnx", form, weights=weights)
    assert [check for check in verify(path, load) if not check.ok] == []
    restored = as_restored(checkpoint, weights.storage)
    assert sum(int((restored.params[name] != value).sum()) for name, value in checkpoint.params.items()) > 0 or (
        stored == "float32"
    )
    got = read_params(onnx.load(path), checkpoint.config.spec)
    for name, value in restored.params.items():
        np.testing.assert_array_equal(got[name], value, name)
    if stored == "quantized":
        return
    tokens, state = (
        models.batch(checkpoint.config, 7, 3).inputs["tokens"],
        models.state(checkpoint.config, 3, np.float32),
    )
    expected, moved = make_model(restored, "numpy").step(tokens, state)
    logits, after = load(path).step(tokens, state)
    assert_close(logits, expected, "export", what="logits")
    assert_close(after, moved, "export", what="state")


def test_int8_rows_keep_their_largest_number_and_stay_within_half_a_step() -> None:
    value = np.random.default_rng(0).standard_normal((5, 40)).astype(np.float32)
    value[2] = 0
    stored, scale = NUMBER_FORMATS["int8"].store(value)
    assert scale is not None
    np.testing.assert_array_equal(np.abs(stored).max(axis=1), [127, 127, 0, 127, 127])
    assert (np.abs(restore(stored, scale) - value) <= scale * 0.5001).all()


def test_too_large_numbers_are_refused_in_fp16(tmp_path: Path) -> None:
    checkpoint = models.checkpoint()
    checkpoint.params["output.weight"][0, 0] = 1e6
    with pytest.raises(ConfigError, match="too large for fp16"):
        export_model(checkpoint, tmp_path / "model.onnx", "onnx", None, weights=STORED["fp16"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cell", models.ALL_CELLS)
@pytest.mark.parametrize("tied", [False, True])
def test_parameters_come_back_from_the_graph(tmp_path: Path, cell: str, tied: bool) -> None:
    checkpoint = models.checkpoint(cell, 2, tie_weights=tied)
    got = read_params(onnx.load(exported(checkpoint, tmp_path)), checkpoint.config.spec)
    assert set(got) == set(checkpoint.params)
    for name, value in checkpoint.params.items():
        np.testing.assert_array_equal(got[name], value, name)


@pytest.mark.parametrize("name", FORMATS)
def test_every_truncation_is_a_named_error(tmp_path: Path, name: str) -> None:
    path = exported(models.checkpoint(), tmp_path, name)
    data = path.read_bytes()
    for percent in range(0, 100, 3):
        path.write_bytes(data[: len(data) * percent // 100])
        with pytest.raises(ModelFileError):
            load(path)


def test_a_pickle_named_pt_is_a_named_error_and_never_loaded(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ModelFileError, match="not a TorchScript file"):
        load(tmp_path / "pickle.pt")


def test_foreign_and_mislabelled_files_are_named_errors(tmp_path: Path) -> None:
    identity = onnx.helper.make_node("Identity", ["x"], ["y"])
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([identity], "foreign", values[:1], values[1:])
    foreign = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(ModelFileError, match="not one of unrolled's exported files"):
        load(tmp_path / "foreign.onnx")
    with pytest.raises(ModelFileError, match="not one of unrolled's exported files"):
        list(verify(tmp_path / "foreign.onnx", load))
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(ModelFileError, match=r"ending '\.bin' is of no model file"):
        load(tmp_path / "model.bin")


def test_a_graph_of_another_size_than_its_config_is_a_named_error(tmp_path: Path) -> None:
    path = exported(models.checkpoint("gru"), tmp_path)
    model = onnx.load(path)
    for prop in model.metadata_props:
        if prop.key == "unrolled.config":
            prop.value = json.dumps({**json.loads(prop.value), "hidden_size": models.H + 1})
    onnx.save(model, path)
    with pytest.raises(ModelFileError, match=r"state has shape .* the config asks for"):
        load(path)


def test_a_graph_that_fails_as_it_runs_is_a_named_error(tmp_path: Path) -> None:
    path = exported(models.checkpoint("gru"), tmp_path)
    model = onnx.load(path)
    mutations.set_initializer(model, "embedding.weight", mutations.array(model, "embedding.weight")[:-1])
    onnx.save(model, path)
    broken = load(path)
    with pytest.raises(ModelFileError, match="the graph does not run"):
        broken.step(np.full((1, 1), models.V - 1), zero_state(broken.config, 1))
    assert not list(verify(path, load))[-1].ok


def test_an_engine_goes_with_a_checkpoint_only(tmp_path: Path) -> None:
    path = exported(models.checkpoint(), tmp_path)
    with pytest.raises(ConfigError, match="runs on onnxruntime"):
        load(path, "numpy")
    save_checkpoint(tmp_path / "best.safetensors", models.checkpoint())
    with pytest.raises(ConfigError, match="engine: got 'jax', choose one of numpy, numba"):
        load(tmp_path, "jax")


def test_golden_tokens_are_the_references_own() -> None:
    checkpoint = models.checkpoint("gru")
    model = make_model(checkpoint, "numpy")
    for case in golden_cases(model):
        assert greedy_tokens(model, case["prompt"], len(case["greedy"])) == case["greedy"]
        assert len(case["greedy"]) > 0


def test_no_warning_about_torchscript_reaches_anybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.14 raises a FutureWarning, which Python shows by default, instead of the DeprecationWarning of 2.13."""
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    said = set()

    def announced(name: str) -> None:
        ours = getattr(torch.jit, name)

        def announce(*arguments: Any, **named: Any) -> Any:
            for category in (DeprecationWarning, FutureWarning):
                warnings.warn(f"torch.jit.{name} is deprecated", category, stacklevel=2)
            said.add(name)
            return ours(*arguments, **named)

        monkeypatch.setattr(torch.jit, name, announce)

    for name in ("script", "save", "load"):
        announced(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(export_model(models.checkpoint("gru"), tmp_path / "model.pt", "torchscript"))
    assert said == {"load", "save", "script"}
