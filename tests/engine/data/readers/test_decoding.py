"""Encodings of plain text, byte order marks and line ends; bytes that are no text name their offset."""

from __future__ import annotations

import pytest
from corpus_reading import Write, failure
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.engine.data.corpus import read_corpus
from unrolled.engine.data.readers.options import ReadOptions

PROPERTY = settings(derandomize=True, max_examples=60, deadline=None)


def test_universal_line_ends(write: Write) -> None:
    assert read_corpus([write("a.txt", b"a\r\nb\rc\n\r\n")]).content == "a\nb\nc\n\n"


@pytest.mark.parametrize("encoding", ["utf-8", "UTF-8", "utf8", "utf_8"])
def test_byte_order_mark_is_dropped(write: Write, encoding: str) -> None:
    assert read_corpus([write("a.txt", b"\xef\xbb\xbfabc")], ReadOptions(encoding=encoding)).content == "abc"


def test_byte_order_mark_is_no_part_of_a_column_or_record(write: Write) -> None:
    assert read_corpus([write("a.csv", b"\xef\xbb\xbfname\nx\n")], ReadOptions("name")).content == ("x",)
    assert read_corpus([write("a.jsonl", b'\xef\xbb\xbf{"text": "x"}\n')]).content == ("x",)


def test_undecodable_bytes_name_the_offset_and_suggest_encoding(write: Write) -> None:
    path = write("a.txt", b"caf\xe9 au lait")
    assert failure(path) == (
        f"{path}: byte 0xe9 at offset 3 is not utf-8; "
        "name the file's encoding with --encoding, for instance latin-1 or utf-16"
    )


def test_offset_counts_from_the_start_of_the_file_after_a_byte_order_mark(write: Write) -> None:
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


@PROPERTY
@given(st.text(st.characters(codec="utf-8", exclude_characters="\r\ufeff\0")).filter(str.strip))
def test_plain_round_trip(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("plain") / "a.txt"
    path.write_bytes(text.encode())
    assert read_corpus([path]).content == text
