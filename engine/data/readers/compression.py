"""Compressed streams: detected by their first bytes, and decompressed on reading."""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

from unrolled.engine.data.readers.encodings import BYTE_ORDER_MARKS
from unrolled.engine.data.readers.file_names import GZIP, ZSTD
from unrolled.engine.errors import MissingDependencyError, UnrolledError, first_line

SAMPLE_BYTES = 1 << 12  # at the start, from which an encoding is detected
MAGIC = {
    b"\x1f\x8b\x08": GZIP,
    b"\x28\xb5\x2f\xfd": ZSTD,
    **{f"BZh{level}1AY&SY".encode(): "bzip2" for level in range(1, 10)},
    b"\xfd7zXZ\x00": "xz",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x1f\x9d": "compress",
}


class HeadStream(io.RawIOBase):
    """A stream whose first bytes, ``head``, are available before it is read.

    Args:
        stream: the underlying stream.
        unreadable: converts a system error into the error to raise.
        owned: closing also closes the underlying stream; standard input stays open.
    """

    def __init__(self, stream: Any, unreadable: Callable[[OSError], UnrolledError], owned: bool) -> None:
        self._stream, self._unreadable, self._owned = stream, unreadable, owned
        self.head = self._left = self._peek()

    def _peek(self) -> bytes:
        """Return the first available bytes; read on only while they could be the start of a longer magic number."""
        head = more = self._read_some()
        while more and any(len(head) < len(magic) and magic.startswith(head) for magic in (*MAGIC, *BYTE_ORDER_MARKS)):
            head += (more := self._read_some())
        return head

    def _read_some(self) -> bytes:
        try:
            return self._stream.read1(SAMPLE_BYTES)
        except OSError as error:
            raise self._unreadable(error) from error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            try:
                return self._stream.readinto1(buffer)
            except OSError as error:
                raise self._unreadable(error) from error
        n = min(len(buffer), len(self._left))
        buffer[:n], self._left = self._left[:n], self._left[n:]
        return n

    def readall(self) -> bytes:  # in one call; RawIOBase would make thousands
        head, self._left = self._left, b""
        try:
            return head + self._stream.read()
        except OSError as error:
            raise self._unreadable(error) from error

    def close(self) -> None:
        if not self.closed and self._owned:
            self._stream.close()
        super().close()


class DecompressedStream(io.RawIOBase):
    """The decompressed content of a stream.

    Args:
        raw: the compressed stream.
        kind: a value of ``MAGIC``.
        name: name of the source in messages.
        error: class of the error for damaged data or an unsupported kind.
    """

    def __init__(self, raw: HeadStream, kind: str, name: str, error: type[UnrolledError]) -> None:
        self._raw, self._kind, self._name, self._error = raw, kind, name, error
        self._stream: Any
        if kind == GZIP:
            self._stream, self._errors = gzip.GzipFile(fileobj=io.BufferedReader(raw)), (zlib.error,)
        elif kind == ZSTD:
            zstd = _import_zstd(name)
            self._stream, self._errors = zstd.ZstdFile(io.BufferedReader(raw)), (zstd.ZstdError,)
        else:
            raise error(f"{name}: is compressed by {kind}, which is not read here; unpack it, or use gzip")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            return self._stream.readinto1(buffer)
        except (EOFError, gzip.BadGzipFile, *self._errors) as error:
            raise self._error(
                f"{self._name}: its {self._kind} data is damaged or cut off ({first_line(error)}); get the file again"
            ) from error

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
            self._raw.close()
        super().close()


def is_compressed(stream: BinaryIO) -> bool:
    """Return whether a stream of ``Source.open`` is decompressed on reading."""
    return isinstance(stream, io.BufferedReader) and isinstance(stream.raw, DecompressedStream)


def _import_zstd(name: str) -> Any:
    with contextlib.suppress(ImportError):
        from compression import zstd  # Python 3.14 and later

        return zstd
    try:
        from backports import zstd
    except ImportError as error:
        raise MissingDependencyError(
            f'{name}: is compressed by Zstandard; pip install "unrolled[zst]" to read it, or unpack it'
        ) from error
    return zstd
