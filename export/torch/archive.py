"""What a zip archive from elsewhere must hold before a native library reads it: whole entries, of honest sizes.

torch's files are zip archives, and torch checks neither checksums nor how far a compressed entry inflates.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from unrolled.engine.errors import ModelFileError, first_line

MAX_INFLATED = 64 << 20  # bytes of all compressed entries together: code and metadata; weights are stored as they are
# what reading a damaged zip archive raises
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    ValueError,  # also of text that is not UTF-8
    NotImplementedError,
    RuntimeError,
    OverflowError,
)


def check_archive(path: Path, what: str) -> list[str]:
    """Names of the entries of a zip archive, each there once, uncompressed no larger than the file, its checksum right.

    Raises:
        ModelFileError: something else; ``what`` says what was expected.
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
