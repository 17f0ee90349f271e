"""ONNX written from the weights alone; torch is not needed.

The step form: ``tokens`` (T, B) int64 and ``state`` (S, L, B, H) in, ``logits`` (T, B, V) and ``next_state`` out; T and B
are dynamic. Standard operators of opset 17 and IR version 8, which every runtime tried can load.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from unrolled.engine.checkpoint import Checkpoint, write_atomically
from unrolled.engine.config import ModelConfig
from unrolled.engine.errors import ModelFileError
from unrolled.engine.params import LayerParams, Params, layer_params, output_weight_name, parameter_shapes
from unrolled.export.metadata import STEP_INPUTS, STEP_OUTPUTS, file_metadata, producer

OPSET, IR_VERSION = 17, 8


@dataclass(frozen=True)
class OnnxCell:
    """How a cell is written in ONNX: operator, the place of each of its gates in PyTorch's order, attributes."""

    operator: str
    gate_order: tuple[int, ...]
    attributes: dict[str, Any] = field(default_factory=dict)


ONNX_CELLS: dict[str, OnnxCell] = {
    "rnn": OnnxCell("RNN", (0,), {"activations": ["Tanh"]}),
    "rnn_relu": OnnxCell("RNN", (0,), {"activations": ["Relu"]}),
    "gru": OnnxCell("GRU", (1, 0, 2), {"linear_before_reset": 1}),  # r z n -> z r h
    "lstm": OnnxCell("LSTM", (0, 3, 1, 2)),  # i f g o -> i o f c
}


def reorder_gates(array: NDArray, order: tuple[int, ...]) -> NDArray:
    """Blocks of rows of (G·H, ...) in another order."""
    return np.concatenate([np.split(array, len(order))[gate] for gate in order])


def read_params(model: onnx.ModelProto, config: ModelConfig) -> Params:
    """The parameters back from a graph of ``build_step``, under PyTorch's names and in its gate order.

    Raises:
        ModelFileError: one is missing, or has another shape.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    order = tuple(int(place) for place in np.argsort(ONNX_CELLS[config.cell].gate_order))
    shapes = parameter_shapes(config)
    params: Params = {}
    for name, shape in shapes.items():
        source = name.replace(".bias_ih_l", ".bias_l").replace(".bias_hh_l", ".bias_l")
        if source not in stored:
            raise ModelFileError(f"the graph has no weights {source}")
        value = numpy_helper.to_array(stored[source])
        if name.startswith("rnn."):
            value = value[0]
            if source != name:
                value = np.split(value, 2)[0 if ".bias_ih" in name else 1]
            value = reorder_gates(value, order)
        if value.shape != shape:
            raise ModelFileError(f"the graph's {source} does not fit the shape {shape} of {name}")
        params[name] = value
    return params


@dataclass
class Graph:
    """Nodes and initialisers as they are added; every value is known by its name."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, name: str, value: NDArray) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> str:
        name = f"{operator.lower()}:{outputs[0] or outputs[-1]}"
        self.nodes.append(helper.make_node(operator, inputs, outputs, name=name, **attributes))
        return outputs[0]


def _add_layer(
    graph: Graph, config: ModelConfig, layer: int, weights: LayerParams, x: str, direction: str
) -> tuple[str, list[str]]:
    """One recurrent layer over ``x`` (T, B, ·); returns its outputs (T, B, H) and final states, each (1, B, H)."""
    cell, states = ONNX_CELLS[config.cell], config.spec.states
    w_ih, w_hh, b_ih, b_hh = (reorder_gates(array, cell.gate_order)[None] for array in weights)
    initial = [f"state_{s}_l{layer}" for s in range(states)]
    inputs = [
        x,
        graph.constant(f"rnn.weight_ih_l{layer}", w_ih),
        graph.constant(f"rnn.weight_hh_l{layer}", w_hh),
        graph.constant(f"rnn.bias_l{layer}", np.concatenate([b_ih, b_hh], axis=1)),
        "",  # sequence_lens
        *initial,
    ]
    finals = [f"final_{s}_l{layer}" for s in range(states)]
    graph.node(
        cell.operator,
        inputs,
        [f"sequence_l{layer}", *finals],
        hidden_size=config.hidden_size,
        **cell.attributes,
    )
    y = graph.node("Squeeze", [f"sequence_l{layer}", direction], [f"hidden_l{layer}"])
    return y, finals


