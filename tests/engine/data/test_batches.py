"""Batches: exact arrays of lanes and records, splits, memory mapping, and a corpus made ready."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.engine.data import id_arrays
from unrolled.engine.data.batches import Batch, Batches
from unrolled.engine.data.corpus import Corpus, builtin_corpus
from unrolled.engine.data.data_config import DataConfig
from unrolled.engine.data.dataset import make_batches, prepare_dataset
from unrolled.engine.data.dataset_warnings import dataset_warnings, small_validation_warning
from unrolled.engine.data.records import RecordBatches, encode_records
from unrolled.engine.data.splits import check_fractions, split_corpus
from unrolled.engine.data.streams import StreamBatches, encode_stream
from unrolled.engine.errors import ConfigError, CorpusError, UnknownTokenError
from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.engine.tokenizers.vocabulary import BOS, EOS, UNK
from unrolled.engine.tokenizers.words import WordTokenizer

PROPERTY = settings(derandomize=True, max_examples=80, deadline=None)

# three records behind each other, <bos> = 1, <eos> = 2
RECORD_IDS = np.array([1, 10, 11, 12, 2, 1, 20, 2, 1, 30, 31, 2], np.uint8)
RECORD_STARTS = np.array([0, 5, 8, 12])


def check(batch: Batch, inputs: list, targets: list, mask: list, carry: bool) -> None:
    """Exact values and dtypes of one batch."""
    np.testing.assert_array_equal(batch.inputs, np.array(inputs, np.int64), strict=True)
    np.testing.assert_array_equal(batch.targets, np.array(targets, np.int64), strict=True)
    np.testing.assert_array_equal(batch.mask, np.array(mask, np.bool_), strict=True)
    assert batch.carry is carry


def check_totals(batches: Batches) -> None:
    """What a data set says of an epoch is what its epochs hold, shuffled or not."""
    for rng in (None, np.random.default_rng(5)):
        epoch = list(batches.epoch(rng))
        assert len(epoch) == batches.batches_per_epoch
        assert sum(batch.tokens for batch in epoch) == batches.tokens_per_epoch


GOOD = Batch(np.array([[1], [2]]), np.array([[2], [3]]), np.array([[True], [False]]), carry=True)


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": np.array([[1], [9]])},
        {"inputs": np.array([[1], [2]], np.int32)},
        {"targets": np.array([[2, 3]])},
        {"mask": np.array([[True], [True]])},
        {"mask": np.array([[1], [0]])},
        {"carry": False},
    ],
)
def test_check_can_fail(change: dict[str, Any]) -> None:
    check(GOOD, [[1], [2]], [[2], [3]], [[1], [0]], True)
    with pytest.raises(AssertionError):
        check(GOOD._replace(**change), [[1], [2]], [[2], [3]], [[1], [0]], True)


@pytest.mark.parametrize(("count", "tokens"), [(2, 1), (1, 2), (0, 1)])
def test_check_totals_can_fail(count: int, tokens: int) -> None:
    class Claims:
        def __init__(self, count: int, tokens: int) -> None:
            self.batches_per_epoch, self.tokens_per_epoch = count, tokens

        def epoch(self, rng: np.random.Generator | None) -> Iterator[Batch]:
            yield GOOD

    check_totals(Claims(1, 1))
    with pytest.raises(AssertionError):
        check_totals(Claims(count, tokens))


# streams


def test_stream_exact_lanes_chunks_and_carry() -> None:
    batches = StreamBatches(np.arange(11, dtype=np.uint8), batch_size=2, length=2)
    first, second, third = batches.epoch(None)
    ones = [[1, 1], [1, 1]]
    check(first, [[0, 5], [1, 6]], [[1, 6], [2, 7]], ones, False)
    check(second, [[2, 7], [3, 8]], [[3, 8], [4, 9]], ones, True)
    check(third, [[4, 9]], [[5, 10]], [[1, 1]], True)
    assert (batches.batches_per_epoch, batches.tokens_per_epoch) == (3, 10)
    assert [batch.tokens for batch in (first, second, third)] == [4, 4, 2]
    np.testing.assert_array_equal(third.lengths, np.array([1, 1]), strict=True)


def test_stream_leaves_out_fewer_tokens_than_lanes() -> None:
    batches = StreamBatches(np.arange(9, dtype=np.uint16), batch_size=3, length=10)
    (only,) = batches.epoch(None)
    check(only, [[0, 2, 4], [1, 3, 5]], [[1, 3, 5], [2, 4, 6]], [[1, 1, 1], [1, 1, 1]], False)
    assert batches.tokens_per_epoch == 6


def test_stream_with_more_lanes_than_tokens() -> None:
    batches = StreamBatches(np.array([7, 8, 9], np.uint8), batch_size=32, length=64)
    (only,) = batches.epoch(None)
    check(only, [[7, 8]], [[8, 9]], [[1, 1]], False)
    assert (batches.batches_per_epoch, batches.tokens_per_epoch) == (1, 2)


def test_stream_of_two_tokens_is_one_prediction() -> None:
    (only,) = StreamBatches(np.array([4, 6], np.uint8), 1, 1).epoch(None)
    check(only, [[4]], [[6]], [[1]], False)


@pytest.mark.parametrize("n", [0, 1])
def test_stream_too_short(n: int) -> None:
    with pytest.raises(CorpusError, match=f"a stream needs at least two tokens, got {n}"):
        StreamBatches(np.zeros(n, np.uint8), 1, 1)


@pytest.mark.parametrize(
    ("batch_size", "length", "name"), [(0, 1, "batch_size"), (1, 0, "length"), (-1, 1, "batch_size")]
)
def test_sizes_below_one(batch_size: int, length: int, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: got .*, needs at least 1"):
        StreamBatches(np.arange(5), batch_size, length)
    with pytest.raises(ConfigError, match=f"{name}: got .*, needs at least 1"):
        RecordBatches(RECORD_IDS, RECORD_STARTS, batch_size, length)


def test_stream_order_does_not_depend_on_the_generator() -> None:
    batches = StreamBatches(np.arange(20, dtype=np.uint8), 3, 4)
    for got, expected in zip(batches.epoch(np.random.default_rng(0)), batches.epoch(None), strict=True):
        np.testing.assert_array_equal(got.inputs, expected.inputs, strict=True)
        np.testing.assert_array_equal(got.targets, expected.targets, strict=True)


@PROPERTY
@given(st.integers(2, 120), st.integers(1, 12), st.integers(1, 12))
def test_stream_predicts_every_token_once(n: int, batch_size: int, length: int) -> None:
    batches = StreamBatches(np.arange(n, dtype=np.uint8), batch_size, length)
    epoch = list(batches.epoch(None))
    check_totals(batches)
    lanes = np.concatenate([batch.inputs for batch in epoch])
    targets = np.concatenate([batch.targets for batch in epoch])
    kept = lanes.size
    assert n - 1 - lanes.shape[1] < kept <= n - 1
    np.testing.assert_array_equal(lanes.T.ravel(), np.arange(kept), strict=True)
    np.testing.assert_array_equal(targets, lanes + 1, strict=True)
    assert [batch.carry for batch in epoch] == [False] + [True] * (len(epoch) - 1)
    assert all(len(batch.inputs) == length for batch in epoch[:-1])
    assert 1 <= len(epoch[-1].inputs) <= length
    assert all(batch.mask.all() for batch in epoch)


# records


def test_record_batches_exact_padding_and_mask() -> None:
    batches = RecordBatches(RECORD_IDS, RECORD_STARTS, batch_size=2, length=10)
    first, second = batches.epoch(None)
    check(
        first,
        [[1, 1], [10, 20], [11, 0], [12, 0]],
        [[10, 20], [11, 2], [12, 0], [2, 0]],
        [[1, 1], [1, 1], [1, 0], [1, 0]],
        False,
    )
    check(second, [[1], [30], [31]], [[30], [31], [2]], [[1], [1], [1]], False)
    assert (batches.batches_per_epoch, batches.tokens_per_epoch) == (2, 9)
    assert first.tokens == 6
    np.testing.assert_array_equal(first.lengths, np.array([4, 2]), strict=True)


def test_record_longer_than_length_is_cut() -> None:
    batches = RecordBatches(RECORD_IDS, RECORD_STARTS, batch_size=3, length=2)
    (only,) = batches.epoch(None)
    check(only, [[1, 1, 1], [10, 20, 30]], [[10, 20, 30], [11, 2, 31]], [[1, 1, 1], [1, 1, 1]], False)
    assert batches.tokens_per_epoch == 6


def test_record_without_text_is_one_prediction() -> None:
    batches = RecordBatches(np.array([1, 2], np.uint8), np.array([0, 2]), 4, 8)
    (only,) = batches.epoch(None)
    check(only, [[1]], [[2]], [[1]], False)


def test_no_records() -> None:
    with pytest.raises(CorpusError, match="there is no record to read"):
        RecordBatches(np.zeros(0, np.uint8), np.array([0]), 1, 1)


def rows(batches: RecordBatches, rng: np.random.Generator | None) -> list[tuple[int, ...]]:
    """Each record as it comes out: its first input and its targets, padding left out."""
    return [
        (int(batch.inputs[0, b]), *map(int, batch.targets[batch.mask[:, b], b]))
        for batch in batches.epoch(rng)
        for b in range(batch.inputs.shape[1])
    ]


def test_shuffling_permutes_whole_records() -> None:
    records = [f"{a}{b}" * (1 + (a * b) % 3) for a in range(6) for b in range(6)]
    ids, starts = encode_records(records, CharTokenizer.fit("0123456789", specials=(BOS, EOS)))
    batches = RecordBatches(ids, starts, batch_size=5, length=50)
    in_order = [tuple(int(i) for i in ids[a:b]) for a, b in pairwise(starts)]
    assert rows(batches, None) == in_order
    shuffled = rows(batches, np.random.default_rng(3))
    assert shuffled != in_order
    assert sorted(shuffled) == sorted(in_order)
    assert rows(batches, np.random.default_rng(3)) == shuffled
    rng = np.random.default_rng(3)
    assert rows(batches, rng) == shuffled
    assert rows(batches, rng) != shuffled


def padding(batches: RecordBatches, rng: np.random.Generator | None) -> float:
    sizes = [(batch.mask.size, batch.tokens) for batch in batches.epoch(rng)]
    return 1 - sum(tokens for _, tokens in sizes) / sum(size for size, _ in sizes)


def lists_of_all_lengths(records: int = 3_000) -> RecordBatches:
    """Records of 1 to 39 predictions, each of its own ids."""
    sizes = np.random.default_rng(5).integers(2, 41, records)
    return RecordBatches(np.arange(sizes.sum()) % 251, np.concatenate([[0], np.cumsum(sizes)]), 16, 40)


def test_records_of_one_length_share_a_batch_and_little_is_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = lists_of_all_lengths()
    assert padding(batches, np.random.default_rng(0)) < 0.04
    monkeypatch.setattr("unrolled.engine.data.records.BUCKET_BATCHES", 1)
    assert padding(batches, np.random.default_rng(0)) > 0.4


def test_epochs_have_other_batches_in_an_order_that_says_nothing_of_lengths() -> None:
    batches = lists_of_all_lengths()
    epochs = [list(batches.epoch(np.random.default_rng(seed))) for seed in range(2)]
    first, second = ({batch.inputs.tobytes() for batch in epoch} for epoch in epochs)
    assert len(first) == len(second) == batches.batches_per_epoch
    assert len(first & second) < 0.05 * len(first)
    steps = np.array([len(batch.inputs) for batch in epochs[0]], float)
    assert abs(np.corrcoef(steps[:-1], steps[1:])[0, 1]) < 0.2
    assert sorted(rows(batches, np.random.default_rng(1))) == sorted(rows(batches, None))


RECORDS = st.lists(st.text(st.sampled_from("ab"), max_size=7), min_size=1, max_size=15)


@PROPERTY
@given(RECORDS, st.integers(1, 6), st.integers(1, 9), st.integers(0, 3))
def test_record_batches_hold_each_record(records: list[str], batch_size: int, length: int, seed: int) -> None:
    tokenizer = CharTokenizer.fit("ab", specials=(BOS, EOS))
    batches = make_batches(tuple(records), tokenizer, batch_size, length)
    assert isinstance(batches, RecordBatches)
    check_totals(batches)
    expected = [(0, *(2 + "ab".index(c) for c in r), 1)[: length + 1] for r in records]
    assert rows(batches, None) == expected
    assert sorted(rows(batches, np.random.default_rng(seed))) == sorted(expected)
    for batch in batches.epoch(None):
        assert len(batch.inputs) == batch.lengths.max()
        assert not batch.carry
        assert not batch.inputs[~batch.mask].any()
        assert not batch.targets[~batch.mask].any()
        np.testing.assert_array_equal(batch.inputs[1:][batch.mask[1:]], batch.targets[:-1][batch.mask[1:]])


# encoding


def test_encode_stream_exact() -> None:
    np.testing.assert_array_equal(
        encode_stream("cabba", CharTokenizer("abc")), np.array([2, 0, 1, 1, 0], np.uint8), strict=True
    )
    np.testing.assert_array_equal(encode_stream("", CharTokenizer("abc")), np.zeros(0, np.uint8), strict=True)
    wide = WordTokenizer([UNK, *(f"w{i}" for i in range(300))])
    np.testing.assert_array_equal(encode_stream("w299 w0 no", wide), np.array([300, 1, 0], np.uint16), strict=True)


def test_encode_records_exact() -> None:
    tokenizer = CharTokenizer.fit("ab", specials=(BOS, EOS))
    ids, starts = encode_records(["ab", "", "b"], tokenizer)
    np.testing.assert_array_equal(ids, np.array([0, 2, 3, 1, 0, 1, 0, 3, 1], np.uint8), strict=True)
    np.testing.assert_array_equal(starts, np.array([0, 4, 6, 9]), strict=True)


def test_encode_no_records() -> None:
    ids, starts = encode_records([], CharTokenizer.fit("ab", specials=(BOS, EOS)))
    np.testing.assert_array_equal(ids, np.zeros(0, np.uint8), strict=True)
    np.testing.assert_array_equal(starts, np.array([0]), strict=True)


@pytest.mark.parametrize("specials", [(), (BOS,), (EOS,)])
def test_encode_records_needs_both_ends(specials: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="records need <bos> and <eos> in the vocabulary"):
        encode_records(["a"], CharTokenizer.fit("a", specials=specials))


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Ten bytes of ids in memory; the folder that takes the rest."""
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
        np.testing.assert_array_equal(a.inputs, b.inputs, strict=True)
        np.testing.assert_array_equal(a.targets, b.targets, strict=True)
        assert type(a.inputs) is np.ndarray


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


