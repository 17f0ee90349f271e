"""JSON for files and standard output: numbers that JSON has not become null, and reading says what is damaged."""

from __future__ import annotations

import json
import math
from typing import Any

from unrolled.engine.errors import ModelFileError

MAX_DEPTH = 64  # of objects and lists inside each other


def finite(value: Any) -> Any:
    """``value`` with None in the place of NaN and infinities."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(value: Any, indent: int | None = None, ascii: bool = False) -> str:
    """``ascii``: escape all else, for files of lines: some readers end a line at U+2028, and a lone surrogate is no UTF-8."""
    return json.dumps(finite(value), indent=indent, ensure_ascii=ascii, allow_nan=False)


def _check_depth(value: Any, left: int = MAX_DEPTH) -> None:
    if left == 0:
        raise ValueError(f"more than {MAX_DEPTH} levels deep")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if isinstance(item, dict | list):
            _check_depth(item, left - 1)


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def parse_value(text: str) -> Any:
    """Any JSON value from elsewhere, of a depth that walking over it is safe; ValueError where it is not.

    Numbers too large for a float become infinite; who wants a number checks it.
    """
    try:
        value = json.loads(text, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError(f"more than {MAX_DEPTH} levels deep") from error
    _check_depth(value)
    return value


def parse_json(text: str, what: str) -> dict[str, Any]:
    """A JSON object, or a ModelFileError that says which part of a file is damaged."""
    try:
        value = parse_value(text)
    except ValueError as error:
        raise ModelFileError(f"{what} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{what} is a JSON {type(value).__name__}, needs an object")
    return value


def object_in(values: dict[str, Any], name: str) -> dict[str, Any]:
    """An object inside an object; a training record is free-form, so what is not there or not an object is empty."""
    part = values.get(name)
    return part if isinstance(part, dict) else {}
