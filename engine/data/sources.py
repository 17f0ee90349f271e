"""Text input: opening, decompressing, detecting and decoding, the same for every reader.

A source is a path or "-" for standard input. gzip and Zstandard are recognised by content, so that a pipe can be compressed
too; one leading byte order mark is dropped whatever the codec is called; text in another encoding than the one asked for is
refused where its bytes show it.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import os
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, BinaryIO

from unrolled.engine.errors import CorpusError, MissingDependencyError, UnrolledError, encodable, first_line
from unrolled.engine.storage.encodings import (
    BYTE_ORDER_MARKS,
    SURROGATE_FREE_CODECS,
    UNICODE_CODECS,
    by_zeros,
    check_characters,
    find_codec,
    probable_encoding,
)

STDIN = "-"
PIECE_BYTES = 1 << 22  # decoded at a time
SAMPLE_BYTES = 1 << 12  # at the beginning, in which an encoding is looked for
MOST_NULS = 0.02  # of the characters; a text may hold one, but not as many as another encoding gives
TAR_MAGIC = slice(257, 262)  # where a tar archive has its name
GZIP, ZSTD = "gzip", "zstd"
COMPRESSED = {".gz": GZIP, ".zst": ZSTD}
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


def shown(path: str | os.PathLike[str]) -> str:
    r"""Return a file's name as text that can be encoded: a byte that is not UTF-8 becomes \xNN.

    The file itself is opened by its true name, in which Python keeps such a byte as a lone surrogate.
    """
    return encodable(os.fspath(path))


def ending(path: str | os.PathLike[str]) -> str:
    """Return the lower-case ending that says what a file holds: ".csv" of a.csv and of a.csv.gz."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_unnamed(path: str | os.PathLike[str]) -> bool:
    """Return whether a source has no name that could tell its format: standard input, a pipe, a file descriptor."""
    name = os.fspath(path)
    return name == STDIN or name.startswith(("/dev/", "/proc/")) or (os.path.exists(name) and not os.path.isfile(name))


def short_name(path: str) -> str:
    """Return what a source is called in results: the name of its file without the folder."""
    if path == STDIN:
        return "standard input"
    return shown(path if path.startswith(("/dev/", "/proc/")) else Path(path).name)