def test_failed_encoding_leaves_no_file_behind(small_memory: Path) -> None:
    with pytest.raises(UnknownTokenError):
        encode_stream("a" * 30 + "b", CharTokenizer("a"))
    assert list(small_memory.iterdir()) == []


# splits


def test_text_is_split_in_order() -> None:
    text = "".join(chr(97 + i % 26) for i in range(100))
    assert split_corpus(Corpus("t", text), "stream") == (text[:90], text[90:95], text[95:])
    assert split_corpus(Corpus("t", text), "stream", (0.5, 0.25, 0.25), seed=9) == (text[:50], text[50:75], text[75:])
    assert split_corpus(Corpus("t", text), "stream", (1, 0, 0)) == (text, "", "")


def test_records_as_a_stream_are_split_as_text() -> None:
    corpus = Corpus("r", ("abcd", "efgh", "i"))
    assert split_corpus(corpus, "stream", (0.5, 0.5, 0)) == ("abcd\ne"[:6], "fgh\ni", "")


def test_records_are_shuffled_by_the_seed_then_split() -> None:
    records = tuple(f"r{i}" for i in range(40))
    split = split_corpus(Corpus("r", records), "records", (0.5, 0.25, 0.25), seed=1)
    order = np.random.default_rng(1).permutation(40)
    assert split.train == tuple(records[i] for i in order[:20])
    assert split.validation == tuple(records[i] for i in order[20:30])
    assert split.test == tuple(records[i] for i in order[30:])
    assert split_corpus(Corpus("r", records), "records", (0.5, 0.25, 0.25), seed=1) == split
    assert split_corpus(Corpus("r", records), "records", (0.5, 0.25, 0.25), seed=2) != split


