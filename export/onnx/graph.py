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

from unrolled.engine.errors import ModelFileError
from unrolled.engine.models.config import ModelConfig
from unrolled.engine.models.parameters import Params, layer_params, output_weight_name, parameter_shapes
from unrolled.engine.network.language_model import LanguageModel
from unrolled.engine.storage.atomic_files import write_atomically
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.export.artifact.golden_cases import golden_cases
from unrolled.export.artifact.metadata import FORMS, Axes, file_metadata, producer
from unrolled.export.artifact.weight_storage import FLOAT32, STORAGES, Weights, as_restored, restore

OPSET, IR_VERSION = 17, 8
ONNXRUNTIME = "com.microsoft"  # the domain of onnxruntime's own operators
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
    quantized: str = ""  # onnxruntime's operator with products in int8, where there is one


ONNX_CELLS: dict[str, OnnxCell] = {
    "rnn": OnnxCell("RNN", (0,), {"activations": ["Tanh"]}),
    "rnn_relu": OnnxCell("RNN", (0,), {"activations": ["Relu"]}),
    "gru": OnnxCell("GRU", (1, 0, 2), {"linear_before_reset": 1}),  # r z n -> z r h
    "lstm": OnnxCell("LSTM", (0, 3, 1, 2), quantized="DynamicQuantizeLSTM"),  # i f g o -> i o f c
}


def reorder_gates(array: NDArray, order: tuple[int, ...]) -> NDArray:
    """Blocks of rows of (G·H, ...) in another order."""
    return np.concatenate([np.split(array, len(order))[gate] for gate in order])


def read_params(model: onnx.ModelProto, config: ModelConfig) -> Params:
    """The parameters back from a graph of ``build``, under PyTorch's names and in its gate order.

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
        value, scale = (_array(stored.get(key)) for key in (source, f"{source}:scale"))
        assert value is not None
        if f"{source}:zero" in stored:
            value, scale = np.swapaxes(value, -1, -2), None if scale is None else scale[..., None]
        value = restore(value, scale)
        if name.startswith("rnn."):
            value = value[0]
            if source != name:
                value = np.split(value, 2)[0 if ".bias_ih" in name else 1]
            value = reorder_gates(value, order)
        if value.shape != shape:
            raise ModelFileError(f"the graph's {source} does not fit the shape {shape} of {name}")
        params[name] = value
    return params


def _array(tensor: onnx.TensorProto | None) -> NDArray | None:
    return None if tensor is None else numpy_helper.to_array(tensor)


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
        # Not ascontiguousarray, which makes rank 1 of a scalar.
        self.initializers.append(numpy_helper.from_array(np.array(value, dtype, order="C"), name))
        return name

    def node(self, operator: str, inputs: list[str], outputs: list[str] | str, **attributes: Any) -> str:
        """Add a node; returns the name of its first output."""
        names = [self.prefix + name for name in ([outputs] if isinstance(outputs, str) else outputs)]
        name = f"{operator.lower()}:{names[0]}"
        self.nodes.append(helper.make_node(operator, inputs, names, name=name, **attributes))
        return names[0]

    def weight(self, name: str, value: NDArray, storage: str) -> str:
        """A matrix whose rows are the last axis, stored as ``storage`` says; returns the float32 one."""
        stored, scale = STORAGES[storage].store(value)
        stored_name = self.constant(name, stored)
        if stored.dtype == np.float32:
            return stored_name
        back = self.node("Cast", [stored_name], f"{name}:float32", to=TensorProto.FLOAT)
        if scale is None:
            return back
        return self.node("Mul", [back, self.constant(f"{name}:scale", scale)], f"{name}:scaled")

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
    scales: tuple[str, ...] = ()  # and zero points of w and r, where they are multiplied in int8: then (1, n, G·H)


class GraphWeights(NamedTuple):
    """Names of all weights in the graph, each stored once."""

    embedding: str  # (V, E)
    layers: list[LayerWeights]
    output: str  # (V, H), the embedding's where they are tied
    bias: str  # (V,)
    scales: tuple[str, ...] = ()  # and zero points of the output, where it is multiplied in int8: then (H, V)


def _add_int8(graph: Graph, name: str, rows: NDArray) -> tuple[str, str, str]:
    """int8 columns of a matrix given by its rows, their scales and zero points, as onnxruntime's operators take them."""
    stored, scale = STORAGES["int8"].store(rows)
    assert scale is not None
    columns = graph.constant(name, np.swapaxes(stored, -1, -2))
    scales = graph.constant(f"{name}:scale", scale[..., 0])
    return columns, scales, graph.constant(f"{name}:zero", np.zeros(scale.shape[:-1], np.int8))


def quantizes(config: ModelConfig) -> bool:
    """Whether onnxruntime has an int8 operator for the cell."""
    return bool(ONNX_CELLS[config.cell].quantized)