@dataclass(frozen=True)
class Source:
    """An input that text is read from.

    Args:
        path: the file's true name, or "-".
        encoding: of the text; None: UTF-8, and there is no option to say otherwise.
        name: what messages call it; its path if left out.
        error: the class of what reading raises.
        spool: a copy of what can be read only once.
    """

    path: str
    encoding: str | None = "utf-8"
    name: str = ""
    error: type[UnrolledError] = CorpusError
    spool: IO[bytes] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", "standard input" if self.path == STDIN else shown(self.path))

    def open(self) -> BinaryIO:
        """Open the bytes of the text, decompressed as they are read; closing leaves standard input open.

        Raises:
            UnrolledError: there is no such file, it cannot be read, or is of a kind that cannot be decompressed.
            MissingDependencyError: it is Zstandard's, and what reads that is not installed.
        """
        stream = self._raw()
        try:
            raw = _Continued(self, stream)
            kind = next((kind for magic, kind in MAGIC.items() if raw.head.startswith(magic)), None)
            wanted = COMPRESSED.get(Path(self.path).suffix.lower())
            if wanted not in (None, kind):
                raise self.error(
                    f"{self.name}: its content is not {wanted}, which its name says; "
                    "it is damaged, or needs another name if it is not compressed"
                )
            if kind is None:
                return io.BufferedReader(raw)
            return io.BufferedReader(_Decompressed(self, kind, raw), 1 << 17)
        except BaseException:
            if self._owns_stream:
                stream.close()
            raise

    def _raw(self) -> Any:
        if self.spool is not None:
            copy = os.fdopen(os.dup(self.spool.fileno()), "rb")
            copy.seek(0)
            return copy
        if self.path == STDIN:
            if sys.stdin is None:  # the shell closed it, as by <&-
                raise self.error(f"{self.name}: is closed; name a file, or pipe the text in")
            return sys.stdin.buffer
        try:
            return open(self.path, "rb")
        except OSError as error:
            raise self.unreadable(error) from error
        except ValueError as error:  # a name with a NUL
            raise self.error(f"{self.name!r}: cannot be read ({error})") from error

    @property
    def _owns_stream(self) -> bool:
        """Return whether what is read was opened here: all but standard input itself."""
        return self.path != STDIN or self.spool is not None

    def unreadable(self, error: OSError) -> UnrolledError:
        """Return the error of a source that the system cannot read."""
        return self.error(f"{self.name}: cannot be read ({(error.strerror or str(error)).lower()})")

    def read(self) -> str:
        """Return the whole text, line ends as they are."""
        return "".join(self.pieces(-1, universal=False))

    def pieces(self, size: int = PIECE_BYTES, universal: bool = True) -> Iterator[str]:
        r"""Yield the text of about ``size`` bytes at a time, without its byte order mark.

        Args:
            size: bytes read at a time; -1: all of them.
            universal: whether \r\n and \r become \n.

        Raises:
            UnrolledError: as ``open``, or the bytes are no text in that encoding.
        """
        lines = io.IncrementalNewlineDecoder(None, True)
        fed = characters = nuls = 0
        begun = False
        with self.open() as stream:
            codec, sample = self.detect_codec(stream)
            decoder = codecs.getincrementaldecoder(codec)()
            while True:
                block = stream.read(size)
                fed += len(block)
                try:
                    text = decoder.decode(block, not block)
                except UnicodeError as error:
                    raise self._undecodable(error, fed, sample) from error
                if text and not begun:
                    begun, text = True, text.removeprefix("\ufeff")
                nuls += text.count("\0")
                if (
                    nuls and codec not in UNICODE_CODECS
                ):  # such a codec takes any bytes, so that nothing else shows the wrong one
                    raise self._no_text(f"read as {self._encoding} it holds a NUL, as binary files do", sample)
                if codec not in SURROGATE_FREE_CODECS:
                    check_characters(text, self.name, self.error)
                characters += len(text)
                if piece := lines.decode(text, not block) if universal else text:
                    yield piece
                if not block:
                    break
            if nuls > max(1, MOST_NULS * characters):
                raise self._no_text(
                    f"read as {self._encoding} it holds {nuls:,} NULs in {characters:,} characters", sample
                )

    def detect_codec(self, stream: BinaryIO) -> tuple[str, bytes]:
        """Return the codec of what ``open`` gave, and the bytes at its beginning, which are still to be read.

        Without a byte order mark, utf-16 and utf-32 have the order of this machine.

        Raises:
            UnrolledError: the beginning shows another encoding than the one asked for.
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
            looks = asked  # who names the order knows it better: ideographic spaces, turned round, are digits
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
        offset = fed - len(error.object) + error.start  # the decoder may hold back the beginning of a character
        return self._no_text(
            f"byte 0x{error.object[error.start]:02x} at offset {offset} is not {self._encoding}", sample
        )

    def _no_text(self, why: str, sample: bytes) -> UnrolledError:
        return self.error(f"{self.name}: {why}; {self._advice(by_zeros(sample))}")

    def read_only_once(self) -> bool:
        """Return whether a second reading would give something else: of a pipe, a terminal, standard input.

        Raises:
            UnrolledError: there is no such file.
        """
        if self.path == STDIN:
            return True
        try:
            return not stat.S_ISREG(os.stat(self.path).st_mode) and not os.path.isdir(self.path)
        except OSError as error:
            raise self.unreadable(error) from error
        except ValueError as error:  # a name with a NUL
            raise self.error(f"{self.name!r}: cannot be read ({error})") from error

    @contextlib.contextmanager
    def rereadable(self, folder: Path) -> Iterator[Source]:
        """Yield a source of the same bytes that can be read several times, by a copy in ``folder`` where it needs one.

        The copy has no name where the system allows that, and is gone at the end in any case.

        Raises:
            UnrolledError: it cannot be read.
            OSError: there is no room for the copy; its file name is ``folder``.
        """
        if not self.read_only_once():
            yield self
            return
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(contextlib.closing(_Continued(self, self._raw())))
            try:
                folder.mkdir(parents=True, exist_ok=True)
                spool = stack.enter_context(tempfile.TemporaryFile(dir=folder))
                shutil.copyfileobj(stream, spool, PIECE_BYTES)
                spool.flush()
            except OSError as error:
                error.filename = str(folder)
                raise
            yield replace(self, spool=spool)


class _Continued(io.RawIOBase):
    """A stream whose ``head`` is known before it is read; closing it leaves standard input open."""

    def __init__(self, source: Source, stream: Any) -> None:
        self._source, self._stream = source, stream
        self.head = self._left = self._peek()

    def _peek(self) -> bytes:
        """Return the first bytes, no more than are there unless they begin like something longer."""
        head = more = self._some()
        while more and any(len(head) < len(magic) and magic.startswith(head) for magic in (*MAGIC, *BYTE_ORDER_MARKS)):
            head += (more := self._some())
        return head

    def _some(self) -> bytes:
        try:
            return self._stream.read1(SAMPLE_BYTES)
        except OSError as error:
            raise self._source.unreadable(error) from error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            try:
                return self._stream.readinto1(buffer)
            except OSError as error:
                raise self._source.unreadable(error) from error
        n = min(len(buffer), len(self._left))
        buffer[:n], self._left = self._left[:n], self._left[n:]
        return n

    def readall(self) -> bytes:  # in one call, where RawIOBase makes thousands
        head, self._left = self._left, b""
        try:
            return head + self._stream.read()
        except OSError as error:
            raise self._source.unreadable(error) from error

    def close(self) -> None:
        if not self.closed and self._source._owns_stream:
            self._stream.close()
        super().close()


def is_compressed(stream: BinaryIO) -> bool:
    """Return whether what ``Source.open`` gave is decompressed as it is read."""
    return isinstance(stream, io.BufferedReader) and isinstance(stream.raw, _Decompressed)


class _Decompressed(io.RawIOBase):
    """The content of a compressed stream; damage is an error of the source."""

    def __init__(self, source: Source, kind: str, raw: _Continued) -> None:
        self._source, self._kind, self._raw = source, kind, raw
        self._stream: Any
        if kind == GZIP:
            self._stream, self._errors = gzip.GzipFile(fileobj=io.BufferedReader(raw)), (zlib.error,)
        elif kind == ZSTD:
            zstd = _import_zstd(source)
            self._stream, self._errors = zstd.ZstdFile(io.BufferedReader(raw)), (zstd.ZstdError,)
        else:
            raise source.error(
                f"{source.name}: is compressed by {kind}, which is not read here; unpack it, or use gzip"
            )

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            return self._stream.readinto1(buffer)
        except (EOFError, gzip.BadGzipFile, *self._errors) as error:
            raise self._source.error(
                f"{self._source.name}: its {self._kind} data is damaged or cut off ({first_line(error)}); get the file again"
            ) from error

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
            self._raw.close()
        super().close()


def _import_zstd(source: Source) -> Any:
    with contextlib.suppress(ImportError):
        from compression import zstd  # of Python 3.14 and later

        return zstd
    try:
        from backports import zstd
    except ImportError as error:
        raise MissingDependencyError(
            f'{source.name}: is compressed by Zstandard; pip install "unrolled[zst]" to read it, or unpack it'
        ) from error
    return zstd
