"""Readers of a corpus by its format: a column of a table, a field of JSON lines or of a JSON array, or plain text.

Each reports what it read and what it passed over as a ``Reading``.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from unrolled.engine.data.tables import Damage, Table, TableError, TableFormat, spelling
from unrolled.engine.errors import ConfigError, CorpusError
from unrolled.engine.storage.encodings import check_characters
from unrolled.engine.storage.json_text import parse_array, unique_names

EMPTY, BLANK = "empty", "blank lines"  # why rows are skipped
MOST_NAMES = 20  # of columns in a message
TEXT_FIELD = "text"  # of JSON objects, where none is named


@dataclass(frozen=True)
class ReadOptions:
    """Options of reading files.

    Args:
        column: of a table, its name, or without a header its number from 1; None: the only one.
        field: of JSON objects; None: ``TEXT_FIELD``.
        encoding: of characters.
        delimiter, quoting, header: of a table, as in ``TableFormat``.
    """

    column: str | None = None
    field: str | None = None
    encoding: str = "utf-8"
    delimiter: str | None = None
    quoting: str | None = None
    header: bool = True

    def __post_init__(self) -> None:
        for name in ("column", "field"):
            value = getattr(self, name)
            if value is not None and not value.strip():
                raise ConfigError(f"{name}: got {value!r}, needs a name")
        TableFormat(self.delimiter, self.quoting, self.header)  # which checks them

    @property
    def table(self) -> TableFormat:
        """Return how a table is written."""
        return TableFormat(self.delimiter, self.quoting, self.header)

    @property
    def of_tables(self) -> tuple[str, ...]:
        """Return the options that are given and go with tables alone, as the command line spells them."""
        return (*(() if self.column is None else ("--column",)), *self.table.options())

    @property
    def of_records(self) -> tuple[str, ...]:
        """Return the options that are given and do not go with plain text."""
        return (*self.of_tables, *(() if self.field is None else ("--field",)))


@dataclass(frozen=True)
class Reading:
    """A record of what was read of a file: which column, how many rows, and what was skipped.

    Args:
        name: of the file.
        format: "csv", "tsv", "jsonl", "json", or "text" whose lines are records.
        column: the column or field that was read; None where there is none, as in an array of texts.
        rows: how many gave a text.
        skipped: how many others there were, by the reason.
        delimiter: of a table.
        quoted: how many texts stand in quotes that are part of them, because a TSV has no quoting.
    """

    name: str
    format: str
    column: str | None
    rows: int
    skipped: dict[str, int]
    delimiter: str | None = None
    quoted: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return asdict(self)

    def describe(self) -> str:
        """Return what was read in a line."""
        text = f"{self.name}: "
        if self.column is not None:
            marked = f" by {spelling(self.delimiter)}" if self.delimiter not in (None, ",") else ""
            text += f"{'field' if self.delimiter is None else 'column'} {self.column!r}{marked}, "
        text += f"{self.rows:,} {'lines' if self.format == 'text' else 'rows'}"
        if any(self.skipped.values()):
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.skipped.items() if count)
            text += f"; skipped: {reasons}"
        return text + quotes_kept(self.quoted)


def quotes_kept(count: int) -> str:
    """Return what to say of texts that stand in quotes in a TSV."""
    return f"; {count:,} in quotes, which are kept (--quoting csv takes them off)" if count else ""


class Content(NamedTuple):
    """A text or records, and what was read of a file of records."""

    content: str | tuple[str, ...]
    reading: Reading | None = None


def read_plain(text: str, name: str, options: ReadOptions) -> Content:
    """Read text whose line ends become those of Python."""
    if options.of_tables:
        raise CorpusError(
            f"{name}: {_goes(options.of_tables)} with .csv and .tsv files; this one is read as plain text"
        )
    if options.field is not None:
        raise CorpusError(f"{name}: --field goes with .jsonl and .json files; this one is read as plain text")
    return Content(io.StringIO(text, newline=None).read())


def _goes(names: tuple[str, ...]) -> str:
    return f"{', '.join(names)} {'go' if len(names) > 1 else 'goes'}"


def read_csv(text: str, name: str, options: ReadOptions) -> Content:
    """Read a column of a table whose delimiter is named, or detected."""
    return _read_table(text, name, options, "csv")


def read_tsv(text: str, name: str, options: ReadOptions) -> Content:
    """Read a column of a table with tabs and without quoting, unless said otherwise."""
    return _read_table(text, name, options, "tsv")


def _read_table(text: str, name: str, options: ReadOptions, kind: str) -> Content:
    if options.field is not None:
        raise CorpusError(f"{name}: --field goes with .jsonl and .json files; a column is named with --column")
    try:
        # newline="" leaves line ends inside quoted cells as they are
        table = Table(io.StringIO(text, newline=""), options.table, tab_separated=kind == "tsv")
    except TableError as error:
        raise CorpusError(f"{name}, line {error.line}: {error}") from error
    place, texts, empty, quoted = _wanted(table, name, options), [], 0, 0
    for row in table:
        if isinstance(row, Damage):
            raise CorpusError(f"{name}, line {row.fault}: {row.message}")
        cell = row.cells[place]
        if not cell.strip():
            empty += 1
            continue
        texts.append(cell)
        quoted += table.keeps_quotes(cell)
    skipped = {EMPTY: empty, BLANK: table.blank_lines}
    reading = Reading(name, kind, table.columns[place], len(texts), skipped, table.delimiter, quoted)
    return Content(tuple(texts), reading)


def _wanted(table: Table, name: str, options: ReadOptions) -> int:
    """Return the place of the column to read."""
    columns, column = table.columns, options.column
    if not columns:
        raise CorpusError(
            f"{name}: empty; {'a header row with column names' if options.header else 'a row'} was expected"
        )
    shown = columns[:MOST_NAMES] if len(columns) > MOST_NAMES + 1 else columns
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


def read_jsonl(text: str, name: str, options: ReadOptions) -> Content:
    """Read a field of JSON objects, one a line."""
    _refuse_of_tables(name, options)
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
    """Read a JSON array of texts, or a field of its objects."""
    _refuse_of_tables(name, options)
    try:
        items = parse_array(text)
    except ValueError as error:
        raise CorpusError(f"{name}: {error}") from error
    plain = options.field is None and all(isinstance(item, str) for _, item in items)
    field = options.field or TEXT_FIELD
    texts = []
    for number, (line, item) in enumerate(items, 1):
        if plain:
            texts.append(check_characters(item, _place(name, line, number)))
        else:
            texts.append(_text_of(item, field, name, line, number))
    return _content(texts, 0, Reading(name, "json", None if plain else field, 0, {}))


def _refuse_of_tables(name: str, options: ReadOptions) -> None:
    if options.of_tables:
        raise CorpusError(f"{name}: {_goes(options.of_tables)} with .csv and .tsv files; a field is named with --field")


def _place(name: str, line: int, item: int | None) -> str:
    """Return where something stands; an array may be one line, so that its items are counted."""
    return f"{name}, line {line}" + (f", item {item}" if item else "")


def _text_of(value: Any, field: str, name: str, line: int, item: int | None = None) -> str:
    text = value.get(field) if isinstance(value, dict) else None
    if isinstance(text, str):
        return text if text.isascii() else check_characters(text, f"{_place(name, line, item)}, field {field!r}")
    where = _place(name, line, item)
    if isinstance(value, dict) and field in value:
        raise CorpusError(f"{where}: field {field!r} is a {type(text).__name__}, needs a text")
    there = f"; there are {', '.join(value)}" if isinstance(value, dict) else f", but {_short(value)!r}"
    raise CorpusError(f"{where}: no object with a field {field!r}{there}; --field names another")


def _short(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:40]


def _content(texts: list[str], blank: int, reading: Reading) -> Content:
    """Return the texts that are not blank, and the reading with their numbers."""
    kept = tuple(text for text in texts if text.strip())
    skipped = {EMPTY: len(texts) - len(kept), BLANK: blank}
    return Content(kept, replace(reading, rows=len(kept), skipped=skipped))


Reader = Callable[[str, str, ReadOptions], Content]
READERS: dict[str, Reader] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
}


def unnamed_reader(options: ReadOptions) -> Reader:
    """Return the reader of what has no name with an ending, by the options that are given."""
    if options.field is not None:
        return read_jsonl
    if options.of_tables:
        return read_tsv if options.table.delimiter == "\t" else read_csv
    return read_plain
