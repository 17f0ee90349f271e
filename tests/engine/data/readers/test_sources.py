"""Sources of text: opening, decompressing, detecting and decoding, the same for every reader."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import os
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unrolled.engine.data import id_arrays
from unrolled.engine.data.config import DataConfig
from unrolled.engine.data.corpus import Corpus, read_corpus
from unrolled.engine.data.dataset import prepare_dataset
from unrolled.engine.data.readers.file_names import format_suffix, printable_name
from unrolled.engine.data.readers.options import ReadOptions
from unrolled.engine.data.readers.sources import Source
from unrolled.engine.data.token_file_writer import encode_files
from unrolled.engine.data.token_files import read_encoded
from unrolled.engine.errors import ConfigError, CorpusError, MissingDependencyError, PromptFileError, UnrolledError
from unrolled.export.importing.vocabulary_files import read_vocabulary
from unrolled.runtime.jobs.prompt_files import PromptFile
from unrolled.runtime.jobs.prompt_rows import BadRow

TEXT = "A line of text.\nÄnother — 猫が 😀, and so on.\n" * 30
ROWS = '{"prompt": "one", "text": "one"}\n{"prompt": "zwei ü", "text": "zwei ü"}\n'
POSIX = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")


LINUX = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="names of files are bytes, and their size can be limited, on Linux"
)


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Files of no more than 10,000 bytes can be written."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def encoded_text(path: Path, encoding: str = "utf-8") -> str:
    output = path.parent / "out" / "all.tokens"
    encode_files([path], output, DataConfig(), encoding)
    assert [file.name for file in output.parent.iterdir()] == ["all.tokens"]
    encoded = read_encoded(output)
    return encoded.tokenizer.decode(encoded.ids)


def corpus_text(path: Path, encoding: str = "utf-8") -> str:
    content = read_corpus([path], ReadOptions(encoding=encoding)).content
    assert isinstance(content, str)
    return content


READERS: dict[str, Callable[..., str]] = {"corpus": corpus_text, "encode": encoded_text}


@pytest.fixture(params=READERS)
def read(request: pytest.FixtureRequest) -> Callable[..., str]:
    return READERS[request.param]


# encodings


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


# halves of surrogate pairs


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


# compression


def zstd_bytes(data: bytes) -> bytes:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        zstd = pytest.importorskip("backports.zstd", reason="the zst extra is not installed")
    return zstd.compress(data)


PACKED = {"gz": gzip.compress, "zst": zstd_bytes}


@pytest.mark.parametrize("packed", PACKED)
def test_compressed_text_is_read_as_what_is_inside(tmp_path: Path, read: Callable[..., str], packed: str) -> None:
    for name in (f"a.txt.{packed}", f"b.{packed.upper()}", "c.txt"):
        (tmp_path / name).write_bytes(PACKED[packed](f"\ufeff{TEXT}".encode()))
        assert read(tmp_path / name) == TEXT
    twice = PACKED[packed](TEXT.encode()) + PACKED[packed](b"and more")
    (tmp_path / "d.txt").write_bytes(twice)
    assert read(tmp_path / "d.txt") == TEXT + "and more"


@pytest.mark.parametrize("packed", PACKED)
def test_the_ending_inside_decides_the_reader(tmp_path: Path, packed: str) -> None:
    for name, data in (("a.csv", "text\none\nzwei ü\n"), ("a.tsv", "text\none\nzwei ü\n"), ("a.JSONL", ROWS)):
        path = tmp_path / f"{name}.{packed}"
        path.write_bytes(PACKED[packed](data.encode()))
        assert read_corpus([path]).content == ("one", "zwei ü")
        with pytest.raises(CorpusError, match="encode: needs plain text files"):
            encode_files([path], tmp_path / "a.tokens", DataConfig())
    for name, data in (("p.jsonl", ROWS), ("p.csv", "prompt\none\nzwei ü\n"), ("p.txt", "one\nzwei ü\n")):
        path = tmp_path / f"{name}.{packed}"
        path.write_bytes(PACKED[packed](data.encode()))
        with PromptFile(str(path)) as prompts:
            assert prompts.count_lines() is None
            assert [None if isinstance(row, BadRow) else row.prompt for row in prompts] == ["one", "zwei ü"]
    assert [format_suffix(name) for name in ("a.CSV", "b.csv.gz", "c.gz", "d", "e.tar.zst", ".gz")] == [
        ".csv", ".csv", "", "", ".tar", "",
    ]  # fmt: skip


@pytest.mark.parametrize("packed", PACKED)
def test_damaged_compression_is_named_and_leaves_nothing(tmp_path: Path, read: Callable[..., str], packed: str) -> None:
    whole = PACKED[packed](os.urandom(99).hex().encode() * 40)
    for data in (whole[:-1], whole[: len(whole) // 2], whole[:20] + b"\xff\xff" + whole[22:]):
        (tmp_path / "a.txt").write_bytes(data)
        with pytest.raises(CorpusError, match=r"a\.txt: its (gzip|zstd) data is damaged or cut off"):
            read(tmp_path / "a.txt")
        assert not (tmp_path / "out").exists()
        with pytest.raises(PromptFileError, match="damaged or cut off"), PromptFile(str(tmp_path / "a.txt")) as prompts:
            list(prompts)
    for data in (b"", b"plain text"):
        (tmp_path / f"a.{packed}").write_bytes(data)
        with pytest.raises(CorpusError, match=rf"a\.{packed}: its content is not (gzip|zstd), which its name says"):
            read(tmp_path / f"a.{packed}")


def zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", data)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "pack"),
    [
        ("bzip2", bz2.compress),
        ("xz", lzma.compress),
        ("zip", zipped),
        ("7z", lambda data: b"7z\xbc\xaf\x27\x1c" + data),
    ],
)
def test_other_compression_is_named(
    tmp_path: Path, read: Callable[..., str], kind: str, pack: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "a.txt").write_bytes(pack(TEXT.encode()))
    with pytest.raises(CorpusError, match=rf"a\.txt: is compressed by {kind}, which is not read here; unpack it"):
        read(tmp_path / "a.txt")
    with pytest.raises(PromptFileError, match=f"is compressed by {kind}"):
        PromptFile(str(tmp_path / "a.txt"))


def test_an_archive_inside_is_named(tmp_path: Path, read: Callable[..., str]) -> None:
    (tmp_path / "b.txt").write_text(TEXT)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "b.txt")
    with pytest.raises(CorpusError, match=r"a\.tar\.gz: is a tar archive; unpack it"):
        read(tmp_path / "a.tar.gz")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a folder cannot be opened elsewhere")
def test_a_folder_as_standard_input(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(CorpusError, match="is a folder"):
        read_corpus([f"/dev/fd/{descriptor}"])
    with pytest.raises(PromptFileError, match="cannot be read"):
        PromptFile(f"/dev/fd/{descriptor}")
    os.close(descriptor)


def test_a_closed_standard_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(CorpusError, match="standard input: is closed"):
        read_corpus(["-"])
    with pytest.raises(PromptFileError, match="standard input: is closed"):
        PromptFile("-")


def test_zstandard_without_its_library_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_bytes(b"\x28\xb5\x2f\xfd")
    for name in ("compression", "backports"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r'pip install "unrolled\[zst\]"'):
        read_corpus([tmp_path / "a.txt"])


# prompt files


def test_prompts_in_another_encoding_are_refused_as_a_whole(tmp_path: Path) -> None:
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le"):
        for mark in ("", "\ufeff"):
            (tmp_path / "a.jsonl").write_bytes((mark + ROWS).encode(encoding))
            with pytest.raises(PromptFileError, match=f"is not UTF-8, it looks like {encoding}; convert it, .*iconv"):
                PromptFile(str(tmp_path / "a.jsonl"))


def test_a_damaged_table_of_prompts_is_named_once(tmp_path: Path) -> None:
    path = tmp_path / "p.csv.gz"
    path.write_bytes(gzip.compress(b"prompt\n" + bytes(range(33, 126)) * 9)[:40])
    with pytest.raises(PromptFileError, match=r"^p\.csv\.gz: its gzip data is damaged"):
        list(PromptFile(str(path)))


def test_vocabularies_are_read_as_other_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("\ufeffone\nzwei ü\n".encode()))
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b'["one", "two"]'))
    assert read_vocabulary(tmp_path / "a.txt.gz", "word") == ["one", "zwei ü"]
    assert read_vocabulary(tmp_path / "a.json.gz", "word") == ["one", "two"]
    (tmp_path / "a.txt").write_bytes("one\ntwo\n".encode("utf-16-le"))
    with pytest.raises(ConfigError, match=r"vocabulary: .*a\.txt: is not UTF-8, it looks like utf-16-le; convert it"):
        read_vocabulary(tmp_path / "a.txt", "word")


# pipes


def feed(path: Path, data: bytes) -> threading.Thread:
    os.mkfifo(path)
    thread = threading.Thread(target=path.write_bytes, args=(data,), daemon=True)
    thread.start()
    return thread


@POSIX
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_named_pipe_is_the_file(tmp_path: Path, read: Callable[..., str], pack: Callable[[bytes], bytes]) -> None:
    thread = feed(tmp_path / "pipe", pack(TEXT.encode()))
    assert read(tmp_path / "pipe") == TEXT
    thread.join()
    thread = feed(tmp_path / "rows", pack(ROWS.encode()))
    with PromptFile(str(tmp_path / "rows")) as prompts:
        assert prompts.count_lines() is None
        assert [None if isinstance(row, BadRow) else row.prompt for row in prompts] == ["one", "zwei ü"]
    thread.join()


@POSIX
def test_records_of_a_named_pipe(tmp_path: Path) -> None:
    thread = feed(tmp_path / "pipe", ROWS.encode())
    assert read_corpus([tmp_path / "pipe"], ReadOptions(field="text")).content == ("one", "zwei ü")
    thread.join()


@POSIX
@pytest.mark.parametrize("level", ["char", "word"])
def test_an_empty_pipe_is_an_error_and_leaves_nothing(tmp_path: Path, level: str) -> None:
    for number, data in enumerate((b"", b" \n \n")):
        thread = feed(tmp_path / f"{number}", data)
        with pytest.raises(CorpusError, match=f"{number}: holds no text"):
            encode_files([tmp_path / f"{number}"], tmp_path / "out" / "a.tokens", DataConfig(level))
        thread.join()
    assert not list((tmp_path / "out").iterdir())


def test_a_text_that_changes_meanwhile_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    opened = Source.open

    def growing(source: Source) -> io.BufferedIOBase:
        stream = opened(source)
        (tmp_path / "a.txt").write_text(TEXT[::-1])
        return stream  # type: ignore[return-value]

    monkeypatch.setattr(Source, "open", growing)
    with pytest.raises(CorpusError, match=r"a\.txt: changed while it was read"):
        encode_files([tmp_path / "a.txt"], tmp_path / "a.tokens", DataConfig())
    assert not (tmp_path / "a.tokens").exists()


@LINUX
def test_a_full_disk_is_named(tmp_path: Path, full_disk: None) -> None:
    for part in range(9):
        (tmp_path / f"{part}.txt").write_text(TEXT * 3)
    parts = sorted(tmp_path.iterdir())
    with pytest.raises(OSError, match="File too large") as caught:
        encode_files(parts, tmp_path / "out" / "a.tokens", DataConfig())
    assert caught.value.filename == str(tmp_path / "out" / "a.tokens")
    assert not list((tmp_path / "out").iterdir())


@LINUX
def test_no_room_for_the_copy_of_a_pipe_is_named(tmp_path: Path, full_disk: None) -> None:
    thread = feed(tmp_path / "pipe", TEXT.encode() * 20)
    with pytest.raises(OSError, match="File too large") as caught:
        encode_files([tmp_path / "pipe"], tmp_path / "out" / "a.tokens", DataConfig())
    thread.join()
    assert caught.value.filename == str(tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@LINUX
def test_no_room_for_the_ids_of_a_large_corpus_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_disk: None
) -> None:
    monkeypatch.setattr(id_arrays, "MEMORY_LIMIT", 1000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(OSError, match="File too large") as caught:
        prepare_dataset(Corpus("a.txt", TEXT * 20), DataConfig())
    assert str(caught.value.filename).startswith(str(tmp_path))
    assert not list(tmp_path.iterdir())


# names


@LINUX
def test_a_name_that_is_no_text_is_shown_with_escapes(tmp_path: Path, read: Callable[..., str]) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.txt")
    path.write_text(TEXT)
    assert read(path) == TEXT
    assert read_corpus([path]).name == r"caf\xe9.txt"
    path.write_bytes(b"\xff")
    with pytest.raises(UnrolledError, match=r"caf\\xe9\.txt: byte 0xff"):
        read(path)
    assert printable_name("a\ud83d") == r"a\ud83d"
    assert printable_name("ü") == "ü"
