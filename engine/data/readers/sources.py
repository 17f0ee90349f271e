"""Text input: opening, decompressing, detecting and decoding, the same for every reader.

A source is a path or "-" for standard input. gzip and Zstandard are recognised by content, so that a pipe can be compressed
too; one leading byte order mark is dropped whatever the codec is called; text in another encoding than the one asked for is
refused where its bytes show it.
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

PIECE_BYTES = 1 << 22  # decoded at a time


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
            object.__setattr__(self, "name", "standard input" if self.path == STDIN else printable_name(self.path))

    def open(self) -> BinaryIO:
        """Open the bytes of the text, decompressed as they are read; closing leaves standard input open.

        Raises:
            UnrolledError: there is no such file, it cannot be read, or is of a kind that cannot be decompressed.
            MissingDependencyError: it is Zstandard's, and what reads that is not installed.
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
            if sys.stdin is None:  # the shell closed it, as by <&-
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
        with self.open() as stream:
            yield from self.decoding.pieces(stream, size, universal)

    @property
    def decoding(self) -> TextDecoding:
        """Return how the bytes become text."""
        return TextDecoding(self.name, self.encoding, self.error)

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