def _add_state(graph: Graph, config: ModelConfig, axis_0: str) -> None:
    """state (S, L, B, H) to one (1, B, H) for each state and layer.

    Split and not Gather: onnxruntime 1.32 fuses several Gathers of one value and then reads the second out of bounds.
    """
    S, L = config.spec.states, config.num_layers
    graph.node("Split", ["state"], [f"state_{s}_row" for s in range(S)], axis=0)
    for s in range(S):
        layers = graph.node("Squeeze", [f"state_{s}_row", axis_0], [f"state_{s}"])  # (L, B, H)
        graph.node("Split", [layers], [f"state_{s}_l{layer}" for layer in range(L)], axis=0)


def _add_embedding(graph: Graph, params: dict[str, NDArray]) -> str:
    weight = graph.constant("embedding.weight", params["embedding.weight"])
    return graph.node("Gather", [weight, "tokens"], ["embedded"], axis=0)


def _add_output(graph: Graph, config: ModelConfig, params: dict[str, NDArray], h: str) -> None:
    """Logits (T, B, V). Gemm reads the (V, H) matrix as it is, so that a tied one is stored once."""
    weight = output_weight_name(config)
    if not config.tie_weights:
        graph.constant(weight, params[weight])
    bias = graph.constant("output.bias", params["output.bias"])
    rows = graph.node("Reshape", [h, graph.constant("rows", np.array([-1, config.hidden_size], np.int64))], ["flat"])
    flat = graph.node("Gemm", [rows, weight, bias], ["flat_logits"], transB=1)
    time_batch = graph.node("Shape", ["tokens"], ["time_batch"])
    last = graph.constant("vocabulary", np.array([config.vocab_size], np.int64))
    shape = graph.node("Concat", [time_batch, last], ["logits_shape"], axis=0)
    graph.node("Reshape", [flat, shape], ["logits"])


def _values(names: dict[str, tuple[str | None, ...]], config: ModelConfig) -> list[onnx.ValueInfoProto]:
    """Typed inputs or outputs; axes without a name take their fixed size."""
    fixed = {
        "tokens": (None, None),
        "state": config.state_shape(0),
        "next_state": config.state_shape(0),
        "logits": (None, None, config.vocab_size),
    }
    infos = []
    for name, axes in names.items():
        kind = TensorProto.INT64 if name == "tokens" else TensorProto.FLOAT
        shape = [axis or size for axis, size in zip(axes, fixed[name], strict=True)]
        infos.append(helper.make_tensor_value_info(name, kind, shape))
    return infos


def build_step(checkpoint: Checkpoint, golden: bool = True) -> onnx.ModelProto:
    """The step form of a checkpoint as an ONNX model, metadata included."""
    config = checkpoint.config
    params = checkpoint.float32()
    graph = Graph()
    axis_0 = graph.constant("axis_0", np.array([0], np.int64))
    axis_1 = graph.constant("axis_1", np.array([1], np.int64))
    x = _add_embedding(graph, params)
    _add_state(graph, config, axis_0)
    finals: list[list[str]] = []
    for layer in range(config.num_layers):
        x, last = _add_layer(graph, config, layer, layer_params(params, layer), x, axis_1)
        finals.append(last)
    _add_output(graph, config, params, x)
    stacked = []
    for s in range(config.spec.states):
        layers = graph.node("Concat", [last[s] for last in finals], [f"next_state_{s}"], axis=0)  # (L, B, H)
        stacked.append(graph.node("Unsqueeze", [layers, axis_0], [f"next_state_{s}_row"]))
    graph.node("Concat", stacked, ["next_state"], axis=0)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "unrolled_step",
            _values(STEP_INPUTS, config),
            _values(STEP_OUTPUTS, config),
            graph.initializers,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="unrolled",
        producer_version=producer().removeprefix("unrolled "),
    )
    helper.set_model_props(model, file_metadata(checkpoint, golden))
    return model


def write_onnx(checkpoint: Checkpoint, path: Path) -> None:
    """Write the step form to one self-contained file."""
    model = build_step(checkpoint)
    onnx.checker.check_model(model, full_check=True)
    write_atomically(path, model.SerializeToString())
