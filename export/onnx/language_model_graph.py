"""The graphs of a language model, whose inputs and outputs are fixed by format 1.

The step form: ``tokens`` (T, B) int64 and ``state`` (S, L, B, H) in, ``logits`` (T, B, V) and ``next_state`` out; T and B
are dynamic. The generate form reads ragged prompts and writes tokens inside the graph (``generation_loop``).
"""

from __future__ import annotations

import onnx
from onnx import TensorProto

from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.parameters import Params
from unrolled.export.artifact.forms import signature_of
from unrolled.export.artifact.weight_storage import WeightStorage
from unrolled.export.onnx.cells import ONNX_CELLS
from unrolled.export.onnx.generation_loop import add_generation
from unrolled.export.onnx.graph_builder import NO_VALUE, GraphBuilder, described_values
from unrolled.export.onnx.layers import (
    add_initial_states,
    add_joined_directions,
    add_sequence_logits,
    add_stacked_state,
)
from unrolled.export.onnx.weights import GraphParameters, add_language_model


def language_model_graph(
    config: LanguageModelConfig, params: Params, form: str, storage: WeightStorage
) -> onnx.GraphProto:
    """Return the graph of a language model in a form of ``FORMS``, given its parameters in float32."""
    graph, core = GraphBuilder(), config.spec.core
    cell = ONNX_CELLS[core.cell]
    axis_0 = graph.constant("axis_0", [0])
    axis_1 = graph.constant("axis_1", [1])
    weights = add_language_model(GraphParameters(graph, params, storage), config)
    x = graph.node("Gather", [weights.embedding, "tokens"], "embedded", axis=0)
    initial = add_initial_states(graph, core, axis_0)
    lengths = NO_VALUE if form == "step" else graph.node("Cast", ["lengths"], "sequence_lengths", to=TensorProto.INT32)
    finals: list[list[str]] = []
    for layer, own in enumerate(weights.layers):
        y, last = cell.add_layer(graph, core, layer, own, x, initial[layer], lengths)
        finals.append(last)
        if layer < core.num_layers - 1 or form != "generate":  # generate needs only the last layer's final state
            x = add_joined_directions(graph, core, y, f"hidden_l{layer}", axis_1)
    if form != "generate":
        add_sequence_logits(graph, weights.output, x, (core.output_size, config.vocab_size), "tokens")
        add_stacked_state(graph, finals, axis_0, "next_state")
    if form != "step":
        add_generation(graph, config, weights, finals, axis_0)
    return graph.proto(f"unrolled_{form}", *map(described_values, signature_of(form, config.spec)))
