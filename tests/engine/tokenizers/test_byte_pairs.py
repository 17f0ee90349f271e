"""Byte pairs: compared with the library that learns them, at the limits of words and characters, and in a whole run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import hosts
import models
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.engine.data.config import DataConfig
from unrolled.engine.data.corpus import Corpus
from unrolled.engine.data.dataset import prepare_dataset
from unrolled.engine.data.evaluation_batches import batches_to_score
from unrolled.engine.data.records import RecordBatches
from unrolled.engine.errors import ConfigError, MissingDependencyError, ModelFileError, UnknownTokenError
from unrolled.engine.storage.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from unrolled.engine.tokenizers import byte_pairs
from unrolled.engine.tokenizers import pieces as pieces_module
from unrolled.engine.tokenizers.byte_pairs import BYTE_SIGNS, LETTER, MARK, PATTERN, SPACE, BpeTokenizer
from unrolled.engine.tokenizers.registry import tokenizer_from_dict
from unrolled.engine.tokenizers.vocabulary import BOS, EOS, UNK
from unrolled.export.formats import FORMATS, export_model
from unrolled.export.importing.vocabulary_files import make_tokenizer, read_merges, read_vocabulary
from unrolled.export.verification.verify import verify
from unrolled.runtime import generate, load
from unrolled.runtime.description import describe

library = pytest.importorskip("tokenizers", reason="the bpe extra is not installed")

PROPERTY = settings(derandomize=True, max_examples=150, deadline=None)
SCALARS = st.characters(exclude_categories=["Cs"])  # no surrogates
# The limits of the character classes, so that they occur often.
NEAR = st.sampled_from(
    [*"ab_'’ 09.,!-\n\t\r\0", *"\x1c\x7f\x80\x85\xa0\xbf\xc0\u167f\u1680\u1fff\u2000\u200a\u200b"]
) | (
    st.sampled_from(
        [*"\u200f\u2010\u2028\u202f\u205f\u206f\u2070\u2fff\u3000\u3001\u303f\u3040é中😀\ufffd\ufeff\U0010ffff"]
    )
)
ANY_TEXT = st.text(SCALARS | NEAR, max_size=60)
TEXT = "the cat sat on the mat; the café's cats — “thé” 猫が猫 😀😀 don't 1999 1998\n  the  end\n" * 3
FITTED = BpeTokenizer.fit(TEXT + hosts.TRICKY, specials=(UNK, BOS, EOS), vocab_size=420)


def checkpoint(cell: str) -> Checkpoint:
    """Return a random model with the vocabulary of ``FITTED``."""
    config = models.config(cell, vocab_size=len(FITTED))
    return Checkpoint.of_language_model(config, models.params(config, np.float32), FITTED, {})


def in_library(tokenizer: BpeTokenizer) -> Any:
    """Return the library's tokeniser with the same vocabulary and merges."""
    ids = {token: index for index, token in enumerate(tokenizer.vocabulary)}
    pairs = [(tokenizer.vocabulary[left], tokenizer.vocabulary[right]) for left, right in tokenizer.merges]
    made = library.Tokenizer(library.models.BPE(ids, pairs))
    made.pre_tokenizer = library.pre_tokenizers.Sequence(
        [
            library.pre_tokenizers.Split(library.Regex(PATTERN), "isolated"),
            library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return made


def made_of(*joined: str, specials: tuple[str, ...] = ()) -> BpeTokenizer:
    """Return byte pairs with the given merges, "l+r" each, in order of priority."""
    pairs = [tuple(pair.split("+")) for pair in joined]
    vocabulary = list(dict.fromkeys([*specials, *BYTE_SIGNS, *("".join(pair) for pair in pairs)]))
    return BpeTokenizer(vocabulary, [[vocabulary.index(part) for part in pair] for pair in pairs])


def tokens_of(tokenizer: BpeTokenizer, text: str) -> list[str]:
    return [tokenizer.vocabulary[i] for i in tokenizer.encode(text)]


# ---------------------------------------------------------------- text to ids


@PROPERTY
@given(ANY_TEXT)
def test_any_text_comes_back(text: str) -> None:
    assert FITTED.decode(FITTED.encode(text)) == text
    assert "".join(BpeTokenizer._WORDS.findall(text)) == text


@PROPERTY
@given(ANY_TEXT)
def test_ids_are_the_librarys(text: str) -> None:
    assert FITTED.encode(text).tolist() == in_library(FITTED).encode(text).ids


def test_ids_of_a_corpus_are_the_librarys() -> None:
    text = hosts.TRICKY + TEXT + "".join(hosts.random_texts(200)) + "x" * 200 + " " * 200 + "中" * 99 + "'" * 70
    assert FITTED.encode(text).tolist() == in_library(FITTED).encode(text).ids


def test_alarm_another_order_of_merges_gives_other_ids() -> None:
    text = hosts.TRICKY + TEXT
    merges = list(FITTED.merges)
    other = BpeTokenizer(FITTED.vocabulary, [*merges[1:], merges[0]])
    assert other.encode(text).tolist() != in_library(FITTED).encode(text).ids
    assert other != FITTED


def test_the_earliest_merge_goes_first_and_the_leftmost_among_equals() -> None:
    assert tokens_of(made_of("b+c", "a+b"), "abc") == ["a", "bc"]
    assert tokens_of(made_of("a+b", "b+c"), "abc") == ["ab", "c"]
    assert tokens_of(made_of("a+a"), "aaa aaaa") == ["aa", "a", "Ġ", "aa", "aa"]
    # Two merges make the same token, and the merge to a longer token ranks between them.
    twice = made_of("a+b", "b+c", "ab+c", "abc+d", "a+bc")
    assert tokens_of(twice, "abcd") == ["abcd"]
    assert twice.encode("abcd abc").tolist() == in_library(twice).encode("abcd abc").ids


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello world", ["Hello", " world"]),
        ("don't it’s 'so' rock'n'roll", ["don", "'t", " it", "’s", " '", "so", "'", " rock", "'n", "'roll"]),
        ("a  b   \n\nc \n", ["a", " ", " b", "   \n", "\n", "c", " \n"]),
        ("x=12.5, snake_case", ["x", "=", "12", ".", "5", ",", " snake_case"]),
        ("naïve—“thé” 猫が、猫。", ["naïve", "—“", "thé", "”", " 猫が", "、", "猫", "。"]),
        ("हिन्दी ١٢ 👩‍👧!?", ["हिन्दी", " ١٢", " 👩‍👧", "!?"]),
        ("a" * 65 + "." * 65 + "1" * 65, ["a" * 64, "a", "." * 64, ".", "1" * 64, "1"]),
        (" " * 66 + "a", [" " * 64, " ", " a"]),
        ("\ufeffa\u3000b", ["\ufeffa", "\u3000", "b"]),
    ],
)
def test_words_of_a_text(text: str, words: list[str]) -> None:
    assert BpeTokenizer._WORDS.findall(text) == words


