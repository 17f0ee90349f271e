"""Graphs of form run against the NumPy reference, through onnxruntime and onnx's reference evaluator.

Every input kind and mixture, cell, direction and number of layers, with rows of 1 to T steps and garbage in the padding.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import models
import numpy as np
import onnx
import pytest
from exports import STORED
from numpy.typing import NDArray
from onnx import numpy_helper
from run_graphs import (
    ALL_INPUTS,
    ENGINES,
    LENGTHS,
    ROWS,
    STEPS,
    assert_computes,
    assert_results,
    by_evaluator,
    by_onnxruntime,
    by_reference,
    inputs_of,
    model_of,
)
from tolerances import assert_close

from unrolled.engine.errors import ConfigError, ModelFileError
from unrolled.engine.models.cells import CELLS
from unrolled.engine.models.heads import HEADS
from unrolled.engine.models.heads.next_token import NextTokenHead
from unrolled.engine.models.heads.step_labels import StepLabelsHead
from unrolled.engine.models.inputs import INPUTS
from unrolled.engine.models.inputs.embedded import CategoriesInput, TokensInput
from unrolled.engine.models.inputs.numeric import StaticInput, ValuesInput
from unrolled.engine.models.layers.core_config import CoreConfig
from unrolled.engine.models.parameters import Params
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.export.artifact.forms import RUN
from unrolled.export.artifact.weight_storage import NUMBER_FORMATS, restore
from unrolled.export.onnx.cells import ONNX_CELLS
from unrolled.export.onnx.heads import ONNX_HEADS
from unrolled.export.onnx.inputs import ONNX_INPUTS
from unrolled.export.onnx.reader import read_onnx
from unrolled.export.onnx.runner import OnnxRunner
from unrolled.export.onnx.stepper import open_session
from unrolled.export.onnx.weights import read_params
from unrolled.export.onnx.writer import build, write_onnx


def test_every_part_has_its_form_in_onnx() -> None:
    assert (set(ONNX_CELLS), set(ONNX_INPUTS), set(ONNX_HEADS)) == (set(CELLS), set(INPUTS), set(HEADS))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_every_core_is_the_reference_s(cell: str, layers: int, bidirectional: bool) -> None:
    assert_computes(models.spec(cell, ALL_INPUTS, layers, bidirectional))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("inputs", models.MIXTURES)
def test_every_mixture_of_inputs_is_the_reference_s(inputs: str, bidirectional: bool) -> None:
    assert_computes(models.spec("gru", inputs, 2, bidirectional))


@pytest.mark.parametrize("tied", [False, True])
def test_the_head_of_a_language_model_may_have_any_inputs(tied: bool) -> None:
    inputs = (models.input_of("values"), TokensInput(models.V, models.H if tied else models.E))
    assert_computes(ModelSpec(inputs, CoreConfig("lstm", models.H, 2), NextTokenHead(models.V, tied)))


@pytest.mark.parametrize(("mean", "scale"), [(None, None), ((7.0, -3.0), None), (None, (0.25, 9.0))])
def test_mean_and_scale_may_be_left_out(
    mean: tuple[float, float] | None, scale: tuple[float, float] | None
) -> None:  # fmt: skip
    inputs = ValuesInput(2, mean, scale), StaticInput(2, mean, scale)
    assert_computes(ModelSpec(inputs, CoreConfig("rnn", 5), StepLabelsHead(3)))


def test_values_are_scaled_in_float64() -> None:
    inputs = (ValuesInput(1, (1e6 + 0.03,), (0.5,)),)  # the mean is no float32: in float32 the result is off by 0.06
    spec = ModelSpec(inputs, CoreConfig("rnn", 5), StepLabelsHead(3))
    values = (1e6 + np.arange(15) / 8).astype(np.float32).reshape(5, 3, 1)
    given = {"values": values, "lengths": np.full(3, 5), "state": models.state(spec, 3, np.float32)}
    assert_computes(spec, given)
    rounded = ModelSpec((ValuesInput(1, (1e6,), (0.5,)),), spec.core, spec.head)  # the mean in float32
    with pytest.raises(AssertionError, match="difference"):
        assert_results(by_onnxruntime(model_of(rounded), given), by_reference(spec, given))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("steps", "rows", "hidden"), [(1, 1, 6), (1, 5, 6), (4, 1, 6), (37, 10, 70), (70, 33, 24)])
def test_other_sizes_are_the_reference_s(steps: int, rows: int, hidden: int, bidirectional: bool) -> None:
    lengths = np.random.default_rng(steps).integers(1, steps + 1, rows)
    lengths[0] = steps
    for cell in models.ALL_CELLS:
        core = CoreConfig(cell, hidden, 2, bidirectional)
        spec = ModelSpec(models.spec(inputs="tokens+values").inputs, core, StepLabelsHead(4))
        inputs = inputs_of(spec, lengths, steps)
        expected = by_reference(spec, inputs)
        assert_results(by_onnxruntime(model_of(spec), inputs), expected)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_names_of_inputs_may_be_those_of_values_inside_the_graph(bidirectional: bool) -> None:
    names = [
        "core",
        "axis_0",
        "embedded",
        "rnn",
        "x",
        "valid",
        "sequence_lengths",
        "hidden_l0",
        "times",
        "final_state_0",
    ]
    inputs = tuple(CategoriesInput(9, 2, name) for name in names) + (StaticInput(2, name="head"),)
    assert_computes(ModelSpec(inputs, CoreConfig("lstm", 5, 1, bidirectional), StepLabelsHead(3)))


# --- lengths, directions, padding


def with_values(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """Return a copy of a graph that also gives inner values."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for name in names:
        changed.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return changed


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_outputs_are_zero_after_the_end_and_final_states_are_those_of_both_ends(cell: str, engine: str) -> None:
    spec = models.spec(cell, ALL_INPUTS, 2, bidirectional=True)
    inputs, H = inputs_of(spec), models.H
    hidden = [f"core/hidden_l{layer}" for layer in range(2)]
    results = ENGINES[engine](with_values(model_of(spec), *hidden), inputs)
    padding = np.arange(STEPS)[:, None] >= LENGTHS
    for layer, name in enumerate(hidden):
        y, rows = results[name], np.arange(ROWS)
        assert y.shape == (STEPS, ROWS, 2 * H)
        assert not y[padding].any()
        assert y[~padding].all() or cell == "rnn_relu"
        assert_close(results["final_state"][0, 2 * layer], y[LENGTHS - 1, rows, :H], "invariant")
        assert_close(results["final_state"][0, 2 * layer + 1], y[0, rows, H:], "invariant")


