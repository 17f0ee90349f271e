"""Readers: what a file, a column, a field or standard input gives, and what the errors say."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.engine.corpus import BUILTIN, IDENTIFIERS, Corpus, ReadOptions, read_corpus
from unrolled.engine.errors import CorpusError

Write = Callable[[str, bytes | str], Path]
PROPERTY = settings(derandomize=True, max_examples=60, deadline=None)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def run(name: str, data: bytes | str) -> Path:
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    return run


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    return lambda data: monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))


def failure(*sources: str | Path, options: ReadOptions | None = None) -> str:
    """The message of the CorpusError that reading raises."""
    with pytest.raises(CorpusError) as caught:
        read_corpus(sources, options)
    return str(caught.value)


# plain text


def test_one_plain_file_is_kept_as_it_is(write: Write) -> None:
    assert read_corpus([write("a.txt", "  one\n\ntwo é 😀\n")]) == Corpus("a.txt", "  one\n\ntwo é 😀\n")


def test_any_other_ending_is_plain_text(write: Write) -> None:
    assert read_corpus([str(write("notes.md", "# x"))]) == Corpus("notes.md", "# x")
    assert read_corpus([write("README", "a,b")]).content == "a,b"


def test_several_plain_files_are_joined_by_a_line_end(write: Write) -> None:
    paths = [write("b.txt", "second\n"), write("a.txt", "first"), write("c.txt", "third")]
    assert read_corpus(paths) == Corpus("b.txt, a.txt, c.txt", "second\n\nfirst\nthird")


def test_universal_line_ends(write: Write) -> None:
    assert read_corpus([write("a.txt", b"a\r\nb\rc\n\r\n")]).content == "a\nb\nc\n\n"


@pytest.mark.parametrize("encoding", ["utf-8", "UTF-8", "utf8", "utf_8"])
def test_byte_order_mark_is_dropped(write: Write, encoding: str) -> None:
    assert read_corpus([write("a.txt", b"\xef\xbb\xbfabc")], ReadOptions(encoding=encoding)).content == "abc"


def test_byte_order_mark_is_no_part_of_a_column_or_record(write: Write) -> None:
    assert read_corpus([write("a.csv", b"\xef\xbb\xbfname\nx\n")], ReadOptions("name")).content == ("x",)
    assert read_corpus([write("a.jsonl", b'\xef\xbb\xbf{"text": "x"}\n')]).content == ("x",)


def test_column_or_field_of_a_plain_file_is_refused(write: Write) -> None:
    path = write("a.txt", "x")
    assert failure(path, options=ReadOptions(column="c")) == (
        f"{path}: --column goes with .csv and .tsv files; this one is read as plain text"
    )
    assert failure(path, options=ReadOptions(field="f")) == (
        f"{path}: --field goes with .jsonl files; this one is read as plain text"
    )


# columns


def test_csv_column_with_quoted_commas_quotes_and_line_ends(write: Write) -> None:
    path = write("a.csv", 'id,note\n1,"one, two"\n2,"line one\nline two"\n3,"say ""hi"""\n4,plain\n')
    assert read_corpus([path], ReadOptions("note")) == Corpus(
        "a.csv", ("one, two", "line one\nline two", 'say "hi"', "plain")
    )
    assert read_corpus([path], ReadOptions("id")).content == ("1", "2", "3", "4")


def test_tsv_column(write: Write) -> None:
    path = write("a.TSV", 'a\tb\n1,5\t"x\ty"\r\n2\tz\n')
    assert read_corpus([path], ReadOptions("b")).content == ("x\ty", "z")
    assert read_corpus([path], ReadOptions("a")).content == ("1,5", "2")


def test_single_column_needs_no_option(write: Write) -> None:
    assert read_corpus([write("a.csv", "name\nAnna\nBen\n")]).content == ("Anna", "Ben")


def test_blank_and_short_rows_are_left_out(write: Write) -> None:
    path = write("a.csv", "a,b\n1,x\n2\n3,  \n\n4,y\n")
    assert read_corpus([path], ReadOptions("b")).content == ("x", "y")


def test_csv_fields_beyond_the_default_limit_of_the_csv_module(write: Write) -> None:
    text = "x" * 200_000
    assert read_corpus([write("a.csv", f"t\n{text}\n")]).content == (text,)


