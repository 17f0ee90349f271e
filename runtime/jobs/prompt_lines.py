"""Decoded lines of a prompt file, one at a time, of bounded length."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO

from unrolled.engine.data.readers.tables import LineError


class PromptLines:
    """Iterator over the decoded lines of a binary stream, which continues after a bad line.

    ``next`` raises a LineError for a line that is too long or not UTF-8; the next call returns the line after it.

    Args:
        stream: bytes in UTF-8, with or without a byte order mark.
        limit: maximal number of characters of a line.
        newline: as of ``io.TextIOWrapper``; "" keeps line ends as they are, which quoted cells need.
    """

    def __init__(self, stream: BinaryIO, limit: int, newline: str | None) -> None:
        # Bytes that are not UTF-8 become lone surrogates, so that one bad line does not end the reading.
        self._text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline=newline)
        self.limit, self.number = limit, 0
        self.blank = self.quoted = 0  # blank lines skipped; prompts whose quotes are part of them
        self._cut_end = False  # the last piece ended in \r, whose \n may follow

    def __iter__(self) -> PromptLines:
        return self

    def __next__(self) -> str:
        line = self._piece(self.limit + 2)  # room for a line end of two characters
        if not line:
            raise StopIteration
        self.number += 1
        if len(line.rstrip("\r\n")) > self.limit:
            while not line.endswith(("\n", "\r")) and (line := self._piece(self.limit + 2)):
                pass
            raise LineError(f"longer than {self.limit:,} characters")
        _check_decoded(line)
        return line

    def _piece(self, size: int) -> str:
        """Return the rest of the present line, up to ``size`` characters."""
        piece = self._text.readline(size)
        if self._cut_end and piece == "\n":
            piece = self._text.readline(size)
        self._cut_end = len(piece) == size and piece.endswith("\r")
        return piece

    def each(self) -> Iterator[str | LineError]:
        """Yield every line, and a LineError in the place of each bad one."""
        while True:
            try:
                yield next(self)
            except StopIteration:
                return
            except LineError as error:
                yield error

    def read(self, limit: int) -> str:
        """Return the rest of the stream.

        Raises:
            LineError: it is longer than ``limit`` characters, or not UTF-8.
        """
        text = self._text.read(limit + 1)
        if len(text) > limit:
            raise LineError(
                f"longer than {limit:,} characters, which are held whole; write an object a line, in .jsonl"
            )
        _check_decoded(text)
        return text

    def close(self) -> None:
        """Detach from the stream, which stays open because it may be standard input."""
        self._text.detach()


def _check_decoded(text: str) -> None:
    """Raise a LineError if bytes of the text were not UTF-8."""
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        byte = ord(text[error.start]) & 0xFF
        raise LineError(f"byte 0x{byte:02x} behind {error.start} characters is not UTF-8") from None
