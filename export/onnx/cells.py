"""The recurrent cells in ONNX: one entry a cell, read by everything that writes, reads or checks a graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.models.language_model_config import LanguageModelConfig

ONNXRUNTIME_DOMAIN = "com.microsoft"  # operators that only onnxruntime has


@dataclass(frozen=True)
class OnnxCell:
    """Layout of a cell in ONNX.

    Args:
        operator: the standard operator.
        gate_order: for each gate in ONNX's order, its index in PyTorch's.
        attributes: attributes of the operator besides ``hidden_size``.
        quantized: onnxruntime's operator with int8 products; "" if it has none for the cell.
    """

    operator: str
    gate_order: tuple[int, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    quantized: str = ""


ONNX_CELLS: dict[str, OnnxCell] = {
    "rnn": OnnxCell("RNN", (0,), {"activations": ["Tanh"]}),
    "rnn_relu": OnnxCell("RNN", (0,), {"activations": ["Relu"]}),
    "gru": OnnxCell("GRU", (1, 0, 2), {"linear_before_reset": 1}),  # r z n -> z r h
    "lstm": OnnxCell("LSTM", (0, 3, 1, 2), quantized="DynamicQuantizeLSTM"),  # i f g o -> i o f c
}


def has_quantized_operator(config: LanguageModelConfig) -> bool:
    """Return whether onnxruntime has an operator with int8 products for the cell."""
    return bool(ONNX_CELLS[config.cell].quantized)


def reorder_gates(array: NDArray, order: tuple[int, ...]) -> NDArray:
    """Return (G·H, ...) with its G blocks of rows in another order."""
    return np.concatenate([np.split(array, len(order))[gate] for gate in order])
