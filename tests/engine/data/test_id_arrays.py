"""Large arrays of ids: mapped from a temporary file that is removed, and equal to those in memory."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from batch_checks import rows

from unrolled.engine.data import id_arrays
from unrolled.engine.data.corpus import builtin_corpus
from unrolled.engine.data.records import RecordBatches, encode_records
from unrolled.engine.data.streams import StreamBatches, encode_stream
from unrolled.engine.errors import UnknownTokenError
from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.engine.tokenizers.vocabulary import BOS, EOS, UNK
from unrolled.engine.tokenizers.words import WordTokenizer


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Allow ten bytes of ids in memory, and return the folder of the temporary files."""
    monkeypatch.setattr(id_arrays, "MEMORY_LIMIT", 10)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_ids_up_to_the_limit_stay_in_memory(small_memory: Path) -> None:
    assert type(encode_stream("a" * 10, CharTokenizer("a"))) is np.ndarray
    assert type(encode_stream("a" * 11, CharTokenizer("a"))) is np.memmap
    wide = CharTokenizer([chr(0x4E00 + i) for i in range(257)])
    assert type(encode_stream(chr(0x4E00) * 5, wide)) is np.ndarray
    assert type(encode_stream(chr(0x4E00) * 6, wide)) is np.memmap


@pytest.mark.parametrize("piece", [1, 7, 1000])
@pytest.mark.parametrize(
    "tokenizer", [CharTokenizer.fit("abc \n"), WordTokenizer.fit("a b c ab", vocab_size=3)], ids=["char", "word"]
)
def test_mapped_stream_equals_the_one_in_memory(
    tokenizer: CharTokenizer | WordTokenizer, piece: int, small_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unrolled.engine.tokenizers.pieces.PIECE_CHARS", piece)
    text = "".join(np.random.default_rng(0).choice(list("abc \n"), 400))
    ids = encode_stream(text, tokenizer)
    assert type(ids) is np.memmap
    np.testing.assert_array_equal(np.asarray(ids), tokenizer.encode(text).astype(np.uint8), strict=True)
    assert list(small_memory.iterdir()) == []
    mapped = list(StreamBatches(ids, 3, 5).epoch(None))
    plain = list(StreamBatches(np.array(ids), 3, 5).epoch(None))
    for a, b in zip(mapped, plain, strict=True):
        np.testing.assert_array_equal(a.inputs["tokens"], b.inputs["tokens"], strict=True)
        np.testing.assert_array_equal(a.targets, b.targets, strict=True)
        assert type(a.inputs["tokens"]) is np.ndarray


def test_mapped_records_equal_those_in_memory(small_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = CharTokenizer.fit("abc", specials=(BOS, EOS))
    records = ["abc", "", "cab", "b" * 9]
    ids, starts = encode_records(records, tokenizer)
    assert type(ids) is np.memmap
    assert list(small_memory.iterdir()) == []
    monkeypatch.setattr(id_arrays, "MEMORY_LIMIT", 1000)
    plain_ids, plain_starts = encode_records(records, tokenizer)
    assert type(plain_ids) is np.ndarray
    np.testing.assert_array_equal(np.asarray(ids), plain_ids, strict=True)
    np.testing.assert_array_equal(starts, plain_starts, strict=True)
    assert rows(RecordBatches(ids, starts, 2, 5), None) == rows(RecordBatches(plain_ids, starts, 2, 5), None)


def test_mapped_stream_without_any_token_is_empty(small_memory: Path) -> None:
    ids = encode_stream("?" * 40, WordTokenizer([UNK, "a"]))
    np.testing.assert_array_equal(np.asarray(ids), np.zeros(0, np.uint8), strict=True)
    assert list(small_memory.iterdir()) == []


def test_failed_encoding_leaves_no_file(small_memory: Path) -> None:
    with pytest.raises(UnknownTokenError):
        encode_stream("a" * 30 + "b", CharTokenizer("a"))
    assert list(small_memory.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", [CharTokenizer, WordTokenizer])
def test_one_hundred_megabytes(
    kind: type[CharTokenizer] | type[WordTokenizer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """About 100 MB of repeated text become compact, mapped ids that repeat those of one copy."""
    monkeypatch.setattr(id_arrays, "MEMORY_LIMIT", 64 * 2**20)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    one = builtin_corpus().text
    copies = -(-100_000_000 // len(one))
    text = one * copies
    tokenizer = kind.fit(one)
    expected = tokenizer.encode(one)
    start = time.perf_counter()
    ids = encode_stream(text, tokenizer)
    print(f"\n{tokenizer.level}: {len(text):,} characters to {len(ids):,} ids in {time.perf_counter() - start:.1f} s")
    assert type(ids) is np.memmap
    assert ids.dtype == (np.uint8 if kind is CharTokenizer else np.uint16)
    assert len(ids) == copies * len(expected)
    assert (np.asarray(ids).reshape(copies, -1) == expected).all()
    assert list(tmp_path.iterdir()) == []
