"""Prompt files, read row by row in constant memory: JSON lines, CSV, TSV, plain text, standard input; and JSON arrays.

    {"id": "a7", "prompt": "Once ", "temperature": 0.7}     .jsonl: an object a line; blank lines are no rows
    id,prompt,temperature                                   .csv, .tsv: a header, then a record a row
    ["Once ", {"prompt": "Then ", "top_k": 3}]              .json: an array of prompts and objects, at most 64 Mi characters
    Once                                                    .txt: a prompt a line, blank ones too

Every value that is neither ``id`` nor ``prompt`` is a setting of its row alone. Other columns and fields are refused (a
table as a whole, an object as a bad row) unless they are kept: then they are carried to the results, cells of tables as
texts and JSON values as they are. The id of a row without one is its index. All files are UTF-8, with or without a byte order
mark, compressed by gzip or Zstandard or not, with the line ends of any system (inside a quoted cell they stay as they are). A
row that cannot be read becomes a ``BadRow`` in its place, and reading continues with the next line; an array that is not
JSON is refused as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from unrolled.engine.checks import check_choice
from unrolled.engine.data.readers.compression import is_compressed
from unrolled.engine.data.readers.file_names import STDIN, format_suffix, is_unnamed, printable_name
from unrolled.engine.data.readers.sources import Source
from unrolled.engine.data.readers.table_format import TableFormat
from unrolled.engine.errors import PromptFileError
from unrolled.runtime.jobs.prompt_lines import PromptLines
from unrolled.runtime.jobs.prompt_readers import ENDINGS, PROMPT_FORMATS
from unrolled.runtime.jobs.prompt_rows import InputRow

ROW_LIMIT = 1 << 20  # characters of a line or record: bounds the memory for input without line ends


class PromptFile:
    """Rows of one prompt file, to be read once; a context manager that closes it.

    Args:
        source: a path, or "-" for standard input.
        format: a key of ``PROMPT_FORMATS``; None: taken from the file's ending; for standard input jsonl, or the format of
            ``table`` if that is not the default.
        limit: maximal number of characters of a line or record.
        table: delimiter, quoting and header of a CSV or TSV.
        keep_columns: keep columns and fields that are neither id, prompt nor a setting.

    Raises:
        PromptFileError: the file cannot be opened, its format is not known, or it is a table without a usable header or an
            array that is not JSON.
    """

    def __init__(
        self,
        source: str,
        format: str | None = None,
        limit: int = ROW_LIMIT,
        table: TableFormat | None = None,
        keep_columns: bool = False,
    ) -> None:
        self.path = None if source == STDIN else Path(source)
        self.name = "standard input" if self.path is None else printable_name(self.path.name)
        self.table = table or TableFormat()
        self.format = _format_of(source, format, self.table)
        reader = PROMPT_FORMATS[self.format]
        if not reader.is_table and (given := self.table.options()):
            raise PromptFileError(
                f"{self.name}: {', '.join(given)} go with .csv and .tsv files; this one is {self.format}"
            )
        if not reader.has_columns and keep_columns:
            raise PromptFileError(f"{self.name}: --keep-columns goes with tables and JSON; a text has no columns")
        self._stream = _open(source)
        # Line ends inside quoted cells stay as they are.
        self._lines = PromptLines(self._stream, limit, newline="" if reader.is_table else None)
        try:
            self._rows = reader.read(self._lines, self.table, keep_columns)
        except PromptFileError as error:
            self.close()
            raise PromptFileError(f"{self.name}: {str(error).removeprefix(f'{printable_name(source)}: ')}") from error

    @property
    def blank_lines(self) -> int:
        """Return the number of blank lines that were skipped; final once all rows are read."""
        return self._lines.blank

    @property
    def quoted(self) -> int:
        """Return the number of prompts so far whose quotes are part of them, because a TSV has no quoting."""
        return self._lines.quoted

    def __iter__(self) -> Iterator[InputRow]:
        return self._rows

    def __enter__(self) -> PromptFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._lines.close()
        self._stream.close()

    def count_lines(self) -> int | None:
        """Return the number of lines or array items, about the number of rows; None for a pipe or a compressed file."""
        if self.path is None or is_unnamed(self.path) or is_compressed(self._stream):
            return None
        if self.format == "json":
            return self._lines.number
        with self.path.open("rb") as file:
            count, last = 0, b"\n"
            while chunk := file.read(1 << 20):
                count, last = count + chunk.count(b"\n"), chunk[-1:]
        return count + (last != b"\n") - (PROMPT_FORMATS[self.format].is_table and self.table.header)


def _format_of(source: str, format: str | None, table: TableFormat) -> str:
    """Return the format that was named, or that of the ending; for standard input and pipes jsonl, csv or tsv."""
    if format is not None:
        check_choice("format", format, PROMPT_FORMATS)
        return format
    if format_suffix(source) in ENDINGS:
        return ENDINGS[format_suffix(source)]
    if is_unnamed(source):
        return ("tsv" if table.delimiter == "\t" else "csv") if table.options() else "jsonl"
    known = ", ".join(ENDINGS)
    raise PromptFileError(
        f"{printable_name(source)}: the ending {format_suffix(source)!r} says nothing of its format; known are {known}, "
        "or name it with --format"
    )


def _open(source: str) -> BinaryIO:
    opened = Source(source, None, error=PromptFileError)
    stream = opened.open()
    try:
        opened.decoding.detect_codec(stream)  # refuses the file if its beginning shows another encoding than UTF-8
    except PromptFileError:
        stream.close()
        raise
    return stream
