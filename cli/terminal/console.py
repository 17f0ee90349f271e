"""Where output goes: results to standard output, progress and errors to standard error."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unrolled.engine.data.readers import Reading
from unrolled.engine.data.sources import shown
from unrolled.engine.storage.json_text import to_json

WIDTH = int(os.environ["COLUMNS"]) or None if os.environ.get("COLUMNS", "").isdecimal() else None
SHOWN = "unrolled.shown"  # an error handler of codecs
FILE_WIDTH = WIDTH or 130  # of a table that is not shown in a terminal


def _console(stderr: bool) -> Console:
    """Wraps at words in a terminal and nowhere else, so that a file can be searched; never reads names as markup."""
    console = Console(width=WIDTH, highlight=False, markup=False, stderr=stderr)
    console.soft_wrap = not console.is_terminal
    return console


def write_any_text() -> None:
    r"""Make the standard streams write what their encoding has not: a byte of a file's name as \xNN, else a question mark."""
    codecs.register_error(SHOWN, _replacement)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=SHOWN)


def _replacement(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    return "".join(shown(c) if "\ud800" <= c <= "\udfff" else "?" for c in text), error.end


out, err = _console(stderr=False), _console(stderr=True)


def print_json(values: Any) -> None:
    """One JSON document on standard output; numbers that JSON has not become null."""
    text = to_json(values, indent=2)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a document must not lose what the terminal cannot show
        text = to_json(values, indent=2, ascii=True)
    print(text)


def table(title: str, *columns: str) -> Table:
    """Return an empty table: the first column wraps where there is too little room, the others, set to the right, do not."""
    made = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for place, column in enumerate(columns):
        made.add_column(column, justify="right" if place > 0 else "left", no_wrap=place > 0, overflow="fold")
    return made


class Row(NamedTuple):
    """A row of a table; the first cell is its label."""

    cells: Sequence[str]
    style: str = ""


LABEL_WIDTH = 24  # of the first column, which wraps beyond it
BORDERS = 3  # characters a column, and one more of a table


def fitting_tables(title: str, columns: Sequence[str], rows: Sequence[Row], width: int) -> list[Table]:
    """Return the table, its columns shared out over several that repeat the labels where one is wider than ``width``."""
    widths = [max(map(_cell_width, cells)) for cells in zip(columns, *(row.cells for row in rows), strict=True)]
    room = width - 1 - BORDERS - min(widths[0], LABEL_WIDTH)
    groups: list[list[int]] = [[]]
    for place in range(1, len(columns)):
        if groups[-1] and sum(widths[one] + BORDERS for one in (*groups[-1], place)) > room:
            groups.append([])
        groups[-1].append(place)
    made = []
    for number, group in enumerate(groups):
        part = table(title if number == 0 else "", *(columns[place] for place in (0, *group)))
        part.columns[0].max_width = LABEL_WIDTH
        for row in rows:
            part.add_row(*(row.cells[place] for place in (0, *group)), style=row.style)
        made.append(part)
    return made


def _cell_width(text: str) -> int:
    return max(map(cell_len, text.split("\n")))


def table_width(console: Console) -> int:
    """Return how wide a table may be: the terminal, or of a file ``FILE_WIDTH``."""
    return console.width if console.is_terminal else FILE_WIDTH


def show_tables(console: Console, tables: Sequence[Table]) -> None:
    """Print tables as wide as they may be."""
    for one in tables:
        console.print(one, soft_wrap=False, width=table_width(console))


def emphasis(console: Console, *parts: str | tuple[str, str]) -> None:
    """Print a line of plain and styled parts."""
    console.print(Text.assemble(*parts))


def show_readings(console: Console, readings: Iterable[Reading]) -> None:
    """Print what was read of each file of records, and what was skipped, a line each."""
    for reading in readings:
        console.print(reading.describe())


def warn(console: Console, text: str) -> None:
    console.print(Text(text, style="yellow"))


def rate(tokens_per_s: float | None) -> str:
    return "–" if tokens_per_s is None else f"{tokens_per_s:,.0f}"


def share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"
