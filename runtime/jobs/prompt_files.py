"""Prompt files, read row by row in constant memory: JSON lines, CSV, TSV, plain text, standard input; and JSON arrays.

    {"id": "a7", "prompt": "Once ", "temperature": 0.7}     .jsonl: an object a line; blank lines are no rows
    id,prompt,temperature                                   .csv, .tsv: a header, then a record a row
    ["Once ", {"prompt": "Then ", "top_k": 3}]              .json: an array of prompts and objects, at most 64 Mi characters
    Once                                                    .txt: a prompt a line, blank ones too

What is neither ``id`` nor ``prompt`` is a setting of that row alone; a table with another column is refused as a whole, an
object with another field is a bad row, unless such columns are kept: then they are carried to the results, cells of tables
as texts and JSON values as they are. A row without an id has its index for one. All are UTF-8, with or without byte order
mark, compressed by gzip or Zstandard or not, with line ends of any system (inside a quoted cell they stay as they are). A row
that cannot be read becomes a ``BadRow`` in its place, and the next line is read as if nothing had been; an array that is not
JSON is refused as a whole.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from unrolled.engine.checks import check_choice
from unrolled.engine.data.readers.compression import is_compressed
from unrolled.engine.data.readers.file_names import STDIN, format_suffix, is_unnamed, printable_name
from unrolled.engine.data.readers.sources import Source
from unrolled.engine.data.readers.table_format import TableError, TableFormat
from unrolled.engine.data.readers.tables import DamagedRow, LineError, Table, TableRow
from unrolled.engine.errors import PromptFileError
from unrolled.engine.storage.json_text import finite, parse_array, parse_value
from unrolled.runtime.generation.requests.row_settings import ROW_SETTINGS, SHARED, parse_cell

ROW_LIMIT = 1 << 20  # characters of a line or record: what has no end must not fill the memory
ARRAY_LIMIT = 1 << 26  # characters of a JSON array, which is held whole

_KNOWN = ("id", "prompt", *ROW_SETTINGS)
RESULT_KEYS = ("id", "sample", "prompt", "text", "finish_reason", "tokens", "token_ids", "logprobs", "line", "error")

Id = str | int | float


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A prompt with its settings."""

    index: int  # which row of the file it is, from 0, bad ones counted
    line: int  # where it begins, from 1
    id: Id
    prompt: str
    overrides: dict[str, Any]
    kept: dict[str, Any] = field(default_factory=dict)  # columns for the results


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be read, and why."""

    index: int
    line: int
    id: Id
    error: str
    kept: dict[str, Any] = field(default_factory=dict)


Row = PromptRow | BadRow


class _Lines:
    """Decoded lines of a binary stream, with their number; goes on after each error."""

    def __init__(self, stream: BinaryIO, limit: int, newline: str | None) -> None:
        # bytes that are not UTF-8 become lone surrogates, so that one bad line does not end the reading
        self._text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline=newline)
        self.limit, self.number = limit, 0
        self.blank = self.quoted = 0  # lines that were passed over; prompts in quotes that are part of them
        self._cut_end = False  # whether the other half of a line end may follow

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._piece(self.limit + 2)  # room for a line end of two characters
        if not line:
            raise StopIteration
        self.number += 1
        if len(line.rstrip("\r\n")) > self.limit:
            while not line.endswith(("\n", "\r")) and (line := self._piece(self.limit + 2)):
                pass
            raise LineError(f"longer than {self.limit:,} characters")
        _check_text(line)
        return line

    def _piece(self, size: int) -> str:
        """Return a line, or the first ``size`` characters of what is left of one."""
        piece = self._text.readline(size)
        if self._cut_end and piece == "\n":
            piece = self._text.readline(size)
        self._cut_end = len(piece) == size and piece.endswith("\r")
        return piece

    def read(self, limit: int) -> str:
        """Return all that is left, up to ``limit`` characters."""
        text = self._text.read(limit + 1)
        if len(text) > limit:
            raise LineError(
                f"longer than {limit:,} characters, which are held whole; write an object a line, in .jsonl"
            )
        _check_text(text)
        return text

    def close(self) -> None:
        """Leave the stream open, as it may be standard input."""
        self._text.detach()


def _check_text(text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        byte = ord(text[error.start]) & 0xFF
        raise LineError(f"byte 0x{byte:02x} behind {error.start} characters is not UTF-8") from None


def _each(lines: _Lines) -> Iterator[str | LineError]:
    while True:
        try:
            yield next(lines)
        except StopIteration:
            return
        except LineError as error:
            yield error


def _row(index: int, line: int, values: dict[str, Any], kept: dict[str, Any]) -> Row:
    """A row of named values, of which ``id`` and ``prompt`` are not settings."""
    null = values.get("prompt", "") is None
    name, prompt = values.pop("id", None), values.pop("prompt", None)
    if name is None:
        name = index
    if not isinstance(name, Id) or isinstance(name, bool) or (isinstance(name, float) and not math.isfinite(name)):
        return BadRow(index, line, index, f"id: got {name!r}, needs a text or a number", kept)
    if null:
        return BadRow(index, line, name, "no prompt: got null, needs a text", kept)
    if prompt is None:
        there = ", ".join([*values, *kept]) or "nothing else"
        return BadRow(index, line, name, f"no prompt; there is {there}", kept)
    if not isinstance(prompt, str):
        return BadRow(index, line, name, f"prompt: got a {type(prompt).__name__}, needs a text", kept)
    return PromptRow(index, line, name, prompt, values, kept)


def _apart(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is id, prompt or setting, and what is not."""
    kept = {name: value for name, value in values.items() if name not in _KNOWN and name not in SHARED}
    return {name: value for name, value in values.items() if name not in kept}, kept


