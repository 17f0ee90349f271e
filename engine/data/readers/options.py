"""Options for reading files, and the report of a reading."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, NamedTuple

from unrolled.engine.data.readers.table_format import DELIMITER, HEADER, QUOTING, TableFormat, spelling
from unrolled.engine.errors import ConfigError, SettingName
from unrolled.engine.settings import Setting

EMPTY_ROWS, BLANK_LINES = "empty", "blank lines"  # reasons why rows are skipped
TEXT_FIELD = "text"  # the default field of JSON objects


@dataclass(frozen=True)
class ReadOptions:
    """Options for reading files.

    Args:
        column: name of a table's column, or its number from 1 in a table without a header; None: the only column.
        field: field of JSON objects; None: ``TEXT_FIELD``.
        encoding: text encoding.
        delimiter, quoting, header: the format of a table, as in ``TableFormat``.
    """

    column: Annotated[
        str | None,
        Setting("column", "Column of a .csv or .tsv; with --no-header its number.", default="the only one"),
    ] = None
    field: Annotated[str | None, Setting("field", "Field of a .jsonl or .json; 'text' if left out.")] = None
    encoding: Annotated[str, Setting("encoding", "Character encoding of the files.")] = "utf-8"
    delimiter: Annotated[str | None, DELIMITER] = None
    quoting: Annotated[str | None, QUOTING] = None
    header: Annotated[bool, HEADER] = True

    def __post_init__(self) -> None:
        for name, value in (("column", self.column), ("field", self.field)):
            if value is not None and not value.strip():
                raise ConfigError(SettingName(name), f": got {value!r}, needs a name")
        TableFormat(self.delimiter, self.quoting, self.header)  # validates the three

    @property
    def table(self) -> TableFormat:
        """Return the format of a table."""
        return TableFormat(self.delimiter, self.quoting, self.header)

    @property
    def of_tables(self) -> tuple[str, ...]:
        """Return the given options that apply to tables only, as flags of the command line."""
        return (*(() if self.column is None else ("--column",)), *self.table.options())

    @property
    def of_records(self) -> tuple[str, ...]:
        """Return the given options that do not apply to plain text."""
        return (*self.of_tables, *(() if self.field is None else ("--field",)))


@dataclass(frozen=True)
class Reading:
    """A report of reading a file: the column, the number of rows, and the rows that were skipped.

    Args:
        name: name of the file.
        format: "csv", "tsv", "jsonl", "json", or "text", whose lines are records.
        column: the column or field that was read; None if there is none, as in an array of texts.
        rows: number of rows that gave a text.
        skipped: number of skipped rows by reason.
        delimiter: delimiter of a table.
        quoted: number of texts enclosed in quotes that are part of the text, because TSV has no quoting.
    """

    name: str
    format: str
    column: str | None
    rows: int
    skipped: dict[str, int]
    delimiter: str | None = None
    quoted: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)

    def describe(self) -> str:
        """Return the report as one line."""
        text = f"{self.name}: "
        if self.column is not None:
            marked = f" by {spelling(self.delimiter)}" if self.delimiter not in (None, ",") else ""
            text += f"{'field' if self.delimiter is None else 'column'} {self.column!r}{marked}, "
        text += f"{self.rows:,} {'lines' if self.format == 'text' else 'rows'}"
        if any(self.skipped.values()):
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.skipped.items() if count)
            text += f"; skipped: {reasons}"
        return text + kept_quotes_note(self.quoted)


def kept_quotes_note(count: int) -> str:
    """Return the end of a report for ``count`` quoted texts of a TSV; empty for none."""
    return f"; {count:,} in quotes, which are kept (--quoting csv takes them off)" if count else ""


class Content(NamedTuple):
    """A text, or records with the report of their reading."""

    content: str | tuple[str, ...]
    reading: Reading | None = None


def options_phrase(names: tuple[str, ...]) -> str:
    """Return options and their verb for a message: "--a goes" or "--a, --b go"."""
    return f"{', '.join(names)} {'go' if len(names) > 1 else 'goes'}"
