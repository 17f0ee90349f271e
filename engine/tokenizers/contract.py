"""The interface of tokenisers: text to ids, and ids to text, at once or incrementally."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import UnknownTokenError
from unrolled.engine.tokenizers.pieces import TextOrPieces


class Tokenizer(Protocol):
    """The part of a tokeniser that the rest of the package uses."""

    level: ClassVar[str]
    settings: ClassVar[tuple[str, ...]]  # data settings that ``fit`` accepts
    boundary: ClassVar[re.Pattern[str] | None]  # where a text may be split; None: anywhere
    vocabulary: tuple[str, ...]
    unknown: str

    @property
    def unk_id(self) -> int | None: ...
    @property
    def bos_id(self) -> int | None: ...
    @property
    def eos_id(self) -> int | None: ...
    def encode(self, text: str) -> NDArray[np.int64]: ...
    def encode_pieces(self, text: TextOrPieces) -> Iterator[NDArray]: ...
    def decode(self, ids: Iterable[int]) -> str: ...
    def streamer(self) -> TextStreamer: ...
    def start_prompt(self) -> str: ...
    def examples(self, count: int) -> list[str]: ...
    def to_dict(self) -> dict[str, Any]: ...


class TextStreamer:
    """An incremental decoder: its pieces and the result of ``flush``, joined, equal the result of ``decode``.

    A piece contains whole characters only, and never changes the text before it.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def feed(self, token: int) -> str:
        """Return the text that the next id adds; empty for <bos> and <eos>.

        Raises:
            UnknownTokenError: the vocabulary has no such id.
        """
        V = len(self._texts)
        if not 0 <= token < V:
            raise UnknownTokenError(f"decode: id {token} is outside the vocabulary's 0 … {V - 1}")
        return self._texts[token]

    def feed_all(self, tokens: Sequence[int]) -> str:
        """Return the text that several ids add, many times faster than ``feed`` for each."""
        if min(tokens, default=-1) >= 0:
            with contextlib.suppress(IndexError):  # ``feed`` raises the error that names the id
                return "".join(map(self._texts.__getitem__, tokens))
        return "".join(map(self.feed, tokens))

    def flush(self) -> str:
        """Return the text held back at the end."""
        return ""


class StatefulTextStreamer(TextStreamer):
    """A decoder for which the text of an id depends on the ids before it."""

    def feed_all(self, tokens: Sequence[int]) -> str:
        return "".join(map(self.feed, tokens))