def _read_text(lines: _Lines, keep: bool) -> Iterator[Row]:
    for index, line in enumerate(_each(lines)):
        if isinstance(line, LineError):
            yield BadRow(index, lines.number, index, str(line))
        else:
            yield PromptRow(index, lines.number, index, line.removesuffix("\n"), {})


def _json_row(index: int, line: int, text: str, keep: bool) -> Row:
    try:
        values = parse_value(text, unique=True)
    except ValueError as error:
        return BadRow(index, line, index, f"not JSON ({error})")
    return _value_row(index, line, values, keep)


def _value_row(index: int, line: int, values: Any, keep: bool) -> Row:
    if not isinstance(values, dict):
        return BadRow(index, line, index, f"a JSON {type(values).__name__}, needs an object with a prompt")
    values, kept = _apart(values) if keep else (values, {})
    if taken := [name for name in kept if name in RESULT_KEYS]:
        return BadRow(index, line, index, f"{taken[0]}: results have a field of this name; rename it")
    if finite(kept) != kept:
        return BadRow(index, line, index, "a number in it is too large")
    return _row(index, line, values, kept)


def _read_jsonl(lines: _Lines, keep: bool) -> Iterator[Row]:
    index = 0
    for line in _each(lines):
        if isinstance(line, LineError):
            yield BadRow(index, lines.number, index, str(line))
        elif line.isspace():
            lines.blank += 1
            continue
        else:
            yield _json_row(index, lines.number, line, keep)
        index += 1


def _read_array(lines: _Lines, keep: bool) -> Iterator[Row]:
    try:
        items = parse_array(lines.read(ARRAY_LIMIT))
    except ValueError as error:
        raise PromptFileError(str(error)) from error
    lines.number = len(items)
    return (
        PromptRow(index, line, index, value, {}) if isinstance(value, str) else _value_row(index, line, value, keep)
        for index, (line, value) in enumerate(items)
    )


def _read_table(lines: _Lines, format: TableFormat, tab_separated: bool, keep: bool) -> Iterator[Row]:
    try:
        table = Table(_each(lines), format, tab_separated, lines.limit)
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
    if "prompt" not in columns:
        raise PromptFileError(f"no column prompt in the header; there are {', '.join(columns) or 'none'}")
    others = [name for name in columns if name not in _KNOWN]
    # a misspelt setting must not be passed over in silence, and looks like any other column
    if others and not keep:
        raise PromptFileError(
            f"no setting {', '.join(map(repr, others))}: take these columns out of the file, or carry them to the results "
            f"(--keep-columns); it can have {', '.join(_KNOWN)}"
        )
    for name in others:
        if name in RESULT_KEYS:
            raise PromptFileError(f"the column {name!r}: results have a field of this name; rename it")
        if name in SHARED:
            raise PromptFileError(f"the column {name!r}: this setting is the same for all rows; rename or remove it")
    for name in columns:
        if columns.count(name) > 1:
            raise PromptFileError(f"the column {name!r} stands in the header twice")


def _table_rows(lines: _Lines, table: Table, columns: tuple[str, ...]) -> Iterator[Row]:
    prompt = columns.index("prompt")
    for index, row in enumerate(table):
        if isinstance(row, DamagedRow):
            yield BadRow(index, row.line, index, row.message)
        else:
            lines.quoted += table.keeps_quotes(row.cells[prompt])
            yield _record(index, row, columns)
    lines.blank = table.blank_lines