def test_lines_of_a_text_as_records() -> None:
    split = split_corpus(Corpus("t", "a\n\nb\nc\n"), "records", (1, 0, 0))
    assert sorted(split.train) == ["a", "b", "c"]
    assert (split.validation, split.test) == ((), ())


@PROPERTY
@given(
    st.integers(1, 200),
    st.integers(1, 20),
    st.integers(0, 20),
    st.integers(0, 20),
    st.sampled_from(["stream", "records"]),
)
def test_parts_are_disjoint_and_together_everything(n: int, a: int, b: int, c: int, batching: str) -> None:
    total = a + b + c
    fractions = (a / total, b / total, c / total)
    content = tuple(map(chr, range(0x4E00, 0x4E00 + n)))
    corpus = Corpus("x", "".join(content) if batching == "stream" else content)
    train, validation, test = split_corpus(corpus, batching, fractions)
    joined = [*train, *validation, *test]
    assert joined == list(content) if batching == "stream" else sorted(joined) == list(content)
    for part, fraction in ((train, fractions[0]), (validation, fractions[1]), (test, fractions[2])):
        assert abs(len(part) - fraction * n) <= 1
        assert fraction > 0 or len(part) == 0


@pytest.mark.parametrize(
    "fractions",
    [
        (0.9, 0.1),
        (0.25, 0.25, 0.25, 0.25),
        (),
        (0.9, 0.2, -0.1),
        (0, 0.5, 0.5),
        (0.8, 0.1, 0.05),
        (90, 5, 5),
        (float("inf"), 0, 0),
        (float("nan"), 0.05, 0.05),
        (0.9, float("nan"), 0.1),
    ],
)
def test_bad_fractions(fractions: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=r"split: got .*; needs three fractions"):
        check_fractions(fractions)
    with pytest.raises(ConfigError, match="split: got"):
        DataConfig(split=fractions)