def reversed_rows(array: NDArray, lengths: NDArray[np.int64]) -> NDArray:
    """Return an array (T, B, …) with the valid steps of each row in the opposite order."""
    flipped = array.copy()
    for b, n in enumerate(lengths):
        flipped[:n, b] = array[:n, b][::-1]
    return flipped


def swapped_directions(spec: ModelSpec, params: Params) -> Params:
    """Return parameters of which both directions have exchanged their weights, with the columns that read their outputs."""
    H, swapped = spec.core.hidden_size, dict(params)
    for name, value in params.items():
        if name.startswith("rnn."):
            other = name.removesuffix("_reverse") if name.endswith("_reverse") else f"{name}_reverse"
            is_deep = ".weight_ih" in name and "_l0" not in name
            swapped[other] = np.concatenate([value[:, H:], value[:, :H]], axis=1) if is_deep else value
    matrix = params["output.weight"]
    return swapped | {"output.weight": np.concatenate([matrix[:, H:], matrix[:, :H]], axis=1)}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_the_second_direction_reads_each_row_from_its_own_end(cell: str, engine: str) -> None:
    spec = models.spec(cell, ALL_INPUTS, 2, bidirectional=True)
    params, inputs = models.params(spec, np.float32), inputs_of(spec)
    flipped = {
        name: reversed_rows(value, LENGTHS) if value.shape[:2] == (STEPS, ROWS) else value
        for name, value in inputs.items()
    }
    got = ENGINES[engine](model_of(spec), inputs)
    other = ENGINES[engine](model_of(spec, swapped_directions(spec, params)), flipped)
    assert_close(reversed_rows(other["logits"], LENGTHS), got["logits"], "invariant")
    by_direction = other["final_state"].reshape(-1, 2, 2, ROWS, models.H)[:, :, ::-1]
    assert_close(by_direction.reshape(got["final_state"].shape), got["final_state"], "invariant")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_a_padded_row_is_the_row_alone_whatever_is_in_the_padding(cell: str, bidirectional: bool, engine: str) -> None:
    spec = models.spec(cell, ALL_INPUTS, 2, bidirectional)
    model, inputs = model_of(spec), inputs_of(spec)
    got = ENGINES[engine](model, inputs)
    for b, n in enumerate(LENGTHS):
        alone = {name: inputs[name][..., [b], :] for name in ("state", "static") if name in inputs}
        alone["lengths"] = LENGTHS[[b]]
        alone |= {name: value[:n, [b]] for name, value in inputs.items() if value.shape[:2] == (STEPS, ROWS)}
        single = ENGINES[engine](model, alone)
        assert_close(got["logits"][:n, [b]], single["logits"], "invariant", what=f"row {b}")
        assert_close(got["final_state"][:, :, [b]], single["final_state"], "invariant", what=f"row {b}")
    padding = np.arange(STEPS)[:, None] >= LENGTHS
    for garbage in (0, 3):
        changed = dict(inputs)
        for column in spec.inputs:
            if "time" in column.axes:
                changed[column.name] = inputs[column.name].copy()
                changed[column.name][padding] = garbage
        for name, value in ENGINES[engine](model, changed).items():
            np.testing.assert_array_equal(value, got[name])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_a_sequence_is_its_chunks(cell: str, engine: str) -> None:
    spec, lengths = models.spec(cell, ALL_INPUTS, 3), np.full(4, 7)
    model, inputs = model_of(spec), inputs_of(spec, lengths, 7)
    whole = ENGINES[engine](model, inputs)
    state, parts = inputs["state"], []
    for first, last in ((0, 3), (3, 4), (4, 7)):
        chunk = {name: value[first:last] if value.shape[:2] == (7, 4) else value for name, value in inputs.items()}
        results = ENGINES[engine](model, chunk | {"state": state, "lengths": np.full(4, last - first)})
        state = results["final_state"]
        parts.append(results["logits"])
    assert_close(np.concatenate(parts), whole["logits"], "invariant")
    assert_close(state, whole["final_state"], "invariant")


