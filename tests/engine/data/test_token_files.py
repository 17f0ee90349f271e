"""Token files: the same batches as from the text, bounded memory, and nothing of a damaged one."""

from __future__ import annotations

import itertools
import json
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import hosts
import numpy as np
import pytest
from safetensors import safe_open

from unrolled.engine.data.config import DataConfig
from unrolled.engine.data.corpus import read_corpus
from unrolled.engine.data.dataset import prepare_dataset
from unrolled.engine.data.opening import open_corpus
from unrolled.engine.data.readers.options import ReadOptions
from unrolled.engine.data.token_file_writer import encode_files
from unrolled.engine.data.token_files import EncodedCorpus, read_encoded
from unrolled.engine.errors import ConfigError, CorpusError, UnrolledError
from unrolled.engine.runs.experiment import Experiment, ModelSettings, prepare_run
from unrolled.engine.tokenizers import pieces as pieces_module
from unrolled.engine.tokenizers.byte_pairs import BpeTokenizer
from unrolled.engine.tokenizers.pieces import whole_words
from unrolled.engine.training.config import TrainingConfig

TEXT = ("the cat sat; the café's cats — 猫が 😀 don't\n  the  end\n" + hosts.TRICKY.replace("\r", "")) * 4
SPLIT = (0.6, 0.3, 0.1)
CONFIGS = {
    "char": DataConfig(batch_size=3, length=7, split=SPLIT),
    "char lower": DataConfig(batch_size=3, length=7, split=SPLIT, lowercase=True, unknown="replace"),
    "word": DataConfig("word", batch_size=3, length=7, split=SPLIT, punctuation=True, vocab_size=40),
    "word skip": DataConfig("word", batch_size=3, length=7, split=(0.7, 0.3, 0.0), unknown="skip"),
    "char NFC": DataConfig(batch_size=3, length=7, split=SPLIT, normalize="NFC"),
    "word none": DataConfig("word", batch_size=3, length=7, split=SPLIT, normalize="none"),
    "whitespace": DataConfig("whitespace", batch_size=3, length=7, split=SPLIT, vocab_size=40),
    "bpe": DataConfig("bpe", batch_size=3, length=7, split=SPLIT, vocab_size=300),
}


def written(folder: Path, config: DataConfig, *texts: str) -> tuple[list[str], EncodedCorpus]:
    """Write text files and their token file, and return both."""
    files = []
    for place, text in enumerate(texts or (TEXT,)):
        path = folder / f"{place}.txt"
        path.write_bytes(text.encode())
        files.append(str(path))
    encode_files(files, folder / "all.tokens", config)
    return files, read_encoded(folder / "all.tokens")


def same(got: Any, expected: Any) -> None:
    """Compare every batch of two data sets."""
    assert (got is None) == (expected is None)
    if got is not None:
        for one, other in zip(got.epoch(None), expected.epoch(None), strict=True):
            assert (one.inputs["tokens"] == other.inputs["tokens"]).all()
            assert (one.targets == other.targets).all()
            assert one.carry == other.carry


@pytest.mark.parametrize("piece", [5, 64, 1 << 22])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_token_file_gives_the_batches_of_its_text(
    tmp_path: Path, name: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIGS[name]
    if config.level == "bpe":
        pytest.importorskip("tokenizers", reason="the bpe extra is not installed")
    files = [tmp_path / "0.txt", tmp_path / "1.txt"]
    for file in files:
        file.write_bytes(TEXT.encode())
    corpus = read_corpus(files)
    expected = prepare_dataset(corpus, config)
    monkeypatch.setattr(pieces_module, "PIECE_CHARS", piece)
    _, encoded = written(tmp_path, config, TEXT, TEXT)
    assert (encoded.name, encoded.characters, encoded.digest) == (corpus.name, corpus.characters, corpus.digest)
    assert encoded.tokenizer == expected.tokenizer
    got = encoded.prepare(DataConfig(batch_size=3, length=7))
    for part in ("train", "validation", "test"):
        same(getattr(got, part), getattr(expected, part))
    assert isinstance(encoded.ids, np.memmap)
    assert np.shares_memory(got.train.ids, encoded.ids)  # type: ignore[attr-defined]


def test_alarm_another_text_gives_other_batches(tmp_path: Path) -> None:
    _, encoded = written(tmp_path, CONFIGS["char"])
    other = prepare_dataset(read_corpus([tmp_path / "0.txt"]), replace(CONFIGS["char"], split=(0.5, 0.4, 0.1)))
    with pytest.raises((AssertionError, ValueError)):
        same(encoded.prepare(CONFIGS["char"]).train, other.train)


def test_line_ends_and_a_byte_order_mark_are_those_of_the_text(tmp_path: Path) -> None:
    files, encoded = written(tmp_path, CONFIGS["char"], "\ufeffab\r\ncd\ref\n" * 20)
    assert encoded.digest == read_corpus(files).digest
    assert encoded.tokenizer.decode(encoded.ids[:9]) == "ab\ncd\nef\n"


def test_training_on_the_file_is_training_on_the_text(tmp_path: Path) -> None:
    files, encoded = written(tmp_path, CONFIGS["char"])
    model = ModelSettings("gru", 4, 6)
    results, records = [], []
    for corpus, data in ((read_corpus(files), CONFIGS["char"]), (encoded, DataConfig(batch_size=3, length=7))):
        run = prepare_run(corpus, Experiment(TrainingConfig(steps=5), data, model))
        results.append(run.run(tmp_path / "run", overwrite=True).losses)
        records.append(run.experiment.record(corpus))
    assert results[0] == results[1]
    assert records[0] == records[1]


def test_the_file_is_one_that_safetensors_reads(tmp_path: Path) -> None:
    _, encoded = written(tmp_path, CONFIGS["word"])
    with safe_open(tmp_path / "all.tokens", "numpy") as file:
        np.testing.assert_array_equal(file.get_tensor("ids"), np.asarray(encoded.ids), strict=True)
        described = json.loads(file.metadata()["unrolled"])
    assert list(described) == ["format_version", "corpus", "data", "tokenizer", "parts"]
    assert described["parts"] == list(encoded.parts)
    assert sum(encoded.parts) == len(encoded.ids)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"level": "word"}, "level: got 'word', but 0.txt was encoded with 'char'; encode it anew"),
        ({"split": (0.8, 0.1, 0.1)}, "split: got"),
        ({"unknown": "skip"}, "unknown: got 'skip'"),
        ({"batching": "records"}, "batching: a .tokens file is a stream"),
    ],
)
def test_settings_that_decided_the_ids_are_kept(tmp_path: Path, asked: dict[str, Any], message: str) -> None:
    _, encoded = written(tmp_path, CONFIGS["char"])
    assert encoded.settle(DataConfig(batch_size=9)) == replace(CONFIGS["char"], batch_size=9, length=64)
    with pytest.raises(ConfigError, match=message):
        encoded.prepare(replace(DataConfig(), **asked))