def test_good_fractions_come_back_as_floats() -> None:
    assert check_fractions([1, 0, 0]) == (1.0, 0.0, 0.0)
    assert check_fractions((0.7, 0.2, 0.1)) == (0.7, 0.2, 0.1)


def test_unknown_batching() -> None:
    with pytest.raises(ConfigError, match="batching: got 'lines', choose one of stream, records"):
        split_corpus(Corpus("t", "abc"), "lines")


# prepare


def tokens(batches: Batches | None) -> int:
    assert batches is not None
    return batches.tokens_per_epoch


def test_prepare_characters_come_from_the_whole_corpus() -> None:
    data = prepare_dataset(
        Corpus("t", "ab" * 40 + "cd" * 5 + "xyzzyxyzzy"), DataConfig(split=(0.8, 0.1, 0.1), batch_size=2)
    )
    assert isinstance(data.tokenizer, CharTokenizer)
    assert data.tokenizer.vocabulary == ("a", "b", "c", "d", "x", "y", "z")
    assert data.tokenizer.unknown == "error"
    assert isinstance(data.train, StreamBatches)
    np.testing.assert_array_equal(data.train.ids, np.array([0, 1] * 40, np.uint8), strict=True)
    assert isinstance(data.test, StreamBatches)
    np.testing.assert_array_equal(data.test.ids, np.array([4, 5, 6, 6, 5] * 2, np.uint8), strict=True)
    assert (tokens(data.train), tokens(data.validation), tokens(data.test)) == (78, 8, 8)


