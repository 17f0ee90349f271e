"""A builder of ONNX graphs: nodes and initializers, added one after the other and referred to by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from unrolled.export.artifact.forms import Value

NO_VALUE = ""  # the name of an optional input that is left out


@dataclass
class GraphBuilder:
    """Nodes and initializers of one graph.

    A graph inside a Loop or an If can read the values of the graphs around it, so the names of its own values start with a
    ``prefix`` of their own.
    """

    prefix: str = ""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, name: str, value: NDArray | list[int] | int | float | bool, dtype: Any = None) -> str:
        """Add an initializer and return its full name."""
        name = self.prefix + name
        # np.ascontiguousarray would turn a scalar into an array of rank 1.
        self.initializers.append(numpy_helper.from_array(np.array(value, dtype, order="C"), name))
        return name

    def node(self, operator: str, inputs: list[str], outputs: list[str] | str, **attributes: Any) -> str:
        """Add a node and return the full name of its first output."""
        names = [self.prefix + name for name in ([outputs] if isinstance(outputs, str) else outputs)]
        name = f"{operator.lower()}:{names[0]}"
        self.nodes.append(helper.make_node(operator, inputs, names, name=name, **attributes))
        return names[0]

    def prefixed(self, prefix: str) -> GraphBuilder:
        """Return a builder of the same graph whose further values have names with another prefix."""
        return GraphBuilder(prefix, self.nodes, self.initializers)

    def inner(self, prefix: str) -> GraphBuilder:
        """Return an empty builder for a graph inside a node of this one."""
        return GraphBuilder(self.prefix + prefix)

    def proto(
        self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
    ) -> onnx.GraphProto:  # fmt: skip
        """Return the finished graph."""
        return helper.make_graph(self.nodes, name, inputs, outputs, self.initializers)


def inner_value(name: str, kind: int, shape: tuple[int | str | None, ...] | None = None) -> onnx.ValueInfoProto:
    """Describe an input or output of an inner graph; strict runtimes reject stated shapes that can vary, so omit those."""
    return helper.make_tensor_value_info(name, kind, shape)


def described_values(values: Mapping[str, Value]) -> list[onnx.ValueInfoProto]:
    """Return types and shapes of the inputs or outputs of a whole graph."""
    return [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype)), value.axes)
        for name, value in values.items()
    ]


def fill_value(value: float, dtype: Any) -> onnx.TensorProto:
    """Return the attribute of ``ConstantOfShape`` that fills its output with ``value``."""
    return numpy_helper.from_array(np.array([value], dtype))
