"""Records: exact arrays with padding and mask, shuffled as a whole, and little padding."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from batch_checks import check, check_totals, rows
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.engine.data.corpus import Corpus
from unrolled.engine.data.dataset import make_batches
from unrolled.engine.data.evaluation_batches import batches_to_score
from unrolled.engine.data.records import RecordBatches, encode_records
from unrolled.engine.data.streams import StreamBatches
from unrolled.engine.errors import ConfigError, CorpusError
from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.engine.tokenizers.vocabulary import BOS, EOS

PROPERTY = settings(derandomize=True, max_examples=80, deadline=None)

# Three records one after the other; <bos> is 1, <eos> is 2.
RECORD_IDS = np.array([1, 10, 11, 12, 2, 1, 20, 2, 1, 30, 31, 2], np.uint8)
RECORD_STARTS = np.array([0, 5, 8, 12])


@pytest.mark.parametrize(
    ("batch_size", "length", "name"), [(0, 1, "batch_size"), (1, 0, "length"), (-1, 1, "batch_size")]
)
def test_sizes_below_one(batch_size: int, length: int, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: got .*, needs at least 1"):
        StreamBatches(np.arange(5), batch_size, length)
    with pytest.raises(ConfigError, match=f"{name}: got .*, needs at least 1"):
        RecordBatches(RECORD_IDS, RECORD_STARTS, batch_size, length)


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
    assert first.weight == 6
    np.testing.assert_array_equal(first.weights.sum(axis=0), [4, 2])


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
    sizes = [(batch.weights.size, batch.weight) for batch in batches.epoch(rng)]
    return 1 - sum(tokens for _, tokens in sizes) / sum(size for size, _ in sizes)


def lists_of_all_lengths(records: int = 3_000) -> RecordBatches:
    """Return records of 1 to 39 predictions, each of distinct ids."""
    sizes = np.random.default_rng(5).integers(2, 41, records)
    return RecordBatches(np.arange(sizes.sum()) % 251, np.concatenate([[0], np.cumsum(sizes)]), 16, 40)


def test_records_of_one_length_share_a_batch_and_little_is_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = lists_of_all_lengths()
    assert padding(batches, np.random.default_rng(0)) < 0.04
    monkeypatch.setattr("unrolled.engine.data.records.BUCKET_BATCHES", 1)
    assert padding(batches, np.random.default_rng(0)) > 0.4


def test_epochs_have_other_batches_in_an_order_independent_of_lengths() -> None:
    batches = lists_of_all_lengths()
    epochs = [list(batches.epoch(np.random.default_rng(seed))) for seed in range(2)]
    first, second = ({batch.inputs["tokens"].tobytes() for batch in epoch} for epoch in epochs)
    assert len(first) == len(second) == batches.batches_per_epoch
    assert len(first & second) < 0.05 * len(first)
    steps = np.array([len(batch.targets) for batch in epochs[0]], float)
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
        tokens, counted = batch.inputs["tokens"], batch.weights
        assert len(tokens) == counted.sum(axis=0).max()
        assert not batch.carry
        assert not tokens[~counted].any()
        assert not batch.targets[~counted].any()
        np.testing.assert_array_equal(tokens[1:][counted[1:]], batch.targets[:-1][counted[1:]])


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


def test_no_record_of_an_evaluation_is_truncated() -> None:
    """Normalisation can give a record more characters than it has bytes."""
    records = ("\ufdfa" * 3, "ab")  # a ligature of 18 characters
    tokenizer = CharTokenizer.fit("".join(records), specials=(BOS, EOS), normalize="NFKD")
    batches = batches_to_score(Corpus("r", records), tokenizer, {})
    assert isinstance(batches, RecordBatches)
    assert batches.lengths.tolist() == [55, 3]
    longer = batches_to_score(Corpus("r", records), tokenizer, {}, length=20)
    assert isinstance(longer, RecordBatches)
    assert longer.lengths.tolist() == [20, 3]
