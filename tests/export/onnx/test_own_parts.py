"""A cell, a head and an input of the tests' own in ONNX: nodes from everything that the graph offers them, against NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import models
import numpy as np
import pytest
from numpy.typing import NDArray
from run_graphs import (
    ENGINES,
    LENGTHS,
    assert_computes,
    assert_results,
    by_evaluator,
    by_onnxruntime,
    by_reference,
    inputs_of,
    model_of,
)

from unrolled.engine.models.cells import CELLS, lstm
from unrolled.engine.models.cells.cell import SIGMOID, TANH, Cell, sigmoid
from unrolled.engine.models.heads import HEADS
from unrolled.engine.models.heads.step_labels import StepLabelsHead
from unrolled.engine.models.inputs import INPUTS
from unrolled.engine.models.inputs.embedded import CategoriesInput
from unrolled.engine.models.inputs.input import Input, Shapes
from unrolled.engine.models.layers.core_config import CoreConfig
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.export.formats import export_model
from unrolled.export.onnx.cells import ONNX_CELLS
from unrolled.export.onnx.graph_builder import GraphBuilder
from unrolled.export.onnx.heads import ONNX_HEADS, CoreValues, OnnxHead
from unrolled.export.onnx.inputs import ONNX_INPUTS, OnnxInput
from unrolled.export.onnx.reader import known_operators
from unrolled.export.onnx.stepwise_cell import StepwiseCell
from unrolled.export.onnx.weights import GraphParameters, read_params
from unrolled.export.verification.verify import verify
from unrolled.runtime import load


@dataclass(frozen=True)
class PooledHead(StepLabelsHead):
    """A linear layer of the mean of y, the last layer's h and the static input; and a share of every valid step."""

    kind: ClassVar[str] = "pooled"

    @property
    def outputs(self) -> dict[str, tuple[str | int, ...]]:
        return {"score": ("batch", self.classes), "share": ("time", "batch")}

    def capabilities(self, core: CoreConfig, inputs: Sequence[Input]) -> frozenset[str]:
        return frozenset({"run"})

    def parameter_shapes(self, core: CoreConfig) -> Shapes:
        width = core.output_size + core.hidden_size + 2
        return {"pool.weight": (self.classes, width), "pool.bias": (self.classes,), "temperature": (1,)}

    def forward(
        self, params: Mapping[str, NDArray], y: NDArray, final_state: NDArray, lengths: NDArray | None,
        inputs: Mapping[str, NDArray],
    ) -> dict[str, NDArray]:  # fmt: skip
        assert lengths is not None
        mean = y.sum(axis=0) / lengths[:, None]
        features = np.concatenate([mean, final_state[0, -1], inputs["static"]], axis=1)
        score = features @ params["pool.weight"].T + params["pool.bias"]
        steps = np.arange(len(y))[:, None] < lengths
        return {"score": score / (1 + np.abs(score)), "share": steps * params["temperature"] / lengths}


def add_pooled(
    head: PooledHead, graph: GraphBuilder, parameters: GraphParameters, values: CoreValues
) -> dict[str, str]:  # fmt: skip
    axis_0, axis_1 = graph.constant("axis_0", [0]), graph.constant("axis_1", [1])
    counts = graph.node("Cast", [values.lengths], "counts", to=1)
    rows = graph.node("Unsqueeze", [counts, axis_1], "count_rows")
    mean = graph.node("Div", [graph.node("ReduceSum", [values.y, axis_0], "total", keepdims=0), rows], "mean")
    last = graph.node("Gather", [values.final_state, graph.constant("first", 0)], "states", axis=0)
    final = graph.node("Gather", [last, graph.constant("last", -1)], "final", axis=0)
    features = graph.node("Concat", [mean, final, values.inputs["static"]], "features", axis=1)
    weights = parameters.linear("pool", "pool.weight")
    linear = graph.node("Gemm", [features, weights.matrix, weights.bias], "linear", transB=1)
    flags = graph.node("Cast", [values.valid], "flags", to=1)
    shares = graph.node("Div", [graph.node("Mul", [flags, parameters.get("temperature")], "warm"), counts], "shares")
    return {"score": graph.node("Softsign", [linear], "score"), "share": shares}


@dataclass(frozen=True)
class DoubledInput(CategoriesInput):
    """An embedding whose columns are added to themselves."""

    kind: ClassVar[str] = "doubled"

    def forward(self, params: Mapping[str, NDArray], array: NDArray, T: int) -> NDArray:
        return 2 * params["doubled"][array]

    @property
    def lookup(self) -> Any:
        return None

    def parameter_shapes(self) -> Shapes:
        return {"doubled": (self.size, self.embedding_size)}


def add_doubled(
    column: DoubledInput, graph: GraphBuilder, parameters: GraphParameters, array: str, steps: str
) -> str:  # fmt: skip
    once = graph.node("Gather", [parameters.get("doubled"), array], "once", axis=0)
    return graph.node("Sum", [once, once], "twice")


