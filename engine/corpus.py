"""Readers: plain text, CSV and TSV columns, JSONL fields, standard input, and a corpus that every CPython has.

A corpus is text or records. Either can be had as the other: a text's records are its lines that are not blank, a list of
records as a text is joined by line ends.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import io
import json
import os
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import IO

from unrolled.engine.errors import CorpusError
from unrolled.engine.sources import STDIN, Source, check_characters, ending, is_unnamed, shown

BUILTIN = "python-reference"  # that which is read where none is named


@dataclass(frozen=True)
class Corpus:
    """What was read: ``content`` is one text, or a tuple of records."""

    name: str
    content: str | tuple[str, ...]

    @cached_property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "\n".join(self.content)

    @cached_property
    def records(self) -> tuple[str, ...]:
        if isinstance(self.content, str):
            return tuple(line for line in self.content.split("\n") if line.strip())
        return self.content

    @property
    def characters(self) -> int:
        return len(self.text)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the text in UTF-8, to tell corpora apart."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class ReadOptions:
    """How files are read: ``column`` of a CSV or TSV, ``field`` of a JSONL, character ``encoding``."""

    column: str | None = None
    field: str | None = None
    encoding: str = "utf-8"


def builtin_corpus() -> Corpus:
    """The language reference that ships with CPython as ``pydoc_data.topics``: some 450 KB of English and Python."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise CorpusError(
            "this Python has no pydoc_data.topics, the built-in corpus; give a text file instead"
        ) from error
    return Corpus(BUILTIN, "\n\n".join(topics[key].strip("\n") for key in sorted(topics)) + "\n")


def identifiers_corpus() -> Corpus:
    """Identifiers of the standard library's own sources, without its tests: some 25,000 records in order."""
    names = _identifiers(Path(sysconfig.get_path("stdlib")))
    if not names:
        raise CorpusError(f"this Python comes without its sources, which {IDENTIFIERS} is made of; give a file instead")
    return Corpus(IDENTIFIERS, names)


@cache
def _identifiers(root: Path) -> tuple[str, ...]:
    names: set[str] = set()
    for path in _library_sources(root):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in texts
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError, OSError):
                # one damaged or locked file is no reason to lose the rest
                continue
        for node in ast.walk(tree):
            # the field of a definition, name, attribute, argument or keyword; Global and imports add none of their own
            name = next(
                (value for field in ("name", "id", "attr", "arg") if (value := getattr(node, field, None))), None
            )
            if isinstance(name, str) and name.isidentifier():
                names.add(name)
    return tuple(sorted(names))


def _library_sources(root: Path) -> Iterator[Path]:
    tests = {"test", "tests", "idle_test"}
    for module in sorted(sys.stdlib_module_names):
        yield from (path for path in (root / f"{module}.py",) if path.is_file())
        for path in sorted((root / module).rglob("*.py")):
            if not tests.intersection(path.relative_to(root).parts):
                yield path


IDENTIFIERS = "python-identifiers"
BUILTINS: dict[str, Callable[[], Corpus]] = {BUILTIN: builtin_corpus, IDENTIFIERS: identifiers_corpus}


def _read_plain(stream: IO[str], name: str, options: ReadOptions) -> str:
    if options.column or options.field:
        what = "--column goes with .csv and .tsv" if options.column else "--field goes with .jsonl"
        raise CorpusError(f"{name}: {what} files; this one is read as plain text")
    return stream.read()


def _read_delimited(stream: IO[str], name: str, options: ReadOptions, delimiter: str) -> tuple[str, ...]:
    if options.field:
        raise CorpusError(f"{name}: --field goes with .jsonl files; a column is named with --column")
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the default of 128 KB refuses long texts
    reader = csv.DictReader(stream, delimiter=delimiter, strict=True)
    try:
        columns = list(reader.fieldnames or [])
        if not columns:
            raise CorpusError(f"{name}: empty; a header row with column names was expected")
        if options.column is None and len(columns) > 1:
            raise CorpusError(f"{name}: which column? --column takes one of {', '.join(columns)}")
        column = options.column or columns[0]
        if column not in columns:
            raise CorpusError(f"{name}: no column {column!r}; there are {', '.join(columns)}")
        rows = [row[column] for row in reader]
    except csv.Error as error:
        raise CorpusError(f"{name}, line {reader.reader.line_num}: {error}") from error
    return tuple(row for row in rows if row and row.strip())


