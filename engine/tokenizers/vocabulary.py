"""What every tokeniser is: a vocabulary, ids for text, and text for ids, all at once or one by one."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.canonical import canonical
from unrolled.engine.checks import check_choice
from unrolled.engine.errors import ConfigError, UnknownTokenError
from unrolled.engine.tokenizers.contract import TextStreamer
from unrolled.engine.tokenizers.pieces import TextOrPieces

UNK, BOS, EOS = "<unk>", "<bos>", "<eos>"
SPECIALS = (UNK, BOS, EOS)
UNKNOWN_POLICIES = ("error", "replace", "skip")


def specials_for(unknown: str, specials: Sequence[str]) -> tuple[str, ...]:
    """The special tokens of a new vocabulary: <unk> first, where unknown text is replaced by it."""
    return ((UNK,) if unknown == "replace" and UNK not in specials else ()) + tuple(specials)


def smallest_unsigned(size: int) -> np.dtype:
    """The smallest unsigned dtype that holds the ids 0 … size - 1."""
    return np.min_scalar_type(max(size - 1, 0))


class Vocabulary(ABC):
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

    @abstractmethod
    def encode_pieces(self, text: TextOrPieces) -> Iterator[NDArray]:
        """Ids of ``text`` piece by piece, in the smallest unsigned dtype."""

    def encode(self, text: str) -> NDArray[np.int64]:
        """Ids (n,) of ``text``; UnknownTokenError under the policy "error"."""
        return join_ids(self.encode_pieces(text))

    def streamer(self) -> TextStreamer:
        """A fresh decoder of ids that come one by one."""
        return TextStreamer(self._texts)

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

    def _apply_policy(self, ids: NDArray, unknown: NDArray, error: Callable[[int], UnknownTokenError]) -> NDArray:
        """Ids without those marked in ``unknown``: left out, replaced by <unk>, or the ``error`` of the first one's index."""
        if self.unknown == "skip":
            return ids[~unknown]
        if self.unknown == "replace":
            return np.where(unknown, np.asarray(self.unk_id, ids.dtype), ids)
        raise error(int(unknown.argmax()))

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
