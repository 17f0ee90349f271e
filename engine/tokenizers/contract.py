"""What the rest of the package uses of a tokeniser: ids for text, and text for ids, all at once or one by one."""

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
    def encode_pieces(self, text: TextOrPieces) -> Iterator[NDArray]: ...
    def decode(self, ids: Iterable[int]) -> str: ...
    def streamer(self) -> TextStreamer: ...
    def start_prompt(self) -> str: ...
    def examples(self, count: int) -> list[str]: ...
    def to_dict(self) -> dict[str, Any]: ...


class TextStreamer:
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
        if min(tokens, default=-1) >= 0:
            with contextlib.suppress(IndexError):  # which id it was, the other way finds
                return "".join(map(self._texts.__getitem__, tokens))
        return "".join(map(self.feed, tokens))

    def flush(self) -> str:
        """What was held back, at the end of the text."""
        return ""


class StatefulTextStreamer(TextStreamer):
    """A streamer whose text of an id depends on the ids before it."""

    def feed_all(self, tokens: Sequence[int]) -> str:
        return "".join(map(self.feed, tokens))