def test_missing_column_lists_the_columns(write: Write) -> None:
    path = write("a.csv", "id,note\n1,x\n")
    assert failure(path, options=ReadOptions("nota")) == f"{path}: no column 'nota'; there are id, note"
    assert failure(path) == f"{path}: which column? --column takes one of id, note"


@pytest.mark.parametrize("row", ['"never closed', '"closed" too early', '"not closed" ""'])
def test_csv_damage_names_the_line(write: Write, row: str) -> None:
    path = write("a.csv", f"t\nok\n{row}\n")
    assert failure(path).startswith(f"{path}, line 3: ")


def test_csv_without_header_or_rows(write: Write) -> None:
    empty = write("empty.csv", "")
    assert failure(empty) == f"{empty}: empty; a header row with column names was expected"
    header = write("header.csv", "a\n")
    assert failure(header) == f"{header}: holds no text"


# JSON lines


def test_jsonl_field(write: Write) -> None:
    path = write("a.jsonl", '{"text": "one\\ntwo", "n": 1}\r\n\n{"n": 2, "text": "\\u00e9 😀"}\n{"text": " "}')
    assert read_corpus([path]) == Corpus("a.jsonl", ("one\ntwo", "é 😀"))
    assert read_corpus([write("b.ndjson", '{"body": "x"}')], ReadOptions(field="body")).content == ("x",)


def test_jsonl_line_separators_inside_a_text_are_no_line_ends(write: Write) -> None:
    assert read_corpus([write("a.jsonl", '{"text": "a\u2028b\u0085c"}\n')]).content == ("a\u2028b\u0085c",)


def test_bad_json_names_the_line(write: Write) -> None:
    path = write("a.jsonl", '{"text": "x"}\n\n{"text": \n')
    assert failure(path).startswith(f"{path}, line 3: not JSON (")


def test_field_that_is_missing_or_no_text(write: Write) -> None:
    path = write("a.jsonl", '{"text": "x", "n": 5, "nothing": null}\n')
    assert failure(path, options=ReadOptions(field="n")) == f"{path}, line 1: field 'n' is a int, needs a text"
    assert "field 'nothing' is a NoneType" in failure(path, options=ReadOptions(field="nothing"))
    message = failure(path, options=ReadOptions(field="body"))
    assert message == (
        f"{path}, line 1: no object with a field 'body'; there are text, n, nothing; --field names another"
    )


def test_json_that_is_no_object(write: Write) -> None:
    path = write("a.jsonl", '{"text": "x"}\n["text"]\n')
    assert failure(path).startswith(f"{path}, line 2: no object with a field 'text'")
    assert "'[\"text\"]'" in failure(path)


# standard input


def test_stdin_is_plain_text(stdin: Callable[[bytes], None]) -> None:
    stdin("a\r\nb é".encode())
    assert read_corpus(["-"]) == Corpus("standard input", "a\nb é")


def test_stdin_with_a_field_or_a_column(stdin: Callable[[bytes], None]) -> None:
    stdin(b'{"t": "x"}\n{"t": "y"}\n')
    assert read_corpus(["-"], ReadOptions(field="t")) == Corpus("standard input", ("x", "y"))
    stdin(b"a,b\n1,x\n2,y\n")
    assert read_corpus(["-"], ReadOptions(column="b")) == Corpus("standard input", ("x", "y"))


def test_stdin_joins_with_files_but_only_once(stdin: Callable[[bytes], None], write: Write) -> None:
    stdin(b"in")
    assert read_corpus([write("a.txt", "file"), "-"]) == Corpus("a.txt, standard input", "file\nin")
    assert failure("-", "-") == "standard input (-) can be read only once"


def test_stdin_is_named_in_errors(stdin: Callable[[bytes], None]) -> None:
    stdin(b"a\xff")
    assert failure("-").startswith("standard input: byte 0xff at offset 1")
    stdin(b" \n")
    assert failure("-") == "standard input: holds no text"


# encodings