def test_the_lists_of_the_documentation_are_those_of_the_pattern() -> None:
    every = "".join(map(chr, [*range(0x3100), *range(0x3100, 0x110000, 97)]))  # the lists end at U+3040
    marks = {c for c in every if ord(c) < 0xC0 and not (c.isascii() and (c.isalnum() or c == "_"))}
    marks |= {*map(chr, range(0x2010, 0x2070)), *map(chr, range(0x3000, 0x3040))}
    spaces = {c for c in every if c.isspace()}
    assert set(re.findall(f"[{SPACE}]", every)) == spaces
    assert set(re.findall(MARK, every)) == marks - spaces
    assert set(re.findall(f"[{LETTER}]", every)) == set(every) - marks - spaces - set("0123456789")


@PROPERTY
@given(ANY_TEXT, st.integers(1, 9))
def test_pieces_give_what_the_whole_text_gives(text: str, size: int) -> None:
    whole = FITTED.encode(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces_module, "PIECE_CHARS", size)
        np.testing.assert_array_equal(FITTED.encode(text), whole, strict=True)
    assert {piece.dtype for piece in FITTED.encode_pieces(text)} <= {np.dtype(np.uint16)}


def test_words_that_were_seen_are_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_pairs, "CACHED_WORDS", 3)
    monkeypatch.setattr(pieces_module, "PIECE_CHARS", 1)
    tokenizer = made_of("a+b")
    ids = tokenizer.encode("ab cd ef gh ij ab")
    assert len(tokenizer._words) <= 5
    np.testing.assert_array_equal(ids, made_of("a+b").encode("ab cd ef gh ij ab"), strict=True)


def test_lower_case_and_surrogates_come_before_everything() -> None:
    lowered = BpeTokenizer.fit("AB ab Ab", lowercase=True, vocab_size=258)
    assert lowered.decode(lowered.encode("AB ΟΔΟΣ İ")) == "ab οδοσ i̇"
    assert "ab" in lowered.vocabulary
    assert FITTED.decode(FITTED.encode("a\ud83d\ude00b\udcff")) == "a\ufffd\ufffdb\ufffd"


def test_special_tokens_are_not_found_in_text() -> None:
    assert not {0, 1, 2} & set(FITTED.encode("<unk> <bos><eos>").tolist())
    assert FITTED.decode(FITTED.encode("<unk> <bos><eos>")) == "<unk> <bos><eos>"


