"""The base class of all tokenisers: a vocabulary with its ids and special tokens."""

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
from unrolled.engine.tokenizers.pieces import TextOrPieces
from unrolled.engine.tokenizers.preparation import NO_NORMALIZATION, STABLE_BOUNDARY, TextPreparation
from unrolled.engine.tokenizers.streamers import TextStreamer

UNK, BOS, EOS = "<unk>", "<bos>", "<eos>"
SPECIALS = (UNK, BOS, EOS)
UNKNOWN_POLICIES = ("error", "replace", "skip")


def specials_for(unknown: str, specials: Sequence[str]) -> tuple[str, ...]:
    """Return the special tokens of a new vocabulary, with <unk> first if unknown text is replaced by it."""
    return ((UNK,) if unknown == "replace" and UNK not in specials else ()) + tuple(specials)


def smallest_unsigned(size: int) -> np.dtype:
    """Return the smallest unsigned dtype for the ids 0 … size - 1."""
    return np.min_scalar_type(max(size - 1, 0))


class Vocabulary(ABC):
    """A vocabulary, its ids, the preparation of texts and the policy for unknown text, shared by all tokenisers."""

    level: ClassVar[str]
    settings: ClassVar[tuple[str, ...]]
    default_normalization: ClassVar[str] = (
        NO_NORMALIZATION  # of new tokenisers; a description without the key means "none"
    )
    word_boundary: ClassVar[re.Pattern[str] | None] = None  # where no token continues; None: between any two characters

    def __init__(
        self,
        vocabulary: Sequence[str],
        unknown: str = "error",
        lowercase: bool = False,
        normalize: str = NO_NORMALIZATION,
    ) -> None:
        self.vocabulary = tuple(vocabulary)
        self.unknown = unknown
        self.lowercase = lowercase
        self.normalize = normalize
        self._prepare = TextPreparation(normalize, lowercase)
        check_choice("unknown", unknown, UNKNOWN_POLICIES)
        if not self.vocabulary or not all(isinstance(token, str) and token for token in self.vocabulary):
            raise ConfigError("vocabulary: needs at least one token, and every token a text that is not empty")
        self._ids = {token: index for index, token in enumerate(self.vocabulary)}
        if len(self._ids) != len(self.vocabulary):
            twice = [token for token, count in Counter(self.vocabulary).items() if count > 1]
            raise ConfigError(f"vocabulary: {twice[0]!r} stands there more than once")
        if unknown == "replace" and UNK not in self._ids:
            raise ConfigError(f"unknown: 'replace' needs {UNK} in the vocabulary")
        # The text of each token: <bos> and <eos> delimit records and have none.
        self._texts = ["" if token in (BOS, EOS) else token for token in self.vocabulary]

    def __len__(self) -> int:
        return len(self.vocabulary)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.level, self.vocabulary, self.unknown))

    def to_dict(self) -> dict[str, Any]:
        """Return the canonical form, which ``tokenizer_from_dict`` reads."""
        return canonical(type(self), {**self._settings(), "normalize": self.normalize})

    def _settings(self) -> dict[str, Any]:
        return {
            "level": self.level,
            "vocabulary": list(self.vocabulary),
            "unknown": self.unknown,
            "lowercase": self.lowercase,
        }

    @property
    def format_version(self) -> int:
        """Return the lowest version of the file formats that can describe this tokeniser."""
        return 1 if self.normalize == NO_NORMALIZATION else 2

    @classmethod
    def boundary_of(cls, normalize: str) -> re.Pattern[str] | None:
        """Return the pattern before whose matches a text may be split, for a way of normalising; None: anywhere."""
        if cls.word_boundary is not None or normalize == NO_NORMALIZATION:
            return cls.word_boundary
        return STABLE_BOUNDARY

    @property
    def boundary(self) -> re.Pattern[str] | None:
        """Return the pattern before whose matches a text may be split without a change of its ids; None: anywhere."""
        return self.boundary_of(self.normalize)

    @property
    def unk_id(self) -> int | None:
        """Return the id of <unk>, None if the vocabulary lacks it."""
        return self._ids.get(UNK)

    @property
    def bos_id(self) -> int | None:
        """Return the id of <bos>, None if the vocabulary lacks it."""
        return self._ids.get(BOS)

    @property
    def eos_id(self) -> int | None:
        """Return the id of <eos>, None if the vocabulary lacks it."""
        return self._ids.get(EOS)

    @property
    def end_id(self) -> int | None:
        """Return the id of the token that ends a generated text, None if none does."""
        return self.eos_id

    @abstractmethod
    def encode_pieces(self, text: TextOrPieces) -> Iterator[NDArray]:
        """Yield the ids of ``text`` piece by piece, in the smallest unsigned dtype."""

    def encode(self, text: str) -> NDArray[np.int64]:
        """Return the ids (n,) of ``text``; the policy "error" raises UnknownTokenError for unknown text."""
        return join_ids(self.encode_pieces(text))

    def streamer(self) -> TextStreamer:
        """Return a new incremental decoder."""
        return TextStreamer(self._texts)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids`` without <bos> and <eos>."""
        streamer = self.streamer()
        return streamer.feed_all(list(ids)) + streamer.flush()

    def start_prompt(self) -> str:
        """Return the default prompt: empty if there is a <bos>, else a line end, else the first token."""
        if self.bos_id is not None:
            return ""
        if "\n" in self._ids:
            return "\n"
        return next((token for token in self.vocabulary if token not in SPECIALS), "")

    def separator(self, prompt: str, text: str) -> str:
        """Return the white space between a prompt and the text generated after it."""
        return ""

    def examples(self, count: int) -> list[str]:
        """Return up to ``count`` tokens, as texts, that show the kind of the vocabulary."""
        return list(self.vocabulary[:count])

    def _apply_policy(self, ids: NDArray, unknown: NDArray, error: Callable[[int], UnknownTokenError]) -> NDArray:
        """Apply the policy to the positions where ``unknown`` is true; ``error`` makes the error for the first of them."""
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


def join_ids(pieces: Iterator[NDArray]) -> NDArray[np.int64]:
    """Return pieces of ids as one array (n,)."""
    collected = list(pieces)
    return np.concatenate(collected).astype(np.int64) if collected else np.zeros(0, np.int64)
