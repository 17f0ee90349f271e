"""Options of reading files, and a record of what was read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from unrolled.engine.data.readers.table_format import TableFormat, spelling
from unrolled.engine.errors import ConfigError

EMPTY_ROWS, BLANK_LINES = "empty", "blank lines"  # why rows are skipped
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
        for name, value in (("column", self.column), ("field", self.field)):
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
        return text + kept_quotes_note(self.quoted)


def kept_quotes_note(count: int) -> str:
    """Return what to say of texts that stand in quotes in a TSV."""
    return f"; {count:,} in quotes, which are kept (--quoting csv takes them off)" if count else ""


class Content(NamedTuple):
    """A text or records, and what was read of a file of records."""

    content: str | tuple[str, ...]
    reading: Reading | None = None


def options_go(names: tuple[str, ...]) -> str:
    return f"{', '.join(names)} {'go' if len(names) > 1 else 'goes'}"