def _read_csv(stream: IO[str], name: str, options: ReadOptions) -> tuple[str, ...]:
    return _read_delimited(stream, name, options, ",")


def _read_tsv(stream: IO[str], name: str, options: ReadOptions) -> tuple[str, ...]:
    return _read_delimited(stream, name, options, "\t")


def _read_jsonl(stream: IO[str], name: str, options: ReadOptions) -> tuple[str, ...]:
    if options.column:
        raise CorpusError(f"{name}: --column goes with .csv and .tsv files; a field is named with --field")
    field = options.field or "text"
    records = []
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{name}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict) or field not in row:
            there = (
                f"; there are {', '.join(map(str, row))}" if isinstance(row, dict) else f", but {line.strip()[:40]!r}"
            )
            raise CorpusError(f"{name}, line {number}: no object with a field {field!r}{there}; --field names another")
        if not isinstance(row[field], str):
            raise CorpusError(f"{name}, line {number}: field {field!r} is a {type(row[field]).__name__}, needs a text")
        records.append(check_characters(row[field], f"{name}, line {number}, field {field!r}"))
    return tuple(record for record in records if record.strip())


Reader = Callable[[IO[str], str, ReadOptions], str | tuple[str, ...]]
READERS: dict[str, Reader] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
}


def _name(source: str) -> str:
    return "standard input" if source == STDIN else shown(source)


def _read_one(source: str, options: ReadOptions) -> str | tuple[str, ...]:
    name = _name(source)
    if source in BUILTINS and not Path(source).exists():
        if options.column or options.field:
            raise CorpusError(f"--column and --field go with a file; {name} is built in")
        return BUILTINS[source]().content
    if Path(source).suffix == ".tokens":
        raise CorpusError(f"{name}: holds ids, which train and eval read, alone; here the text itself is needed")
    if os.path.isdir(source):
        raise CorpusError(f"{name}: is a folder; name the files in it, for instance {name}/*.txt")
    text = Source(source, options.encoding).read()
    if is_unnamed(source) and options.field:
        reader: Reader = _read_jsonl
    elif is_unnamed(source) and options.column:
        reader = _read_csv
    else:
        reader = READERS.get(ending(source), _read_plain)
    # newline="" leaves line ends inside quoted CSV fields to the csv module; plain text gets universal line ends
    return reader(io.StringIO(text, newline=None if reader is _read_plain else ""), name, options)


def _contents(sources: Sequence[str], options: ReadOptions) -> Iterator[str | tuple[str, ...]]:
    for source in sources:
        content = _read_one(source, options)
        if not content or (isinstance(content, str) and not content.strip()):
            raise CorpusError(f"{_name(source)}: holds no text")
        for number, record in enumerate([content] if isinstance(content, str) else content, 1):
            check_characters(record, f"{_name(source)}, record {number:,}")
        yield content


def read_corpus(sources: Sequence[str | Path] = (), options: ReadOptions | None = None) -> Corpus:
    """Read one corpus from files, "-" (standard input), or a key of ``BUILTINS``; ``BUILTIN`` where ``sources`` is empty.

    The reader goes by the file's ending: .csv, .tsv, .jsonl and .ndjson give records, everything else is plain text.

    Raises:
        CorpusError: a file is missing, empty or undecodable, a column or field is missing, or texts and records are mixed.
    """
    names = [str(source) for source in sources]
    options = options or ReadOptions()
    if not names:
        if options.column or options.field:
            raise CorpusError("--column and --field go with a file; none is named")
        return builtin_corpus()
    if names.count(STDIN) > 1:
        raise CorpusError("standard input (-) can be read only once")
    contents = list(_contents(names, options))
    name = ", ".join(_name(Path(source).name) for source in names)
    if all(isinstance(content, str) for content in contents):
        return Corpus(name, "\n".join(contents) if len(contents) > 1 else contents[0])  # type: ignore[arg-type]
    if any(isinstance(content, str) for content in contents):
        raise CorpusError(f"{name}: plain text and records (.csv, .tsv, .jsonl) cannot be mixed in one corpus")
    return Corpus(name, tuple(record for content in contents for record in content))
