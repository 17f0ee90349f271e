"""Weights in a graph: initializers in ONNX's gate order, written from parameters and read back.

Letters: V vocabulary, E input, H hidden, D directions, G gates.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from unrolled.engine.errors import ModelFileError
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.layers.core_config import CoreConfig
from unrolled.engine.models.parameters import Params, layer_names, parameter_shapes
from unrolled.engine.models.spec import ModelSpec
from unrolled.export.artifact.weight_storage import NUMBER_FORMATS, WeightStorage, restore
from unrolled.export.onnx.cells import ONNX_CELLS, LayerWeights, has_quantized_operator, reorder_gates
from unrolled.export.onnx.graph_builder import GraphBuilder


class LinearWeights(NamedTuple):
    """Names of a linear layer's weights in the graph.

    Args:
        matrix: (n, m), for products x·Wᵀ + b; with int8 products (m, n).
        bias: (n,).
        scales: with int8 products the scale and zero point of ``matrix``.
    """

    matrix: str
    bias: str
    scales: tuple[str, ...] = ()


class LanguageModelWeights(NamedTuple):
    """Names of the weights of a language model in the graph: the embedding (V, E), the recurrent layers and the output."""

    embedding: str
    layers: list[LayerWeights]
    output: LinearWeights


class GraphParameters:
    """The parameters of a model in a graph, each added when it is first asked for, and stored once.

    Args:
        graph: the outermost graph, whose initializers they become.
        params: the parameters in float32, by name.
        storage: the format of matrices; all others stay in float32.
    """

    def __init__(self, graph: GraphBuilder, params: Params, storage: WeightStorage) -> None:
        self._graph, self._params, self._storage = graph.prefixed(""), params, storage
        self._added: dict[str, str] = {}

    def get(self, name: str) -> str:
        """Return the name of a parameter's float32 value."""
        if name not in self._added:
            value = self._params[name]
            matrix = value.ndim == 2
            self._added[name] = self._add_matrix(name, value) if matrix else self._graph.constant(name, value)
        return self._added[name]

    def linear(self, layer: str, matrix: str) -> LinearWeights:
        """Return the weights of a linear layer.

        Args:
            layer: its name, such as "output", with the bias "output.bias".
            matrix: the parameter that holds its matrix, which may belong to another layer too.
        """
        bias = self.get(f"{layer}.bias")
        if not self._storage.quantized:
            return LinearWeights(self.get(matrix), bias)
        name, *scales = self._add_int8_columns(f"{layer}.weight", self._params[matrix])
        return LinearWeights(name, bias, tuple(scales))

    def layer(self, core: CoreConfig, layer: int) -> LayerWeights:
        """Add one recurrent layer; the initializer of both directions has the name of the forward one's parameter."""
        order = ONNX_CELLS[core.cell].gate_order
        w_ih, w_hh, b_ih, b_hh = (
            np.stack([reorder_gates(self._params[name], order) for name in names])
            for names in zip(*(layer_names(layer, d) for d in range(core.directions)), strict=True)
        )
        bias = self._graph.constant(f"rnn.bias_l{layer}", np.concatenate([b_ih, b_hh], axis=1))
        matrices = list(zip(layer_names(layer)[:2], (w_ih, w_hh), strict=True))
        if self._storage.quantized and has_quantized_operator(core):
            (w, *w_scales), (r, *r_scales) = (self._add_int8_columns(*named) for named in matrices)
            return LayerWeights(w, r, bias, (*w_scales, *r_scales))
        w, r = (self._add_matrix(*named) for named in matrices)
        return LayerWeights(w, r, bias)

    def _add_matrix(self, name: str, value: NDArray) -> str:
        """Add a matrix (..., rows, n), with the nodes that make float32 of it; return the float32 value."""
        stored, scale = NUMBER_FORMATS[self._storage.storage].store(value)
        stored_name = self._graph.constant(name, stored)
        if stored.dtype == np.float32:
            return stored_name
        restored = self._graph.node("Cast", [stored_name], f"{name}:float32", to=TensorProto.FLOAT)
        if scale is None:
            return restored
        return self._graph.node("Mul", [restored, self._graph.constant(f"{name}:scale", scale)], f"{name}:scaled")

    def _add_int8_columns(self, name: str, rows: NDArray) -> tuple[str, str, str]:
        """Add a matrix (..., rows, n) as onnxruntime's int8 operators take it: (..., n, rows), scales and zero points."""
        stored, scale = NUMBER_FORMATS["int8"].store(rows)
        assert scale is not None
        columns = self._graph.constant(name, np.swapaxes(stored, -1, -2))
        scales = self._graph.constant(f"{name}:scale", scale[..., 0])
        return columns, scales, self._graph.constant(f"{name}:zero", np.zeros(scale.shape[:-1], np.int8))


def add_language_model(parameters: GraphParameters, config: LanguageModelConfig) -> LanguageModelWeights:
    """Add all weights of a language model."""
    layers = [parameters.layer(config.spec.core, layer) for layer in range(config.num_layers)]
    embedding = parameters.get("embedding.weight")
    return LanguageModelWeights(embedding, layers, parameters.linear("output", config.output_weight_name))


def read_params(model: onnx.ModelProto, spec: ModelSpec) -> Params:
    """Return the parameters of a graph that ``writer.build`` wrote, under PyTorch's names and in its gate order.

    Raises:
        ModelFileError: a parameter is missing or has another shape.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    params = _read_core(stored, spec)
    shapes = parameter_shapes(spec)
    return {name: params[name] if name in params else _restored(stored, name, shape) for name, shape in shapes.items()}


def _read_core(stored: dict[str, onnx.TensorProto], spec: ModelSpec) -> Params:
    """Return the parameters of the recurrent layers."""
    core, params = spec.core, dict[str, NDArray]()
    D, H, rows = core.directions, core.hidden_size, core.cell_definition.gates * core.hidden_size
    order = tuple(map(int, np.argsort(ONNX_CELLS[core.cell].gate_order)))
    for layer in range(core.num_layers):
        names, width = layer_names(layer), core.layer_input_size(layer, spec.input_size)
        w_ih, w_hh = _restored(stored, names.w_ih, (D, rows, width)), _restored(stored, names.w_hh, (D, rows, H))
        biases = np.split(_restored(stored, f"rnn.bias_l{layer}", (D, 2 * rows)), 2, axis=1)
        for direction in range(D):
            values = (reorder_gates(value[direction], order) for value in (w_ih, w_hh, *biases))
            params.update(zip(layer_names(layer, direction), values, strict=True))
    return params


def _restored(stored: dict[str, onnx.TensorProto], name: str, shape: tuple[int, ...]) -> NDArray:
    """Return the float32 values (..., n) of an initializer, whatever its number format."""
    if name not in stored:
        raise ModelFileError(f"the graph has no weights {name}")
    value = numpy_helper.to_array(stored[name])
    scale = numpy_helper.to_array(stored[f"{name}:scale"]) if f"{name}:scale" in stored else None
    if f"{name}:zero" in stored:  # the layout of int8 products
        value, scale = np.swapaxes(value, -1, -2), None if scale is None else scale[..., None]
    if value.shape != shape or (scale is not None and scale.shape != (*shape[:-1], 1)):
        scaled = "" if scale is None else f" and scales {scale.shape}"
        raise ModelFileError(f"the graph's {name} has shape {value.shape}{scaled}, the spec asks for {shape}")
    return restore(value, scale)
