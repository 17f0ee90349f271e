"""The recurrent cells in ONNX: one entry a cell, read by everything that writes, reads or checks a graph.

A cell is an operator of ONNX (``OperatorCell``), or built of nodes (``stepwise_cell``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.models.layers.core_config import CoreConfig
from unrolled.export.onnx.graph_builder import NO_VALUE, GraphBuilder

ONNXRUNTIME_DOMAIN = "com.microsoft"  # operators that only onnxruntime has
PEEPHOLES = 7  # the index of this input of an LSTM, which no cell has; the scales of int8 products come after it


class LayerWeights(NamedTuple):
    """Names of one recurrent layer's weights in the graph, in the cell's gate order.

    Args:
        w: (D, G·H, E or D·H); with int8 products (D, E or D·H, G·H).
        r: (D, G·H, H); with int8 products (D, H, G·H).
        b: (D, 2·G·H).
        scales: with int8 products the scale and zero point of w, then those of r.
    """

    w: str
    r: str
    b: str
    scales: tuple[str, ...] = ()


class OnnxCell(Protocol):
    """A cell in ONNX. Code outside the registry never tests how it is built.

    ``gate_order`` has for each gate of the graph's weights its index in PyTorch's order, ``operators`` are the standard
    operators of its graphs that no other part writes, and ``quantized`` is onnxruntime's operator with int8 products ("" if
    it has none for the cell).
    """

    @property
    def gate_order(self) -> tuple[int, ...]: ...
    @property
    def operators(self) -> tuple[str, ...]: ...
    @property
    def quantized(self) -> str: ...

    def add_layer(
        self,
        graph: GraphBuilder,
        core: CoreConfig,
        layer: int,
        weights: LayerWeights,
        x: str,
        initial: Sequence[str],
        lengths: str,
    ) -> tuple[str, list[str]]:
        """Add one recurrent layer over ``x`` (T, B, ·).

        Args:
            initial: the initial states (D, B, H); none: zeros.
            lengths: valid time steps (B,) int32; ``NO_VALUE``: all.

        Returns:
            Outputs (T, D, B, H), zero in the padding, and final states (D, B, H): after the last valid time step forwards,
            and after time step 0 in reverse.
        """
        ...


@dataclass(frozen=True)
class OperatorCell:
    """A cell that is an operator of ONNX.

    Args:
        operator: the standard operator.
        gate_order: for each gate in ONNX's order, its index in PyTorch's.
        attributes: attributes of the operator besides ``hidden_size`` and ``direction``; activations of one direction.
        quantized: onnxruntime's operator with int8 products; "" if it has none for the cell.
    """

    operator: str
    gate_order: tuple[int, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    quantized: str = ""

    @property
    def operators(self) -> tuple[str, ...]:
        """Return the operator."""
        return (self.operator,)

    def add_layer(
        self,
        graph: GraphBuilder,
        core: CoreConfig,
        layer: int,
        weights: LayerWeights,
        x: str,
        initial: Sequence[str],
        lengths: str,
    ) -> tuple[str, list[str]]:
        """Add one node, which the contract of ``OnnxCell`` describes."""
        names = [f"sequence_l{layer}", *(f"final_{s}_l{layer}" for s in range(core.cell_definition.states))]
        inputs = [x, weights.w, weights.r, weights.b, lengths, *initial]
        attributes: dict[str, Any] = {"hidden_size": core.hidden_size, **self.attributes}
        if core.bidirectional:
            attributes["direction"] = "bidirectional"
            if "activations" in attributes:
                attributes["activations"] = attributes["activations"] * core.directions
        if weights.scales:
            inputs += [NO_VALUE] * (PEEPHOLES + 1 - len(inputs)) + list(weights.scales)
            y = graph.node(self.quantized, inputs, names, domain=ONNXRUNTIME_DOMAIN, **attributes)
        else:
            y = graph.node(self.operator, inputs, names, **attributes)
        return y, [graph.prefix + name for name in names[1:]]


ONNX_CELLS: dict[str, OnnxCell] = {
    "rnn": OperatorCell("RNN", (0,), {"activations": ["Tanh"]}),
    "rnn_relu": OperatorCell("RNN", (0,), {"activations": ["Relu"]}),
    "gru": OperatorCell("GRU", (1, 0, 2), {"linear_before_reset": 1}),  # r z n -> z r h
    "lstm": OperatorCell("LSTM", (0, 3, 1, 2), quantized="DynamicQuantizeLSTM"),  # i f g o -> i o f c
}


def has_quantized_operator(core: CoreConfig) -> bool:
    """Return whether onnxruntime has an operator with int8 products for the cell."""
    return bool(ONNX_CELLS[core.cell].quantized)


def reorder_gates(array: NDArray, order: tuple[int, ...]) -> NDArray:
    """Return (G·H, ...) with its G blocks of rows in another order."""
    return np.concatenate([np.split(array, len(order))[gate] for gate in order])