@pytest.fixture
def own_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HEADS, "pooled", PooledHead)
    monkeypatch.setitem(ONNX_HEADS, "pooled", OnnxHead(add_pooled, ("Softsign",)))


def spec_of(cell: str, bidirectional: bool) -> ModelSpec:
    inputs = tuple(models.spec(inputs="tokens+values+static").inputs)
    return ModelSpec(inputs, CoreConfig(cell, models.H, 2, bidirectional), PooledHead(4))


@pytest.mark.usefixtures("own_parts")
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_a_head_reads_outputs_states_lengths_and_inputs(cell: str, bidirectional: bool) -> None:
    spec = spec_of(cell, bidirectional)
    model, inputs = model_of(spec), inputs_of(spec)
    assert set(inputs) == {"tokens", "values", "static", "lengths"}  # without steps there is no initial state
    expected = by_reference(spec, inputs)
    assert expected["score"].shape == (len(LENGTHS), 4)
    for run in ENGINES.values():
        assert_results(run(model, inputs), expected)


@pytest.mark.usefixtures("own_parts")
@pytest.mark.parametrize("stored", ["fp16", "int8"])
def test_parameters_of_a_head_are_stored_and_read_back(stored: str) -> None:
    spec = spec_of("gru", True)
    params = models.params(spec, np.float32)
    read = read_params(model_of(spec, params, stored), spec)
    np.testing.assert_array_equal(read["temperature"], params["temperature"])
    difference = np.abs(read["pool.weight"] - params["pool.weight"]).max()
    assert 0 < difference < np.abs(params["pool.weight"]).max() / 200


def test_operators_of_a_head_are_known_while_it_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Softsign" not in known_operators()[""]
    monkeypatch.setitem(ONNX_HEADS, "pooled", OnnxHead(add_pooled, ("Softsign",)))
    assert "Softsign" in known_operators()[""]


def test_an_input_may_have_nodes_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(INPUTS, "doubled", DoubledInput)
    monkeypatch.setitem(ONNX_INPUTS, "doubled", OnnxInput(add_doubled, ("Sum",)))
    spec = models.spec("lstm", "values", 2, bidirectional=True)
    spec = ModelSpec((DoubledInput(9, 3, "kinds"), *spec.inputs), spec.core, spec.head)
    model, inputs = model_of(spec), inputs_of(spec)
    assert_results(by_onnxruntime(model, inputs), by_reference(spec, inputs))
    assert_results(by_evaluator(model, inputs), by_reference(spec, inputs))


def minimal_gated_unit(xg: NDArray, s0: NDArray, w_hh: NDArray, b_hh: NDArray) -> tuple[NDArray, NDArray]:
    """Return the states of f = σ(xf + hf), n = tanh(xn + f·hn), h + f·(n - h)."""
    states = [s0]
    for x in xg:
        h = states[-1][0]
        (xf, xn), (hf, hn) = np.split(x, 2, axis=1), np.split(h @ w_hh.T + b_hh, 2, axis=1)
        f = sigmoid(xf + hf)
        states.append((h + f * (np.tanh(xn + f * hn) - h))[None])
    return np.stack(states), xg


def add_minimal_gated_unit(graph: GraphBuilder, xg: str, hg: str, states: Sequence[str]) -> list[str]:
    for name, value in (("x", xg), ("h", hg)):
        graph.node("Split", [value], [f"{name}f", f"{name}n"], axis=1)
    xf, xn, hf, hn = (f"{graph.prefix}{name}" for name in ("xf", "xn", "hf", "hn"))
    f = graph.node("Sigmoid", [graph.node("Add", [xf, hf], "f_sum")], "f")
    n = graph.node("Tanh", [graph.node("Add", [xn, graph.node("Mul", [f, hn], "reset")], "n_sum")], "n")
    change = graph.node("Mul", [f, graph.node("Sub", [n, states[0]], "way")], "change")
    return [graph.node("Add", [states[0], change], "moved")]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
def test_a_cell_may_have_nodes_of_its_own(
    bidirectional: bool, layers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = Cell("minimal gated unit", ("f", "n"), 1, minimal_gated_unit, lstm.backward, (SIGMOID, TANH))
    monkeypatch.setitem(CELLS, "mgu", cell)
    monkeypatch.setitem(ONNX_CELLS, "mgu", StepwiseCell(2, add_minimal_gated_unit, ("Sigmoid", "Tanh")))
    spec = models.spec("mgu", "tokens+values+static", layers, bidirectional)
    assert_computes(spec)
    checkpoint = Checkpoint(spec, models.params(spec, np.float32), {})
    path = export_model(checkpoint, tmp_path / "model.onnx", "onnx")
    assert [check.name for check in verify(path, load) if not check.ok] == []
