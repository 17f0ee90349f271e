"""Readers of tables: one column of a CSV or TSV file."""

from __future__ import annotations

import io

from unrolled.engine.data.readers.options import BLANK_LINES, EMPTY_ROWS, Content, Reading, ReadOptions
from unrolled.engine.data.readers.table_format import TableError
from unrolled.engine.data.readers.tables import DamagedRecord, Table
from unrolled.engine.errors import CorpusError

SHOWN_COLUMNS = 20  # columns listed in a message


def read_csv(text: str, name: str, options: ReadOptions) -> Content:
    """Read a column of a CSV file, with the given or detected delimiter."""
    return _read_table(text, name, options, "csv")


def read_tsv(text: str, name: str, options: ReadOptions) -> Content:
    """Read a column of a TSV file: tabs and no quoting, unless the options differ."""
    return _read_table(text, name, options, "tsv")


def _read_table(text: str, name: str, options: ReadOptions, kind: str) -> Content:
    if options.field is not None:
        raise CorpusError(f"{name}: --field goes with .jsonl and .json files; a column is named with --column")
    try:
        # newline="" keeps line ends inside quoted cells.
        table = Table(io.StringIO(text, newline=""), options.table, tab_separated=kind == "tsv")
    except TableError as error:
        raise CorpusError(f"{name}, line {error.line}: {error}") from error
    index, texts, empty, quoted = _column_index(table, name, options), [], 0, 0
    for row in table:
        if isinstance(row, DamagedRecord):
            raise CorpusError(f"{name}, line {row.fault}: {row.message}")
        cell = row.cells[index]
        if not cell.strip():
            empty += 1
            continue
        texts.append(cell)
        quoted += table.keeps_quotes(cell)
    skipped = {EMPTY_ROWS: empty, BLANK_LINES: table.blank_lines}
    reading = Reading(name, kind, table.columns[index], len(texts), skipped, table.delimiter, quoted)
    return Content(tuple(texts), reading)


def _column_index(table: Table, name: str, options: ReadOptions) -> int:
    """Return the index of the column to read."""
    columns, column = table.columns, options.column
    if not columns:
        raise CorpusError(
            f"{name}: empty; {'a header row with column names' if options.header else 'a row'} was expected"
        )
    shown = columns[:SHOWN_COLUMNS] if len(columns) > SHOWN_COLUMNS + 1 else columns
    there = ", ".join(map(repr, shown)) if "" in shown else ", ".join(shown)
    if len(shown) < len(columns):
        there += f" … ({len(columns):,} in all)"
    if column is None and len(columns) > 1:
        raise CorpusError(f"{name}: which column? --column takes one of {there}")
    column = columns[0] if column is None else column.strip()
    if column not in columns:
        raise CorpusError(f"{name}: no column {column!r}; there are {there}")
    if (count := columns.count(column)) > 1:
        raise CorpusError(f"{name}: {count} columns have the name {column!r}, give them different ones")
    return columns.index(column)