def _record(index: int, row: TableRow, columns: tuple[str, ...]) -> Row:
    values, kept = _apart(dict(zip(columns, row.cells, strict=True)))
    for name in values.keys() - {"id", "prompt"}:
        values[name] = parse_cell(name, values[name])
    return _row(index, row.line, {**values, "id": values.get("id") or None}, kept)


LINE_FORMATS: dict[str, Callable[[_Lines, bool], Iterator[Row]]] = {
    "jsonl": _read_jsonl,
    "json": _read_array,
    "txt": _read_text,
}
TABLES = ("csv", "tsv")
PROMPT_FORMATS = (*LINE_FORMATS, *TABLES)
ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".txt": "txt"}


class PromptFile:
    """The rows of one file, to be read once; a context that closes it.

    Args:
        source: a path, or "-" for standard input.
        format: one of ``PROMPT_FORMATS``; left out, the one of the file's ending, of standard input jsonl, or that of
            ``table``.
        limit: the most characters of a line or record.
        table: how a CSV or TSV is written.
        keep_columns: keep columns and fields that are neither id, prompt nor a setting.

    Raises:
        PromptFileError: the file cannot be opened, its format is not known, or it is a table without a usable header or an
            array that is not JSON.
    """

    def __init__(
        self,
        source: str,
        format: str | None = None,
        limit: int = ROW_LIMIT,
        table: TableFormat | None = None,
        keep_columns: bool = False,
    ) -> None:
        self.path = None if source == STDIN else Path(source)
        self.name = "standard input" if self.path is None else printable_name(self.path.name)
        self.table = table or TableFormat()
        self.format = _format_of(source, format, self.table)
        if self.format not in TABLES and (given := self.table.options()):
            raise PromptFileError(
                f"{self.name}: {', '.join(given)} go with .csv and .tsv files; this one is {self.format}"
            )
        if self.format == "txt" and keep_columns:
            raise PromptFileError(f"{self.name}: --keep-columns goes with tables and JSON; a text has no columns")
        self._stream = _open(source)
        # line ends inside quoted cells stay as they are
        self._lines = _Lines(self._stream, limit, newline="" if self.format in TABLES else None)
        try:
            if self.format in TABLES:
                self._rows = _read_table(self._lines, self.table, self.format == "tsv", keep_columns)
            else:
                self._rows = LINE_FORMATS[self.format](self._lines, keep_columns)
        except PromptFileError as error:
            self.close()
            raise PromptFileError(f"{self.name}: {str(error).removeprefix(f'{printable_name(source)}: ')}") from error

    @property
    def blank_lines(self) -> int:
        """Return how many lines were passed over because nothing is in them, when all rows are read."""
        return self._lines.blank

    @property
    def quoted(self) -> int:
        """Count the prompts so far that stand in quotes, which are part of them because a TSV has no quoting."""
        return self._lines.quoted

    def __iter__(self) -> Iterator[Row]:
        return self._rows

    def __enter__(self) -> PromptFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._lines.close()
        self._stream.close()

    def count_lines(self) -> int | None:
        """Count the lines of a plain file, about as many as its rows, or its items; None of a pipe or a compressed file."""
        if self.path is None or is_unnamed(self.path) or is_compressed(self._stream):
            return None
        if self.format == "json":
            return self._lines.number
        with self.path.open("rb") as file:
            count, last = 0, b"\n"
            while chunk := file.read(1 << 20):
                count, last = count + chunk.count(b"\n"), chunk[-1:]
        return count + (last != b"\n") - (self.format in TABLES and self.table.header)


def _format_of(source: str, format: str | None, table: TableFormat) -> str:
    if format is not None:
        check_choice("format", format, PROMPT_FORMATS)
        return format
    if format_suffix(source) in ENDINGS:
        return ENDINGS[format_suffix(source)]
    if is_unnamed(source):
        return ("tsv" if table.delimiter == "\t" else "csv") if table.options() else "jsonl"
    known = ", ".join(ENDINGS)
    raise PromptFileError(
        f"{printable_name(source)}: the ending {format_suffix(source)!r} says nothing of its format; known are {known}, "
        "or name it with --format"
    )


def _open(source: str) -> BinaryIO:
    opened = Source(source, None, error=PromptFileError)
    stream = opened.open()
    try:
        opened.decoding.detect_codec(stream)  # refuses what is not UTF-8 as a whole, where its beginning shows that
    except PromptFileError:
        stream.close()
        raise
    return stream
