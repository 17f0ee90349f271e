"""Readers of JSON: JSON lines, and arrays of texts or objects."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

from unrolled.engine.data.readers.options import (
    BLANK_LINES,
    EMPTY_ROWS,
    TEXT_FIELD,
    Content,
    Reading,
    ReadOptions,
    options_phrase,
)
from unrolled.engine.errors import CorpusError
from unrolled.engine.storage.json_text import parse_array, unique_names
from unrolled.engine.storage.surrogates import check_characters


def read_jsonl(text: str, name: str, options: ReadOptions) -> Content:
    """Read a field of JSON objects, one object per line."""
    _refuse_table_options(name, options)
    decoder, field = json.JSONDecoder(object_pairs_hook=unique_names), options.field or TEXT_FIELD
    texts, blank = [], 0
    for number, line in enumerate(io.StringIO(text, newline=""), 1):
        if not line.strip():
            blank += 1
            continue
        try:
            value = decoder.decode(line)
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{name}, line {number}: not JSON ({error})") from error
        texts.append(_text_of(value, field, name, number))
    return _content(texts, blank, Reading(name, "jsonl", field, 0, {}))


def read_json(text: str, name: str, options: ReadOptions) -> Content:
    """Read a JSON array of texts, or a field of an array of objects."""
    _refuse_table_options(name, options)
    try:
        items = parse_array(text)
    except ValueError as error:
        raise CorpusError(f"{name}: {error}") from error
    plain = options.field is None and all(isinstance(item, str) for _, item in items)
    field = options.field or TEXT_FIELD
    texts = []
    for number, (line, item) in enumerate(items, 1):
        if plain:
            texts.append(check_characters(item, _location(name, line, number)))
        else:
            texts.append(_text_of(item, field, name, line, number))
    return _content(texts, 0, Reading(name, "json", None if plain else field, 0, {}))


def _refuse_table_options(name: str, options: ReadOptions) -> None:
    if options.of_tables:
        raise CorpusError(
            f"{name}: {options_phrase(options.of_tables)} with .csv and .tsv files; a field is named with --field"
        )


def _location(name: str, line: int, item: int | None) -> str:
    """Return a location for messages; items of an array are numbered, because it may be a single line."""
    return f"{name}, line {line}" + (f", item {item}" if item else "")


def _text_of(value: Any, field: str, name: str, line: int, item: int | None = None) -> str:
    text = value.get(field) if isinstance(value, dict) else None
    if isinstance(text, str):
        return text if text.isascii() else check_characters(text, f"{_location(name, line, item)}, field {field!r}")
    where = _location(name, line, item)
    if isinstance(value, dict) and field in value:
        raise CorpusError(f"{where}: field {field!r} is a {type(text).__name__}, needs a text")
    there = f"; there are {', '.join(value)}" if isinstance(value, dict) else f", but {_excerpt(value)!r}"
    raise CorpusError(f"{where}: no object with a field {field!r}{there}; --field names another")


def _excerpt(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:40]


def _content(texts: list[str], blank: int, reading: Reading) -> Content:
    """Return the texts that are not blank, and their report with the counts filled in."""
    kept = tuple(text for text in texts if text.strip())
    skipped = {EMPTY_ROWS: len(texts) - len(kept), BLANK_LINES: blank}
    return Content(kept, replace(reading, rows=len(kept), skipped=skipped))