def test_prepare_words_come_from_the_training_part_only() -> None:
    data = prepare_dataset(
        Corpus("t", "b b a " * 10 + "newer word a b " * 4), DataConfig("word", split=(0.5, 0.25, 0.25))
    )
    assert data.tokenizer.vocabulary == (UNK, "b", "a")
    assert isinstance(data.test, StreamBatches)
    np.testing.assert_array_equal(data.test.ids, np.array([0, 0, 2, 1] * 2, np.uint8), strict=True)


def test_prepare_word_options_reach_the_vocabulary() -> None:
    config = DataConfig("word", split=(1, 0, 0), lowercase=False, punctuation=True, vocab_size=4, unknown="skip")
    data = prepare_dataset(Corpus("t", "A a A . . . b"), config)
    assert data.tokenizer == WordTokenizer([".", "A", "a", "b"], "skip", False, True)


def test_prepare_character_options_reach_the_vocabulary() -> None:
    config = DataConfig(split=(1, 0, 0), lowercase=True, unknown="replace")
    assert prepare_dataset(Corpus("t", "AaB"), config).tokenizer == CharTokenizer([UNK, "a", "b"], "replace", True)


def test_prepare_records_get_bos_and_eos() -> None:
    data = prepare_dataset(Corpus("r", ("ab", "b")), DataConfig(batching="records", split=(1, 0, 0), batch_size=1))
    assert data.tokenizer.vocabulary == (BOS, EOS, "a", "b")
    assert isinstance(data.train, RecordBatches)
    assert sorted(rows(data.train, None)) == [(0, 2, 3, 1), (0, 3, 1)]
    assert (data.validation, data.test) == (None, None)