# ---------------------------------------------------------------- ids to text


def test_a_character_comes_when_it_is_whole() -> None:
    tokenizer = made_of("a+é".replace("é", "Ã"), specials=(BOS, EOS))
    streamer = tokenizer.streamer()
    ids = [tokenizer.bos_id, *tokenizer.encode("aé😀"), tokenizer.eos_id]
    assert [streamer.feed(i) for i in ids if i is not None] == ["", "a", "é", "", "", "", "😀", ""]
    assert streamer.flush() == ""
    assert [streamer.feed(int(i)) for i in tokenizer.encode("😀")[:3]] == ["", "", ""]
    assert streamer.flush() == "\ufffd"


@PROPERTY
@given(st.lists(st.integers(0, len(FITTED) - 1), max_size=30))
def test_streamed_pieces_of_any_ids_join_to_the_decoded_bytes(ids: list[int]) -> None:
    streamer = FITTED.streamer()
    pieces = [*map(streamer.feed, ids), streamer.flush()]
    raw = b"".join(bytes(map(BYTE_SIGNS.index, FITTED.vocabulary[i])) for i in ids if i not in (1, 2))
    assert "".join(pieces) == FITTED.decode(ids) == raw.decode("utf-8", "replace")


@PROPERTY
@given(ANY_TEXT)
def test_streamed_pieces_of_a_text_are_never_broken(text: str) -> None:
    streamer = FITTED.streamer()
    streamed = ""
    for token in FITTED.encode(text).tolist():
        streamed += streamer.feed(token)
        assert text.startswith(streamed)
    assert (streamed, streamer.flush()) == (text, "")


@pytest.mark.parametrize("index", [-1, 420])
def test_ids_outside_the_vocabulary_are_refused(index: int) -> None:
    with pytest.raises(UnknownTokenError, match=rf"id {index} is outside the vocabulary's 0 … 419"):
        FITTED.decode([5, index])


# ---------------------------------------------------------------- learning


def test_fit_begins_with_specials_and_bytes_and_is_the_same_each_time() -> None:
    assert FITTED.vocabulary[:3] == (UNK, BOS, EOS)
    assert FITTED.vocabulary[3:259] == BYTE_SIGNS
    assert len(FITTED) == 420
    assert BpeTokenizer.fit(TEXT + hosts.TRICKY, specials=(UNK, BOS, EOS), vocab_size=420) == FITTED


def test_a_short_text_gives_fewer_tokens() -> None:
    tokenizer = BpeTokenizer.fit("ab ab ab", vocab_size=1000)
    assert tokens_of(tokenizer, "ab ab") == ["ab", "Ġab"]
    assert tokenizer.examples(3) == ["ab", " ab", "\0"]
    assert len(BpeTokenizer.fit("", vocab_size=1000)) == len(BpeTokenizer.fit("abab", vocab_size=256)) == 256


def test_what_cannot_be_learned_is_a_named_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="vocab_size: 257 is too few; byte pairs need 258"):
        BpeTokenizer.fit("abc", specials=(BOS, EOS), vocab_size=257)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingDependencyError, match=r"tokenizers library: pip install \"unrolled\[bpe\]\""):
        BpeTokenizer.fit("abc")


def test_only_learning_needs_the_library(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m.safetensors", checkpoint("gru"))
    code = (
        "import sys; sys.modules['tokenizers'] = None\n"
        "from unrolled.runtime import generate, load\n"
        "print(generate(load(sys.argv[1], 'numpy'), ['the 😀'], max_new_tokens=9)[0].tokens)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m.safetensors")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = generate(load(tmp_path / "m.safetensors", "numpy"), ["the 😀"], max_new_tokens=9)[0].tokens
    assert done.stdout.strip() == str(expected)


# ---------------------------------------------------------------- descriptions


def test_json_round_trip() -> None:
    again = tokenizer_from_dict(json.loads(json.dumps(FITTED.to_dict())))
    assert isinstance(again, BpeTokenizer)
    assert (again, hash(again), again.to_dict()) == (FITTED, hash(FITTED), FITTED.to_dict())
    assert list(FITTED.to_dict()) == ["level", "vocabulary", "unknown", "lowercase", "merges"]
    assert FITTED.start_prompt() == ""
    assert made_of().start_prompt() == "\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary": list(BYTE_SIGNS[:-1])}, "has no token for byte 255, written 'ÿ'"),
        ({"vocabulary": [*BYTE_SIGNS, "a b"]}, "'a b' holds ' ', which stands for no byte"),
        ({"unknown": "skip"}, "unknown: got 'skip'"),
        ({"merges": None}, "merges is no list"),
        ({"merges": [[97]]}, r"got \[97\], needs two ids"),
        ({"merges": [[97, 256]]}, "needs two ids of the vocabulary"),
        ({"merges": [[97, True]]}, "needs two ids of the vocabulary"),
        ({"merges": [[97, -1]]}, "needs two ids of the vocabulary"),
        ({"merges": [[97, 98]]}, "'a' and 'b' make no token"),
        ({"merges": ["ab"]}, "needs two ids of the vocabulary"),
        ({"merges": [7]}, "has no len"),
        ({"vocabulary": [*BYTE_SIGNS, "ab"], "merges": [[97, 98], [97, 98]]}, "a pair stands there more than once"),
        ({"lowercase": 1}, "lowercase is neither true nor false"),
        ({"punctuation": False}, "punctuation"),
    ],
)
def test_damaged_descriptions_are_named_errors(changes: dict[str, Any], message: str) -> None:
    values = {"level": "bpe", "vocabulary": list(BYTE_SIGNS), "unknown": "error", "lowercase": False, "merges": []}
    # In this vocabulary the id of a byte is its value, so 97 is the letter a.
    assert BYTE_SIGNS[97] == "a"
    with pytest.raises(ModelFileError, match=message):
        tokenizer_from_dict({**values, **changes})


