"""A cell without an operator in ONNX, built of the nodes of one time step: a Scan runs them over the time steps.

Letters: T time, B batch, S states, D directions, H hidden, G gates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto

from unrolled.engine.models.layers.core_config import CoreConfig
from unrolled.export.onnx.cells import LayerWeights
from unrolled.export.onnx.graph_builder import GraphBuilder, inner_value

# Adds one time step and returns the names of the states (B, H) after it, h first, given
#   graph   the builder of the step's graph,
#   xg      x·W_ihᵀ + b_ih (B, G·H), gates in PyTorch's order,
#   hg      h·W_hhᵀ + b_hh (B, G·H),
#   states  the states (B, H) before it, h first.
AddStep = Callable[[GraphBuilder, str, str, Sequence[str]], Sequence[str]]


class _Sequence(NamedTuple):
    """Names of what one direction reads.

    Args:
        x: (T, B, ·), in the order in which the direction reads it.
        times: (T,), from 0 forwards; in reverse from T - 1 down to 0.
        valid: (T, B, 1), whether a time step is not padding; None: all are valid.
        is_reversed: whether the order is the reverse one.
    """

    x: str
    times: str
    valid: str | None
    is_reversed: bool = False


@dataclass(frozen=True)
class StepwiseCell:
    """A cell that is built of the nodes of one time step.

    Args:
        gates: G.
        add_step: adds these nodes.
        step_operators: the standard operators of these nodes that no other part of a graph has.
    """

    gates: int
    add_step: AddStep
    step_operators: tuple[str, ...] = ()

    quantized = ""

    @property
    def gate_order(self) -> tuple[int, ...]:
        """Return PyTorch's order."""
        return tuple(range(self.gates))

    @property
    def operators(self) -> tuple[str, ...]:
        """Return the operators of a step and those around it."""
        return ("MatMul", "Scan", *self.step_operators)

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
        """Add the nodes of both directions, which the contract of ``OnnxCell`` describes."""
        own = graph.prefixed(f"{graph.prefix}layer_{layer}/")
        sequence = _add_sequence(own, x, lengths)
        initial = initial or [_add_zeros(own, core, x)] * core.cell_definition.states
        ran = []
        for d in range(core.directions):
            inner = own.prefixed(f"{own.prefix}direction_{d}/")
            ran.append(
                self._add_direction(inner, core, weights, d, _reversed(inner, sequence) if d else sequence, initial)
            )
        y, *finals = (
            _add_stacked(own, [direction[i] for direction in ran], 1 if i == 0 else 0, name)
            for i, name in enumerate(["sequence", *(f"final_{s}" for s in range(len(initial)))])
        )
        return y, finals

    def _add_direction(
        self,
        graph: GraphBuilder,
        core: CoreConfig,
        weights: LayerWeights,
        direction: int,
        sequence: _Sequence,
        initial: Sequence[str],
    ) -> list[str]:
        """Add one direction over a sequence from states (D, B, H); return its outputs (T, B, H) and final states (B, H)."""
        index = graph.constant("index", direction)
        own = {
            "w": weights.w,
            "r": weights.r,
            "b": weights.b,
            **{f"initial_{s}": each for s, each in enumerate(initial)},
        }
        w, r, both, *states = (graph.node("Gather", [value, index], name, axis=0) for name, value in own.items())
        b_ih = graph.node("Split", [both], ["b_ih", "b_hh"], axis=0)
        product = graph.node("MatMul", [sequence.x, graph.node("Transpose", [w], "columns", perm=[1, 0])], "product")
        scanned = [graph.node("Add", [product, b_ih], "xg"), *([sequence.valid] if sequence.valid else [])]
        names = [*(f"last_{s}" for s in range(len(states))), "outputs"]
        step = self._step_graph(graph.inner("step/"), core, r, f"{graph.prefix}b_hh", sequence.valid is not None)
        graph.node("Scan", [*states, *scanned], names, body=step, num_scan_inputs=len(scanned))
        *finals, outputs = (graph.prefix + name for name in names)
        if sequence.is_reversed:  # the order is its own inverse
            outputs = graph.node("Gather", [outputs, sequence.times], "in_order", axis=0)
        return [outputs, *finals]

    def _step_graph(self, graph: GraphBuilder, core: CoreConfig, r: str, b_hh: str, masked: bool) -> onnx.GraphProto:
        """Return the graph of a time step, in which padded rows keep their states and give zeros."""
        around = graph.prefixed(f"{graph.prefix}around/")  # its names are not those of a cell's own nodes
        before = [f"{around.prefix}state_{s}" for s in range(core.cell_definition.states)]
        xg, valid = f"{around.prefix}xg", f"{around.prefix}valid"
        after = self.add_step(graph, xg, around.node("Gemm", [before[0], r, b_hh], "hg", transB=1), before)
        if masked:
            kept = [around.node("Where", [valid, after[s], old], f"kept_{s}") for s, old in enumerate(before)]
            y = around.node("Where", [valid, after[0], around.constant("zero", 0, np.float32)], "y")
        else:
            kept = [around.node("Identity", [new], f"kept_{s}") for s, new in enumerate(after)]
            y = around.node("Identity", [after[0]], "y")
        F, rows = TensorProto.FLOAT, (None, core.hidden_size)
        inputs = [*(inner_value(name, F, rows) for name in before), inner_value(xg, F, (None, self.gates * rows[1]))]
        if masked:
            inputs.append(inner_value(valid, TensorProto.BOOL, (None, 1)))
        # onnxruntime refuses a Scan inside a Loop unless the shapes of its outputs are known.
        return graph.proto("step", inputs, [inner_value(name, F, rows) for name in (*kept, y)])


