"""Tokenisers and difficult texts, shared by the tests of the programs in ``runtime/hosts``."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import models
import numpy as np
from golden_tokenizers import GOLDEN

from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.engine.tokenizers.byte_pairs import BYTE_SIGNS, PATTERN, BpeTokenizer
from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.tokenizers.preparation import NORMALIZATIONS
from unrolled.engine.tokenizers.vocabulary import BOS, EOS, UNK
from unrolled.engine.tokenizers.whitespace import WhitespaceTokenizer
from unrolled.engine.tokenizers.words import WordTokenizer

HOSTS = Path(__file__).resolve().parents[2] / "runtime" / "hosts"

# The text contains emoji beyond the first 65,536 code points and joined ones, combining marks, both sigmas, letters whose
# lower case has two code points, apostrophes, digits and numbers of other scripts, symbols, unusual spaces.
TRICKY = (
    "Straße — naïve café, cafe\u0301 re\u0301sume\u0301; ΟΔΟΣ Σίσυφος ΣΑΣ σς İstanbul ISPARTA ıĞ ǅ ﬁ\r\n"
    "don't rock’n’roll 'tis dogs' o''clock snake_case __init__ _ x² ½ Ⅷ ٣٤ ๓ १२ 東京タワー 한국어 हिन्दी עברית\r\n"
    "😀👍🏽 👩‍👩‍👧 e\u0300\u0301 𝔘𝔫𝔦 𐐀𐐨 🇳🇱 (a [b] {c}) a.b,c:d!e?f <unk> <eos> "
    "a\u00a0b\u2009c\u3000d\u0085e\x1cf\ufeffg\u200bh\u2028i\u180ej ⓐⒶ £€ $1.50 #1\tend"
)
PROMPTS = ["Straße 😀 don't", "ΟΔΟΣ (a) e\u0301\n"]  # of different lengths


SPECIALS = (UNK, BOS, EOS)


def char_tokenizer(unknown: str = "error", lowercase: bool = False, normalize: str = "none") -> CharTokenizer:
    return CharTokenizer.fit(TRICKY, specials=SPECIALS, unknown=unknown, lowercase=lowercase, normalize=normalize)


def word_tokenizer(
    unknown: str = "replace", lowercase: bool = True, punctuation: bool = True, normalize: str = "none"
) -> WordTokenizer:
    return WordTokenizer.fit(
        TRICKY,
        specials=SPECIALS,
        unknown=unknown,
        lowercase=lowercase,
        punctuation=punctuation,
        normalize=normalize,
    )


def normalizing_tokenizers() -> list[Tokenizer]:
    """Return tokenisers of every level, form and case, and of streams and records, with half of their words or characters."""
    made: list[Tokenizer] = []
    for form in NORMALIZATIONS:
        for lowercase in (False, True):
            made.append(char_tokenizer("skip", lowercase, form))
            lines = WhitespaceTokenizer.fit(TRICKY, lowercase=lowercase, normalize=form)
            records = WhitespaceTokenizer.fit(TRICKY, specials=SPECIALS, lowercase=lowercase, normalize=form)
            made += [lines, WhitespaceTokenizer([UNK, EOS, *lines.vocabulary[3::2]], "error", lowercase, form), records]
            for punctuation in (False, True):
                words = word_tokenizer("replace", lowercase, punctuation, form)
                made += [words, WordTokenizer(words.vocabulary[::2], "skip", lowercase, punctuation, form)]
            pairs = bpe_tokenizer(lowercase)
            made.append(BpeTokenizer(pairs.vocabulary, pairs.merges, lowercase, normalize=form))
    return made


def bpe_tokenizer(lowercase: bool = False, merges: int = 250) -> BpeTokenizer:
    """Return a tokeniser of byte pairs learned from ``TRICKY``; a slow loop here replaces the library."""
    words = [[BYTE_SIGNS[byte] for byte in word.encode()] for word in re.findall(PATTERN, TRICKY + TRICKY.lower())]
    pairs = []
    for _ in range(merges):
        counts = Counter(pair for word in words for pair in pairwise(word))
        left, right = max(counts, key=lambda pair: (counts[pair], pair))
        pairs.append((left, right))
        for word in words:
            for i in reversed(range(len(word) - 1)):
                if word[i : i + 2] == [left, right]:
                    word[i : i + 2] = [left + right]
    vocabulary = list(dict.fromkeys([UNK, BOS, EOS, *BYTE_SIGNS, *map("".join, pairs)]))
    ids = {token: index for index, token in enumerate(vocabulary)}
    return BpeTokenizer(vocabulary, [(ids[left], ids[right]) for left, right in pairs], lowercase)


TOKENIZERS: dict[str, Tokenizer] = {
    "char": char_tokenizer(),
    "word": word_tokenizer(),
    "whitespace": WhitespaceTokenizer.fit(TRICKY),
    "bpe": bpe_tokenizer(),
}


def checkpoint(cell: str, level: str) -> Checkpoint:
    """Return a random checkpoint with a difficult vocabulary, which sometimes draws <eos>."""
    tokenizer = TOKENIZERS[level]
    config = models.config(cell, vocab_size=len(tokenizer.vocabulary))
    params = models.params(config, np.float32)
    if level == "bpe":
        params["output.bias"][tokenizer.eos_id] += 1.5  # as likely as in the smaller vocabularies
    return Checkpoint.of_language_model(config, params, tokenizer, {})


def random_texts(count: int, seed: int = 1) -> list[str]:
    """Return texts of words and characters of ``TRICKY`` in random order."""
    rng = np.random.default_rng(seed)
    pool = [*TRICKY, *TRICKY.split(" "), *"'’'’'’   __ΣΣΣ\u0301\u0301İIiıß"]
    return ["".join(rng.choice(np.array(pool, object), rng.integers(1, 12))) for _ in range(count)]


def format_2_metadata(changes: dict[str, Any]) -> dict[str, str]:
    """Return the metadata of a language model of format 2, with a stream of lines as its text."""
    description = GOLDEN["whitespace, a stream"].description
    V = len(description["vocabulary"])
    core = {"cell": "lstm", "hidden_size": 7, "num_layers": 1, "bidirectional": False, "dropout": 0.0}
    tokens = {"kind": "tokens", "size": V, "embedding_size": 5, "name": "tokens"}
    head = {"kind": "next_token", "vocab_size": V, "tie_weights": False}
    values = {
        "format_version": "2",
        "form": "step",
        "sampling": "1",
        "task": "next_token",
        "spec": json.dumps({"inputs": [tokens], "core": core, "head": head}),
        "preprocessing": json.dumps({"tokens": {"tokenizer": description}}),
        "state": json.dumps({"shape": [2, 1, None, 7]}),
        "training": "{}",
        "checkpoint_digest": "",
        "golden": "[]",
    }
    return {**{f"unrolled.{key}": value for key, value in values.items()}, **changes}


def _with_key(key: str, *path: str | int) -> dict[str, str]:
    """Return the change of one key of the metadata that adds an unknown key to the part at ``path``."""
    name = f"unrolled.{key}"
    value = json.loads(format_2_metadata({})[name])
    part = value
    for step in path:
        part = part[step]
    part["later"] = {}
    return {name: json.dumps(value)}


# Changes of the metadata of format 2, and what a host says of them; None: it reads the file.
FORMAT_2_CASES: list[tuple[dict[str, Any], str | None]] = [
    ({}, None),
    ({"unrolled.format_version": "3"}, "reads 1 and 2"),
    ({"unrolled.task": "step_labels"}, "step_labels"),
    ({"unrolled.preprocessing": "{}"}, "tokens"),
    ({"unrolled.sampling": "2"}, "sampling rules"),
    (_with_key("spec"), 'its spec has the unknown key "later"'),
    (_with_key("spec", "inputs", 0), 'its input has the unknown key "later"'),
    (_with_key("spec", "core"), 'its core has the unknown key "later"'),
    (_with_key("spec", "head"), 'its head has the unknown key "later"'),
    (_with_key("preprocessing"), 'its preprocessing has the unknown key "later"'),
    (_with_key("preprocessing", "tokens"), 'its rule has the unknown key "later"'),
    (_with_key("preprocessing", "tokens", "tokenizer"), 'its tokenizer has the unknown key "later"'),
]
