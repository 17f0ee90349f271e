"""The heads in ONNX: one entry a head, which adds the nodes from the core's outputs to the predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from unrolled.engine.models.heads.next_token import NextTokenHead
from unrolled.engine.models.heads.step_labels import StepLabelsHead
from unrolled.engine.models.layers.core_config import CoreConfig
from unrolled.export.onnx.graph_builder import GraphBuilder
from unrolled.export.onnx.layers import add_sequence_logits
from unrolled.export.onnx.weights import GraphParameters


class CoreValues(NamedTuple):
    """Names of the values that a head reads.

    Args:
        core: the core's description.
        y: (T, B, D·H), its outputs, zero in the padding.
        final_state: (S, L·D, B, H).
        lengths: (B,) int64, the valid time steps of each row.
        valid: (T, B) bool, whether a time step is not padding.
        inputs: the arrays of the inputs by name, with zeros in the padding.
    """

    core: CoreConfig
    y: str
    final_state: str
    lengths: str
    valid: str
    inputs: Mapping[str, str]


# Adds the outputs of a head and returns their names by that of the output, given
#   head        the head of the spec,
#   graph       the builder, whose prefix is the head's own,
#   parameters  the model's parameters,
#   values      what the core computes.
AddHead = Callable[[Any, GraphBuilder, GraphParameters, CoreValues], dict[str, str]]


class OnnxHead(NamedTuple):
    """A head in ONNX.

    Args:
        add: adds its nodes.
        operators: the standard operators of these nodes that no other part of a graph has.
    """

    add: AddHead
    operators: tuple[str, ...] = ()


def _add_softmax(
    head: NextTokenHead | StepLabelsHead, graph: GraphBuilder, parameters: GraphParameters, values: CoreValues
) -> dict[str, str]:
    """Add the logits (T, B, C)."""
    (*_, classes) = head.outputs["logits"]
    weights = parameters.linear("output", head.weight_name)
    logits = add_sequence_logits(graph, weights, values.y, (values.core.output_size, int(classes)), values.valid)
    return {"logits": logits}


ONNX_HEADS: dict[str, OnnxHead] = {"next_token": OnnxHead(_add_softmax), "step_labels": OnnxHead(_add_softmax)}
