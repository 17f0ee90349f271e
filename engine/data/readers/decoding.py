"""Decode bytes to text, and check the requested encoding against the bytes."""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from unrolled.engine.data.readers.compression import SAMPLE_BYTES
from unrolled.engine.data.readers.encodings import (
    BYTE_ORDER_MARKS,
    SURROGATE_FREE_CODECS,
    UNICODE_CODECS,
    find_codec,
    probable_encoding,
    probable_utf16,
)
from unrolled.engine.errors import UnrolledError, first_line
from unrolled.engine.storage.surrogates import check_characters

MOST_NULS = 0.02  # share of the characters; a text may contain one, a wrong encoding produces many
TAR_MAGIC = slice(257, 262)  # position of the magic number of a tar archive


@dataclass(frozen=True)
class TextDecoding:
    """The decoding of a source.

    Args:
        name: name of the source in messages.
        encoding: encoding of the text; None: UTF-8 without an option to change it.
        error: class of the errors.
    """

    name: str
    encoding: str | None
    error: type[UnrolledError]

    def pieces(self, stream: BinaryIO, size: int, universal: bool) -> Iterator[str]:
        r"""Yield the text in pieces of about ``size`` bytes, without its byte order mark.

        Args:
            stream: the bytes; its ``peek`` is used.
            size: bytes to read at a time; -1: all of them.
            universal: convert \r\n and \r to \n.

        Raises:
            UnrolledError: the bytes are not text in this encoding.
        """
        lines = io.IncrementalNewlineDecoder(None, True)
        characters = nuls = 0
        codec, sample = self.detect_codec(stream)
        for text in self._decode(stream, size, codec, sample):
            nuls += text.count("\0")
            # Other codecs decode any bytes, so a NUL is the only sign of a wrong encoding.
            if nuls and codec not in UNICODE_CODECS:
                raise self._no_text(f"read as {self._encoding} it holds a NUL, as binary files do", sample)
            if codec not in SURROGATE_FREE_CODECS:
                check_characters(text, self.name, self.error)
            characters += len(text)
            if piece := lines.decode(text) if universal else text:
                yield piece
        if piece := lines.decode("", True):
            yield piece
        if nuls > max(1, MOST_NULS * characters):
            raise self._no_text(f"read as {self._encoding} it holds {nuls:,} NULs in {characters:,} characters", sample)

    def _decode(self, stream: BinaryIO, size: int, codec: str, sample: bytes) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder(codec)()
        fed, begun = 0, False
        while True:
            block = stream.read(size)
            fed += len(block)
            try:
                text = decoder.decode(block, not block)
            except UnicodeError as error:
                raise self._undecodable(error, fed, sample) from error
            if text and not begun:
                begun, text = True, text.removeprefix("\ufeff")
            yield text
            if not block:
                return

    def detect_codec(self, stream: BinaryIO) -> tuple[str, bytes]:
        """Return the codec of a stream, and its first bytes without consuming them.

        Without a byte order mark, utf-16 and utf-32 have the byte order of the machine.

        Raises:
            UnrolledError: the first bytes show another encoding than the requested one.
        """
        asked = resolved = find_codec("utf-8" if self.encoding is None else self.encoding)
        sample = stream.peek(SAMPLE_BYTES)[:SAMPLE_BYTES]  # type: ignore[attr-defined]
        if sample[TAR_MAGIC] == b"ustar":
            raise self.error(f"{self.name}: is a tar archive; unpack it, and name the files in it")
        looks = probable_encoding(sample)
        marked = any(sample.startswith(mark) for mark in BYTE_ORDER_MARKS)
        if asked in ("utf-16", "utf-32"):
            order = "le" if sys.byteorder == "little" else "be"
            resolved = looks if looks and marked else f"{asked}-{order}"
        elif asked.startswith("utf-16") and not marked and looks in ("utf-16-le", "utf-16-be"):
            looks = asked  # trust a byte order that is given: ideographic spaces with swapped bytes are digits
        if looks not in (None, resolved) or not resolved.startswith(asked):
            raise self.error(f"{self.name}: is not {self._encoding}, it looks like {looks}; {self._advice(looks)}")
        return resolved, sample

    @property
    def _encoding(self) -> str:
        return "UTF-8" if self.encoding is None else self.encoding

    def _advice(self, looks: str | None) -> str:
        if self.encoding is None:
            return f"convert it, for instance with iconv -f {looks or 'latin1'} -t utf-8"
        return "name the file's encoding with --encoding" + (
            f", here {looks}" if looks else ", for instance latin-1 or utf-16"
        )

    def _undecodable(self, error: UnicodeError, fed: int, sample: bytes) -> UnrolledError:
        if not isinstance(error, UnicodeDecodeError):
            return self._no_text(f"is not {self._encoding} ({first_line(error)})", sample)
        offset = fed - len(error.object) + error.start  # the decoder may hold back the first bytes of a character
        return self._no_text(
            f"byte 0x{error.object[error.start]:02x} at offset {offset} is not {self._encoding}", sample
        )

    def _no_text(self, why: str, sample: bytes) -> UnrolledError:
        return self.error(f"{self.name}: {why}; {self._advice(probable_utf16(sample))}")
