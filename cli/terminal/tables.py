"""Tables that fit the terminal, and the text of figures in their cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from unrolled.cli.terminal.console import SET_WIDTH

FILE_WIDTH = SET_WIDTH or 130  # width of tables outside a terminal


def table(title: str, *columns: str) -> Table:
    """Return an empty table whose first column may wrap; the others are right-aligned and do not wrap."""
    empty = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for place, column in enumerate(columns):
        empty.add_column(column, justify="right" if place > 0 else "left", no_wrap=place > 0, overflow="fold")
    return empty


class StyledRow(NamedTuple):
    """A row of a table; the first cell is its label."""

    cells: Sequence[str]
    style: str = ""


LABEL_WIDTH = 24  # maximal width of the first column, which wraps
NARROW_LABEL = 14  # the width to which it is reduced if the table then fits
BORDERS = 3  # characters of borders a column; a table has one more


def fitting_tables(title: str, columns: Sequence[str], rows: Sequence[StyledRow], width: int) -> list[Table]:
    """Return the table; if it is wider than ``width``, several tables that share its columns and repeat the labels."""
    widths = [max(map(_cell_width, cells)) for cells in zip(columns, *(row.cells for row in rows), strict=True)]
    label = width - 1 - BORDERS - sum(column + BORDERS for column in widths[1:])
    label = label if NARROW_LABEL <= label < LABEL_WIDTH else LABEL_WIDTH
    room = width - 1 - BORDERS - min(widths[0], label)
    groups: list[list[int]] = [[]]
    for place in range(1, len(columns)):
        if groups[-1] and sum(widths[column] + BORDERS for column in (*groups[-1], place)) > room:
            groups.append([])
        groups[-1].append(place)
    tables = []
    for number, group in enumerate(groups):
        part = table(title if number == 0 else "", *(columns[place] for place in (0, *group)))
        part.columns[0].max_width = label
        for row in rows:
            part.add_row(*(row.cells[place] for place in (0, *group)), style=row.style)
        tables.append(part)
    return tables


def _cell_width(text: str) -> int:
    return max(map(cell_len, text.split("\n")))


def table_width(console: Console) -> int:
    """Return the maximal width of a table: that of the terminal, or ``FILE_WIDTH``."""
    return console.width if console.is_terminal else FILE_WIDTH


def show_tables(console: Console, tables: Sequence[Table], width: int | None = None) -> None:
    """Print tables at a width; None: the console's table width."""
    for shown in tables:
        console.print(shown, soft_wrap=False, width=width or table_width(console))


def rate(tokens_per_s: float | None) -> str:
    return "–" if tokens_per_s is None else f"{tokens_per_s:,.0f}"


def percentage(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"
