"""Weights in a graph: initializers in ONNX's gate order, written from parameters and read back.

Letters: V vocabulary, E embedding, H hidden, G gates.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from unrolled.engine.errors import ModelFileError
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.parameters import Params, layer_params, parameter_shapes
from unrolled.export.artifact.weight_storage import NUMBER_FORMATS, WeightStorage, restore
from unrolled.export.onnx.cells import ONNX_CELLS, has_quantized_operator, reorder_gates
from unrolled.export.onnx.graph_builder import GraphBuilder


class LayerWeights(NamedTuple):
    """Names of one layer's weights in the graph, in ONNX's gate order.

    Args:
        w: (1, G·H, E or H); with int8 products (1, E or H, G·H).
        r: (1, G·H, H); with int8 products (1, H, G·H).
        b: (1, 2·G·H).
        scales: with int8 products the scale and zero point of w, then those of r.
    """

    w: str
    r: str
    b: str
    scales: tuple[str, ...] = ()


class GraphWeights(NamedTuple):
    """Names of all weights in the graph, each stored once.

    Args:
        embedding: (V, E).
        layers: the weights of each recurrent layer.
        output: (V, H), with tied weights the embedding's; with int8 products (H, V).
        bias: (V,).
        scales: with int8 products the scale and zero point of ``output``.
    """

    embedding: str
    layers: list[LayerWeights]
    output: str
    bias: str
    scales: tuple[str, ...] = ()


def add_weights(
    graph: GraphBuilder, config: LanguageModelConfig, params: Params, storage: WeightStorage
) -> GraphWeights:
    """Add all weights in the given storage and return their names."""
    layers = [_add_layer_weights(graph, config, params, layer, storage) for layer in range(config.num_layers)]
    embedding = _add_matrix(graph, "embedding.weight", params["embedding.weight"], storage.storage)
    bias, name = graph.constant("output.bias", params["output.bias"]), "output.weight"
    matrix = params[config.output_weight_name]
    if storage.quantized:
        output, *scales = _add_int8_columns(graph, name, matrix)
        return GraphWeights(embedding, layers, output, bias, tuple(scales))
    output = embedding if config.tie_weights else _add_matrix(graph, name, matrix, storage.storage)
    return GraphWeights(embedding, layers, output, bias)


def _add_layer_weights(
    graph: GraphBuilder, config: LanguageModelConfig, params: Params, layer: int, storage: WeightStorage
) -> LayerWeights:
    order = ONNX_CELLS[config.cell].gate_order
    w_ih, w_hh, b_ih, b_hh = (reorder_gates(array, order)[None] for array in layer_params(params, layer))
    bias = graph.constant(f"rnn.bias_l{layer}", np.concatenate([b_ih, b_hh], axis=1))
    names = f"rnn.weight_ih_l{layer}", f"rnn.weight_hh_l{layer}"
    matrices = list(zip(names, (w_ih, w_hh), strict=True))
    if storage.quantized and has_quantized_operator(config):
        (w, *w_scales), (r, *r_scales) = (_add_int8_columns(graph, *named) for named in matrices)
        return LayerWeights(w, r, bias, (*w_scales, *r_scales))
    w, r = (_add_matrix(graph, *named, storage.storage) for named in matrices)
    return LayerWeights(w, r, bias)


def _add_matrix(graph: GraphBuilder, name: str, value: NDArray, number_format: str) -> str:
    """Add a matrix (..., rows, n) in a number format, with the nodes that make float32 of it; return the float32 value."""
    stored, scale = NUMBER_FORMATS[number_format].store(value)
    stored_name = graph.constant(name, stored)
    if stored.dtype == np.float32:
        return stored_name
    restored = graph.node("Cast", [stored_name], f"{name}:float32", to=TensorProto.FLOAT)
    if scale is None:
        return restored
    return graph.node("Mul", [restored, graph.constant(f"{name}:scale", scale)], f"{name}:scaled")


def _add_int8_columns(graph: GraphBuilder, name: str, rows: NDArray) -> tuple[str, str, str]:
    """Add a matrix (..., rows, n) as onnxruntime's int8 operators take it: (..., n, rows), with scales and zero points."""
    stored, scale = NUMBER_FORMATS["int8"].store(rows)
    assert scale is not None
    columns = graph.constant(name, np.swapaxes(stored, -1, -2))
    scales = graph.constant(f"{name}:scale", scale[..., 0])
    return columns, scales, graph.constant(f"{name}:zero", np.zeros(scale.shape[:-1], np.int8))


def read_params(model: onnx.ModelProto, config: LanguageModelConfig) -> Params:
    """Return the parameters of a graph that ``writer.build`` wrote, under PyTorch's names and in its gate order.

    Raises:
        ModelFileError: a parameter is missing or has another shape.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    order = tuple(int(place) for place in np.argsort(ONNX_CELLS[config.cell].gate_order))
    params: Params = {}
    for name, shape in parameter_shapes(config.spec).items():
        source = name.replace(".bias_ih_l", ".bias_l").replace(".bias_hh_l", ".bias_l")
        value = _restored(stored, source)
        if name.startswith("rnn."):
            value = value[0]
            if source != name:  # ONNX concatenates both biases
                value = np.split(value, 2)[0 if ".bias_ih" in name else 1]
            value = reorder_gates(value, order)
        if value.shape != shape:
            raise ModelFileError(f"the graph's {source} does not fit the shape {shape} of {name}")
        params[name] = value
    return params


def _restored(stored: dict[str, onnx.TensorProto], name: str) -> NDArray:
    """Return the float32 values of an initializer, whatever its number format."""
    if name not in stored:
        raise ModelFileError(f"the graph has no weights {name}")
    value = numpy_helper.to_array(stored[name])
    scale = numpy_helper.to_array(stored[f"{name}:scale"]) if f"{name}:scale" in stored else None
    if f"{name}:zero" in stored:
        value, scale = np.swapaxes(value, -1, -2), None if scale is None else scale[..., None]
    return restore(value, scale)