# --- storage of weights


def stored_params(params: Params, storage: str) -> Params:
    """Return the parameters as a graph restores them."""
    return {
        name: restore(*NUMBER_FORMATS[storage].store(value)) if value.ndim == 2 else value
        for name, value in params.items()
    }


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_stored_weights_are_read_back_and_computed_with(cell: str, bidirectional: bool, stored: str) -> None:
    spec = models.spec(cell, ALL_INPUTS, 2, bidirectional)
    params, inputs = models.params(spec, np.float32), inputs_of(spec)
    model = model_of(spec, params, stored)
    restored = stored_params(params, STORED[stored].storage)
    read = read_params(model, spec)
    assert list(read) == list(params)
    for name, value in restored.items():
        np.testing.assert_array_equal(read[name], value, err_msg=name)
    got, expected = by_onnxruntime(model, inputs), by_reference(spec, inputs, restored)
    if STORED[stored].quantized:
        used = {node.op_type for node in model.graph.node if node.domain}
        assert used == {"DynamicQuantizeMatMul"} | ({"DynamicQuantizeLSTM"} if cell == "lstm" else set())
        assert 1e-4 < np.abs(got["logits"] - expected["logits"]).max() < STORED[stored].tolerance
    else:
        assert_results(got, expected)
        assert_results(by_evaluator(model, inputs), expected)


@pytest.mark.parametrize("stored", ["float32", "fp16", "int8"])
def test_weights_are_in_a_graph_once(stored: str) -> None:
    inputs = (TokensInput(300, 48), models.input_of("values"))
    spec = ModelSpec(inputs, CoreConfig("lstm", 48, 2), NextTokenHead(300, tie_weights=True))
    params = models.params(spec, np.float32)
    data = model_of(spec, params, stored).SerializeToString()
    items = NUMBER_FORMATS[stored].item_bytes
    matrices = sum(value.size for value in params.values() if value.ndim == 2)
    others = sum(value.size for value in params.values() if value.ndim != 2)
    assert matrices * items + others * 4 < len(data) < matrices * items + others * 4 + 24_000


def change_weights(name: str, change: Callable[[NDArray], NDArray]) -> Callable[[onnx.ModelProto], None]:
    def changed(model: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(numpy_helper.to_array(tensor))), name))

    return changed


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_files_pass_the_reader_and_give_back_the_model(
    cell: str, bidirectional: bool, stored: str, tmp_path: Path
) -> None:
    spec = models.spec(cell, ALL_INPUTS, 2, bidirectional)
    checkpoint = Checkpoint(spec, models.params(spec, np.float32), {}, {"steps": 3})
    path = tmp_path / "model.onnx"
    write_onnx(checkpoint, path, storage=STORED[stored])
    data, model, info = read_onnx(path)
    assert (info.spec, info.form, info.training) == (spec, RUN, {"steps": 3})
    assert info.description.digest(read_params(model, spec)) == info.weights.digest
    runner = OnnxRunner(open_session(data, "file"), spec, "file")
    inputs = inputs_of(spec)
    given = {column.name: inputs[column.name] for column in spec.inputs}
    outputs, final_state = runner.run(given, LENGTHS, inputs.get("state"))
    restored = stored_params(checkpoint.params, STORED[stored].storage)
    expected = by_reference(spec, inputs, restored)
    if STORED[stored].quantized:
        assert np.abs(outputs["logits"] - expected["logits"]).max() < STORED[stored].tolerance
    else:
        assert_results({**outputs, "final_state": final_state}, expected)