def test_a_merge_may_not_make_a_special_token() -> None:
    vocabulary = [EOS, *BYTE_SIGNS, "<eos"]
    with pytest.raises(ConfigError, match="'<eos' and '>' make no token"):
        BpeTokenizer(vocabulary, [[257, vocabulary.index(">")]])


# ---------------------------------------------------------------- in the rest of the package


@pytest.mark.parametrize("batching", ["stream", "records"])
def test_a_corpus_becomes_batches(batching: str) -> None:
    config = DataConfig("bpe", batching, 4, 8, (1, 0, 0), vocab_size=300)
    data = prepare_dataset(Corpus("cats", TEXT * 2), config)
    assert isinstance(data.tokenizer, BpeTokenizer)
    assert len(data.tokenizer) == 300
    assert data.tokenizer.vocabulary[:2] == ((BOS, EOS) if batching == "records" else BYTE_SIGNS[:2])
    batch = next(data.train.epoch(None))
    text = data.tokenizer.decode(batch.inputs["tokens"][batch.weights[:, 0], 0])
    assert TEXT.startswith(text) if batching == "stream" else text.rstrip() in TEXT


def test_a_record_is_scored_whole_whatever_its_tokens() -> None:
    records = ("😀😀😀", "a")  # four tokens per character
    tokenizer = made_of(specials=(BOS, EOS))
    batches = batches_to_score(Corpus("faces", records), tokenizer, {})
    assert isinstance(batches, RecordBatches)
    assert batches.tokens_per_epoch == 12 + 1 + 1 + 1


@pytest.mark.parametrize("name", ["onnx", pytest.param("torchscript", marks=pytest.mark.slow)])
def test_exported_files_hold_the_tokenizer_and_verify(tmp_path: Path, name: str) -> None:
    if name == "torchscript":
        pytest.importorskip("torch", reason="the torch extra is not installed")
    saved = checkpoint("gru")
    save_checkpoint(tmp_path / "m.safetensors", saved)
    assert load_checkpoint(tmp_path / "m.safetensors").tokenizer == FITTED
    path = export_model(saved, tmp_path / f"model{FORMATS[name].suffix}", name)
    assert load(path).tokenizer == FITTED
    assert [check for check in verify(path, load, saved) if not check.ok] == []
    shown = describe(path)["tokenizer"]
    assert (shown["level"], shown["tokens"], shown["unknown"]) == ("bpe", len(FITTED), "error")
    assert shown["first"].startswith(FITTED.examples(1)[0])


def test_a_tokenizer_is_taken_over_from_its_description_and_from_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(FITTED.to_dict()))
    tokens = read_vocabulary(file, "bpe")
    assert make_tokenizer(tokens, len(FITTED), "bpe", merges=read_merges(file)) == FITTED
    with pytest.raises(ConfigError, match="unknown: got 'skip'"):
        make_tokenizer(tokens, len(FITTED), "bpe", unknown="skip")
    with pytest.raises(ConfigError, match="--punctuation goes with --level word"):
        make_tokenizer(tokens, len(FITTED), "bpe", punctuation=True)
    file.write_text(json.dumps({"model": {"vocab": {"a": 0}, "merges": ["a b"]}}))
    with pytest.raises(ConfigError, match="has no merges; --level bpe needs a JSON object"):
        read_merges(file)
    file.write_text("a\nb\n")
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        read_merges(file)
