"""Nodes of the network: the recurrent layers, their state array and the output layer.

Letters: T time, B batch, S states, L layers, H hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any

from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.export.onnx.cells import ONNX_CELLS, ONNXRUNTIME_DOMAIN
from unrolled.export.onnx.graph_builder import GraphBuilder
from unrolled.export.onnx.weights import GraphWeights, LayerWeights


def add_layer(
    graph: GraphBuilder,
    config: LanguageModelConfig,
    layer: int,
    weights: LayerWeights,
    x: str,
    initial: list[str],
    lengths: str = "",
) -> tuple[str, list[str]]:
    """Add one recurrent layer over ``x`` (T, B, ·) from states (1, B, H); return outputs (T, 1, B, H) and final states."""
    cell = ONNX_CELLS[config.cell]
    names = [f"sequence_l{layer}", *(f"final_{s}_l{layer}" for s in range(config.cell_definition.states))]
    inputs = [x, weights.w, weights.r, weights.b, lengths, *initial]
    attributes: dict[str, Any] = {"hidden_size": config.hidden_size, **cell.attributes}
    if weights.scales:
        inputs += ["", *weights.scales]  # "": no peepholes
        y = graph.node(cell.quantized, inputs, names, domain=ONNXRUNTIME_DOMAIN, **attributes)
    else:
        y = graph.node(cell.operator, inputs, names, **attributes)
    return y, [graph.prefix + name for name in names[1:]]


def add_logits(graph: GraphBuilder, weights: GraphWeights, rows: str, name: str) -> str:
    """Add the logits (n, V) of ``rows`` (n, H). Gemm reads the (V, H) matrix untransposed, so a tied one is stored once."""
    if weights.scales:
        inputs = [rows, weights.output, *weights.scales, weights.bias]
        return graph.node("DynamicQuantizeMatMul", inputs, name, domain=ONNXRUNTIME_DOMAIN)
    return graph.node("Gemm", [rows, weights.output, weights.bias], name, transB=1)


def add_sequence_logits(graph: GraphBuilder, config: LanguageModelConfig, weights: GraphWeights, h: str) -> None:
    """Add the graph's output ``logits`` (T, B, V), given the last layer's outputs (T, B, H)."""
    rows = graph.node("Reshape", [h, graph.constant("rows", [-1, config.hidden_size])], "flat")
    flat = add_logits(graph, weights, rows, "flat_logits")
    time_batch = graph.node("Shape", ["tokens"], "time_batch")
    last = graph.constant("vocabulary", [config.vocab_size])
    shape = graph.node("Concat", [time_batch, last], "logits_shape", axis=0)
    graph.node("Reshape", [flat, shape], "logits")


def add_initial_states(graph: GraphBuilder, config: LanguageModelConfig, axis_0: str) -> list[list[str]]:
    """Split the input ``state`` (S, L, B, H) into one (1, B, H) for each layer and state.

    Split, not Gather: onnxruntime 1.32 fuses several Gathers of one value and then reads the second out of bounds.
    """
    S, L = config.cell_definition.states, config.num_layers
    graph.node("Split", ["state"], [f"state_{s}_row" for s in range(S)], axis=0)
    for s in range(S):
        layers = graph.node("Squeeze", [f"state_{s}_row", axis_0], f"state_{s}")  # (L, B, H)
        graph.node("Split", [layers], [f"state_{s}_l{layer}" for layer in range(L)], axis=0)
    return [[f"state_{s}_l{layer}" for s in range(S)] for layer in range(L)]


def add_stacked_state(graph: GraphBuilder, states: list[list[str]], axis_0: str, name: str) -> None:
    """Stack the states (1, B, H) of each layer into ``name`` (S, L, B, H); the inverse of ``add_initial_states``."""
    stacked = []
    for s in range(len(states[0])):
        layers = graph.node("Concat", [layer[s] for layer in states], f"{name}_{s}", axis=0)  # (L, B, H)
        stacked.append(graph.node("Unsqueeze", [layers, axis_0], f"{name}_{s}_row"))
    graph.node("Concat", stacked, name, axis=0)
