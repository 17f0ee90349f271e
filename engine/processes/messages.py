"""Messages between a process and its workers: one JSON object a line, arrays as base64."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.storage.json_text import to_json

Message = dict[str, Any]


def to_line(message: Mapping[str, Any]) -> bytes:
    """Return a message as a line; NaN and infinities become null."""
    return (to_json(message, ascii=True) + "\n").encode("ascii")


def from_line(line: bytes) -> Message:
    """Return the message of a line.

    Raises:
        ValueError: the line is not a JSON object.
    """
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError(f"got a JSON {type(message).__name__}, needs an object")
    return message


def error_message(error: BaseException) -> Message:
    """Return the answer that reports an error; its type is written as in a traceback."""
    kind = type(error)
    module = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    return {"error": {"type": module + kind.__qualname__, "message": str(error)}}


def pack_arrays(arrays: Mapping[str, NDArray]) -> dict[str, Any]:
    """Return named arrays as JSON values, bit for bit."""
    return {name: _pack(np.asarray(array)) for name, array in arrays.items()}


def _pack(array: NDArray) -> dict[str, Any]:
    content = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "base64": base64.b64encode(content).decode("ascii")}


def unpack_arrays(values: Mapping[str, Any]) -> dict[str, NDArray]:
    """Return the read-only arrays of JSON values; the inverse of ``pack_arrays``."""
    return {name: _unpack(value) for name, value in values.items()}


def _unpack(value: Mapping[str, Any]) -> NDArray:
    dtype = np.dtype(value["dtype"])
    array = np.frombuffer(base64.b64decode(value["base64"]), dtype.newbyteorder("<"))
    return array.astype(dtype, copy=False).reshape(value["shape"])
