"""Sources of text: files, pipes and standard input, the same for every reader; a full disk and unusual names."""

from __future__ import annotations

import gzip
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from corpus_reading import ROWS, TEXT

from unrolled.engine.data import id_arrays
from unrolled.engine.data.config import DataConfig
from unrolled.engine.data.corpus import Corpus, read_corpus
from unrolled.engine.data.dataset import prepare_dataset
from unrolled.engine.data.readers.file_names import printable_name
from unrolled.engine.data.readers.options import ReadOptions
from unrolled.engine.data.readers.sources import Source
from unrolled.engine.data.token_file_writer import encode_files
from unrolled.engine.errors import ConfigError, CorpusError, PromptFileError, UnrolledError
from unrolled.export.importing.vocabulary_files import read_vocabulary
from unrolled.runtime.jobs.prompt_files import PromptFile
from unrolled.runtime.jobs.prompt_rows import BadRow

POSIX = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")


LINUX = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="names of files are bytes, and their size can be limited, on Linux"
)


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Limit the size of written files to 10,000 bytes."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


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
