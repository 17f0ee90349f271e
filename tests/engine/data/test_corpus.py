"""Corpora: one and several plain files, empty files, views as text and as records, and the built-in ones."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from corpus_reading import Write, failure

from unrolled.engine.data.corpus import BUILTIN, IDENTIFIERS, Corpus, read_corpus
from unrolled.engine.data.readers.options import Reading, ReadOptions
from unrolled.engine.errors import CorpusError


def test_one_plain_file_is_kept_as_it_is(write: Write) -> None:
    assert read_corpus([write("a.txt", "  one\n\ntwo é 😀\n")]) == Corpus("a.txt", "  one\n\ntwo é 😀\n")


def test_any_other_ending_is_plain_text(write: Write) -> None:
    assert read_corpus([str(write("notes.md", "# x"))]) == Corpus("notes.md", "# x")
    assert read_corpus([write("README", "a,b")]).content == "a,b"


def test_several_plain_files_are_joined_by_a_line_end(write: Write) -> None:
    paths = [write("b.txt", "second\n"), write("a.txt", "first"), write("c.txt", "third")]
    assert read_corpus(paths) == Corpus("b.txt, a.txt, c.txt", "second\n\nfirst\nthird")


def test_column_or_field_of_a_plain_file_is_refused(write: Write) -> None:
    path = write("a.txt", "x")
    assert failure(path, options=ReadOptions(column="c")) == (
        f"{path}: --column goes with .csv and .tsv files; this one is read as plain text"
    )
    assert failure(path, options=ReadOptions(field="f")) == (
        f"{path}: --field goes with .jsonl and .json files; this one is read as plain text"
    )


@pytest.mark.parametrize("data", [b"", b" \n\t\r\n", b"\xef\xbb\xbf"])
def test_empty_file(write: Write, data: bytes) -> None:
    path = write("a.txt", data)
    assert failure(path) == f"{path}: holds no text"


def test_one_empty_file_among_several_is_named(write: Write) -> None:
    empty = write("empty.txt", "")
    assert failure(write("a.txt", "x"), empty) == f"{empty}: holds no text"


def test_folder_and_missing_file(tmp_path: Path) -> None:
    assert failure(tmp_path) == f"{tmp_path}: is a folder; name the files in it, for instance {tmp_path}/*.txt"
    missing = tmp_path / "nowhere.txt"
    assert failure(missing) == f"{missing}: no such file"


def test_file_below_a_file_is_a_corpus_error(write: Write) -> None:
    assert "cannot be read (" in failure(write("a.txt", "x") / "b.txt")


def test_text_and_records_cannot_be_mixed(write: Write) -> None:
    assert failure(write("a.txt", "x"), write("b.jsonl", '{"text": "y"}')) == (
        "a.txt, b.jsonl: plain text and records (.csv, .tsv, .jsonl, .json) cannot be mixed in one corpus"
    )


def test_records_of_several_files_follow_each_other(write: Write) -> None:
    paths = [write("a.jsonl", '{"text": "x"}\n{"text": "y"}'), write("b.csv", "t\nz\n")]
    assert read_corpus(paths) == Corpus("a.jsonl, b.csv", ("x", "y", "z"))


def test_views_of_a_text() -> None:
    corpus = Corpus("t", "one\n\n  \n two \nthree")
    assert corpus.text == "one\n\n  \n two \nthree"
    assert corpus.records == ("one", " two ", "three")


def test_lines_of_a_text_are_counted_where_they_are_records() -> None:
    corpus = Corpus("t", "one\n\n  \n two \nthree")
    assert corpus.read_as("stream") == ()
    assert corpus.read_as("records") == (Reading("t", "text", None, 3, {"blank lines": 2}),)
    assert corpus.read_as("records")[0].describe() == "t: 3 lines; skipped: 2 blank lines"
    assert Corpus("t", "one\n").read_as("records")[0].skipped == {"blank lines": 0}


def test_views_of_records() -> None:
    corpus = Corpus("r", ("one", "two\nlines"))
    assert corpus.text == "one\ntwo\nlines"
    assert corpus.records == ("one", "two\nlines")


def test_digest_is_of_the_text_alone() -> None:
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert Corpus("a", "abc").digest == Corpus("b", ("abc",)).digest == expected
    assert Corpus("a", "abd").digest != expected
    assert Corpus("a", "é\ud800").digest == hashlib.sha256(b"\xc3\xa9\xed\xa0\x80").hexdigest()


def test_builtin_corpus_is_read_without_sources() -> None:
    corpus = read_corpus()
    assert corpus.name == BUILTIN
    assert len(corpus.text) > 300_000
    assert "Assert statements are a convenient way to insert debugging assertions" in corpus.text
    assert corpus.text.startswith('The "assert" statement\n')
    assert corpus.text.endswith("\n")
    assert read_corpus(()).digest == read_corpus([BUILTIN]).digest == corpus.digest


def test_identifiers_of_the_standard_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = read_corpus([IDENTIFIERS])
    assert corpus.name == IDENTIFIERS
    assert {"OrderedDict", "isidentifier", "_replace", "maxsize", "__init__", "self"} <= set(corpus.records)
    assert len(corpus.records) > 10_000
    assert list(corpus.records) == sorted(set(corpus.records))
    assert all(name.isidentifier() for name in corpus.records)
    with pytest.raises(CorpusError, match="built in"):
        read_corpus([IDENTIFIERS], ReadOptions(column="name"))
    with pytest.raises(CorpusError, match="cannot be mixed"):
        read_corpus([IDENTIFIERS, BUILTIN])
    monkeypatch.chdir(tmp_path)
    (tmp_path / IDENTIFIERS).write_text("a file of this name is read")
    assert read_corpus([IDENTIFIERS]).content == "a file of this name is read"
    (tmp_path / IDENTIFIERS).unlink()
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(CorpusError, match="without its sources"):
        read_corpus([IDENTIFIERS])


def test_sources_that_cannot_be_read_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    for module, content in (
        ("ast", b"print 'of another Python'"),
        ("csv", b"null = '\0'"),
        ("json", b"# coding: latin-9000"),
        ("queue", b"name = '\xff'"),
        ("abc", b"found = 1"),
    ):
        (tmp_path / f"{module}.py").write_bytes(content)
    read = Path.read_bytes

    def locked(path: Path) -> bytes:
        if path.name == "io.py":
            raise PermissionError(13, "Permission denied")
        return read(path)

    (tmp_path / "io.py").write_bytes(b"hidden = 1")
    monkeypatch.setattr(Path, "read_bytes", locked)
    assert read_corpus([IDENTIFIERS]).content == ("found",)
