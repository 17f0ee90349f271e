"""Prompt files, read row by row in constant memory: JSON lines, CSV, TSV, plain text, standard input.

    {"id": "a7", "prompt": "Once ", "temperature": 0.7}     .jsonl: an object a line; blank lines are no rows
    id,prompt,temperature                                   .csv, .tsv: a header, then a record a row
    Once                                                    .txt: a prompt a line, blank ones too

What is neither ``id`` nor ``prompt`` is a setting of that row alone; a table with another column is refused as a whole, an
object with another field is a bad row. A row without an id has its index for one. All are
UTF-8, with or without byte order mark, with line ends of any system (inside a quoted field they become \\n). A row that
cannot be read becomes a ``BadRow`` in its place, and the next line is read as if nothing had been.
"""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from unrolled.engine.checks import check_choice
from unrolled.engine.corpus import STDIN
from unrolled.engine.errors import PromptFileError
from unrolled.engine.jsontext import parse_value
from unrolled.runtime.row_settings import ROW_SETTINGS, parse_cell

ROW_LIMIT = 1 << 20  # characters of a line or record: what has no end must not fill the memory

Id = str | int | float


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A prompt with its settings."""

    index: int  # which row of the file it is, from 0, bad ones counted
    line: int  # where it begins, from 1
    id: Id
    prompt: str
    overrides: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be read, and why."""

    index: int
    line: int
    id: Id
    error: str


Row = PromptRow | BadRow


class _LineError(ValueError):
    """A line that is no text, or has no end; reading goes on behind it."""


