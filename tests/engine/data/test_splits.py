"""Splits: a text in order, records shuffled, parts that have nothing in common."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.engine.data.config import DataConfig
from unrolled.engine.data.corpus import Corpus
from unrolled.engine.data.dataset import prepare_dataset
from unrolled.engine.data.splits import check_fractions, split_corpus
from unrolled.engine.errors import ConfigError, CorpusError

PROPERTY = settings(derandomize=True, max_examples=80, deadline=None)


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


@pytest.mark.parametrize("split", [None, 1, 0.5, "x", (0.9, "a", 0.05), (0.9, None, 0.1)])
def test_what_is_no_list_of_fractions_is_named(split: Any) -> None:
    with pytest.raises(ConfigError, match=r"split: got .*, needs three fractions, for instance 0\.9"):
        DataConfig(split=split)


def test_good_fractions_come_back_as_floats() -> None:
    assert check_fractions([1, 0, 0]) == (1.0, 0.0, 0.0)
    assert check_fractions((0.7, 0.2, 0.1)) == (0.7, 0.2, 0.1)


def test_unknown_batching() -> None:
    with pytest.raises(ConfigError, match="batching: got 'lines', choose one of stream, records"):
        split_corpus(Corpus("t", "abc"), "lines")


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
    assert sum(map(len, parts)) == different  # so no record is in two parts
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
    text = "".join(chr(0x4E00 + i) for i in range(1000))  # distinct characters, so that any overlap shows
    data = prepare_dataset(Corpus("once", text), DataConfig(split=(0.7, 0.2, 0.1), batch_size=4, length=9))
    seen = []
    for part in (data.train, data.validation):
        assert part is not None
        seen.append({int(i) for b in part.epoch(None) for i in (*b.inputs["tokens"].flat, *b.targets.flat)})
    assert len(seen[0]) > 690
    assert len(seen[1]) > 190
    assert not seen[0] & seen[1]
