"""Tests of models that are not language models, from checkpoints and exported files, on every engine."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from numpy.typing import NDArray
from tolerances import assert_close
from typer.testing import CliRunner

from unrolled.cli.app import app
from unrolled.engine.errors import ConfigError, ShapeError
from unrolled.engine.models.padding import pad_inputs, pad_sequences
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.models.step_contract import LoadedModel, SequenceModel
from unrolled.engine.network.network import Network
from unrolled.engine.storage.checkpoint import Checkpoint, save_checkpoint
from unrolled.engine.tokenizers.words import WordTokenizer
from unrolled.export.formats import export_model
from unrolled.runtime import (
    ENGINES,
    BatchGenerator,
    beam_search,
    generate,
    load,
    load_language_model,
    rank,
    read,
    score,
    stream,
    write,
)
from unrolled.runtime.description import describe
from unrolled.runtime.jobs.job import Job
from unrolled.runtime.jobs.runner import run_job
from unrolled.runtime.models.engines import make_model, make_sequence_model
from unrolled.runtime.models.sequence_model import EngineSequenceModel

ALL_INPUTS = models.MIXTURES[-1]
TAGGER = models.spec("lstm", ALL_INPUTS, 2, bidirectional=True)
STEPPED = models.spec("gru", ALL_INPUTS, 2)
LENGTHS = np.array([4, 1, 6, 2, 5, 3, 6, 1])  # every length from 1 to T, in no order
T, B = 6, len(LENGTHS)
FILES = ("run.onnx", "model.pt")


def checkpoint_of(spec: ModelSpec) -> Checkpoint:
    return Checkpoint(spec, models.params(spec, np.float32), {}, {"result": {"steps": 7}})


def opened(spec: ModelSpec, kind: str, where: Path) -> LoadedModel:
    """Return the model of an engine on a checkpoint, or of an exported file."""
    if kind in ("torch", "torchscript", "model.pt"):
        pytest.importorskip("torch")
    checkpoint = checkpoint_of(spec)
    if kind == "run.onnx":
        return load(export_model(checkpoint, where / kind, "onnx"))
    if kind == "model.pt":
        return load(export_model(checkpoint, where / kind, "torchscript"))
    save_checkpoint(where / "model.safetensors", checkpoint)
    return load(where / "model.safetensors", kind)


def ragged(spec: ModelSpec) -> Mapping[str, NDArray]:
    """Return the inputs of rows of ``LENGTHS``, with NaN and wild ids in the padding."""
    return models.spec_batch(spec, T, B, lengths=LENGTHS).inputs


def expected_of(
    spec: ModelSpec, inputs: Mapping[str, NDArray], lengths: NDArray | None = LENGTHS
) -> dict[str, NDArray]:
    """Return the outputs of the NumPy reference in float64."""
    return Network(spec, models.params(spec)).run(inputs, lengths)[0]


@pytest.mark.parametrize("spec", [TAGGER, STEPPED], ids=["bidirectional", "one direction"])
@pytest.mark.parametrize("kind", [*ENGINES, *FILES])
def test_every_engine_and_file_runs_ragged_rows_as_the_reference(tmp_path: Path, kind: str, spec: ModelSpec) -> None:
    model = opened(spec, kind, tmp_path)
    assert isinstance(model, EngineSequenceModel)
    assert (model.spec, model.capabilities) == (spec, spec.capabilities)
    assert model.engine == {"run.onnx": "onnxruntime", "model.pt": "torchscript"}.get(kind, kind)
    assert (model.training, model.digest) == ({"result": {"steps": 7}}, checkpoint_of(spec).digest)
    inputs = ragged(spec)
    outputs = model.run(inputs, LENGTHS)
    expected = expected_of(spec, inputs)
    assert set(outputs) == {"logits"}
    assert outputs["logits"].dtype == np.float32
    valid = np.arange(T)[:, None] < LENGTHS
    assert_close(outputs["logits"][valid], expected["logits"][valid], "engine", np.float32)
    # each row alone gives the same
    for b, n in enumerate(LENGTHS[:3]):
        alone = {
            column.name: inputs[column.name][:n, b : b + 1] if "time" in column.axes else inputs[column.name][b : b + 1]
            for column in spec.inputs
        }
        assert_close(model.run(alone)["logits"][:, 0], outputs["logits"][:n, b], "invariant", np.float32)


def test_alarm_lengths_and_directions_matter(tmp_path: Path) -> None:
    inputs = {column.name: column.example(np.random.default_rng(5), T, B) for column in TAGGER.inputs}
    valid = np.arange(T)[:, None] < LENGTHS
    model = opened(TAGGER, "numpy", tmp_path)
    assert isinstance(model, EngineSequenceModel)
    outputs = model.run(inputs, LENGTHS)["logits"]
    for wrong in (model.run(inputs)["logits"], expected_of(models.spec("lstm", ALL_INPUTS, 2), inputs)["logits"]):
        with pytest.raises(AssertionError):
            assert_close(outputs[valid], wrong[valid], "engine", np.float32)


@pytest.mark.parametrize("kind", [*ENGINES, *FILES])
def test_a_sequence_equals_its_chunks(tmp_path: Path, kind: str) -> None:
    model = opened(STEPPED, kind, tmp_path)
    assert isinstance(model, EngineSequenceModel)
    inputs = {column.name: column.example(np.random.default_rng(5), T, B) for column in STEPPED.inputs}
    expected, final = Network(STEPPED, models.params(STEPPED)).run(inputs, state=models.state(STEPPED, B))
    state, found = models.state(STEPPED, B, np.float32), []
    for chunk in (slice(0, 3), slice(3, 4), slice(4, 6)):
        part = {
            column.name: np.ascontiguousarray(inputs[column.name][chunk])
            if "time" in column.axes
            else inputs[column.name]
            for column in STEPPED.inputs
        }
        outputs, state = model.step(part, state)
        found.append(outputs["logits"])
    assert_close(np.concatenate(found), expected["logits"], "engine", np.float32)
    assert_close(state, final, "engine", np.float32)


@pytest.mark.parametrize("kind", [*ENGINES, *FILES])
def test_wrong_arguments_are_named_before_an_engine_reads_them(tmp_path: Path, kind: str) -> None:
    model = opened(TAGGER, kind, tmp_path)
    assert isinstance(model, EngineSequenceModel)
    inputs = dict(ragged(TAGGER))
    wild = {**inputs, "tokens": np.where(np.arange(T)[:, None] < LENGTHS, 99, 0)}
    wrong: dict[str, tuple[dict[str, Any], Any]] = {
        "tokens: got dtype float64, needs int64": ({**inputs, "tokens": np.zeros((T, B))}, LENGTHS),
        "values: got shape": ({**inputs, "values": inputs["values"][:, :, :2]}, LENGTHS),
        "inputs: got static, values, categories; needs": (
            {name: array for name, array in inputs.items() if name != "tokens"}, LENGTHS,
        ),
        "lengths: from 0 to": (inputs, np.maximum(LENGTHS - 1, 0)),
        "lengths: got int32": (inputs, LENGTHS.astype(np.int32)),
        "tokens: ids|tokens: got": (wild, LENGTHS),
        r"needs at least one step and one row": (
            {name: array[:0] if array.ndim > 2 or array.dtype == np.int64 else array for name, array in inputs.items()}, None,
        ),
    }  # fmt: skip
    for message, (given, lengths) in wrong.items():
        with pytest.raises(ShapeError, match=message):
            model.run(given, lengths)
    nothing = {column.name: column.example(np.random.default_rng(5), T, 0) for column in TAGGER.inputs}
    with pytest.raises(ShapeError, match="needs at least one"):  # onnxruntime would abort the process
        model.run(nothing)


WHY = r"this model has no {}, because its core is bidirectional: the second direction reads a sequence from its end; it has run"


@pytest.mark.parametrize("kind", [*ENGINES, *FILES])
def test_a_bidirectional_model_has_no_steps(tmp_path: Path, kind: str) -> None:
    model = opened(TAGGER, kind, tmp_path)
    assert isinstance(model, EngineSequenceModel)
    assert model.capabilities == {"run"}
    with pytest.raises(ConfigError, match=WHY.format("step")):
        model.step(ragged(TAGGER), models.state(TAGGER, B, np.float32))


def test_functions_of_texts_refuse_it_and_say_why(tmp_path: Path) -> None:
    model: Any = opened(TAGGER, "numpy", tmp_path)
    for call in (
        lambda: generate(model, ["a"]), lambda: stream(model, "a"), lambda: write(model, "a", print),
        lambda: beam_search(model, ["a"]), lambda: score(model, ["ab"]), lambda: rank(model, "a", ["b"]),
        lambda: read(model, "a"), lambda: run_job(model, Job(str(tmp_path / "prompts.txt"))),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=WHY.format("generate")):
            call()
    path = str(tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=rf"^{path}: {WHY.format('generate')}"):
        load_language_model(path, "numpy")
    with pytest.raises(ConfigError, match=WHY.format("generate")):
        BatchGenerator(path, "numpy")({"prompt": np.array(["a"])})
    with pytest.raises(ConfigError, match="needs a language model"):
        make_model(checkpoint_of(TAGGER), "numpy")


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "-p", "a"),
        ("generate", "--input", "prompts.txt", "--output", "texts.jsonl"),
        ("score", "--text", "ab"),
        ("eval", "text.txt"),
    ],
    ids=" ".join,
)
def test_the_command_line_says_it_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    opened(TAGGER, "numpy", tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("prompts.txt", "text.txt"):
        Path(name).write_text("a b\n")
    verb, *rest = arguments
    result = CliRunner().invoke(app, [verb, "model.safetensors", "--engine", "numpy", *rest])
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception).startswith("model.safetensors: this model has no generate, because its core is")
    assert not Path("texts.jsonl").exists()


def test_a_model_of_one_direction_that_writes_no_texts_says_what_it_predicts(tmp_path: Path) -> None:
    model: Any = opened(STEPPED, "numba", tmp_path)
    assert model.capabilities == {"run", "step"}
    with pytest.raises(
        ConfigError, match="no generate, because its head is step_labels and its inputs are static, values"
    ):
        generate(model, ["a"])


@pytest.mark.parametrize("kind", ["numpy", "numba", "torch", "run.onnx", "model.pt"])
def test_a_sequence_model_is_pickled_without_its_file(tmp_path: Path, kind: str) -> None:
    model: Any = opened(TAGGER, kind, tmp_path)
    expected = model.run(ragged(TAGGER), LENGTHS)["logits"]
    for path in tmp_path.iterdir():
        path.unlink()
    made = pickle.loads(pickle.dumps(model))
    assert (made.engine, made.digest, made.spec) == (model.engine, model.digest, model.spec)
    np.testing.assert_array_equal(made.run(ragged(TAGGER), LENGTHS)["logits"], expected)


def test_precision_and_engine_are_those_that_are_asked_for(tmp_path: Path) -> None:
    model: SequenceModel = make_sequence_model(checkpoint_of(TAGGER), "numpy")
    assert model.engine == "numpy"
    with pytest.raises(ConfigError, match="precision: bf16 is for the numba engine"):
        make_sequence_model(checkpoint_of(TAGGER), "numpy", "bf16")
    with pytest.raises(ConfigError, match="checkpoint: got 'a path', needs a Checkpoint"):
        make_sequence_model("a path", "numpy")  # type: ignore[arg-type]
    opened(TAGGER, "numpy", tmp_path)
    loaded: Any = load(tmp_path / "model.safetensors")
    assert loaded.engine == "onnxruntime"
    opened(TAGGER, "run.onnx", tmp_path)
    with pytest.raises(ConfigError, match=r"runs on onnxruntime; engine 'numba' needs a checkpoint"):
        load(tmp_path / "run.onnx", "numba")


def test_description_of_a_file(tmp_path: Path) -> None:
    opened(TAGGER, "numpy", tmp_path)
    opened(TAGGER, "run.onnx", tmp_path)
    for name, kind in (("model.safetensors", "checkpoint"), ("run.onnx", "onnxruntime")):
        found = describe(tmp_path / name)
        assert (found["kind"], found["capabilities"], found["trained"]["steps"]) == (kind, "run", 7)
        assert list(found["model"]["inputs"]) == ["static", "values", "categories", "tokens"]
        assert found["model"]["core"]["bidirectional"] is True
        assert found["model"]["head"] == {"kind": "step_labels", "classes": models.C}
    graph = {key: value for key, value in found.items() if key in ("form", "weights", "int8_products")}
    assert graph == {"form": "run", "weights": "float32", "int8_products": False}


def test_description_names_the_normal_form_of_tokenizers_of_format_2(tmp_path: Path) -> None:
    config = models.config("gru", vocab_size=3)
    for form in ("none", "NFKC"):
        tokenizer = WordTokenizer(["a", "b", "c"], "error", normalize=form)
        checkpoint = Checkpoint.of_language_model(config, models.params(config, np.float32), tokenizer)
        save_checkpoint(tmp_path / f"{form}.safetensors", checkpoint)
    assert describe(tmp_path / "NFKC.safetensors")["tokenizer"]["normalize"] == "NFKC"
    assert "normalize" not in describe(tmp_path / "none.safetensors")["tokenizer"]


def test_ragged_rows_are_padded_for_a_run(tmp_path: Path) -> None:
    padded, lengths = pad_sequences([[3, 1], [4], [1, 5, 9]])
    assert padded.T.tolist() == [[3, 1, 0], [4, 0, 0], [1, 5, 9]]
    assert (lengths.tolist(), padded.dtype) == ([2, 1, 3], np.int64)
    inputs, whole = ragged(TAGGER), np.full(B, T)
    rows = [
        {
            column.name: inputs[column.name][:n, b] if "time" in column.axes else inputs[column.name][b]
            for column in TAGGER.inputs
        }
        for b, n in enumerate(LENGTHS)
    ]
    made, lengths = pad_inputs(TAGGER, rows)
    assert lengths.tolist() == LENGTHS.tolist()
    model: Any = opened(TAGGER, "numba", tmp_path)
    np.testing.assert_array_equal(model.run(made, lengths)["logits"], model.run(inputs, LENGTHS)["logits"])
    assert not np.isnan(made["values"]).any()
    shorter = {**rows[0], "tokens": rows[0]["tokens"][:2]}
    for wrong, message in (
        ([], "rows: got none"),
        ([rows[0], {"tokens": rows[1]["tokens"]}], "rows: got tokens at 1; needs static, values, categories, tokens"),
        ([shorter], "rows: got time steps 4 of values, 4 of categories, 2 of tokens at 0"),
        ([{**rows[0], "static": np.zeros(3)}], r"static: got shape \(3,\) at row 0, needs \(2\)"),
        ([{**rows[0], "tokens": rows[0]["tokens"] * 1.0}], "tokens: got dtype float64 at row 0, needs int64"),
        ([{name: array[:0] if array.ndim > 1 or array.dtype == np.int64 else array for name, array in rows[0].items()}],
         "time steps 0 of values"),
        ([5], "rows: got int at 0"),
    ):  # fmt: skip
        with pytest.raises(ShapeError, match=message):
            pad_inputs(TAGGER, wrong)  # type: ignore[arg-type]
    assert whole.tolist() == pad_inputs(TAGGER, [{
        column.name: column.example(np.random.default_rng(b), T, 1)[(slice(None), 0) if "time" in column.axes else 0]
        for column in TAGGER.inputs
    } for b in range(B)])[1].tolist()  # fmt: skip