class _Lines:
    """Decoded lines of a binary stream, with their number; goes on after each error."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        # bytes that are not UTF-8 become lone surrogates, so that one bad line does not end the reading
        self._text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline=None)
        self.limit, self.number = limit, 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._text.readline(self.limit + 1)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) > self.limit and not line.endswith("\n"):
            while (rest := self._text.readline(self.limit)) and not rest.endswith("\n"):
                pass
            raise _LineError(f"longer than {self.limit:,} characters")
        if not line.isascii():
            try:
                line.encode()
            except UnicodeEncodeError as error:
                byte = ord(line[error.start]) & 0xFF
                raise _LineError(f"byte 0x{byte:02x} behind {error.start} characters is not UTF-8") from None
        return line

    def close(self) -> None:
        """Leave the stream open, as it may be standard input."""
        self._text.detach()


def _each(lines: _Lines) -> Iterator[str | _LineError]:
    while True:
        try:
            yield next(lines)
        except StopIteration:
            return
        except _LineError as error:
            yield error


def _row(index: int, line: int, values: dict[str, Any]) -> Row:
    """A row of named values, of which ``id`` and ``prompt`` are not settings."""
    name, prompt = values.pop("id", None), values.pop("prompt", None)
    if name is None:
        name = index
    if not isinstance(name, Id) or isinstance(name, bool) or (isinstance(name, float) and not math.isfinite(name)):
        return BadRow(index, line, index, f"id: got {name!r}, needs a text or a number")
    if prompt is None:
        there = ", ".join(values) or "nothing else"
        return BadRow(index, line, name, f"no prompt; there is {there}")
    if not isinstance(prompt, str):
        return BadRow(index, line, name, f"prompt: got a {type(prompt).__name__}, needs a text")
    return PromptRow(index, line, name, prompt, values)


def _read_text(lines: _Lines) -> Iterator[Row]:
    for index, line in enumerate(_each(lines)):
        if isinstance(line, _LineError):
            yield BadRow(index, lines.number, index, str(line))
        else:
            yield PromptRow(index, lines.number, index, line.removesuffix("\n"), {})


def _json_row(index: int, line: int, text: str) -> Row:
    try:
        values = parse_value(text)
    except ValueError as error:
        return BadRow(index, line, index, f"not JSON ({error})")
    if not isinstance(values, dict):
        return BadRow(index, line, index, f"a JSON {type(values).__name__}, needs an object with a prompt")
    return _row(index, line, values)


def _read_jsonl(lines: _Lines) -> Iterator[Row]:
    index = 0
    for line in _each(lines):
        if isinstance(line, _LineError):
            yield BadRow(index, lines.number, index, str(line))
        elif line.isspace():
            continue
        else:
            yield _json_row(index, lines.number, line)
        index += 1


class _Records:
    """What the csv module reads: lines, until the record they make is too long."""

    def __init__(self, lines: _Lines) -> None:
        self.lines, self.size = lines, 0

    def __iter__(self) -> _Records:
        return self

    def __next__(self) -> str:
        line = next(self.lines)
        self.size += len(line)
        if self.size > self.lines.limit:
            raise _LineError(f"longer than {self.lines.limit:,} characters; maybe a quote is not closed")
        return line


def _read_delimited(lines: _Lines, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the default of 128 KB refuses long texts; ours is on the record
    records = _Records(lines)
    reader = csv.reader(records, delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
    except (csv.Error, _LineError) as error:
        raise PromptFileError(f"line {lines.number}, the header: {error}") from error
    known = ("id", "prompt", *ROW_SETTINGS)
    if "prompt" not in header:
        raise PromptFileError(f"no column prompt in the header; there are {', '.join(header) or 'none'}")
    # a misspelt setting must not be passed over in silence, and looks like any other column
    if unknown := [name for name in header if name not in known]:
        raise PromptFileError(
            f"no setting {', '.join(map(repr, unknown))}: take these columns out of the file; "
            f"it can have {', '.join(known)}"
        )
    for name in header:
        if header.count(name) > 1:
            raise PromptFileError(f"the column {name!r} stands in the header twice")
    return _table_rows(lines, records, reader, header)


def _table_rows(lines: _Lines, records: _Records, reader: Any, header: list[str]) -> Iterator[Row]:
    index = 0
    while True:
        records.size, line = 0, lines.number + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (csv.Error, _LineError) as error:
            yield BadRow(index, line, index, str(error))
            index += 1
            continue
        if cells:  # a blank line is no record
            yield _record(index, line, header, cells)
            index += 1


def _record(index: int, line: int, header: list[str], cells: list[str]) -> Row:
    if len(cells) != len(header):
        return BadRow(index, line, index, f"has {len(cells)} columns, the header {len(header)}")
    values: dict[str, Any] = dict(zip(header, cells, strict=True))
    for name in values.keys() - {"id", "prompt"}:
        values[name] = parse_cell(name, values[name])
    return _row(index, line, {**values, "id": values.get("id") or None})


def _read_csv(lines: _Lines) -> Iterator[Row]:
    return _read_delimited(lines, ",")


def _read_tsv(lines: _Lines) -> Iterator[Row]:
    return _read_delimited(lines, "\t")


PROMPT_FORMATS: dict[str, Callable[[_Lines], Iterator[Row]]] = {
    "jsonl": _read_jsonl,
    "csv": _read_csv,
    "tsv": _read_tsv,
    "txt": _read_text,
}
ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".txt": "txt"}


class PromptFile:
    """The rows of one file, to be read once; a context that closes it.

    Args:
        source: a path, or "-" for standard input.
        format: a key of ``PROMPT_FORMATS``; left out, the one of the file's ending, of standard input jsonl.
        limit: the most characters of a line or record.

    Raises:
        PromptFileError: the file cannot be opened, its format is not known, or it is a table without a usable header.
    """

    def __init__(self, source: str, format: str | None = None, limit: int = ROW_LIMIT) -> None:
        self.path = None if source == STDIN else Path(source)
        self.name = "standard input" if self.path is None else self.path.name
        self.format = _format_of(source, format)
        self._stream = _open(source)
        self._lines = _Lines(self._stream, limit)
        try:
            self._rows = PROMPT_FORMATS[self.format](self._lines)
        except PromptFileError as error:
            self.close()
            raise PromptFileError(f"{self.name}: {error}") from error

    def __iter__(self) -> Iterator[Row]:
        return self._rows

    def __enter__(self) -> PromptFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._lines.close()
        if self.path is not None:
            self._stream.close()

    def count_lines(self) -> int | None:
        """Lines of a regular file, about as many as it has rows; None of what can be read only once."""
        if self.path is None or not self.path.is_file():
            return None
        with self.path.open("rb") as file:
            count, last = 0, b"\n"
            while chunk := file.read(1 << 20):
                count, last = count + chunk.count(b"\n"), chunk[-1:]
        return count + (last != b"\n") - (self.format in ("csv", "tsv"))


def _format_of(source: str, format: str | None) -> str:
    if format is not None:
        check_choice("format", format, PROMPT_FORMATS)
        return format
    if source == STDIN:
        return "jsonl"
    ending = Path(source).suffix.lower()
    if ending not in ENDINGS:
        known = ", ".join(ENDINGS)
        raise PromptFileError(
            f"{source}: the ending {ending!r} says nothing of its format; known are {known}, or name it with --format"
        )
    return ENDINGS[ending]


def _open(source: str) -> BinaryIO:
    if source == STDIN:
        return sys.stdin.buffer
    try:
        return open(source, "rb")
    except OSError as error:
        reason = error.strerror.lower() if error.strerror else str(error)
        raise PromptFileError(f"{source}: cannot be read ({reason})") from error
