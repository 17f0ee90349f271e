"""Delimited tables (CSV and TSV), read record by record, with the lines of damaged records.

A ``Table`` reads decoded lines and continues after a damaged record: a corpus refuses the first one, a file of prompts
reports each in its place. Memory is bounded by one record and the first lines, from which the delimiter is detected.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from unrolled.engine.data.readers.table_format import (
    QUOTINGS,
    TableError,
    TableFormat,
    check_tab,
    detect_delimiter,
    spelling,
)

SAMPLE_LINES, SAMPLE_CHARS = 50, 1 << 16  # from which a delimiter is detected
DECLARED = re.compile(r"[sS][eE][pP]=([,;\t|])[\r\n]*")  # a first line by which Excel declares the delimiter
LINE_END = re.compile(r"\r\n|\r|\n")


class LineError(ValueError):
    """A line cannot be decoded or is too long; reading continues with the next line."""


class TableRecord(NamedTuple):
    """A row with one cell per column; ``line`` is the number of its first line."""

    line: int
    cells: list[str]


class DamagedRecord(NamedTuple):
    """A row that cannot be read: its first line, the line at fault (where a quote opens, for instance), and the reason."""

    line: int
    fault: int
    message: str


class _NumberedLines:
    """An iterator of numbered lines for the csv module, which keeps those of the current record to explain damage."""

    def __init__(self, lines: Iterable[str | LineError], limit: int | None) -> None:
        self._lines, self.limit = iter(lines), limit
        self.number, self._size = 0, 0
        self.record: list[str] = []

    def __iter__(self) -> _NumberedLines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number += 1
        if isinstance(line, LineError):
            raise line
        self.record.append(line)
        self._size += len(line)
        if self.limit is not None and self._size > self.limit:
            raise LineError(f"longer than {self.limit:,} characters")
        return line

    def begin(self) -> int:
        """Start a record, and return the number of its first line."""
        self.record.clear()
        self._size = 0
        return self.number + 1

    def peek(self) -> tuple[list[str | LineError], bool]:
        """Return the first lines without consuming them, and whether they are all lines."""
        taken: list[str | LineError] = []
        size = 0
        while len(taken) < SAMPLE_LINES and size < SAMPLE_CHARS:
            if (line := next(self._lines, None)) is None:
                break
            taken.append(line)
            size += len(line) if isinstance(line, str) else 0
        whole = len(taken) < SAMPLE_LINES and size < SAMPLE_CHARS
        self._lines = chain(taken, self._lines)
        return taken, whole


class Table:
    """The columns of a table, none if it is empty, and an iterator of its rows, which can be read once.

    Args:
        lines: decoded lines, each with its original line end; a ``LineError`` stands for a bad line.
        format: the format of the table.
        tab_separated: the table is TSV, which has other defaults.
        limit: maximum number of characters of a record; None: no limit.

    Raises:
        TableError: the first row cannot be read, or the delimiter is ambiguous.
    """

    def __init__(
        self,
        lines: Iterable[str | LineError],
        format: TableFormat | None = None,
        tab_separated: bool = False,
        limit: int | None = None,
    ) -> None:
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the default of 128 KB refuses long texts
        self.format = format or TableFormat()
        self._lines = _NumberedLines(lines, limit)
        self._default_quoting = tab_separated and self.format.quoting is None
        self.quoting = self.format.quoting or ("none" if tab_separated else "csv")
        self.delimiter = self._check_tab() if tab_separated else self._find_delimiter()
        self.blank_lines = 0  # skipped so far
        self._reader = csv.reader(self._lines, delimiter=self.delimiter, quoting=QUOTINGS[self.quoting], strict=True)
        first = next(self._records(None), None)
        if isinstance(first, DamagedRecord):
            raise TableError(first.fault, f"the {'header' if self.format.header else 'first row'}: {first.message}")
        self._first = None if self.format.header else first
        cells = [] if first is None else first.cells
        names = cells if self.format.header else map(str, range(1, len(cells) + 1))
        self.columns = tuple(name.strip() for name in names)

    def __iter__(self) -> Iterator[TableRecord | DamagedRecord]:
        """Yield all rows; blank lines are skipped and counted."""
        if self._first is not None:
            yield self._first
        yield from self._records(len(self.columns))

    def keeps_quotes(self, cell: str) -> bool:
        """Return whether a cell is enclosed in quotes that are part of it, because TSV has no quoting by default."""
        return self._default_quoting and len(cell) > 1 and cell[0] == cell[-1] == '"'

    def _records(self, width: int | None) -> Iterator[TableRecord | DamagedRecord]:
        lines, reader = self._lines, self._reader
        while True:
            line = lines.begin()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except (csv.Error, LineError) as error:
                yield self._damage(line, error)
                continue
            if not cells:
                self.blank_lines += 1
            elif width not in (None, len(cells)):
                yield DamagedRecord(line, line, self._width_message(cells))
            else:
                yield TableRecord(line, cells)

    def _find_delimiter(self) -> str:
        """Return the delimiter of a CSV, and consume a line that declares one, which is never a header."""
        first_lines, whole = self._lines.peek()
        declared = DECLARED.fullmatch(first_lines[0]) if first_lines and isinstance(first_lines[0], str) else None
        if declared is not None:
            next(self._lines)
            return self.format.delimiter or declared[1]
        sample = [line for line in first_lines if isinstance(line, str)]
        return self.format.delimiter or detect_delimiter(sample, whole, self.quoting)

    def _check_tab(self) -> str:
        """Return the delimiter of a TSV: a tab unless another one is given."""
        if self.format.delimiter is None:
            first_lines, whole = self._lines.peek()
            check_tab([line for line in first_lines if isinstance(line, str)], whole, self.quoting)
        return self.format.delimiter or "\t"

    def _damage(self, line: int, error: csv.Error | LineError) -> DamagedRecord:
        """Return the damage of a record; an unclosed quote is detected only lines after the one in which it opens."""
        last, message = self._lines.number, str(error)
        opens, is_open = _last_quote(self._lines.record, self.delimiter) if self.quoting == "csv" else (None, False)
        opened = line if opens is None else line + opens
        if isinstance(error, LineError):
            if is_open and self._lines.record:
                return DamagedRecord(
                    line, opened, f"{message}; maybe a quote is not closed: one opens in line {opened}"
                )
            return DamagedRecord(line, last, message + (f" (line {last})" if last != line else ""))
        if is_open:
            message = f"the quote that opens in line {opened} is not closed"
        elif opened != last:
            message += f" in line {last}, where the quote that opens in line {opened} is closed"
        return DamagedRecord(
            line, opened, f"{message}; double a quote inside quotes, or read quotes as they are by --quoting none"
        )

    def _width_message(self, cells: Sequence[str]) -> str:
        width, shown = len(self.columns), spelling(self.delimiter)
        message = f"has {len(cells)} columns, the {'header' if self.format.header else 'first row'} {width}"
        if self.quoting == "none":
            quoted = any('"' in cell for cell in cells)
            return f"{message}; where quotes hold delimiters and line ends, say --quoting csv" if quoted else message
        if len(cells) < width:
            return message
        plain = "; a file with a text a line is plain text, and named .txt" if width == 1 else ""
        return f"{message}; a text that holds the delimiter {shown} needs quotes around it{plain}"


_QUOTED = re.compile(r'"[^"]*(?:""[^"]*)*')


def _last_quote(lines: Sequence[str], delimiter: str) -> tuple[int | None, bool]:
    """Return the line of a record, from 0, in which its last quoted cell opens, and whether that cell is still open."""
    text, place = "".join(lines), 0
    opened, is_open = None, False
    while place < len(text):
        if match := _QUOTED.match(text, place):
            opened, is_open = place, match.end() == len(text)
            place = match.end() + 1
            if text[place : place + 1] != delimiter:
                break
        else:
            place = text.find(delimiter, place)
            if place < 0:
                break
        place += 1
    return (None if opened is None else len(LINE_END.findall(text, 0, opened))), is_open
