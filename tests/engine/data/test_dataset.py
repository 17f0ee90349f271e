"""Data sets for training: vocabulary, parts, settings, and warnings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from batch_checks import rows

from unrolled.engine.data.batches import Batches
from unrolled.engine.data.config import DataConfig
from unrolled.engine.data.corpus import Corpus
from unrolled.engine.data.dataset import prepare_dataset
from unrolled.engine.data.dataset_warnings import dataset_warnings, small_validation_warning
from unrolled.engine.data.records import RecordBatches
from unrolled.engine.data.streams import StreamBatches
from unrolled.engine.errors import ConfigError, CorpusError
from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.engine.tokenizers.vocabulary import BOS, EOS, UNK
from unrolled.engine.tokenizers.words import WordTokenizer


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
    assert data.tokenizer == WordTokenizer([".", "A", "a", "b"], "skip", False, True, "NFC")


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
        ("    . . .", DataConfig("whitespace", split=(0.4, 0.3, 0.3)), "train"),
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
    with pytest.raises(ConfigError, match="level: got 'byte', choose one of char, word, whitespace, bpe"):
        DataConfig("byte")
    refused: list[tuple[dict[str, Any], str]] = [
        ({"vocab_size": 10}, "vocab_size: goes with level 'word' or 'whitespace' or 'bpe', and not with 'char'"),
        ({"punctuation": True}, "punctuation: goes with level 'word', and not with 'char'"),
        ({"level": "bpe", "punctuation": True}, "punctuation: goes with level 'word', and not with 'bpe'"),
        (
            {"level": "bpe", "unknown": "skip"},
            "unknown: goes with level 'char' or 'word' or 'whitespace', and not with 'bpe'",
        ),
    ]
    for options, message in refused:
        with pytest.raises(ConfigError, match=message):
            DataConfig(**options)


def test_normalisation_of_new_vocabularies() -> None:
    assert [DataConfig(level).normalization for level in ("char", "bpe", "word", "whitespace")] == [
        "none",
        "none",
        "NFC",
        "NFC",
    ]
    whole = (1.0, 0.0, 0.0)
    corpus = Corpus("t", "nai\u0308ve na\u00efve a a\n" * 9)
    for config, vocabulary in (
        (DataConfig("word", split=whole), (UNK, "a", "na\u00efve")),
        (DataConfig("word", split=whole, normalize="none"), (UNK, "a", "nai", "na\u00efve", "ve")),
        (DataConfig("whitespace", split=whole), (UNK, EOS, "a", "na\u00efve")),
        (DataConfig("whitespace", split=whole, normalize="NFD"), (UNK, EOS, "a", "nai\u0308ve")),
        (DataConfig(split=whole, normalize="NFC"), ("\n", " ", "a", "e", "n", "v", "\u00ef")),
    ):
        assert prepare_dataset(corpus, config).tokenizer.vocabulary == vocabulary
    with pytest.raises(ConfigError, match="normalize: got 'nfc', choose one of none, NFC"):
        DataConfig(normalize="nfc")


def test_marks_at_the_beginning_of_a_part_or_record_are_in_the_vocabulary() -> None:
    """A part and a record is normalised alone, so that its first mark combines with nothing before it."""
    text = "abe\u0301 " * 4  # 20 characters
    data = prepare_dataset(Corpus("t", text), DataConfig(split=(0.65, 0.35, 0), normalize="NFC"))
    assert data.tokenizer.vocabulary == (" ", "a", "b", "e", "\u00e9", "\u0301")
    assert isinstance(data.validation, StreamBatches)
    assert data.tokenizer.decode(data.validation.ids) == "\u0301 ab\u00e9 "
    records = prepare_dataset(
        Corpus("r", ("be", "\u0301a")), DataConfig(batching="records", split=(1, 0, 0), normalize="NFC")
    )
    assert records.tokenizer.vocabulary == (BOS, EOS, "a", "b", "e", "\u0301")


def test_files_contain_the_normalisation_where_it_is_not_that_of_the_first_release() -> None:
    assert "normalize" not in DataConfig().to_dict()
    assert "normalize" not in DataConfig("word", normalize="none").to_dict()
    assert DataConfig("word").to_dict()["normalize"] == "NFC"
    assert DataConfig(normalize="NFC").to_dict()["normalize"] == "NFC"
    for config in (
        DataConfig("word"),
        DataConfig("word", normalize="none"),
        DataConfig(normalize="NFKD"),
        DataConfig(),
    ):
        again = DataConfig.from_dict(config.to_dict())
        assert (again.normalize, again.to_dict()) == (config.normalize, config.to_dict())
    before = {key: value for key, value in DataConfig("word").to_dict().items() if key != "normalize"}
    assert DataConfig.from_dict(before).normalization == "none"


def test_prepare_lines() -> None:
    text = "the <unk> sat\n\nthe end\n"
    data = prepare_dataset(Corpus("t", text), DataConfig("whitespace", split=(1, 0, 0)))
    assert data.tokenizer.vocabulary == (UNK, EOS, "the", "end", "sat")
    assert isinstance(data.train, StreamBatches)
    np.testing.assert_array_equal(data.train.ids, np.array([2, 0, 4, 1, 1, 2, 3, 1], np.uint8), strict=True)
    records = prepare_dataset(Corpus("t", text), DataConfig("whitespace", "records", split=(1, 0, 0), batch_size=1))
    assert records.tokenizer.vocabulary == (UNK, BOS, EOS, "the", "end", "sat")
    assert sorted(rows(records.train, None)) == [(1, 3, 0, 5, 2), (1, 3, 4, 2)]  # type: ignore[arg-type]


def test_data_config_to_dict_is_the_inverse_of_its_arguments() -> None:
    config = DataConfig("word", "records", 4, 8, (0.8, 0.1, 0.1), True, True, 50, "skip", 7)
    values = config.to_dict()
    assert values["split"] == [0.8, 0.1, 0.1]
    assert DataConfig(**{**values, "split": tuple(values["split"])}) == config


def test_a_small_validation_is_warned_of() -> None:
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


def test_truncated_records_are_warned_of() -> None:
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