@pytest.mark.parametrize("form", ["step", "generate", "both"])
def test_other_models_have_no_form_of_language_models(form: str) -> None:
    spec = models.spec("gru")
    with pytest.raises(ConfigError, match=f"form: .*{form}.*run"):
        build(Checkpoint(spec, models.params(spec, np.float32), {}), form)


def without(name: str) -> Callable[[onnx.ModelProto], None]:
    def changed(model: onnx.ModelProto) -> None:
        kept = [tensor for tensor in model.graph.initializer if tensor.name != name]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)

    return changed


UNREADABLE: dict[str, tuple[str, Callable[[onnx.ModelProto], None]]] = {
    "the graph has no weights rnn.weight_hh_l1": ("float32", without("rnn.weight_hh_l1")),
    "the graph has no weights rnn.bias_l0": ("int8", without("rnn.bias_l0")),
    r"rnn.weight_ih_l0 has shape \(1, 24, 21\), the spec asks for \(2, 24, 21\)": (
        "float32", change_weights("rnn.weight_ih_l0", lambda w: w[:1]),
    ),
    r"rnn.bias_l1 has shape \(2, 47\), the spec asks for \(2, 48\)": (
        "float32", change_weights("rnn.bias_l1", lambda b: b[:, 1:]),
    ),
    r"rnn.bias_l1 has shape \(1,\), the spec asks": ("float32", change_weights("rnn.bias_l1", lambda b: b[0, 0])),
    r"output.weight has shape \(10, 12\) and scales \(10, 12\), the spec asks for \(10, 12\)": (
        "int8", change_weights("output.weight:scale", lambda scale: np.tile(scale, 12)),
    ),
    r"rnn.weight_hh_l0 has shape \(2, 24, 6\) and scales \(2, 1, 1\)": (
        "fp16", lambda model: model.graph.initializer.append(
            numpy_helper.from_array(np.ones((2, 1, 1), np.float32), "rnn.weight_hh_l0:scale")
        ),
    ),
    r"rnn.weight_ih_l0 has shape \(2, 21, 24\) and scales \(2, 24, 1, 1\)": (
        "int8", lambda model: model.graph.initializer.append(
            numpy_helper.from_array(np.zeros(1, np.int8), "rnn.weight_ih_l0:zero")
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", UNREADABLE)
def test_weights_that_are_missing_or_of_other_shapes_are_errors_of_the_file(message: str) -> None:
    stored, change = UNREADABLE[message]
    spec = models.spec("lstm", ALL_INPUTS, 2, bidirectional=True)
    model = model_of(spec, stored=stored)
    change(model)
    with pytest.raises(ModelFileError, match=message):
        read_params(model, spec)


# --- alarms: changes of a graph that must be noticed


def drop_lengths(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "LSTM":
            node.input[4] = ""


def keep_padding(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Where":
            node.input[2] = node.input[1]


def reverse_both(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Transpose":
            node.attribute[0].ints[:] = [0, 2, 1, 3]
        if node.op_type == "Concat" and node.output[0] == "core/final_state_0":
            node.input[:] = list(reversed(node.input))


CHANGES: dict[str, Callable[[onnx.ModelProto], None]] = {
    "lengths ignored": drop_lengths,
    "directions swapped": change_weights("rnn.weight_hh_l1", lambda w: w[::-1]),
    "layers of the state swapped": reverse_both,
    "gate order": change_weights("rnn.weight_ih_l0", lambda w: np.roll(w, models.H, axis=1)),
    "scaling": change_weights("inputs/values/scale", lambda scale: scale * 1.01),
    "mean": change_weights("inputs/static/mean", lambda mean: mean + 0.01),
    "classes": change_weights("output.bias", lambda bias: bias[::-1]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_alarm_a_changed_graph_is_noticed(change: str) -> None:
    spec = models.spec("lstm", ALL_INPUTS, 2, bidirectional=True)
    model, inputs = model_of(spec), inputs_of(spec)
    expected = by_reference(spec, inputs)
    CHANGES[change](model)
    for run in ENGINES.values():
        with pytest.raises(AssertionError, match="difference"):
            assert_results(run(model, inputs), expected)


def test_alarm_ids_that_are_read_from_the_padding_are_noticed() -> None:
    spec = models.spec("gru", "tokens", 2, bidirectional=True)
    model, given = model_of(spec), inputs_of(spec)
    keep_padding(model)
    for run in ENGINES.values():
        with pytest.raises(Exception, match=r"out of .*bounds"):
            run(model, given)
