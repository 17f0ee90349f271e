"""The format of a delimited table: delimiter, quoting and header, given or detected."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from unrolled.engine.errors import ConfigError, SettingName
from unrolled.engine.settings import Setting, check_settings

CANDIDATES = (",", ";", "\t", "|")
SPELLINGS = {**{mark: mark for mark in CANDIDATES}, "tab": "\t", "\\t": "\t"}
QUOTINGS: dict[str, Literal[0, 3]] = {"csv": csv.QUOTE_MINIMAL, "none": csv.QUOTE_NONE}

DELIMITER = Setting(
    "delimiter",
    "What separates the columns of a .csv or .tsv: , ; | or tab.",
    default="a tab in .tsv, else detected in the first rows",
    metavar="MARK",
)
QUOTING = Setting(
    "quoting",
    "csv: cells in double quotes may hold delimiters and line ends; none: a quote is a character.",
    choices=QUOTINGS,
    default="none in .tsv, else csv",
)
HEADER = Setting(
    "header",
    "Whether the first row of a .csv or .tsv names its columns; else they are numbered from 1.",
    default="yes",
)


class TableError(ValueError):
    """A table cannot be read because of ``line``."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class TableFormat:
    """The format of a table.

    Args:
        delimiter: a key of ``SPELLINGS``; None: a tab in TSV, else detected from the first rows.
        quoting: a key of ``QUOTINGS``. "csv": a cell in double quotes may contain delimiters, line ends, and quotes written
            twice. "none": a quote is an ordinary character. None: "none" in TSV, else "csv".
        header: the first row contains the names of the columns; without it they are numbered from 1.
    """

    delimiter: Annotated[str | None, DELIMITER] = None
    quoting: Annotated[str | None, QUOTING] = None
    header: Annotated[bool, HEADER] = True

    def __post_init__(self) -> None:
        check_settings(self)
        if self.delimiter is not None:
            if self.delimiter not in SPELLINGS:
                raise ConfigError(SettingName("delimiter"), f": got {self.delimiter!r}, choose one of , ; | tab")
            object.__setattr__(self, "delimiter", SPELLINGS[self.delimiter])

    def options(self) -> tuple[str, ...]:
        """Return the options that differ from the default, as flags of the command line."""
        given = {"--delimiter": self.delimiter, "--quoting": self.quoting, "--no-header": not self.header}
        return tuple(name for name, value in given.items() if value)


def spelling(delimiter: str) -> str:
    """Return a delimiter as messages show it."""
    return "tab" if delimiter == "\t" else repr(delimiter)


def detect_delimiter(sample: Sequence[str], whole: bool, quoting: str = "csv") -> str:
    """Return the one of ``CANDIDATES`` that separates the columns in all of the first lines.

    If the first row contains only commas or no candidate, the delimiter is a comma, and other candidates in texts do not
    separate columns. Any other delimiter must be the only one that gives every row as many cells as the first row.

    Args:
        sample: the first lines.
        whole: they are all lines of the table; otherwise the last record may be incomplete.
        quoting: a key of ``QUOTINGS``.

    Raises:
        TableError: the delimiter is ambiguous.
    """
    rows = {mark: _parse(sample, whole, mark, quoting) for mark in CANDIDATES}
    possible = [mark for mark in CANDIDATES if rows[mark] and len(rows[mark][0]) > 1]
    if possible in ([], [","]):
        return ","
    fitting = [mark for mark in possible if len({len(cells) for cells in rows[mark]}) == 1]
    if len(fitting) == 1:
        return fitting[0]
    found = " and ".join(f"{len(rows[mark][0])} columns by {spelling(mark)}" for mark in possible)
    rest = "which fit the next rows too" if fitting else "but the next rows have other numbers"
    raise TableError(1, f"its delimiter is not plain: the first row has {found}, {rest}; name it with --delimiter")


def check_tab(sample: Sequence[str], whole: bool, quoting: str) -> None:
    """Check that the first lines of a TSV are not columns separated by another delimiter.

    Without this check, whole rows would be read as a single column.

    Raises:
        TableError: the first row has no tab, and another delimiter gives every row the same number of columns.
    """
    if any(len(cells) > 1 for cells in _parse(sample, whole, "\t", quoting)[:1]):
        return
    for mark in CANDIDATES:
        rows = _parse(sample, whole, mark, quoting)
        if len(rows) > 1 and len(rows[0]) > 1 and len({len(cells) for cells in rows}) == 1:
            raise TableError(
                1,
                f"the first row has no tab, but {len(rows[0])} columns by {spelling(mark)}; name it, or tab, with --delimiter",
            )


def _parse(sample: Sequence[str], whole: bool, delimiter: str, quoting: str) -> list[list[str]]:
    rows = [cells for cells in csv.reader(sample, delimiter=delimiter, quoting=QUOTINGS[quoting]) if cells]
    return rows if whole or len(rows) < 2 else rows[:-1]
