"""Byte pair encoding (BPE): subword tokens for any text.

R. Sennrich, B. Haddow and A. Birch, "Neural Machine Translation of Rare Words with Subword Units", 2016, applied to the
bytes of UTF-8. Fitting needs the ``tokenizers`` library. Encoding and decoding do not, and are faster than the library's,
because the merges of each distinct word are applied once and then cached.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ConfigError, MissingDependencyError, SettingName
from unrolled.engine.tokenizers.pieces import TextOrPieces, pieces_of
from unrolled.engine.tokenizers.preparation import NO_NORMALIZATION, TextPreparation
from unrolled.engine.tokenizers.streamers import StatefulTextStreamer, TextStreamer
from unrolled.engine.tokenizers.vocabulary import BOS, EOS, SPECIALS, Vocabulary, smallest_unsigned

DEFAULT_SIZE = 2048  # tokens of a vocabulary whose size is not given
CACHED_WORDS = 1 << 19  # size at which the cache is cleared, which bounds the memory for a large corpus

# Fixed lists give a text the same words in every host, independent of the host's Unicode version. White space is Python's \s.
SPACE = "\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
LETTER = "A-Z_a-z\xc0-\u167f\u1681-\u1fff\u200b-\u200f\u2070-\u2fff\u3040-\U0010ffff"
MARK = f"[^{LETTER}0-9{SPACE}]"
# Words have at most 64 characters, because merging takes quadratic time in the length of a word.
PATTERN = f"[ '’]?[{LETTER}]{{1,64}}| ?[0-9]{{1,64}}| ?{MARK}{{1,64}}|[{SPACE}]{{1,64}}(?![^{SPACE}])|[{SPACE}]{{1,64}}"

# Each byte as a visible character for JSON files: its own if that is visible, else one from U+0100 upwards.
_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_INVISIBLE = [byte for byte in range(256) if byte not in _VISIBLE]
BYTE_SIGNS = tuple(chr(byte if byte in _VISIBLE else 0x100 + _INVISIBLE.index(byte)) for byte in range(256))
_SIGN_BYTES = {sign: byte for byte, sign in enumerate(BYTE_SIGNS)}

Merge = tuple[int, int]


class _ByteStreamer(StatefulTextStreamer):
    """A decoder that holds back the bytes of an incomplete character; invalid UTF-8 becomes U+FFFD."""

    def __init__(self, texts: Sequence[str], tokens: Sequence[bytes]) -> None:
        super().__init__(texts)  # a token whose bytes are no whole characters has the text ""
        self._bytes = tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._holds = False  # true while bytes are held back

    def feed(self, token: int) -> str:
        text = super().feed(token)
        if self._holds or not text:
            text = self._decoder.decode(self._bytes[token])
            self._holds = self._decoder.getstate()[0] != b""
        return text

    def flush(self) -> str:
        return self._decoder.decode(b"", True)


class _Words(dict[str, tuple[int, ...]]):
    """A cache of the ids of each distinct word."""

    def __init__(self, tokenizer: BpeTokenizer) -> None:
        self._tokenizer = tokenizer

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids = self[word] = self._tokenizer.encode_word(word)
        return ids


class BpeTokenizer(Vocabulary):
    """A tokeniser of byte pairs within words: it encodes any text, and decodes to the same bytes.

    A token is a sequence of bytes, written with ``BYTE_SIGNS``; all 256 single bytes are in the vocabulary. A text is split
    into the matches of ``PATTERN``. Within a match, the neighbouring pair that comes first in the list of merges is merged,
    the leftmost of equal pairs first, until no pair is left. Lone surrogates, which UTF-8 cannot encode, become U+FFFD.

    Args:
        vocabulary: the tokens, including special tokens, which no text is encoded to.
        merges: pairs of ids in order of priority; the merged token of each pair is in the vocabulary.
        lowercase: lower-case the text first.
        unknown: must be "error": byte-level BPE has no unknown input.
        normalize: one of ``NORMALIZATIONS``, applied to the text first.
    """

    level: ClassVar[str] = "bpe"
    settings: ClassVar[tuple[str, ...]] = ("lowercase", "normalize", "vocab_size")
    _WORDS = re.compile(PATTERN)
    # A word ends before each match, independent of the text around it.
    word_boundary: ClassVar[re.Pattern[str] | None] = re.compile(f"(?<=[^{SPACE}])[{SPACE}]")

    def __init__(
        self,
        vocabulary: Sequence[str],
        merges: Iterable[Sequence[int]],
        lowercase: bool = False,
        unknown: str = "error",
        normalize: str = NO_NORMALIZATION,
    ) -> None:
        super().__init__(vocabulary, unknown, lowercase, normalize)
        if unknown != "error":
            raise ConfigError(
                SettingName("unknown"), f": got {unknown!r}, needs 'error' or nothing; byte pairs know any text"
            )
        if missing := [byte for byte, sign in enumerate(BYTE_SIGNS) if sign not in self._ids]:
            raise ConfigError(f"vocabulary: has no token for byte {missing[0]}, written {BYTE_SIGNS[missing[0]]!r}")
        for token in self.vocabulary:
            if wrong := [sign for sign in token if sign not in _SIGN_BYTES]:
                raise ConfigError(f"vocabulary: {token!r} holds {wrong[0]!r}, which stands for no byte")
        self._byte_ids = [self._ids[sign] for sign in BYTE_SIGNS]
        ends = (BOS, EOS)  # they delimit records and have no text
        self._bytes = [b"" if t in ends else bytes(map(_SIGN_BYTES.__getitem__, t)) for t in self.vocabulary]
        self._texts = [token.decode(errors="ignore") for token in self._bytes]
        self._texts = [t if t.encode() == b else "" for t, b in zip(self._texts, self._bytes, strict=True)]
        self.merges, self._joined = self._checked(merges)
        self._ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        if len(self._ranks) < len(self.merges):
            raise ConfigError("merges: a pair stands there more than once")
        self._words = _Words(self)

    def _checked(self, merges: Iterable[Sequence[int]]) -> tuple[tuple[Merge, ...], list[int]]:
        """Return the merges as pairs, and the id of each merged token."""
        pairs: list[Merge] = []
        joined: list[int] = []
        for pair in merges:
            if len(pair) != 2 or not all(type(i) is int and 0 <= i < len(self.vocabulary) for i in pair):
                raise ConfigError(f"merges: got {pair!r}, needs two ids of the vocabulary")
            left, right = (self.vocabulary[i] for i in pair)
            if left + right not in self._ids or left in SPECIALS or right in SPECIALS or left + right in SPECIALS:
                raise ConfigError(f"merges: {left!r} and {right!r} make no token of the vocabulary")
            pairs.append((pair[0], pair[1]))
            joined.append(self._ids[left + right])
        return tuple(pairs), joined

    @classmethod
    def fit(
        cls,
        text: TextOrPieces,
        *,
        specials: Sequence[str] = (),
        lowercase: bool = False,
        normalize: str = NO_NORMALIZATION,
        vocab_size: int | None = None,
    ) -> BpeTokenizer:
        """Return a tokeniser of the 256 bytes and the most frequent merges, at most ``vocab_size`` tokens in all.

        Raises:
            MissingDependencyError: the ``tokenizers`` library is not installed.
            ConfigError: ``vocab_size`` is smaller than the bytes and special tokens.
        """
        size = DEFAULT_SIZE if vocab_size is None else vocab_size
        first = [*specials, *BYTE_SIGNS]
        if size < len(first):
            raise ConfigError(
                SettingName("vocab_size"),
                f": {size} is too few; byte pairs need {len(first)} for the bytes and what marks records, "
                "and one more for each pair that is joined",
            )
        prepare = TextPreparation(normalize, lowercase)
        pieces = (_replace_surrogates(prepare(piece)) for piece in pieces_of(text, cls.boundary_of(normalize)))
        merges = _learn(pieces, size - len(specials))
        vocabulary = list(dict.fromkeys([*first, *(left + right for left, right in merges)]))
        ids = {token: index for index, token in enumerate(vocabulary)}
        return cls(vocabulary, [(ids[left], ids[right]) for left, right in merges], lowercase, normalize=normalize)

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "merges": [list(pair) for pair in self.merges]}

    def encode_word(self, word: str) -> tuple[int, ...]:
        """Return the ids of one match of ``PATTERN``."""
        ids = [self._byte_ids[byte] for byte in word.encode()]
        none = len(self.merges)
        ranks = [self._ranks.get(pair, none) for pair in pairwise(ids)]
        while ranks and (rank := min(ranks)) < none:
            i = ranks.index(rank)
            ids[i : i + 2] = [self._joined[rank]]
            del ranks[i]
            for j in range(max(i - 1, 0), min(i + 1, len(ranks))):
                ranks[j] = self._ranks.get((ids[j], ids[j + 1]), none)
        return tuple(ids)

    def encode_pieces(self, text: TextOrPieces) -> Iterator[NDArray]:
        """Yield the ids of ``text`` piece by piece, in the smallest unsigned dtype."""
        dtype = smallest_unsigned(len(self.vocabulary))
        for piece in pieces_of(text, self.boundary):
            if len(self._words) > CACHED_WORDS:
                self._words.clear()
            words = self._WORDS.findall(_replace_surrogates(self._prepare(piece)))
            yield np.fromiter(chain.from_iterable(map(self._words.__getitem__, words)), dtype)

    def streamer(self) -> TextStreamer:
        """Return a new incremental decoder."""
        return _ByteStreamer(self._texts, self._bytes)

    def start_prompt(self) -> str:
        """Return the default prompt: empty if there is a <bos>, else a line end."""
        return "" if self.bos_id is not None else "\n"

    def examples(self, count: int) -> list[str]:
        """Return up to ``count`` tokens: merged ones in order of priority, then single bytes."""
        joined = list(dict.fromkeys(self._joined))
        rest = [i for i, token in enumerate(self.vocabulary) if token not in SPECIALS and i not in joined[:count]]
        return [self.decode([i]) for i in [*joined, *rest][:count]]


def _replace_surrogates(text: str) -> str:
    """Return ``text`` with lone surrogates, which UTF-8 cannot encode, replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return re.sub("[\ud800-\udfff]", "\ufffd", text)
    return text


def _learn(pieces: Iterable[str], size: int) -> list[tuple[str, str]]:
    """Return the learned merges in order of priority; with the bytes they make at most ``size`` tokens."""
    try:
        from tokenizers import Regex, models, pre_tokenizers, trainers
        from tokenizers import Tokenizer as Trained
    except ImportError as error:
        raise MissingDependencyError(
            'level: learning byte pairs needs the tokenizers library: pip install "unrolled[bpe]"'
        ) from error
    trained = Trained(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=list(BYTE_SIGNS), show_progress=False)
    trained.train_from_iterator(pieces, trainer)
    return [(left, right) for left, right in json.loads(trained.to_str())["model"]["merges"]]
