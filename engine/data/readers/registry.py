"""Registry of readers by file suffix: a column of a table, a field of JSON, or plain text.

A reader of records returns a ``Reading``, which reports the rows that it read and skipped.
"""

from __future__ import annotations

import io
from collections.abc import Callable

from unrolled.engine.data.readers.json_readers import read_json, read_jsonl
from unrolled.engine.data.readers.options import Content, ReadOptions, options_phrase
from unrolled.engine.data.readers.table_readers import read_csv, read_tsv
from unrolled.engine.errors import CorpusError


def read_plain(text: str, name: str, options: ReadOptions) -> Content:
    r"""Read plain text; all line ends become \n."""
    if options.of_tables:
        raise CorpusError(
            f"{name}: {options_phrase(options.of_tables)} with .csv and .tsv files; this one is read as plain text"
        )
    if options.field is not None:
        raise CorpusError(f"{name}: --field goes with .jsonl and .json files; this one is read as plain text")
    return Content(io.StringIO(text, newline=None).read())


Reader = Callable[[str, str, ReadOptions], Content]
READERS: dict[str, Reader] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
}


def unnamed_reader(options: ReadOptions) -> Reader:
    """Return the reader of a source without a suffix, chosen by the given options."""
    if options.field is not None:
        return read_jsonl
    if options.of_tables:
        return read_tsv if options.table.delimiter == "\t" else read_csv
    return read_plain
