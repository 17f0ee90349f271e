"""Corpora: from files, from standard input, and the built-in ones, which every CPython contains.

A corpus is a text or records, and each can be viewed as the other: the records of a text are its lines that are not blank,
and the text of records is joined by line ends.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from unrolled.engine.data.readers.file_names import STDIN, format_suffix, is_unnamed, printable_name, short_name
from unrolled.engine.data.readers.options import BLANK_LINES, Content, Reading, ReadOptions
from unrolled.engine.data.readers.registry import READERS, read_plain, unnamed_reader
from unrolled.engine.data.readers.sources import Source
from unrolled.engine.errors import CorpusError

BUILTIN = "python-reference"  # the default corpus


@dataclass(frozen=True)
class Corpus:
    """A text or records: ``content`` is one text or a tuple of records; ``readings`` describe the records file by file."""

    name: str
    content: str | tuple[str, ...]
    readings: tuple[Reading, ...] = field(default=(), compare=False)

    @cached_property
    def text(self) -> str:
        """Return the corpus as one text."""
        return self.content if isinstance(self.content, str) else "\n".join(self.content)

    @cached_property
    def records(self) -> tuple[str, ...]:
        """Return the corpus as records."""
        if isinstance(self.content, str):
            return tuple(line for line in self.content.split("\n") if line.strip())
        return self.content

    def read_as(self, batching: str) -> tuple[Reading, ...]:
        """Return the reports of reading records; with ``batching`` "records", the lines of a text count as records."""
        if isinstance(self.content, str) and batching == "records":
            lines = self.content.count("\n") + (self.content[-1:] not in ("", "\n"))
            rows = len(self.records)
            return (Reading(self.name, "text", None, rows, {BLANK_LINES: lines - rows}),)
        return self.readings

    @property
    def characters(self) -> int:
        """Return the number of characters of the text."""
        return len(self.text)

    @cached_property
    def digest(self) -> str:
        """Return the SHA-256 of the text in UTF-8, which identifies the corpus."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()


def builtin_corpus() -> Corpus:
    """Return the language reference in CPython's ``pydoc_data.topics``: about 450 KB of English and Python."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise CorpusError(
            "this Python has no pydoc_data.topics, the built-in corpus; give a text file instead"
        ) from error
    return Corpus(BUILTIN, "\n\n".join(topics[key].strip("\n") for key in sorted(topics)) + "\n")


def identifiers_corpus() -> Corpus:
    """Return the identifiers in the sources of the standard library, without its tests: about 25,000 sorted records."""
    names = _identifiers(Path(sysconfig.get_path("stdlib")))
    if not names:
        raise CorpusError(f"this Python comes without its sources, which {IDENTIFIERS} is made of; give a file instead")
    return Corpus(IDENTIFIERS, names)


@cache
def _identifiers(root: Path) -> tuple[str, ...]:
    names: set[str] = set()
    for path in _library_sources(root):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about invalid escapes in string literals
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError, OSError):
                # Skip a damaged or locked file: the others suffice.
                continue
        for node in ast.walk(tree):
            # These fields hold the names of definitions, variables, attributes, arguments and keywords; Global and import
            # nodes add no further names.
            fields = vars(node)
            name = next((fields[field] for field in ("name", "id", "attr", "arg") if fields.get(field)), None)
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


def _name(source: str) -> str:
    return "standard input" if source == STDIN else printable_name(source)


def _read_one(source: str, options: ReadOptions) -> Content:
    name = _name(source)
    if source in BUILTINS and not Path(source).exists():
        if options.of_records:
            raise CorpusError(f"{', '.join(options.of_records)}: for files; {name} is built in")
        return Content(BUILTINS[source]().content)
    if Path(source).suffix == ".tokens":
        raise CorpusError(f"{name}: holds ids, which train and eval read, alone; here the text itself is needed")
    if os.path.isdir(source):
        raise CorpusError(f"{name}: is a folder; name the files in it, for instance {name}/*.txt")
    try:
        text = Source(source, options.encoding).read()
    except CorpusError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise CorpusError(f"{name}: no such file") from error
        raise
    reader = unnamed_reader(options) if is_unnamed(source) else READERS.get(format_suffix(source), read_plain)
    return reader(text, name, options)


def _contents(sources: Sequence[str], options: ReadOptions) -> Iterator[Content]:
    for source in sources:
        found = _read_one(source, options)
        content = found.content
        if not content or (isinstance(content, str) and not content.strip()):
            raise CorpusError(f"{_name(source)}: holds no text")
        yield found


def read_corpus(sources: Sequence[str | Path] = (), options: ReadOptions | None = None) -> Corpus:
    """Read one corpus from files, "-" (standard input) or keys of ``BUILTINS``; without sources, read ``BUILTIN``.

    The suffix of a file selects the reader: .csv, .tsv, .jsonl, .ndjson and .json give records, all others plain text.

    Raises:
        CorpusError: a file is missing, empty or undecodable, a column or field is missing, or text and records are mixed.
    """
    names = [str(source) for source in sources]
    options = options or ReadOptions()
    if not names:
        if options.of_records:
            raise CorpusError(f"{', '.join(options.of_records)}: for files; none is named")
        if options.encoding != ReadOptions.encoding:
            raise CorpusError("--encoding: for files; none is named")
        return builtin_corpus()
    if names.count(STDIN) > 1:
        raise CorpusError("standard input (-) can be read only once")
    found = list(_contents(names, options))
    contents = [one.content for one in found]
    name = ", ".join(map(short_name, names))
    if all(isinstance(content, str) for content in contents):
        return Corpus(name, "\n".join(contents) if len(contents) > 1 else contents[0])  # type: ignore[arg-type]
    if any(isinstance(content, str) for content in contents):
        raise CorpusError(f"{name}: plain text and records (.csv, .tsv, .jsonl, .json) cannot be mixed in one corpus")
    readings = tuple(one.reading for one in found if one.reading is not None)
    return Corpus(name, tuple(record for content in contents for record in content), readings)
