"""Consoles of the command: standard output for results, standard error for progress and errors."""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.text import Text

from unrolled.engine.data.readers.file_names import printable_name
from unrolled.engine.data.readers.options import Reading
from unrolled.engine.storage.json_text import to_json

SET_WIDTH = int(os.environ["COLUMNS"]) or None if os.environ.get("COLUMNS", "").isdecimal() else None
BYTES_SHOWN = "unrolled.shown"  # name of the error handler that codecs registers
WIDE_COLUMNS = 100  # columns of a terminal from which displays show all figures


def _console(stderr: bool) -> Console:
    """Return a console that interprets no markup, and wraps lines only in a terminal, so that files can be searched."""
    console = Console(width=SET_WIDTH, highlight=False, markup=False, stderr=stderr)
    console.soft_wrap = not console.is_terminal
    return console


def write_any_text() -> None:
    r"""Let the standard streams write \xNN for an undecodable byte of a file name, and ? for what they cannot encode."""
    codecs.register_error(BYTES_SHOWN, _replacement)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=BYTES_SHOWN)


def _replacement(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    return "".join(printable_name(c) if "\ud800" <= c <= "\udfff" else "?" for c in text), error.end


out, err = _console(stderr=False), _console(stderr=True)


def print_json(values: Any) -> None:
    """Print a JSON document on standard output; numbers that JSON does not have become null."""
    text = to_json(values, indent=2)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # escape the characters that the terminal cannot show, so that the document is complete
        text = to_json(values, indent=2, ascii=True)
    print(text)


def emphasis(console: Console, *parts: str | tuple[str, str]) -> None:
    """Print a line of plain and styled parts."""
    console.print(Text.assemble(*parts))


def show_readings(console: Console, readings: Iterable[Reading]) -> None:
    """Print a line for each file of records: the rows read and skipped."""
    for reading in readings:
        console.print(reading.describe())


def warn(console: Console, text: str) -> None:
    console.print(Text(text, style="yellow"))
