"""ONNX written from the weights alone; torch is not needed.

The step form: ``tokens`` (T, B) int64 and ``state`` (S, L, B, H) in, ``logits`` (T, B, V) and ``next_state`` out; T and B
are dynamic. The generate form reads ragged prompts and writes tokens inside the graph (``onnx_generate``). Standard
operators of opset 17 and IR version 8, which every runtime tried can load.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from unrolled.engine.checkpoint import Checkpoint, write_atomically
from unrolled.engine.config import ModelConfig
from unrolled.engine.errors import ModelFileError
from unrolled.engine.params import Params, layer_params, output_weight_name, parameter_shapes
from unrolled.export.metadata import FORMS, Axes, file_metadata, producer

OPSET, IR_VERSION = 17, 8
KINDS = {  # of inputs and outputs that are not float32
    **dict.fromkeys(("tokens", "lengths", "top_k", "end_token", "written"), TensorProto.INT64),
    **dict.fromkeys(("uniforms", "temperature", "top_p"), TensorProto.DOUBLE),
}


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
    """Nodes and initialisers of one graph as they are added; every value is known by its name.

    The graphs inside a Loop or an If see the values of those around them; their own begin with their ``prefix``.
    """

    prefix: str = ""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, name: str, value: NDArray | list[int] | int | float | bool, dtype: Any = None) -> str:
        name = self.prefix + name
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(np.array(value, dtype)), name))
        return name

    def node(self, operator: str, inputs: list[str], outputs: list[str] | str, **attributes: Any) -> str:
        """Add a node; returns the name of its first output."""
        names = [self.prefix + name for name in ([outputs] if isinstance(outputs, str) else outputs)]
        name = f"{operator.lower()}:{names[0]}"
        self.nodes.append(helper.make_node(operator, inputs, names, name=name, **attributes))
        return names[0]

    def inner(self, prefix: str) -> Graph:
        """An empty graph for a node of this one."""
        return Graph(self.prefix + prefix)

    def proto(
        self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
    ) -> onnx.GraphProto:  # fmt: skip
        return helper.make_graph(self.nodes, name, inputs, outputs, self.initializers)


class LayerWeights(NamedTuple):
    """Names of one layer's weights in the graph, in ONNX's order of gates."""

    w: str  # (1, G·H, E or H)
    r: str  # (1, G·H, H)
    b: str  # (1, 2·G·H)


class Weights(NamedTuple):
    """Names of all weights in the graph, each stored once."""

    embedding: str  # (V, E)
    layers: list[LayerWeights]
    output: str  # (V, H), the embedding's where they are tied
    bias: str  # (V,)


def add_weights(graph: Graph, config: ModelConfig, params: Params) -> Weights:
    layers = []
    for layer in range(config.num_layers):
        order = ONNX_CELLS[config.cell].gate_order
        w_ih, w_hh, b_ih, b_hh = (reorder_gates(array, order)[None] for array in layer_params(params, layer))
        layers.append(
            LayerWeights(
                graph.constant(f"rnn.weight_ih_l{layer}", w_ih),
                graph.constant(f"rnn.weight_hh_l{layer}", w_hh),
                graph.constant(f"rnn.bias_l{layer}", np.concatenate([b_ih, b_hh], axis=1)),
            )
        )
    embedding = graph.constant("embedding.weight", params["embedding.weight"])
    output = output_weight_name(config)
    if not config.tie_weights:
        graph.constant(output, params[output])
    return Weights(embedding, layers, output, graph.constant("output.bias", params["output.bias"]))


def add_layer(
    graph: Graph, config: ModelConfig, layer: int, weights: LayerWeights, x: str, initial: list[str], lengths: str = ""
) -> tuple[str, list[str]]:
    """One recurrent layer over ``x`` (T, B, ·) from states (1, B, H); returns outputs (T, 1, B, H) and final states."""
    cell = ONNX_CELLS[config.cell]
    names = [f"sequence_l{layer}", *(f"final_{s}_l{layer}" for s in range(config.spec.states))]
    inputs = [x, *weights, lengths, *initial]
    y = graph.node(cell.operator, inputs, names, hidden_size=config.hidden_size, **cell.attributes)
    return y, [graph.prefix + name for name in names[1:]]


def _add_state(graph: Graph, config: ModelConfig, axis_0: str) -> list[list[str]]:
    """state (S, L, B, H) to one (1, B, H) for each layer and state.

    Split and not Gather: onnxruntime 1.32 fuses several Gathers of one value and then reads the second out of bounds.
    """
    S, L = config.spec.states, config.num_layers
    graph.node("Split", ["state"], [f"state_{s}_row" for s in range(S)], axis=0)
    for s in range(S):
        layers = graph.node("Squeeze", [f"state_{s}_row", axis_0], f"state_{s}")  # (L, B, H)
        graph.node("Split", [layers], [f"state_{s}_l{layer}" for layer in range(L)], axis=0)
    return [[f"state_{s}_l{layer}" for s in range(S)] for layer in range(L)]


def add_stacked_state(graph: Graph, states: list[list[str]], axis_0: str, name: str) -> None:
    """The inverse: ``name`` (S, L, B, H) from the states (1, B, H) of each layer."""
    stacked = []
    for s in range(len(states[0])):
        layers = graph.node("Concat", [layer[s] for layer in states], f"{name}_{s}", axis=0)  # (L, B, H)
        stacked.append(graph.node("Unsqueeze", [layers, axis_0], f"{name}_{s}_row"))
    graph.node("Concat", stacked, name, axis=0)


def _add_output(graph: Graph, config: ModelConfig, weights: Weights, h: str) -> None:
    """Logits (T, B, V). Gemm reads the (V, H) matrix as it is, so that a tied one is stored once."""
    rows = graph.node("Reshape", [h, graph.constant("rows", [-1, config.hidden_size])], "flat")
    flat = graph.node("Gemm", [rows, weights.output, weights.bias], "flat_logits", transB=1)
    time_batch = graph.node("Shape", ["tokens"], "time_batch")
    last = graph.constant("vocabulary", [config.vocab_size])
    shape = graph.node("Concat", [time_batch, last], "logits_shape", axis=0)
    graph.node("Reshape", [flat, shape], "logits")


def _values(names: Mapping[str, Axes], config: ModelConfig) -> list[onnx.ValueInfoProto]:
    """Typed inputs or outputs; axes without a name take their fixed size."""
    sizes = {"state": config.state_shape(0), "logits": (None, None, config.vocab_size)}
    infos = []
    for name, axes in names.items():
        fixed = sizes.get(name.removeprefix("next_").removeprefix("final_"), (None,) * len(axes))
        shape = [axis or size for axis, size in zip(axes, fixed, strict=True)]
        infos.append(helper.make_tensor_value_info(name, KINDS.get(name, TensorProto.FLOAT), shape))
    return infos


def build(checkpoint: Checkpoint, form: str = "step", golden: bool = True) -> onnx.ModelProto:
    """A checkpoint as an ONNX model in a form of ``FORMS``, metadata included."""
    config = checkpoint.config
    graph = Graph()
    axis_0 = graph.constant("axis_0", [0])
    weights = add_weights(graph, config, checkpoint.float32())
    axis_1 = graph.constant("axis_1", [1])
    x = graph.node("Gather", [weights.embedding, "tokens"], "embedded", axis=0)
    initial = _add_state(graph, config, axis_0)
    lengths = "" if form == "step" else graph.node("Cast", ["lengths"], "sequence_lengths", to=TensorProto.INT32)
    finals: list[list[str]] = []
    for layer in range(config.num_layers):
        y, last = add_layer(graph, config, layer, weights.layers[layer], x, initial[layer], lengths)
        finals.append(last)
        if layer < config.num_layers - 1 or form != "generate":  # which needs the last layer's final state only
            x = graph.node("Squeeze", [y, axis_1], f"hidden_l{layer}")
    if form != "generate":
        _add_output(graph, config, weights, x)
        add_stacked_state(graph, finals, axis_0, "next_state")
    if form != "step":
        from unrolled.export.onnx_generate import add_generation

        add_generation(graph, config, weights, finals, axis_0)
    model = helper.make_model(
        graph.proto(f"unrolled_{form}", _values(FORMS[form].inputs, config), _values(FORMS[form].outputs, config)),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="unrolled",
        producer_version=producer().removeprefix("unrolled "),
    )
    helper.set_model_props(model, file_metadata(checkpoint, form, golden))
    return model


def write_onnx(checkpoint: Checkpoint, path: Path, form: str = "step") -> None:
    """Write one self-contained file."""
    model = build(checkpoint, form)
    onnx.checker.check_model(model, full_check=True)
    write_atomically(path, model.SerializeToString())
