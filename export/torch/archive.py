"""Checks of a zip archive from elsewhere before a native library reads it: complete entries with plausible sizes.

torch's files are zip archives, and torch checks neither checksums nor the inflated size of compressed entries.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from unrolled.engine.errors import ModelFileError, first_line

MAX_INFLATED = 64 << 20  # bytes of all compressed entries: code and metadata; weights are stored uncompressed
# Exceptions of reading a damaged zip archive.
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    ValueError,  # also raised for text that is not UTF-8
    NotImplementedError,
    RuntimeError,
    OverflowError,
)


def check_archive(path: Path, what: str) -> list[str]:
    """Return the names of a zip archive's entries: each unique, no larger than the file, and with a correct checksum.

    Args:
        what: the expected kind of file, for the message.

    Raises:
        ModelFileError: another kind of file, or a damaged one.
    """
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if len(set(names)) != len(names):
                raise zipfile.BadZipFile("two entries of one name")
            stored = sum(entry.file_size for entry in entries if entry.compress_type == zipfile.ZIP_STORED)
            inflated = sum(entry.file_size for entry in entries if entry.compress_type != zipfile.ZIP_STORED)
            if stored > size or inflated > MAX_INFLATED:
                raise zipfile.BadZipFile("its entries are larger than they can be")
            if (bad := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"the checksum of {bad} is wrong")
            return names
    except DAMAGE as error:
        raise ModelFileError(f"{path}: not {what}, or a damaged one ({first_line(error)})") from error