def test_prepare_word_records() -> None:
    config = DataConfig("word", "records", split=(1, 0, 0))
    data = prepare_dataset(Corpus("r", ("b a", "b")), config)
    assert data.tokenizer.vocabulary == (UNK, BOS, EOS, "b", "a")
    assert isinstance(data.train, RecordBatches)
    assert sorted(rows(data.train, None)) == [(1, 3, 2), (1, 3, 4, 2)]


def test_prepare_with_a_tokenizer_that_is_given() -> None:
    tokenizer = CharTokenizer("zab")
    data = prepare_dataset(Corpus("t", "abba"), DataConfig(split=(1, 0, 0)), tokenizer)
    assert data.tokenizer is tokenizer
    assert isinstance(data.train, StreamBatches)
    np.testing.assert_array_equal(data.train.ids, np.array([1, 2, 2, 1], np.uint8), strict=True)


@pytest.mark.parametrize(
    ("content", "config", "part"),
    [
        ("a", DataConfig(), "train"),
        ("a" * 20, DataConfig(), "validation"),
        ("a" * 12, DataConfig(split=(0.8, 0.2, 0)), None),
        ("a" * 12, DataConfig(split=(0.9, 0, 0.1)), "test"),
        (("a", "b", "c"), DataConfig(batching="records"), "validation"),
        ("one two three four", DataConfig("word"), "validation"),
        ("......", DataConfig("word"), "train"),
        ("......", DataConfig("word", unknown="error"), "train"),
        ("......", DataConfig("word", unknown="skip"), "train"),
    ],
)
def test_prepare_names_the_part_that_is_too_short(
    content: str | tuple[str, ...], config: DataConfig, part: str | None
) -> None:
    if part is None:
        assert prepare_dataset(Corpus("tiny.txt", content), config).test is None
        return
    with pytest.raises(CorpusError, match=rf"^tiny\.txt: too little text for the {part} part \(.*add text or change"):
        prepare_dataset(Corpus("tiny.txt", content), config)


def test_data_config_refuses_what_does_not_go_together() -> None:
    with pytest.raises(ConfigError, match="level: got 'byte', choose one of char, word, bpe"):
        DataConfig("byte")
    refused: list[tuple[dict[str, Any], str]] = [
        ({"vocab_size": 10}, "vocab_size: goes with level 'word' or 'bpe', and not with 'char'"),
        ({"punctuation": True}, "punctuation: goes with level 'word', and not with 'char'"),
        ({"level": "bpe", "punctuation": True}, "punctuation: goes with level 'word', and not with 'bpe'"),
        ({"level": "bpe", "unknown": "skip"}, "unknown: goes with level 'char' or 'word', and not with 'bpe'"),
    ]
    for options, message in refused:
        with pytest.raises(ConfigError, match=message):
            DataConfig(**options)


def test_data_config_to_dict_is_the_inverse_of_its_arguments() -> None:
    config = DataConfig("word", "records", 4, 8, (0.8, 0.1, 0.1), True, True, 50, "skip", 7)
    values = config.to_dict()
    assert values["split"] == [0.8, 0.1, 0.1]
    assert DataConfig(**{**values, "split": tuple(values["split"])}) == config


