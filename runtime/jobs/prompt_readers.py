"""One reader a format of prompt files, and the table of formats, ``PROMPT_FORMATS``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from unrolled.engine.data.readers.table_format import TableError, TableFormat
from unrolled.engine.data.readers.tables import DamagedRecord, LineError, Table, TableRecord
from unrolled.engine.errors import PromptFileError
from unrolled.engine.storage.json_text import finite, parse_array, parse_value
from unrolled.runtime.generation.requests.row_settings import SHARED_SETTINGS, parse_cell
from unrolled.runtime.jobs.prompt_lines import PromptLines
from unrolled.runtime.jobs.prompt_rows import (
    KNOWN_COLUMNS,
    RESULT_KEYS,
    BadRow,
    InputRow,
    PromptRow,
    make_row,
    split_columns,
)

ARRAY_LIMIT = 1 << 26  # characters of a JSON array, which is held whole


class PromptFormat(NamedTuple):
    """A format of prompt files.

    ``read`` takes the lines, the format of tables and whether other columns are kept; it raises a PromptFileError if the
    file is refused as a whole.
    """

    read: Callable[[PromptLines, TableFormat, bool], Iterator[InputRow]]
    is_table: bool = False  # a TableFormat applies
    has_columns: bool = True


def _read_text(lines: PromptLines, table: TableFormat, keep: bool) -> Iterator[InputRow]:
    for index, line in enumerate(lines.each()):
        if isinstance(line, LineError):
            yield BadRow(index, lines.number, index, str(line))
        else:
            yield PromptRow(index, lines.number, index, line.removesuffix("\n"), {})


def _read_jsonl(lines: PromptLines, table: TableFormat, keep: bool) -> Iterator[InputRow]:
    index = 0
    for line in lines.each():
        if isinstance(line, LineError):
            yield BadRow(index, lines.number, index, str(line))
        elif line.isspace():
            lines.blank += 1
            continue
        else:
            yield _json_row(index, lines.number, line, keep)
        index += 1


def _json_row(index: int, line: int, text: str, keep: bool) -> InputRow:
    try:
        values = parse_value(text, unique=True)
    except ValueError as error:
        return BadRow(index, line, index, f"not JSON ({error})")
    return _value_row(index, line, values, keep)


def _value_row(index: int, line: int, values: Any, keep: bool) -> InputRow:
    """Return the row of a JSON value."""
    if not isinstance(values, dict):
        return BadRow(index, line, index, f"a JSON {type(values).__name__}, needs an object with a prompt")
    values, kept = split_columns(values) if keep else (values, {})
    if taken := [name for name in kept if name in RESULT_KEYS]:
        return BadRow(index, line, index, f"{taken[0]}: results have a field of this name; rename it")
    if finite(kept) != kept:
        return BadRow(index, line, index, "a number in it is too large")
    return make_row(index, line, values, kept)


def _read_array(lines: PromptLines, table: TableFormat, keep: bool) -> Iterator[InputRow]:
    try:
        items = parse_array(lines.read(ARRAY_LIMIT))
    except ValueError as error:
        raise PromptFileError(str(error)) from error
    lines.number = len(items)
    return (
        PromptRow(index, line, index, value, {}) if isinstance(value, str) else _value_row(index, line, value, keep)
        for index, (line, value) in enumerate(items)
    )


def _read_table(lines: PromptLines, format: TableFormat, keep: bool, tab_separated: bool) -> Iterator[InputRow]:
    try:
        table = Table(lines.each(), format, tab_separated, lines.limit)
    except TableError as error:
        raise PromptFileError(f"line {error.line}: {error}") from error
    if format.header:
        _check_columns(table.columns, keep)
        return _table_rows(lines, table, table.columns)
    if len(table.columns) > 1:
        raise PromptFileError(
            f"has {len(table.columns)} columns; without a header there can be one, the prompts: write one with their names"
        )
    return _table_rows(lines, table, ("prompt",))


def _check_columns(columns: tuple[str, ...], keep: bool) -> None:
    """Raise a PromptFileError if a header has no prompt, or a column that has no place."""
    if "prompt" not in columns:
        raise PromptFileError(f"no column prompt in the header; there are {', '.join(columns) or 'none'}")
    others = [name for name in columns if name not in KNOWN_COLUMNS]
    # A misspelt setting cannot be told from any other column, and must not be ignored in silence.
    if others and not keep:
        raise PromptFileError(
            f"no setting {', '.join(map(repr, others))}: take these columns out of the file, or carry them to the results "
            f"(--keep-columns); it can have {', '.join(KNOWN_COLUMNS)}"
        )
    for name in others:
        if name in RESULT_KEYS:
            raise PromptFileError(f"the column {name!r}: results have a field of this name; rename it")
        if name in SHARED_SETTINGS:
            raise PromptFileError(f"the column {name!r}: this setting is the same for all rows; rename or remove it")
    for name in columns:
        if columns.count(name) > 1:
            raise PromptFileError(f"the column {name!r} stands in the header twice")


def _table_rows(lines: PromptLines, table: Table, columns: tuple[str, ...]) -> Iterator[InputRow]:
    prompt = columns.index("prompt")
    for index, row in enumerate(table):
        if isinstance(row, DamagedRecord):
            yield BadRow(index, row.line, index, row.message)
        else:
            lines.quoted += table.keeps_quotes(row.cells[prompt])
            yield _record_row(index, row, columns)
    lines.blank = table.blank_lines


def _record_row(index: int, record: TableRecord, columns: tuple[str, ...]) -> InputRow:
    """Return the row of a table's record; an empty id counts as none."""
    values, kept = split_columns(dict(zip(columns, record.cells, strict=True)))
    for name in values.keys() - {"id", "prompt"}:
        values[name] = parse_cell(name, values[name])
    return make_row(index, record.line, {**values, "id": values.get("id") or None}, kept)


PROMPT_FORMATS: dict[str, PromptFormat] = {
    "jsonl": PromptFormat(_read_jsonl),
    "json": PromptFormat(_read_array),
    "txt": PromptFormat(_read_text, has_columns=False),
    "csv": PromptFormat(partial(_read_table, tab_separated=False), is_table=True),
    "tsv": PromptFormat(partial(_read_table, tab_separated=True), is_table=True),
}
ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".txt": "txt"}
