"""Streams: exact arrays of lanes and chunks, and every token predicted once."""

from __future__ import annotations

import numpy as np
import pytest
from batch_checks import check, check_totals
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.engine.data.streams import StreamBatches, encode_stream
from unrolled.engine.errors import CorpusError
from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.engine.tokenizers.vocabulary import UNK
from unrolled.engine.tokenizers.words import WordTokenizer

PROPERTY = settings(derandomize=True, max_examples=80, deadline=None)


def test_stream_exact_lanes_chunks_and_carry() -> None:
    batches = StreamBatches(np.arange(11, dtype=np.uint8), batch_size=2, length=2)
    first, second, third = batches.epoch(None)
    ones = [[1, 1], [1, 1]]
    check(first, [[0, 5], [1, 6]], [[1, 6], [2, 7]], ones, False)
    check(second, [[2, 7], [3, 8]], [[3, 8], [4, 9]], ones, True)
    check(third, [[4, 9]], [[5, 10]], [[1, 1]], True)
    assert (batches.batches_per_epoch, batches.tokens_per_epoch) == (3, 10)
    assert [batch.weight for batch in (first, second, third)] == [4, 4, 2]
    assert third.lengths is None


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


def test_stream_order_does_not_depend_on_the_generator() -> None:
    batches = StreamBatches(np.arange(20, dtype=np.uint8), 3, 4)
    for got, expected in zip(batches.epoch(np.random.default_rng(0)), batches.epoch(None), strict=True):
        np.testing.assert_array_equal(got.inputs["tokens"], expected.inputs["tokens"], strict=True)
        np.testing.assert_array_equal(got.targets, expected.targets, strict=True)


@PROPERTY
@given(st.integers(2, 120), st.integers(1, 12), st.integers(1, 12))
def test_stream_predicts_every_token_once(n: int, batch_size: int, length: int) -> None:
    batches = StreamBatches(np.arange(n, dtype=np.uint8), batch_size, length)
    epoch = list(batches.epoch(None))
    check_totals(batches)
    lanes = np.concatenate([batch.inputs["tokens"] for batch in epoch])
    targets = np.concatenate([batch.targets for batch in epoch])
    kept = lanes.size
    assert n - 1 - lanes.shape[1] < kept <= n - 1
    np.testing.assert_array_equal(lanes.T.ravel(), np.arange(kept), strict=True)
    np.testing.assert_array_equal(targets, lanes + 1, strict=True)
    assert [batch.carry for batch in epoch] == [False] + [True] * (len(epoch) - 1)
    assert all(len(batch.targets) == length for batch in epoch[:-1])
    assert 1 <= len(epoch[-1].targets) <= length
    assert all(batch.weights.all() for batch in epoch)


def test_encode_stream_exact() -> None:
    np.testing.assert_array_equal(
        encode_stream("cabba", CharTokenizer("abc")), np.array([2, 0, 1, 1, 0], np.uint8), strict=True
    )
    np.testing.assert_array_equal(encode_stream("", CharTokenizer("abc")), np.zeros(0, np.uint8), strict=True)
    wide = WordTokenizer([UNK, *(f"w{i}" for i in range(300))])
    np.testing.assert_array_equal(encode_stream("w299 w0 no", wide), np.array([300, 1, 0], np.uint16), strict=True)
