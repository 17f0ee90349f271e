"""Standard input as a corpus: plain text or records by the options, once."""

from __future__ import annotations

from collections.abc import Callable

from corpus_reading import Write, failure

from unrolled.engine.data.corpus import Corpus, read_corpus
from unrolled.engine.data.readers.options import ReadOptions


def test_stdin_is_plain_text(stdin: Callable[[bytes], None]) -> None:
    stdin("a\r\nb é".encode())
    assert read_corpus(["-"]) == Corpus("standard input", "a\nb é")


def test_stdin_with_a_field_or_a_column(stdin: Callable[[bytes], None]) -> None:
    stdin(b'{"t": "x"}\n{"t": "y"}\n')
    assert read_corpus(["-"], ReadOptions(field="t")) == Corpus("standard input", ("x", "y"))
    stdin(b"a,b\n1,x\n2,y\n")
    assert read_corpus(["-"], ReadOptions(column="b")) == Corpus("standard input", ("x", "y"))


def test_stdin_with_options_of_a_table(stdin: Callable[[bytes], None]) -> None:
    stdin(b'1;"x;"\n2;y\n')
    assert read_corpus(["-"], ReadOptions("2", delimiter=";", header=False)).content == ("x;", "y")
    stdin(b'"x\n"y"\n')
    assert read_corpus(["-"], ReadOptions(delimiter="tab", header=False)).content == ('"x', '"y"')


def test_stdin_joins_with_files_but_only_once(stdin: Callable[[bytes], None], write: Write) -> None:
    stdin(b"in")
    assert read_corpus([write("a.txt", "file"), "-"]) == Corpus("a.txt, standard input", "file\nin")
    assert failure("-", "-") == "standard input (-) can be read only once"


def test_stdin_is_named_in_errors(stdin: Callable[[bytes], None]) -> None:
    stdin(b"a\xff")
    assert failure("-").startswith("standard input: byte 0xff at offset 1")
    stdin(b" \n")
    assert failure("-") == "standard input: holds no text"
