"""Decoding of text: encodings by any name, byte order marks, line ends, and errors for bytes that are no text."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from corpus_reading import ROWS, TEXT, Write, failure
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.engine.data.corpus import read_corpus
from unrolled.engine.data.readers.options import ReadOptions
from unrolled.engine.data.readers.sources import Source
from unrolled.engine.errors import CorpusError

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


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("asked", ["utf-8", "latin-1", "cp1252"])
@pytest.mark.parametrize(
    "text", ["plain English\nlines\n", "Этобезпробеловистрок", "Только русский текст\n", "ελληνικά\n" * 3]
)
def test_wide_characters_without_a_mark_are_named(
    tmp_path: Path, read: Callable[..., str], encoding: str, asked: str, text: str
) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    with pytest.raises(CorpusError, match=rf"a\.txt: .*is not {asked}.*--encoding.* {encoding}$"):
        read(tmp_path / "a.txt", asked)
    assert read(tmp_path / "a.txt", encoding) == text


def test_chinese_in_wide_characters_is_named_by_its_line_ends(tmp_path: Path, read: Callable[..., str]) -> None:
    (tmp_path / "a.txt").write_bytes(("道可道，非常道。\n" * 4).encode("utf-16-le"))
    for asked in ("utf-8", "latin-1"):
        with pytest.raises(CorpusError, match="--encoding, here utf-16-le"):
            read(tmp_path / "a.txt", asked)


def test_nuls_are_another_encoding_unless_they_are_few_in_unicode(tmp_path: Path, read: Callable[..., str]) -> None:
    (tmp_path / "a.txt").write_bytes(b"abc\n" * 4000 + b"\0" + b"abc\n" * 9)
    assert read(tmp_path / "a.txt").count("\0") == 1
    with pytest.raises(CorpusError, match=r"a\.txt: read as latin-1 it holds a NUL, as binary files do"):
        read(tmp_path / "a.txt", "latin-1")
    (tmp_path / "a.txt").write_bytes(b"abc\n" * 4000 + b"\0\0\0" * 200)
    with pytest.raises(CorpusError, match="read as utf-8 it holds 600 NULs in 16,600 characters"):
        read(tmp_path / "a.txt")


def test_nul_in_a_table_and_in_json(tmp_path: Path) -> None:
    for name, text in (("a.csv", "text\nabc\n"), ("a.tsv", "text\nabc\n"), ("a.jsonl", ROWS)):
        (tmp_path / name).write_bytes(text.encode("utf-16-be"))
        with pytest.raises(CorpusError, match="looks like utf-16-be"):
            read_corpus([tmp_path / name])


NAMES = {
    "utf-8": ("utf-8", "utf8", "UTF_8", "U8", "cp65001", "utf-8-sig", "utf_8_sig", "Utf 8"),
    "utf-16-le": ("utf-16-le", "UTF-16LE", "utf_16_le", "unicodelittleunmarked", "utf-16", "U16"),
    "utf-16-be": ("utf-16-be", "UTF-16BE", "utf-16", "utf16"),
    "utf-32-le": ("utf-32-le", "UTF-32LE", "utf-32", "U32"),
    "utf-32-be": ("utf-32-be", "utf-32"),
    "utf-7": ("utf-7", "U7"),
    "gb18030": ("gb18030", "gb18030-2000"),
}


@pytest.mark.parametrize(("encoding", "asked"), [(codec, name) for codec, names in NAMES.items() for name in names])
def test_one_mark_is_dropped_whatever_the_codec_is_called(
    tmp_path: Path, read: Callable[..., str], encoding: str, asked: str
) -> None:
    (tmp_path / "a.txt").write_bytes(f"\ufeff{TEXT}".encode(encoding))
    assert read(tmp_path / "a.txt", asked) == TEXT
    (tmp_path / "a.txt").write_bytes(f"\ufeff\ufeff{TEXT}".encode(encoding))
    assert read(tmp_path / "a.txt", asked) == "\ufeff" + TEXT


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_the_mark_of_another_encoding_is_an_error(tmp_path: Path, read: Callable[..., str], encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes(f"\ufeff{TEXT}".encode(encoding))
    for asked in {"utf-8", "latin-1", "utf-16-le", "utf-16-be", "utf-32"} - {encoding}:
        with pytest.raises(CorpusError, match=f"is not {asked}, it looks like {encoding}"):
            read(tmp_path / "a.txt", asked)


def test_without_a_mark_utf_16_has_the_order_of_the_machine(tmp_path: Path, read: Callable[..., str]) -> None:
    native = f"utf-16-{sys.byteorder[0]}e"
    (tmp_path / "a.txt").write_bytes(TEXT.encode(native))
    assert read(tmp_path / "a.txt", "utf-16") == TEXT


@pytest.mark.parametrize(
    "encoding", ["rot13", "rot_13", "base64", "hex", "zlib", "bz2", "klingon", "undefined", "a\0b", ""]
)
def test_what_is_no_encoding_of_text(tmp_path: Path, read: Callable[..., str], encoding: str) -> None:
    for data in (b"abc", b""):
        (tmp_path / "a.txt").write_bytes(data)
        with pytest.raises(CorpusError) as caught:
            read(tmp_path / "a.txt", encoding)
        assert str(caught.value) == f"--encoding: {encoding!r} is not an encoding that Python knows"


SCRIPTS = {
    "Żółta gęś, naïve café\tÅngström\x0b\x0c\n": ("utf-8", "utf-16-le", "utf-16-be", "utf-32-be", "utf-7"),
    "naïve café\tÅngström\x01\x02\n": ("latin-1", "cp1252", "cp500", "utf-16-le"),
    "Съешь ещё этих мягких французских булок\n": ("cp1251", "koi8-r", "iso8859-5", "utf-16-be", "utf-8"),
    "道可道，非常道。名可名，非常名。\n": ("gb18030", "big5", "utf-16-le", "utf-16-be", "utf-32-le", "utf-8"),
    "　　一二三、、、　　四五六。。。　　七八九、　\n": (
        "shift_jis",
        "euc_jp",
        "iso2022_jp",
        "utf-16-le",
        "utf-16-be",
        "utf-8",
    ),
    "안녕하세요 세계\n": ("euc_kr", "cp949", "utf-16-le", "utf-16-be"),
    "\x01\n\x02\n\x03\n": ("utf-8", "latin-1"),
    "\x01\n": ("utf-8", "latin-1"),
}


@pytest.mark.parametrize(
    ("text", "encoding"), [(text, codec) for text, codecs_ in SCRIPTS.items() for codec in codecs_]
)
@pytest.mark.parametrize("count", [1, 40])
def test_no_script_looks_like_another_encoding(
    tmp_path: Path, read: Callable[..., str], text: str, encoding: str, count: int
) -> None:
    (tmp_path / "a.txt").write_bytes((text * count).encode(encoding))
    assert read(tmp_path / "a.txt", encoding) == text * count


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1 << 22])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32-be", "gb18030", "shift_jis", "latin-1", "utf-7"])
def test_pieces_of_any_size_are_the_text(tmp_path: Path, encoding: str, size: int) -> None:
    text = TEXT.encode(encoding, "ignore").decode(encoding).replace("\n", "\r\n").replace("text", "te\rxt")
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    source = Source(str(tmp_path / "a.txt"), encoding)
    assert "".join(source.pieces(size, universal=False)) == text == source.read()
    assert "".join(source.pieces(size)) == text.replace("\r\n", "\n").replace("\r", "\n")


@pytest.mark.parametrize("size", [1, 4, 1 << 22])
def test_the_offset_of_a_bad_byte_does_not_depend_on_the_pieces(tmp_path: Path, size: int) -> None:
    for data, encoding, message in (
        (codecs.BOM_UTF8 + "né".encode() + b"\xe9a", "utf-8", "byte 0xe9 at offset 6 is not utf-8"),
        ("ab".encode("utf-16-le") + b"c", "utf-16-le", "byte 0x63 at offset 4 is not utf-16-le"),
        (b"abc\x80", "ascii", "byte 0x80 at offset 3 is not ascii"),
        ("日本".encode("shift_jis") + b"\x81", "shift_jis", "byte 0x81 at offset 4 is not shift_jis"),
    ):
        (tmp_path / "a.txt").write_bytes(data)
        with pytest.raises(CorpusError, match=message):
            list(Source(str(tmp_path / "a.txt"), encoding).pieces(size))


def test_half_a_surrogate_pair_is_an_error_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine \\ud83d\\ude00"}\n\n{"text": "\\ud83d here"}\n')
    with pytest.raises(
        CorpusError, match=r"a\.jsonl, line 3.*: \\ud83d after 0 characters is half of a surrogate pair"
    ):
        read_corpus([tmp_path / "a.jsonl"])
    (tmp_path / "a.txt").write_bytes("abc\ud83d".encode("utf-7", "surrogatepass"))
    with pytest.raises(CorpusError, match=r"a\.txt: \\ud83d after 3 characters"):
        read_corpus([tmp_path / "a.txt"], ReadOptions(encoding="utf-7"))
    (tmp_path / "a.csv").write_bytes("text\nabc\ud83d\n".encode("utf-8", "surrogatepass"))
    with pytest.raises(CorpusError, match="byte 0xed at offset 8 is not utf-8"):
        read_corpus([tmp_path / "a.csv"])