def _add_sequence(graph: GraphBuilder, x: str, lengths: str) -> _Sequence:
    """Add the time steps of ``x`` (T, B, ·) and, with lengths (B,) int32, which of them are valid."""
    shape, zero = graph.node("Shape", [x], "shape"), graph.constant("from_0", 0)
    steps = graph.node("Gather", [shape, zero], "steps", axis=0)
    times = graph.node("Range", [zero, steps, graph.constant("by_1", 1)], "times")
    if not lengths:
        return _Sequence(x, times, None)
    rows = graph.node("Unsqueeze", [times, graph.constant("after_time", [1, 2])], "time_rows")  # (T, 1, 1)
    wide = graph.node("Cast", [lengths], "lengths", to=TensorProto.INT64)
    ends = graph.node("Unsqueeze", [wide, graph.constant("after_batch", [1])], "ends")  # (B, 1)
    return _Sequence(x, times, graph.node("Less", [rows, ends], "valid"))


def _reversed(graph: GraphBuilder, sequence: _Sequence) -> _Sequence:
    """Add the sequence from its last time step to its first; the padding, which then comes first, leaves the states alone."""
    last = graph.node("ReduceMax", [sequence.times], "last", keepdims=0)
    order = graph.node("Sub", [last, sequence.times], "order")
    x = graph.node("Gather", [sequence.x, order], "x", axis=0)
    valid = graph.node("Gather", [sequence.valid, order], "valid", axis=0) if sequence.valid else None
    return _Sequence(x, order, valid, True)


def _add_zeros(graph: GraphBuilder, core: CoreConfig, x: str) -> str:
    """Add an initial state (D, B, H) of zeros."""
    shape = graph.node("Shape", [x], "batch_shape", start=1, end=2)
    first, last = (
        graph.constant(f"{name}_size", [size]) for name, size in (("d", core.directions), ("h", core.hidden_size))
    )
    whole = graph.node("Concat", [first, shape, last], "state_shape", axis=0)
    return graph.node("Expand", [graph.constant("zero", 0, np.float32), whole], "zeros")


def _add_stacked(graph: GraphBuilder, values: list[str], axis: int, name: str) -> str:
    """Stack values of each direction along a new axis."""
    axes = graph.constant(f"{name}_axis", [axis])
    rows = [graph.node("Unsqueeze", [value, axes], f"{name}_{d}") for d, value in enumerate(values)]
    return graph.node("Concat", rows, name, axis=axis)
