"""The kinds of inputs in ONNX: one entry a kind, which adds the nodes from an input's array to its columns of x."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto

from unrolled.engine.models.inputs.embedded import CategoriesInput, TokensInput
from unrolled.engine.models.inputs.numeric import StaticInput, ValuesInput
from unrolled.export.onnx.graph_builder import GraphBuilder
from unrolled.export.onnx.weights import GraphParameters

# Adds the columns (T, B, width) of an input and returns their name, given
#   column      the input of the spec,
#   graph       the builder, whose prefix is the input's own,
#   parameters  the model's parameters,
#   array       the name of the input's array, with zeros in the padding,
#   steps       the name of T (1,).
AddInput = Callable[[Any, GraphBuilder, GraphParameters, str, str], str]


class OnnxInput(NamedTuple):
    """A kind of input in ONNX.

    Args:
        add: adds its nodes.
        operators: the standard operators of these nodes that no other part of a graph has.
    """

    add: AddInput
    operators: tuple[str, ...] = ()


def _add_embedded(
    column: TokensInput | CategoriesInput, graph: GraphBuilder, parameters: GraphParameters, array: str, steps: str
) -> str:
    """Add the rows of the embedding that the ids select."""
    return graph.node("Gather", [parameters.get(column.lookup), array], "embedded", axis=0)


def _add_values(
    column: ValuesInput | StaticInput, graph: GraphBuilder, parameters: GraphParameters, array: str, steps: str
) -> str:
    """Add (v - mean) / scale, computed in float64 as by the reference."""
    if column.mean is None and column.scale is None:
        return array
    value = graph.node("Cast", [array], "wide", to=TensorProto.DOUBLE)
    if column.mean is not None:
        value = graph.node("Sub", [value, graph.constant("mean", np.array(column.mean), np.float64)], "shifted")
    if column.scale is not None:
        value = graph.node("Div", [value, graph.constant("scale", np.array(column.scale), np.float64)], "scaled")
    return graph.node("Cast", [value], "columns", to=TensorProto.FLOAT)


def _add_static(
    column: StaticInput, graph: GraphBuilder, parameters: GraphParameters, array: str, steps: str
) -> str:  # fmt: skip
    """Add the scaled values of each sequence, repeated at every time step."""
    once = _add_values(column, graph, parameters, array, steps)  # (B, columns)
    shape = graph.node("Concat", [steps, graph.constant("kept", [1, 1])], "repeated_shape", axis=0)
    return graph.node("Expand", [once, shape], "repeated")


ONNX_INPUTS: dict[str, OnnxInput] = {
    "tokens": OnnxInput(_add_embedded),
    "categories": OnnxInput(_add_embedded),
    "values": OnnxInput(_add_values),
    "static": OnnxInput(_add_static),
}
