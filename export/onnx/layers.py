"""Nodes of the recurrent core, its state array and the linear output layer.

Letters: T time, B batch, S states, L layers, D directions, H hidden, C classes (V of a vocabulary).
"""

from __future__ import annotations

from collections.abc import Sequence

from unrolled.engine.models.layers.core_config import CoreConfig
from unrolled.export.onnx.cells import ONNXRUNTIME_DOMAIN
from unrolled.export.onnx.graph_builder import GraphBuilder
from unrolled.export.onnx.weights import LinearWeights


def add_joined_directions(graph: GraphBuilder, core: CoreConfig, y: str, name: str, axis_1: str) -> str:
    """Add a layer's outputs (T, B, D·H), given (T, D, B, H)."""
    if not core.bidirectional:
        return graph.node("Squeeze", [y, axis_1], name)
    by_row = graph.node("Transpose", [y], f"{name}_by_row", perm=[0, 2, 1, 3])  # (T, B, D, H)
    shape = graph.constant(f"{name}_shape", [0, 0, core.output_size])  # 0 keeps an axis
    return graph.node("Reshape", [by_row, shape], name)


def add_product(graph: GraphBuilder, weights: LinearWeights, rows: str, name: str) -> str:
    """Add x·Wᵀ + b (n, C) of ``rows`` (n, H). Gemm reads the (C, H) matrix untransposed, so a tied one is stored once."""
    if weights.scales:
        inputs = [rows, weights.matrix, *weights.scales, weights.bias]
        return graph.node("DynamicQuantizeMatMul", inputs, name, domain=ONNXRUNTIME_DOMAIN)
    return graph.node("Gemm", [rows, weights.matrix, weights.bias], name, transB=1)


def add_sequence_logits(
    graph: GraphBuilder, weights: LinearWeights, h: str, sizes: tuple[int, int], time_batch: str
) -> str:  # fmt: skip
    """Add ``logits`` (T, B, C), given the last layer's outputs (T, B, D·H).

    Args:
        sizes: D·H and C.
        time_batch: a value of shape (T, B).
    """
    rows = graph.node("Reshape", [h, graph.constant("rows", [-1, sizes[0]])], "flat")
    flat = add_product(graph, weights, rows, "flat_logits")
    outer = graph.node("Shape", [time_batch], "time_batch")
    last = graph.constant("vocabulary", [sizes[1]])
    shape = graph.node("Concat", [outer, last], "logits_shape", axis=0)
    return graph.node("Reshape", [flat, shape], "logits")


def add_initial_states(graph: GraphBuilder, core: CoreConfig, axis_0: str) -> list[list[str]]:
    """Split the input ``state`` (S, L·D, B, H) into one (D, B, H) for each layer and state.

    Split, not Gather: onnxruntime 1.32 fuses several Gathers of one value and then reads the second out of bounds.
    """
    S, L = core.cell_definition.states, core.num_layers
    state_rows = [f"state_{s}_row" for s in range(S)]
    graph.node("Split", ["state"], state_rows, axis=0)
    for s, row in enumerate(state_rows):
        layers = graph.node("Squeeze", [graph.prefix + row, axis_0], f"state_{s}")  # (L·D, B, H)
        graph.node("Split", [layers], [f"state_{s}_l{layer}" for layer in range(L)], axis=0)
    return [[f"{graph.prefix}state_{s}_l{layer}" for s in range(S)] for layer in range(L)]


def add_stacked_state(graph: GraphBuilder, states: Sequence[Sequence[str]], axis_0: str, name: str) -> str:
    """Stack the states (D, B, H) of each layer into ``name`` (S, L·D, B, H); the inverse of ``add_initial_states``."""
    stacked = []
    for s in range(len(states[0])):
        layers = graph.node("Concat", [layer[s] for layer in states], f"{name}_{s}", axis=0)  # (L·D, B, H)
        stacked.append(graph.node("Unsqueeze", [layers, axis_0], f"{name}_{s}_row"))
    return graph.node("Concat", stacked, name, axis=0)
