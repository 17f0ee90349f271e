"""Text sources for all readers: opened, decompressed and decoded in the same way.

A source is a path, or "-" for standard input. gzip and Zstandard are detected by content, so a pipe can be compressed too.
One leading byte order mark is removed for every codec. Text whose bytes show another encoding than the requested one is
refused.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, BinaryIO

from unrolled.engine.data.readers.compression import MAGIC, DecompressedStream, HeadStream
from unrolled.engine.data.readers.decoding import TextDecoding
from unrolled.engine.data.readers.file_names import COMPRESSED_SUFFIXES, STDIN, printable_name
from unrolled.engine.errors import CorpusError, UnrolledError

PIECE_BYTES = 1 << 22  # bytes decoded at a time


@dataclass(frozen=True)
class Source:
    """A source of text.

    Args:
        path: the original name of the file, or "-".
        encoding: encoding of the text; None: UTF-8 without an option to change it.
        name: name in messages; the default is the path.
        error: class of the errors of reading.
        spool: a copy of a source that can be read only once.
    """

    path: str
    encoding: str | None = "utf-8"
    name: str = ""
    error: type[UnrolledError] = CorpusError
    spool: IO[bytes] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", "standard input" if self.path == STDIN else printable_name(self.path))

    def open(self) -> BinaryIO:
        """Open the bytes of the text, decompressed on reading; closing leaves standard input open.

        Raises:
            UnrolledError: the file is missing, unreadable, or of an unsupported compression.
            MissingDependencyError: the file is compressed by Zstandard, and its reader is not installed.
        """
        stream = self._raw()
        try:
            raw = self._headed(stream)
            kind = next((kind for magic, kind in MAGIC.items() if raw.head.startswith(magic)), None)
            wanted = COMPRESSED_SUFFIXES.get(Path(self.path).suffix.lower())
            if wanted not in (None, kind):
                raise self.error(
                    f"{self.name}: its content is not {wanted}, which its name says; "
                    "it is damaged, or needs another name if it is not compressed"
                )
            if kind is None:
                return io.BufferedReader(raw)
            return io.BufferedReader(DecompressedStream(raw, kind, self.name, self.error), 1 << 17)
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
            if sys.stdin is None:  # closed by the shell (<&-)
                raise self.error(f"{self.name}: is closed; name a file, or pipe the text in")
            return sys.stdin.buffer
        try:
            return open(self.path, "rb")
        except OSError as error:
            raise self.unreadable(error) from error
        except ValueError as error:  # a name with a NUL
            raise self.error(f"{self.name!r}: cannot be read ({error})") from error

    def _headed(self, stream: Any) -> HeadStream:
        return HeadStream(stream, self.unreadable, self._owns_stream)

    @property
    def _owns_stream(self) -> bool:
        """Return whether the stream was opened here: any but standard input."""
        return self.path != STDIN or self.spool is not None

    def unreadable(self, error: OSError) -> UnrolledError:
        """Return the error for a system error of reading."""
        return self.error(f"{self.name}: cannot be read ({(error.strerror or str(error)).lower()})")

    def read(self) -> str:
        """Return the whole text with its original line ends."""
        return "".join(self.pieces(-1, universal=False))

    def pieces(self, size: int = PIECE_BYTES, universal: bool = True) -> Iterator[str]:
        r"""Yield the text in pieces of about ``size`` bytes, without its byte order mark.

        Args:
            size: bytes to read at a time; -1: all of them.
            universal: convert \r\n and \r to \n.

        Raises:
            UnrolledError: as ``open``, or the bytes are not text in this encoding.
        """
        with self.open() as stream:
            yield from self.decoding.pieces(stream, size, universal)

    @property
    def decoding(self) -> TextDecoding:
        """Return the decoder of the bytes."""
        return TextDecoding(self.name, self.encoding, self.error)

    def read_only_once(self) -> bool:
        """Return whether the source cannot be read twice: a pipe, a terminal or standard input.

        Raises:
            UnrolledError: the file is missing.
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
        """Yield a source of the same bytes that can be read several times: itself, or a copy in ``folder``.

        The copy is an unnamed file if the system supports that, and is always removed at the end.

        Raises:
            UnrolledError: the source cannot be read.
            OSError: the disk is full; the file name of the error is ``folder``.
        """
        if not self.read_only_once():
            yield self
            return
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(contextlib.closing(self._headed(self._raw())))
            try:
                folder.mkdir(parents=True, exist_ok=True)
                spool = stack.enter_context(tempfile.TemporaryFile(dir=folder))
                shutil.copyfileobj(stream, spool, PIECE_BYTES)
                spool.flush()
            except OSError as error:
                error.filename = str(folder)
                raise
            yield replace(self, spool=spool)
