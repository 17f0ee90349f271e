"""What every tokeniser is: a vocabulary, ids for text, and text for ids, all at once or one by one."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.canonical import canonical
from unrolled.engine.checks import check_choice
from unrolled.engine.errors import ConfigError, UnknownTokenError

UNK, BOS, EOS = "<unk>", "<bos>", "<eos>"
SPECIALS = (UNK, BOS, EOS)
UNKNOWN_POLICIES = ("error", "replace", "skip")

LONGEST_SEARCH = 1 << 12  # characters at the end of a piece that are searched for where to cut it
PIECE_CHARS = 1 << 22  # text is tokenised in pieces of about this size, so that a large corpus is never held as tokens


Text = str | Iterable[str]  # whole, or in pieces that cut no word in two


class Tokenizer(Protocol):
    """What the rest of the package uses of a tokeniser."""

    level: ClassVar[str]
    settings: ClassVar[tuple[str, ...]]  # of the data, that ``fit`` takes
    boundary: ClassVar[re.Pattern[str] | None]  # where a text may be cut; None: anywhere
    vocabulary: tuple[str, ...]
    unknown: str

    @property
    def unk_id(self) -> int | None: ...
    @property
    def bos_id(self) -> int | None: ...
    @property
    def eos_id(self) -> int | None: ...
    def encode(self, text: str) -> NDArray[np.int64]: ...
    def encode_pieces(self, text: Text) -> Iterator[NDArray]: ...
    def decode(self, ids: Iterable[int]) -> str: ...
    def streamer(self) -> Streamer: ...
    def start_prompt(self) -> str: ...
    def examples(self, count: int) -> list[str]: ...
    def to_dict(self) -> dict[str, Any]: ...


class Streamer:
    """Text of ids that come one by one; all pieces and what ``flush`` gives, joined, are what ``decode`` gives.

    A piece never holds a part of a character, and never changes what came before it.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def feed(self, token: int) -> str:
        """What the next id adds to the text; nothing for <bos> and <eos>.

        Raises:
            UnknownTokenError: the vocabulary has no such id.
        """
        V = len(self._texts)
        if not 0 <= token < V:
            raise UnknownTokenError(f"decode: id {token} is outside the vocabulary's 0 … {V - 1}")
        return self._texts[token]

    def feed_all(self, tokens: Sequence[int]) -> str:
        """What several ids add; many times as fast where each adds its own text, whatever stands before."""
        if type(self).feed is Streamer.feed and min(tokens, default=-1) >= 0:
            with contextlib.suppress(IndexError):  # which id it was, the other way finds
                return "".join(map(self._texts.__getitem__, tokens))
        return "".join(map(self.feed, tokens))

    def flush(self) -> str:
        """What was held back, at the end of the text."""
        return ""


def smallest_unsigned(size: int) -> np.dtype:
    """The smallest unsigned dtype that holds the ids 0 … size - 1."""
    return np.min_scalar_type(max(size - 1, 0))


def split_pieces(text: str, is_boundary: re.Pattern[str] | None = None) -> Iterator[str]:
    """Cut a long text into pieces, at a match of ``is_boundary`` where given, so that no word is cut in two."""
    start = 0
    while start < len(text):
        end = start + PIECE_CHARS
        if is_boundary is not None and end < len(text):
            match = is_boundary.search(text, end)
            end = match.start() if match else len(text)
        yield text[start:end]
        start = end


def pieces_of(text: Text, is_boundary: re.Pattern[str] | None = None) -> Iterator[str]:
    """Pieces of a text, which may be in pieces already."""
    return split_pieces(text, is_boundary) if isinstance(text, str) else iter(text)


def whole_words(chunks: Iterable[str], is_boundary: re.Pattern[str] | None) -> Iterator[str]:
    """Pieces that cut no word in two, of chunks of a text that may."""
    rest = ""
    for chunk in chunks:
        rest += chunk
        end = len(rest)
        if is_boundary is not None:
            near = is_boundary.finditer(rest, max(end - LONGEST_SEARCH, 0))
            end = max((match.start() for match in near), default=0)
        if end > 0:
            yield rest[:end]
        rest = rest[end:]
    if rest:
        yield rest


class Vocabulary:
    """Ids of a vocabulary: shared by the tokenisers."""

    level: ClassVar[str]
    settings: ClassVar[tuple[str, ...]]
    boundary: ClassVar[re.Pattern[str] | None] = None

    def __init__(self, vocabulary: Sequence[str], unknown: str = "error") -> None:
        self.vocabulary = tuple(vocabulary)
        self.unknown = unknown
        check_choice("unknown", unknown, UNKNOWN_POLICIES)
        if not self.vocabulary or not all(isinstance(token, str) and token for token in self.vocabulary):
            raise ConfigError("vocabulary: needs at least one token, and every token a text that is not empty")
        self._ids = {token: index for index, token in enumerate(self.vocabulary)}
        if len(self._ids) != len(self.vocabulary):
            twice = [token for token, count in Counter(self.vocabulary).items() if count > 1]
            raise ConfigError(f"vocabulary: {twice[0]!r} stands there more than once")
        if unknown == "replace" and UNK not in self._ids:
            raise ConfigError(f"unknown: 'replace' needs {UNK} in the vocabulary")
        # what each token says: the marks of a record's ends are no text
        self._texts = ["" if token in (BOS, EOS) else token for token in self.vocabulary]

    def __len__(self) -> int:
        return len(self.vocabulary)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.level, self.vocabulary, self.unknown))

    def to_dict(self) -> dict[str, Any]:
        """Return the canonical form, which ``tokenizer_from_dict`` reads."""
        return canonical(type(self), self._settings())

    def _settings(self) -> dict[str, Any]:
        return {"level": self.level, "vocabulary": list(self.vocabulary), "unknown": self.unknown}

    @property
    def unk_id(self) -> int | None:
        return self._ids.get(UNK)

    @property
    def bos_id(self) -> int | None:
        return self._ids.get(BOS)

    @property
    def eos_id(self) -> int | None:
        return self._ids.get(EOS)

    def streamer(self) -> Streamer:
        """A fresh decoder of ids that come one by one."""
        return Streamer(self._texts)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``; <bos> and <eos> are left out."""
        streamer = self.streamer()
        return streamer.feed_all(list(ids)) + streamer.flush()

    def start_prompt(self) -> str:
        """What begins a text when nobody said: nothing behind a <bos>, else a line end, else the first token."""
        if self.bos_id is not None:
            return ""
        if "\n" in self._ids:
            return "\n"
        return next((token for token in self.vocabulary if token not in SPECIALS), "")

    def examples(self, count: int) -> list[str]:
        """Up to ``count`` tokens that tell what kind of vocabulary it is, as texts."""
        return list(self.vocabulary[:count])

    def _unknown_error(self, what: str, token: str, where: str) -> UnknownTokenError:
        known = " ".join(repr(t)[1:-1] for t in self.vocabulary[:60])
        more = " …" if len(self.vocabulary) > 60 else ""
        return UnknownTokenError(
            f"the vocabulary has no {what} {token!r} ({where}); leave it out, or use a model that was "
            f"trained with --unknown replace or skip. Known: {known}{more}"
        )


def lower(text: str) -> str:
    """Lower case that does not depend on the neighbours: str.lower writes Σ as ς at the end of a word."""
    return text.replace("Σ", "σ").lower()


def join_ids(pieces: Iterator[NDArray]) -> NDArray[np.int64]:
    """Pieces of ids as one array (n,)."""
    collected = list(pieces)
    return np.concatenate(collected).astype(np.int64) if collected else np.zeros(0, np.int64)
