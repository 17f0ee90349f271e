"""Incremental decoders: text from ids that arrive one at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from unrolled.engine.errors import UnknownTokenError


class TextStreamer:
    """An incremental decoder: its pieces and the result of ``flush``, joined, equal the result of ``decode``.

    A piece contains whole characters only, and never changes the text before it. Here each id adds its own text, independent
    of the ids before it; decoders for which this does not hold derive from ``StatefulTextStreamer``.

    Args:
        texts: the text of each id.
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
    """An incremental decoder in which the text that an id adds depends on the ids before it."""

    def feed_all(self, tokens: Sequence[int]) -> str:
        """Return the text that several ids add, id by id."""
        return "".join(map(self.feed, tokens))
