"""JSON for files and standard output: non-finite numbers become null, and damaged input gives a named error."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from unrolled.engine.errors import ModelFileError
from unrolled.engine.storage.surrogates import find_surrogate

MAX_JSON_DEPTH = 64  # nested objects and lists


def finite(value: Any) -> Any:
    """Return ``value`` with NaN and infinities replaced by None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(value: Any, indent: int | None = None, ascii: bool = False) -> str:
    """Return ``value`` as JSON that every Unicode encoding can represent: a lone surrogate becomes its escape.

    Args:
        value: any JSON value; NaN and infinities become null.
        indent: spaces per level; None: a single line.
        ascii: escape everything that is not ASCII; JSON lines need it, because some readers end a line at U+2028.
    """
    text = json.dumps(finite(value), indent=indent, ensure_ascii=ascii, allow_nan=False)
    if find_surrogate(text) is None:
        return text
    return "".join(f"\\u{ord(c):04x}" if "\ud800" <= c <= "\udfff" else c for c in text)


def _check_depth(value: Any, levels: int = MAX_JSON_DEPTH) -> None:
    if levels == 0:
        raise ValueError(f"more than {MAX_JSON_DEPTH} levels deep")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if isinstance(item, dict | list):
            _check_depth(item, levels - 1)


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of its pairs (an ``object_pairs_hook``); a repeated name is a ValueError."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(
            f"the name {next(name for name in names if names.count(name) > 1)!r} stands in an object twice"
        )
    return made


def parse_value(text: str, unique: bool = False) -> Any:
    """Return an untrusted JSON value after checking that its depth is safe for recursion.

    Numbers too large for a float become infinite; callers that need a finite number check it.

    Args:
        text: the JSON.
        unique: refuse an object with a repeated name, of which Python keeps only the last value.

    Raises:
        ValueError: the text is not JSON, or is too deep.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=unique_names if unique else None)
    except RecursionError as error:
        raise ValueError(f"more than {MAX_JSON_DEPTH} levels deep") from error
    _check_depth(value)
    return value


_WHITE_SPACE = re.compile(r"[ \t\n\r]*")


def parse_array(text: str) -> list[tuple[int, Any]]:
    """Return the items of an untrusted JSON array, each with the number of its first line.

    Raises:
        ValueError: the text is no array, or not JSON; the message names the line.
    """
    decoder = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=unique_names)
    place = _skip(text, 0)
    if text[place : place + 1] != "[":
        raise ValueError("it begins with no [, needs an array of texts or objects; an object a line is named .jsonl")
    items: list[tuple[int, Any]] = []
    line, counted, place = 1, 0, _skip(text, place + 1)
    while text[place : place + 1] != "]" or items:
        line, counted = line + text.count("\n", counted, place), place
        try:
            value, place = decoder.raw_decode(text, place)
            _check_depth(value)
        except RecursionError as error:
            raise ValueError(f"line {line}: more than {MAX_JSON_DEPTH} levels deep") from error
        except json.JSONDecodeError as error:
            raise ValueError(f"not JSON ({error})") from error
        except ValueError as error:
            raise ValueError(f"line {line}: {error}") from error
        items.append((line, value))
        place = _skip(text, place)
        if text[place : place + 1] == "]":
            break
        if text[place : place + 1] != ",":
            raise ValueError(f"not JSON ({json.JSONDecodeError('expecting , or ]', text, place)})")
        place = _skip(text, place + 1)
    if (place := _skip(text, place + 1)) < len(text):
        raise ValueError(f"not JSON ({json.JSONDecodeError('more after the array', text, place)})")
    return items


def _skip(text: str, place: int) -> int:
    """Return the index of the next character that is not white space."""
    match = _WHITE_SPACE.match(text, place)
    return place if match is None else match.end()


def parse_json(text: str, what: str) -> dict[str, Any]:
    """Return the JSON object in ``text``; a ModelFileError names ``what``, the damaged part of a file."""
    try:
        value = parse_value(text)
    except ValueError as error:
        raise ModelFileError(f"{what} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{what} is a JSON {type(value).__name__}, needs an object")
    return value


def object_in(values: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the object ``values[name]``, empty if it is missing or no object: training records are free-form."""
    part = values.get(name)
    return part if isinstance(part, dict) else {}