@pytest.mark.slow
@pytest.mark.parametrize("kind", [CharTokenizer, WordTokenizer])
def test_one_hundred_megabytes(
    kind: type[CharTokenizer] | type[WordTokenizer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """About 100 MB of text become compact, mapped ids that repeat those of one copy."""
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


@pytest.mark.parametrize("seed", range(5))
def test_no_record_is_in_two_parts_even_where_a_list_repeats_itself(seed: int) -> None:
    records = [f"name {number % 150}" for number in range(200)]
    split = split_corpus(Corpus("names", "\n".join(records)), "records", (0.6, 0.2, 0.2), seed)
    parts = [set(part) for part in split]
    assert parts[0] | parts[1] | parts[2] == set(records)
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]
    assert sum(map(len, split)) == 200


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fractions", [(0.9, 0.05, 0.05), (0.02, 0.49, 0.49), (0.9, 0.1, 0), (0.5, 0, 0.5), (1, 0, 0)])
@pytest.mark.parametrize("different", [3, 4, 20])
def test_no_record_is_in_two_parts_even_where_few_are_different(
    different: int, fractions: tuple[float, ...], seed: int
) -> None:
    records = [f"name {number % different}" for number in range(600)]
    split = split_corpus(Corpus("names", "\n".join(records)), "records", fractions, seed)
    parts = [set(part) for part in split]
    assert sum(map(len, split)) == 600
    assert sum(map(len, parts)) == different  # so none is in two
    assert [bool(part) for part in parts] == [fraction > 0 for fraction in fractions]
    assert split == split_corpus(Corpus("names", "\n".join(records)), "records", fractions, seed)


def test_few_different_records_are_shared_out_as_the_parts_are_large() -> None:
    text = "\n".join(f"name {number % 20}" for number in range(6000))
    sizes = [len(set(part)) for part in split_corpus(Corpus("names", text), "records", (0.6, 0.3, 0.1))]
    assert sizes == [12, 6, 2]


@pytest.mark.parametrize(
    ("different", "message"), [(1, "only 1 different one, too few for 3"), (2, "only 2 different ones")]
)
def test_fewer_different_records_than_parts_are_an_error(different: int, message: str) -> None:
    corpus = Corpus("c", "".join(f"name {number % different}\n" for number in range(300)))
    with pytest.raises(CorpusError, match=f"the 300 records are {message}"):
        prepare_dataset(corpus, DataConfig(batching="records"))
    assert prepare_dataset(corpus, DataConfig(batching="records", split=(1, 0, 0))).validation is None


def test_a_validation_stream_begins_where_training_ends() -> None:
    text = "".join(chr(0x4E00 + i) for i in range(1000))  # no character twice, so that any overlap shows
    data = prepare_dataset(Corpus("once", text), DataConfig(split=(0.7, 0.2, 0.1), batch_size=4, length=9))
    seen = []
    for part in (data.train, data.validation):
        assert part is not None
        seen.append({int(i) for b in part.epoch(None) for i in (*b.inputs.flat, *b.targets.flat)})
    assert len(seen[0]) > 690
    assert len(seen[1]) > 190
    assert not seen[0] & seen[1]


def test_a_small_validation_is_doubted() -> None:
    def of(characters: int, batching: str = "stream") -> str | None:
        text = (
            ("abcdefghi\n" * characters)[:characters]
            if batching == "stream"
            else "\n".join(f"{n:09}" for n in range(characters // 10))
        )
        data = prepare_dataset(Corpus("c", text), DataConfig(split=(0.5, 0.5, 0.0), batching=batching))
        return small_validation_warning(data)

    assert of(3000) is None
    assert "validation on 192 tokens says little: its loss has a standard error of about ±0.11" in str(of(400))
    assert of(3000, "records") is None
    assert "in 15 different records" in str(of(300, "records"))
    repeated = prepare_dataset(
        Corpus("c", "".join(f"name {n % 30:02}\n" for n in range(3000))),
        DataConfig(split=(0.5, 0.5, 0.0), batching="records"),
    )
    assert "validation on 120 tokens in 15 different records says little" in str(small_validation_warning(repeated))


def test_records_that_lose_their_end_are_told_of() -> None:
    def of(length: int, batching: str = "records") -> list[str]:
        text = "".join(f"{'x' * (number % 50)}{number:04}\n" for number in range(1000))
        return dataset_warnings(
            prepare_dataset(Corpus("c", text), DataConfig(batching=batching, length=length, split=(0.8, 0.1, 0.1)))
        )

    assert of(54) == of(8, "stream") == []  # 49, four digits and <eos>
    assert of(53) == [
        "20 of 1,000 records are longer than 53 tokens and lose their end, so that a model does not learn where such a one "
        "stops; --length 54 keeps all of them whole"
    ]
    assert of(10)[0].startswith("880 of 1,000 records")