@pytest.mark.parametrize("piece", [2, 1 << 22])
@pytest.mark.parametrize("train", [0.6, 0.625, 0.65, 0.675, 0.7])
def test_parts_that_begin_within_a_character(
    tmp_path: Path, train: float, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut between a letter and its mark leaves the mark alone, in the file as in the data set of the text."""
    monkeypatch.setattr(pieces_module, "PIECE_CHARS", piece)
    text = "abe\u0301 " * 8
    config = DataConfig(batch_size=3, length=7, split=(train, 1 - train, 0.0), normalize="NFC")
    files, encoded = written(tmp_path, config, text)
    expected = prepare_dataset(read_corpus(files), config)
    assert encoded.tokenizer == expected.tokenizer
    assert ("\u0301" in encoded.tokenizer.vocabulary) == (round(40 * train) % 5 == 3)
    for part in ("train", "validation"):
        same(encoded.prepare(config).part(part), expected.part(part))


def test_the_format_of_the_file_is_that_of_its_tokenizer(tmp_path: Path) -> None:
    for name, version in (("char", 1), ("char NFC", 2), ("word", 2), ("word none", 1), ("whitespace", 2)):
        _, encoded = written(tmp_path, CONFIGS[name])
        with safe_open(tmp_path / "all.tokens", "numpy") as file:
            described = json.loads(file.metadata()["unrolled"])
        assert described["format_version"] == encoded.tokenizer.format_version == version
        assert described["data"].get("normalize", "none") == CONFIGS[name].normalization
        changed = (
            (tmp_path / "all.tokens")
            .read_bytes()
            .replace(f'\\"format_version\\": {version}'.encode(), f'\\"format_version\\": {3 - version}'.encode())
        )
        (tmp_path / "changed.tokens").write_bytes(changed)
        with pytest.raises(CorpusError, match=f"its tokenizer needs format {version}, not {3 - version}"):
            read_encoded(tmp_path / "changed.tokens")


def test_normalisation_is_one_of_the_settings_that_decided_the_ids(tmp_path: Path) -> None:
    _, encoded = written(tmp_path, CONFIGS["word none"])
    assert encoded.settle(DataConfig("word")).normalization == "none"
    with pytest.raises(ConfigError, match=r"normalize: got 'NFKC', but 0\.txt was encoded with 'none'"):
        encoded.prepare(DataConfig("word", normalize="NFKC"))


def test_what_cannot_be_encoded_is_a_named_error_and_leaves_what_was_there(tmp_path: Path) -> None:
    output = tmp_path / "out" / "all.tokens"
    output.parent.mkdir()
    output.write_bytes(b"before")
    (tmp_path / "bad.txt").write_bytes(b"abc" * 9 + b"\xff")
    (tmp_path / "none.txt").write_bytes(b"")
    (tmp_path / "a.txt").write_text("abcabc")
    for sources, config, message in (
        (["bad.txt"], DataConfig(), "is not utf-8"),
        (["none.txt"], DataConfig(), "holds no text"),
        (["gone.txt"], DataConfig(), "cannot be read"),
        ([], DataConfig(), "got none"),
        (["-"], DataConfig(), "needs plain text files"),
        (["a.csv"], DataConfig(), "needs plain text files"),
        (["a.txt"], DataConfig(batching="records"), "encode writes a stream"),
        (["a.txt"], DataConfig("word", vocab_size=1), "leaves no room"),
    ):
        with pytest.raises(UnrolledError, match=message):
            encode_files([name if name == "-" else tmp_path / name for name in sources], output, config)
        assert [path.name for path in output.parent.iterdir()] == ["all.tokens"]
        assert output.read_bytes() == b"before"
    with pytest.raises(CorpusError, match="not an encoding"):
        encode_files([tmp_path / "a.txt"], output, DataConfig(), "nonsense")
    encode_files([tmp_path / "a.txt"], output, DataConfig())
    with pytest.raises(CorpusError, match=r"too little text for the validation part .*; encode more text"):
        read_encoded(output).prepare(DataConfig())


def test_token_files_are_opened_alone(tmp_path: Path) -> None:
    files, encoded = written(tmp_path, CONFIGS["char"])
    path = tmp_path / "all.tokens"
    opened = open_corpus([str(path)], ReadOptions())
    assert isinstance(opened, EncodedCorpus)
    assert opened.digest == encoded.digest
    assert open_corpus(files, ReadOptions()) == read_corpus(files)
    with pytest.raises(CorpusError, match=r"a \.tokens file holds ids"):
        open_corpus([path], ReadOptions(column="x"))
    with pytest.raises(CorpusError, match="holds ids, which train and eval read, alone"):
        open_corpus([path, *files], ReadOptions())


def test_every_damage_is_a_named_error(tmp_path: Path) -> None:
    written(tmp_path, CONFIGS["char"])
    path = tmp_path / "all.tokens"
    whole = path.read_bytes()
    (room,) = struct.unpack("<Q", whole[:8])
    header = whole[8 : 8 + room]
    damaged = [whole[:n] for n in (0, 7, 8, 100, 8 + room, len(whole) - 1)]
    damaged += [whole + b"\0", b"\xff" * 8 + whole[8:], whole[:-1] + b"\xff"]
    for old, new in (
        (b'"U8"', b'"F8"'),
        (rb"\"format_version\": 1", rb"\"format_version\": 2"),
        (rb"\"level\": \"char\"", rb"\"level\": \"cha!\""),
        (rb"\"parts\": [", rb"\"parts\": -"),
        (b'"ids"', b'"idz"'),
    ):
        assert old in header
        damaged.append(whole[:8] + header.replace(old, new) + whole[8 + room :])
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(CorpusError, match=r"all\.tokens"):
            read_encoded(path)
    path.write_bytes(whole)
    assert read_encoded(path).characters == len(TEXT)
    with pytest.raises(CorpusError, match="cannot be read"):
        read_encoded(tmp_path / "none.tokens")


@pytest.mark.parametrize("size", [1, 3, 50])
def test_pieces_are_cut_where_words_end(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = [TEXT[i : i + size] for i in range(0, len(TEXT), size)]
    pieces = list(whole_words(chunks, BpeTokenizer.word_boundary))
    assert "".join(pieces) == TEXT
    assert len(pieces) > 20
    assert all(before[-1:] != " " and after[:1].isspace() for before, after in itertools.pairwise(pieces))
    monkeypatch.setattr(pieces_module, "LONGEST_SEARCH", 2)
    assert "".join(whole_words(chunks, BpeTokenizer.word_boundary)) == TEXT


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_two_hundred_megabytes_need_little_memory(tmp_path: Path) -> None:
    """The text is many times larger than the growth of the process that encoding, opening and reading batches may cause."""
    source = tmp_path / "big.txt"
    line = "".join(chr(32 + (i * i + i // 7) % 90) for i in range(9_999)) + "\n"
    source.write_text(line * 20_000)
    begin = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from unrolled.engine.data.config import DataConfig\n"
        "from unrolled.engine.data.token_file_writer import encode_files\n"
        "from unrolled.engine.data.token_files import read_encoded\n"
        "said = lambda what: int(Path('/proc/self/status').read_text().split(what)[1].split()[0]) / 1024\n"
        "source, output = map(Path, sys.argv[1:])\n"
        "before, started = said('VmHWM:'), time.process_time()\n"
    )
    encode = (
        "encode_files([source], output, DataConfig())\n"
        "print(source.stat().st_size / 1e6 / (time.process_time() - started), said('VmHWM:') - before)"
    )
    train = (
        "batches = read_encoded(output).prepare(DataConfig(batch_size=64, length=256)).train.epoch(None)\n"
        "print(sum(next(batches).weight for _ in range(50)), said('VmHWM:') - before)"
    )

    def run(code: str) -> tuple[float, float]:
        command = [sys.executable, "-c", begin + code, str(source), str(tmp_path / "big.tokens")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        first, second = map(float, done.stdout.split())
        return first, second

    speed, encoding = run(encode)
    tokens, training = run(train)
    print(f"\n{speed:.0f} MB/s of processor time, {encoding:.0f} MiB more to encode, {training:.0f} MiB to train")
    assert tokens == 50 * 64 * 256
    assert encoding < 128
    assert training < 128  # including pages of the file, which the system may map as huge pages
    assert speed > 20  # 80 on an idle machine
