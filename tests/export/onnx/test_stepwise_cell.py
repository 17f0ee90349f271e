"""Cells that are built of the nodes of one time step: the built-in cells, written so, against the NumPy reference."""

from __future__ import annotations

from collections.abc import Sequence

import models
import numpy as np
import onnx
import pytest
from run_graphs import (
    ALL_INPUTS,
    ENGINES,
    assert_computes,
    assert_results,
    by_onnxruntime,
    by_reference,
    inputs_of,
    model_of,
)
from tolerances import assert_close

from unrolled.export.onnx.cells import ONNX_CELLS
from unrolled.export.onnx.graph_builder import GraphBuilder
from unrolled.export.onnx.reader import known_operators
from unrolled.export.onnx.stepwise_cell import StepwiseCell
from unrolled.export.onnx.weights import read_params
from unrolled.export.onnx.writer import bare_model


def add_rnn(graph: GraphBuilder, xg: str, hg: str, states: Sequence[str]) -> list[str]:
    return [
        graph.node("Tanh", [graph.node("Add", [xg, hg], "sum")], "y")
    ]  # a name that the nodes around a step have too


def add_relu(graph: GraphBuilder, xg: str, hg: str, states: Sequence[str]) -> list[str]:
    return [graph.node("Relu", [graph.node("Add", [xg, hg], "sum")], "h")]


def split(graph: GraphBuilder, value: str, names: list[str]) -> list[str]:
    graph.node("Split", [value], names, axis=1)
    return [graph.prefix + name for name in names]


def add_gru(graph: GraphBuilder, xg: str, hg: str, states: Sequence[str]) -> list[str]:
    xr, xz, xn = split(graph, xg, ["xr", "xz", "xn"])
    hr, hz, hn = split(graph, hg, ["hr", "hz", "hn"])
    r = graph.node("Sigmoid", [graph.node("Add", [xr, hr], "r_sum")], "r")
    z = graph.node("Sigmoid", [graph.node("Add", [xz, hz], "z_sum")], "z")
    n = graph.node("Tanh", [graph.node("Add", [xn, graph.node("Mul", [r, hn], "reset")], "n_sum")], "n")
    change = graph.node("Mul", [z, graph.node("Sub", [states[0], n], "way")], "change")
    return [graph.node("Add", [n, change], "h")]


def add_lstm(graph: GraphBuilder, xg: str, hg: str, states: Sequence[str]) -> list[str]:
    sums = split(graph, graph.node("Add", [xg, hg], "sums"), ["i_sum", "f_sum", "g_sum", "o_sum"])
    i, f, o = (graph.node("Sigmoid", [sums[gate]], name) for gate, name in ((0, "i"), (1, "f"), (3, "o")))
    new = graph.node("Mul", [i, graph.node("Tanh", [sums[2]], "g")], "new")
    c = graph.node("Add", [graph.node("Mul", [f, states[1]], "kept"), new], "c")
    return [graph.node("Mul", [o, graph.node("Tanh", [c], "tanh_c")], "h"), c]


STEPWISE = {
    "rnn": StepwiseCell(1, add_rnn, ("Tanh",)),
    "rnn_relu": StepwiseCell(1, add_relu, ("Relu",)),
    "gru": StepwiseCell(3, add_gru, ("Sigmoid", "Tanh")),
    "lstm": StepwiseCell(4, add_lstm, ("Sigmoid", "Tanh")),
}


@pytest.fixture
def stepwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for cell, entry in STEPWISE.items():
        monkeypatch.setitem(ONNX_CELLS, cell, entry)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.usefixtures("stepwise")
@pytest.mark.parametrize("cell", STEPWISE)
def test_a_cell_built_of_nodes_is_the_reference_s(cell: str, layers: int, bidirectional: bool) -> None:
    assert_computes(models.spec(cell, ALL_INPUTS, layers, bidirectional))


@pytest.mark.parametrize("stored", ["fp16", "int8", "quantized"])
@pytest.mark.usefixtures("stepwise")
@pytest.mark.parametrize("cell", STEPWISE)
def test_its_weights_are_stored_in_pytorch_s_gate_order_and_read_back(cell: str, stored: str) -> None:
    spec = models.spec(cell, ALL_INPUTS, 2, bidirectional=True)
    params = models.params(spec, np.float32)
    model = model_of(spec, params, stored)
    assert {node.op_type for node in model.graph.node} <= known_operators()[""] | known_operators()["com.microsoft"]
    assert not any(node.op_type == "DynamicQuantizeLSTM" for node in model.graph.node)
    for name, value in read_params(model, spec).items():
        assert value.shape == params[name].shape
        np.testing.assert_allclose(value, params[name], rtol=0, atol=np.abs(params[name]).max() / 200)


@pytest.mark.usefixtures("stepwise")
@pytest.mark.parametrize("cell", STEPWISE)
def test_alarm_a_step_that_forgets_its_padding_is_noticed(cell: str) -> None:
    spec = models.spec(cell, ALL_INPUTS, 2, bidirectional=True)
    model, inputs = model_of(spec), inputs_of(spec)
    for node in model.graph.node:
        for attribute in node.attribute:
            for inner in attribute.g.node:
                if inner.op_type == "Where" and "kept" in inner.output[0]:
                    inner.input[2] = inner.input[1]
    for run in ENGINES.values():
        with pytest.raises(AssertionError, match="difference"):
            assert_results(run(model, inputs), by_reference(spec, inputs))


@pytest.mark.parametrize("cell", STEPWISE)
def test_a_language_model_with_such_a_cell_writes_the_same_text(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = models.config(cell)
    params, rng = models.params(config, np.float32), np.random.default_rng(3)
    inputs = {
        "tokens": rng.integers(0, models.V, (4, 3)), "lengths": np.array([4, 1, 3]), "uniforms": rng.random((30, 3)),
        "state": models.state(config, 3, np.float32), "temperature": np.array(0.8), "top_k": np.array(0),
        "top_p": np.array(0.9), "end_token": np.array(-1),
    }  # fmt: skip
    expected = by_onnxruntime(bare_model(config.spec, params, "both"), inputs)
    monkeypatch.setitem(ONNX_CELLS, cell, STEPWISE[cell])
    model = bare_model(config.spec, params, "both")
    onnx.checker.check_model(model, full_check=True)
    for run in ENGINES.values():
        got = run(model, inputs)
        np.testing.assert_array_equal(got.pop("written"), expected["written"])
        for name, value in got.items():
            assert_close(value, expected[name], "export", what=name)