def add_weights(graph: Graph, config: ModelConfig, params: Params, options: Weights = FLOAT32) -> GraphWeights:
    layers = []
    for layer in range(config.num_layers):
        order = ONNX_CELLS[config.cell].gate_order
        w_ih, w_hh, b_ih, b_hh = (reorder_gates(array, order)[None] for array in layer_params(params, layer))
        bias = graph.constant(f"rnn.bias_l{layer}", np.concatenate([b_ih, b_hh], axis=1))
        names = f"rnn.weight_ih_l{layer}", f"rnn.weight_hh_l{layer}"
        if options.quantized and quantizes(config):
            (w, *w_scales), (r, *r_scales) = (_add_int8(graph, *pair) for pair in zip(names, (w_ih, w_hh), strict=True))
            layers.append(LayerWeights(w, r, bias, (*w_scales, *r_scales)))
        else:
            w, r = (graph.weight(*pair, options.storage) for pair in zip(names, (w_ih, w_hh), strict=True))
            layers.append(LayerWeights(w, r, bias))
    embedding = graph.weight("embedding.weight", params["embedding.weight"], options.storage)
    bias, name = graph.constant("output.bias", params["output.bias"]), "output.weight"
    matrix = params[output_weight_name(config)]
    if options.quantized:
        output, *scales = _add_int8(graph, name, matrix)
        return GraphWeights(embedding, layers, output, bias, tuple(scales))
    output = embedding if config.tie_weights else graph.weight(name, matrix, options.storage)
    return GraphWeights(embedding, layers, output, bias)


def add_layer(
    graph: Graph, config: ModelConfig, layer: int, weights: LayerWeights, x: str, initial: list[str], lengths: str = ""
) -> tuple[str, list[str]]:
    """One recurrent layer over ``x`` (T, B, ·) from states (1, B, H); returns outputs (T, 1, B, H) and final states."""
    cell = ONNX_CELLS[config.cell]
    names = [f"sequence_l{layer}", *(f"final_{s}_l{layer}" for s in range(config.spec.states))]
    inputs = [x, weights.w, weights.r, weights.b, lengths, *initial]
    attributes: dict[str, Any] = {"hidden_size": config.hidden_size, **cell.attributes}
    if weights.scales:
        inputs += ["", *weights.scales]  # no peepholes
        y = graph.node(cell.quantized, inputs, names, domain=ONNXRUNTIME, **attributes)
    else:
        y = graph.node(cell.operator, inputs, names, **attributes)
    return y, [graph.prefix + name for name in names[1:]]


def add_logits(graph: Graph, weights: GraphWeights, rows: str, name: str) -> str:
    """Logits (n, V) of ``rows`` (n, H). Gemm reads the (V, H) matrix as it is, so that a tied one is stored once."""
    if weights.scales:
        inputs = [rows, weights.output, *weights.scales, weights.bias]
        return graph.node("DynamicQuantizeMatMul", inputs, name, domain=ONNXRUNTIME)
    return graph.node("Gemm", [rows, weights.output, weights.bias], name, transB=1)


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


def _add_output(graph: Graph, config: ModelConfig, weights: GraphWeights, h: str) -> None:
    """Logits (T, B, V)."""
    rows = graph.node("Reshape", [h, graph.constant("rows", [-1, config.hidden_size])], "flat")
    flat = add_logits(graph, weights, rows, "flat_logits")
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


def build(
    checkpoint: Checkpoint, form: str = "step", weights: Weights = FLOAT32, golden: bool = True
) -> onnx.ModelProto:
    """A checkpoint as an ONNX model in a form of ``FORMS``, metadata included; without golden cases for use in memory."""
    restored = as_restored(checkpoint, weights.storage)
    weights = weights._replace(digest=restored.digest)
    cases: list[dict[str, Any]] = []
    if golden and weights.quantized:
        cases = _quantized_cases(checkpoint, weights)
    elif golden:
        cases = golden_cases(LanguageModel(restored.config, restored.params))
    model = _build_graph(checkpoint, form, weights)
    helper.set_model_props(model, file_metadata(checkpoint, form, weights, cases))
    return model


def _quantized_cases(checkpoint: Checkpoint, weights: Weights) -> list[dict[str, Any]]:
    """What onnxruntime computes on this processor: only it has the operators."""
    from unrolled.runtime.models.onnx_model import (
        open_checkpoint,  # upwards, when called: nothing below runs such a graph
    )

    return golden_cases(open_checkpoint(checkpoint, "step", weights), 2 * weights.tolerance, drawn=False)


def _build_graph(checkpoint: Checkpoint, form: str, options: Weights) -> onnx.ModelProto:
    config = checkpoint.config
    graph = Graph()
    axis_0 = graph.constant("axis_0", [0])
    axis_1 = graph.constant("axis_1", [1])
    weights = add_weights(graph, config, checkpoint.float32(), options)
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
        from unrolled.export.onnx.generation_loop import add_generation

        add_generation(graph, config, weights, finals, axis_0)
    opsets = [helper.make_opsetid("", OPSET)]
    if options.quantized:
        opsets.append(helper.make_opsetid(ONNXRUNTIME, 1))
    return helper.make_model(
        graph.proto(f"unrolled_{form}", _values(FORMS[form].inputs, config), _values(FORMS[form].outputs, config)),
        opset_imports=opsets,
        ir_version=IR_VERSION,
        producer_name="unrolled",
        producer_version=producer().removeprefix("unrolled "),
    )


def write_onnx(checkpoint: Checkpoint, path: Path, form: str = "step", weights: Weights = FLOAT32) -> None:
    """Write one self-contained file."""
    model = build(checkpoint, form, weights)
    onnx.checker.check_model(model, full_check=True)
    write_atomically(path, model.SerializeToString())
