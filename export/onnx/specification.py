"""Rules of the ONNX specification that ``onnx.checker`` and onnxruntime do not enforce.

Files of release 0.1.0 break them in their forms ``generate`` and ``both``. Other runtimes refuse such a graph, or write other
tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
from onnx import numpy_helper

ConstantTensors = Mapping[str, onnx.TensorProto]


def violations(model: onnx.ModelProto) -> list[str]:
    """Return a line for each rule that the graph, or a graph inside its nodes, breaks: the fault and its place."""
    found: dict[str, list[str]] = {}
    for rule, node in _violations(model.graph, {}, frozenset()):
        found.setdefault(rule, []).append(node)
    rest = {rule: f" and {len(nodes) - 1} more" if len(nodes) > 1 else "" for rule, nodes in found.items()}
    return [f"{rule} ({nodes[0]}{rest[rule]})" for rule, nodes in found.items()]


def _violations(
    graph: onnx.GraphProto, outside: ConstantTensors, open_outside: frozenset[str]
) -> Iterator[tuple[str, str]]:
    """Yield broken rules and the names of the nodes that break them.

    Args:
        outside: constants of the graphs around this one.
        open_outside: values of those graphs with a shape that the specification leaves undefined.
    """
    constants = {**outside, **{tensor.name: tensor for tensor in graph.initializer}}
    open_shapes = set(open_outside)
    for node in graph.node:
        if node.op_type == "CumSum" and node.input[1] in constants and (dims := constants[node.input[1]].dims):
            yield f"the axis of CumSum has shape {list(dims)}, it must be a scalar", node.name
        if open_shapes.intersection(node.input):
            if node.op_type == "Concat":
                yield "Concat reads rows that a Loop may not have written, whose shape is then undefined", node.name
            else:
                open_shapes.update(node.output)
        if node.op_type == "Loop" and not _surely_runs(node, constants):
            open_shapes.update(node.output[len(node.input) - 2 :])  # scan outputs come after the carried values
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                # The condition of an If may be whether the loop ran.
                known = frozenset() if node.op_type == "If" else frozenset(open_shapes)
                yield from _violations(attribute.g, constants, known)


def _surely_runs(loop: onnx.NodeProto, constants: ConstantTensors) -> bool:
    """Return whether constants alone ensure that a loop runs at least once."""

    def holds(name: str) -> bool:
        return not name or (name in constants and bool(numpy_helper.to_array(constants[name]).max(initial=0) > 0))

    return holds(loop.input[0]) and holds(loop.input[1])
