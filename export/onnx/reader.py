"""Checks of an ONNX file from elsewhere before a native library reads it.

onnxruntime opens files that a graph names, trusts declared sizes and aborts the process on some graphs. So protobuf alone
parses the file first, and the file is accepted only if it contains all its data, in the sizes that it declares, and only
operators that this package writes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from unrolled.engine.errors import ModelFileError, first_line
from unrolled.export.artifact.metadata import FileInfo, parse_metadata
from unrolled.export.onnx.cells import ONNX_CELLS, ONNXRUNTIME_DOMAIN
from unrolled.export.onnx.heads import ONNX_HEADS
from unrolled.export.onnx.inputs import ONNX_INPUTS

MAX_BYTES = (1 << 31) - 1  # limit of a protobuf message
MAX_RANK = 4
# Bytes of an element; exported files have no other types.
SIZES: dict[int, int] = {
    onnx.TensorProto.FLOAT: 4,
    onnx.TensorProto.DOUBLE: 8,
    onnx.TensorProto.INT64: 8,
    onnx.TensorProto.INT32: 4,
    onnx.TensorProto.BOOL: 1,
    onnx.TensorProto.FLOAT16: 2,
    onnx.TensorProto.INT8: 1,
}
# Operators that every graph may have; each part of a model adds its own.
COMMON_OPERATORS = (
    "Add", "And", "Cast", "Concat", "ConstantOfShape", "CumSum", "Div", "Equal", "Exp", "Expand", "Gather", "Gemm",
    "GreaterOrEqual", "Identity", "If", "Less", "LessOrEqual", "Loop", "Max", "Min", "Mul", "Not", "Or", "Range",
    "ReduceMax", "ReduceMin", "ReduceSum", "Reshape", "ScatterElements", "Shape", "Slice", "Split", "Squeeze", "Sub",
    "TopK", "Transpose", "Unsqueeze", "Where",
)  # fmt: skip


def known_operators() -> dict[str, frozenset[str]]:
    """Return the operators of exported files by domain."""
    cells, inputs, heads = ONNX_CELLS.values(), ONNX_INPUTS.values(), ONNX_HEADS.values()
    own = [part.operators for part in cells] + [part.operators for part in inputs] + [part.operators for part in heads]
    quantized = (cell.quantized for cell in cells if cell.quantized)
    return {
        "": frozenset(COMMON_OPERATORS).union(*own),
        ONNXRUNTIME_DOMAIN: frozenset(("DynamicQuantizeMatMul", *quantized)),
    }


class OnnxFile(NamedTuple):
    """The bytes of a file, the parsed model and its metadata."""

    data: bytes
    model: onnx.ModelProto
    info: FileInfo


def read_onnx(path: Path) -> OnnxFile:
    """Read and check a file.

    Raises:
        ModelFileError: not an ONNX file, not one of this package, damaged, or with content that no exported file has.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ModelFileError(f"{path}: not an ONNX file; {size:,} bytes are more than one can have")
        data = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's exceptions have no common public base
        raise ModelFileError(f"{path}: not an ONNX file ({first_line(error)})") from error
    try:
        _check_texts(model)
        info = parse_metadata({prop.key: prop.value for prop in model.metadata_props}, str(path), len(data))
        _check_model(model)
    except (_Refused, UnicodeDecodeError) as error:  # the type depends on protobuf's release
        raise ModelFileError(f"{path}: {error}") from error
    return OnnxFile(data, model, info)


class _Refused(Exception):
    """A graph has content that no exported file has; the argument says what."""


def _check_texts(message: Any) -> None:
    """Check that every text is UTF-8: protobuf returns bytes for other text, which onnxruntime would decode unchecked."""
    if isinstance(message, onnx.TensorProto):  # reading all its fields would copy the values
        found: list[Any] = [message.name, message.doc_string]
    else:
        found = []
        for description, value in message.ListFields():
            repeated = isinstance(value, Sequence) and not isinstance(value, str | bytes)
            if description.type == description.TYPE_MESSAGE:
                for inner in value if repeated else [value]:
                    _check_texts(inner)
            elif description.type == description.TYPE_STRING:
                found += value if repeated else [value]
    for text in found:
        if not isinstance(text, str):
            raise _Refused(f"damaged; {text!r} is no text in UTF-8")


def _check_model(model: onnx.ModelProto) -> None:
    if model.functions or model.training_info:
        raise _Refused("it defines functions, or a training; no exported file does")
    known = known_operators()
    if any(entry.domain not in ("ai.onnx", *known) for entry in model.opset_import):
        raise _Refused("it asks for operators that no exported file has")
    for graph in _graphs(model.graph):
        if graph.sparse_initializer:
            raise _Refused("it has sparse weights; no exported file has")
        for tensor in graph.initializer:
            _check_tensor(tensor)
        for node in graph.node:
            if node.op_type not in known.get(node.domain, ()):
                raise _Refused(
                    f"it computes with {node.domain or 'the'} operator {node.op_type!r}; no exported file does"
                )
            for attribute in node.attribute:
                for tensor in _tensors_of(attribute):
                    _check_tensor(tensor)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and those inside its nodes; protobuf limits their depth."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.ByteSize():
                    yield from _graphs(inner)


def _tensors_of(attribute: Any) -> Iterator[onnx.TensorProto]:
    if attribute.HasField("sparse_tensor") or attribute.sparse_tensors or attribute.ref_attr_name:
        raise _Refused(f"attribute {attribute.name!r} is of a kind that no exported file has")
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors


def _check_tensor(tensor: onnx.TensorProto) -> None:
    """Check that the values are in the file, in the number that the shape declares."""
    if tensor.data_location != onnx.TensorProto.DEFAULT or tensor.external_data:
        raise _Refused(f"weights outside the file: {tensor.name}")
    dims = list(tensor.dims)
    if (
        tensor.data_type not in SIZES
        or len(dims) > MAX_RANK
        or any(size < 0 for size in dims)
        or tensor.HasField("segment")
    ):
        raise _Refused(f"{tensor.name}: type {tensor.data_type} and shape {dims} are of no weights of an exported file")
    declared, held = math.prod(dims) * SIZES[tensor.data_type], len(tensor.raw_data)
    if declared != held:
        raise _Refused(f"{tensor.name}: shape {dims} needs {declared:,} bytes, the file holds {held:,}")
