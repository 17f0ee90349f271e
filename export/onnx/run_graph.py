"""The graph of any model: form ``run``, whole sequences of their own lengths.

    the inputs by name, lengths (batch,), state (S, L, batch, H) if the model has steps
    -> the outputs of the head by name, final_state (S, L·D, batch, H)

Padding has no effect: ids outside the vocabulary and NaN in it are replaced by 0 before anything reads them. A model that has
steps runs chunks: the final state of one is the state of the next, and a row that is in full has the length T.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import onnx
from onnx import TensorProto

from unrolled.engine.models.inputs.input import Input
from unrolled.engine.models.layers.core_config import CoreConfig
from unrolled.engine.models.parameters import Params
from unrolled.engine.models.spec import ModelSpec
from unrolled.export.artifact.forms import RUN, signature_of
from unrolled.export.artifact.weight_storage import WeightStorage
from unrolled.export.onnx.cells import ONNX_CELLS
from unrolled.export.onnx.graph_builder import GraphBuilder, described_values
from unrolled.export.onnx.heads import ONNX_HEADS, CoreValues
from unrolled.export.onnx.inputs import ONNX_INPUTS
from unrolled.export.onnx.layers import add_initial_states, add_joined_directions, add_stacked_state
from unrolled.export.onnx.weights import GraphParameters

# No name of an input or output contains these characters, so inner values never have the name of one.
CORE, INPUT, HEAD = "core/", "inputs/", "head/"


def run_graph(spec: ModelSpec, params: Params, storage: WeightStorage) -> onnx.GraphProto:
    """Return the graph of a model, given its parameters in float32."""
    whole = GraphBuilder()
    parameters = GraphParameters(whole, params, storage)
    graph, signature = whole.prefixed(CORE), signature_of(RUN, spec)
    times = _add_times(graph, spec)
    inputs = _add_clean_inputs(whole, spec, times)
    x = _add_columns(whole, spec, parameters, inputs, times.steps)
    initial = add_initial_states(graph, spec.core, times.axis_0) if "state" in signature.inputs else None
    y, finals = _add_core(graph, spec.core, parameters, x, initial, times.axis_1)
    final_state = add_stacked_state(graph, finals, times.axis_0, "final_state")
    values = CoreValues(spec.core, y, final_state, "lengths", times.valid, inputs)
    outputs = ONNX_HEADS[spec.head.kind].add(spec.head, whole.prefixed(HEAD), parameters, values)
    for name, value in {**outputs, "final_state": final_state}.items():
        whole.node("Identity", [value], name)
    return whole.proto(f"unrolled_{RUN}", *map(described_values, signature))


class _Times(NamedTuple):
    """Names of values about the time steps of a batch, and of the constants [0] and [1].

    Args:
        steps: T (1,).
        valid: whether a time step is not padding (T, B).
    """

    steps: str
    valid: str
    axis_0: str
    axis_1: str


def _add_times(graph: GraphBuilder, spec: ModelSpec) -> _Times:
    axis_0, axis_1 = graph.constant("axis_0", [0]), graph.constant("axis_1", [1])
    timed = next(column.name for column in spec.inputs if "time" in column.axes)
    steps = graph.node("Gather", [graph.node("Shape", [timed], "shape"), axis_0], "steps", axis=0)
    count = graph.node("Squeeze", [steps, axis_0], "step_count")
    places = graph.node("Range", [graph.constant("from_0", 0), count, graph.constant("by_1", 1)], "times")  # (T,)
    valid = graph.node("Less", [graph.node("Unsqueeze", [places, axis_1], "time_rows"), "lengths"], "valid")
    return _Times(steps, valid, axis_0, axis_1)


def _add_clean_inputs(whole: GraphBuilder, spec: ModelSpec, times: _Times) -> dict[str, str]:
    """Add the arrays of the inputs with zeros in the padding; return their names by that of the input."""
    clean = {}
    for column in spec.inputs:
        graph, valid, further = _input_graph(whole, column), times.valid, list(range(2, len(column.axes)))
        if "time" not in column.axes:
            clean[column.name] = column.name
            continue
        if further:
            valid = graph.node("Unsqueeze", [valid, graph.constant("further_axes", further)], "valid")
        zero = graph.constant("padding", 0, column.dtype)
        clean[column.name] = graph.node("Where", [valid, column.name, zero], "clean")
    return clean


def _add_columns(
    whole: GraphBuilder, spec: ModelSpec, parameters: GraphParameters, inputs: Mapping[str, str], steps: str
) -> str:
    """Add x (T, B, E), the columns of all inputs, given their clean arrays and T (1,)."""
    columns = [
        ONNX_INPUTS[column.kind].add(column, _input_graph(whole, column), parameters, inputs[column.name], steps)
        for column in spec.inputs
    ]
    return columns[0] if len(columns) == 1 else whole.prefixed(CORE).node("Concat", columns, "x", axis=2)


def _input_graph(whole: GraphBuilder, column: Input) -> GraphBuilder:
    """Return a builder whose values have names of the input's own."""
    return whole.prefixed(f"{INPUT}{column.name}/")


def _add_core(
    graph: GraphBuilder,
    core: CoreConfig,
    parameters: GraphParameters,
    x: str,
    initial: list[list[str]] | None,
    axis_1: str,
) -> tuple[str, list[list[str]]]:
    """Add all recurrent layers over ``x`` (T, B, E); return outputs (T, B, D·H) and the final states of each layer.

    Args:
        initial: the initial states (D, B, H) of each layer; None: zeros.
    """
    lengths = graph.node("Cast", ["lengths"], "sequence_lengths", to=TensorProto.INT32)
    cell, finals = ONNX_CELLS[core.cell], list[list[str]]()
    for layer in range(core.num_layers):
        before = [] if initial is None else initial[layer]
        y, last = cell.add_layer(graph, core, layer, parameters.layer(core, layer), x, before, lengths)
        finals.append(last)
        x = add_joined_directions(graph, core, y, f"hidden_l{layer}", axis_1)
    return x, finals