def test_undecodable_bytes_name_the_offset_and_suggest_encoding(write: Write) -> None:
    path = write("a.txt", b"caf\xe9 au lait")
    assert failure(path) == (
        f"{path}: byte 0xe9 at offset 3 is not utf-8; "
        "name the file's encoding with --encoding, for instance latin-1 or utf-16"
    )


def test_offset_counts_from_the_start_of_the_file_behind_a_byte_order_mark(write: Write) -> None:
    assert "byte 0xe9 at offset 6 is not utf-8" in failure(write("a.txt", b"\xef\xbb\xbfcaf\xe9 au lait"))


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-32", "cp1252"])
def test_other_encodings(write: Write, encoding: str) -> None:
    path = write("a.txt", "café\n".encode(encoding))
    assert read_corpus([path], ReadOptions(encoding=encoding)).content == "café\n"


def test_truncated_utf_16_is_an_error_with_an_offset(write: Write) -> None:
    path = write("a.txt", "ab".encode("utf-16-le") + b"c")
    assert "byte 0x63 at offset 4 is not utf-16-le" in failure(path, options=ReadOptions(encoding="utf-16-le"))


@pytest.mark.parametrize("encoding", ["klingon", "base64", "rot13"])
def test_unknown_encoding(write: Write, encoding: str) -> None:
    assert failure(write("a.txt", "x"), options=ReadOptions(encoding=encoding)) == (
        f"--encoding: {encoding!r} is not an encoding that Python knows"
    )


# files that give nothing


@pytest.mark.parametrize("data", [b"", b" \n\t\r\n", b"\xef\xbb\xbf"])
def test_empty_file(write: Write, data: bytes) -> None:
    path = write("a.txt", data)
    assert failure(path) == f"{path}: holds no text"


def test_one_empty_file_among_several_is_named(write: Write) -> None:
    empty = write("empty.txt", "")
    assert failure(write("a.txt", "x"), empty) == f"{empty}: holds no text"


@pytest.mark.parametrize("data", ["", "\n\n", '{"text": ""}\n'])
def test_empty_jsonl(write: Write, data: str) -> None:
    path = write("a.jsonl", data)
    assert failure(path) == f"{path}: holds no text"


def test_folder_and_missing_file(tmp_path: Path) -> None:
    assert failure(tmp_path) == f"{tmp_path}: is a folder; name the files in it, for instance {tmp_path}/*.txt"
    missing = tmp_path / "nowhere.txt"
    assert failure(missing) == f"{missing}: no such file"


def test_file_below_a_file_is_a_corpus_error(write: Write) -> None:
    assert "cannot be read (" in failure(write("a.txt", "x") / "b.txt")


def test_text_and_records_cannot_be_mixed(write: Write) -> None:
    assert failure(write("a.txt", "x"), write("b.jsonl", '{"text": "y"}')) == (
        "a.txt, b.jsonl: plain text and records (.csv, .tsv, .jsonl) cannot be mixed in one corpus"
    )


def test_records_of_several_files_follow_each_other(write: Write) -> None:
    paths = [write("a.jsonl", '{"text": "x"}\n{"text": "y"}'), write("b.csv", "t\nz\n")]
    assert read_corpus(paths) == Corpus("a.jsonl, b.csv", ("x", "y", "z"))


# views


def test_views_of_a_text() -> None:
    corpus = Corpus("t", "one\n\n  \n two \nthree")
    assert corpus.text == "one\n\n  \n two \nthree"
    assert corpus.records == ("one", " two ", "three")


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


@PROPERTY
@given(st.lists(st.text(st.characters(codec="utf-8")).filter(str.strip), min_size=1, max_size=6))
def test_jsonl_round_trip(tmp_path_factory: pytest.TempPathFactory, records: list[str]) -> None:
    for ensure_ascii in (True, False):
        path = tmp_path_factory.mktemp("jsonl") / "a.jsonl"
        path.write_bytes("\n".join(json.dumps({"text": r}, ensure_ascii=ensure_ascii) for r in records).encode())
        assert read_corpus([path]).content == tuple(records)


@PROPERTY
@given(st.text(st.characters(codec="utf-8", exclude_characters="\r\ufeff\0")).filter(str.strip))
def test_plain_round_trip(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("plain") / "a.txt"
    path.write_bytes(text.encode())
    assert read_corpus([path]).content == text
