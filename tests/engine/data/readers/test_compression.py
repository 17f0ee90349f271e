"""Compressed text: read as its content, and a named error for damage, other kinds and a missing library."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from corpus_reading import ROWS, TEXT

from unrolled.engine.data.config import DataConfig
from unrolled.engine.data.corpus import read_corpus
from unrolled.engine.data.readers.file_names import format_suffix
from unrolled.engine.data.token_file_writer import encode_files
from unrolled.engine.errors import CorpusError, MissingDependencyError, PromptFileError
from unrolled.runtime.jobs.prompt_files import PromptFile
from unrolled.runtime.jobs.prompt_rows import BadRow


def zstd_bytes(data: bytes) -> bytes:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        zstd = pytest.importorskip("backports.zstd", reason="the zst extra is not installed")
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})  # else damage may go unnoticed


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
    whole = PACKED[packed](random.Random(0).randbytes(99).hex().encode() * 40)
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


def test_zstandard_without_its_library_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_bytes(b"\x28\xb5\x2f\xfd")
    for name in ("compression", "backports"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r'pip install "unrolled\[zst\]"'):
        read_corpus([tmp_path / "a.txt"])
