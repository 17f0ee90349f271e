"""Heat maps as PNG images inside the page: the opacity of a colour shows the value, which suits light and dark mode.

Source: ISO/IEC 15948 (PNG), an indexed image with a palette (PLTE) and its opacities (tRNS).
"""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

POSITIVE, NEGATIVE = (217, 119, 6), (59, 108, 236)
OPACITY_LEVELS = 127


def heat_map(values: NDArray, limit: float = 1.0) -> str:
    """Return ``values`` (rows, columns) as a data URI: -limit is opaque NEGATIVE, 0 transparent, limit opaque POSITIVE."""
    if values.ndim != 2 or not values.size:
        raise ValueError(f"values: got shape {values.shape}, needs rows and columns")
    shares = np.clip(np.nan_to_num(values.astype(np.float64)) / limit, -1, 1)
    pixels = (np.rint(shares * OPACITY_LEVELS) + OPACITY_LEVELS).astype(np.uint8)
    rows = np.zeros((pixels.shape[0], pixels.shape[1] + 1), np.uint8)  # each row starts with its filter type, 0: none
    rows[:, 1:] = pixels
    colors = [NEGATIVE] * OPACITY_LEVELS + [POSITIVE] * (OPACITY_LEVELS + 1)
    opacities = [abs(level - OPACITY_LEVELS) * 255 // OPACITY_LEVELS for level in range(2 * OPACITY_LEVELS + 1)]
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 3, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(kind, body)
        for kind, body in (
            (b"IHDR", header),
            (b"PLTE", bytes(part for color in colors for part in color)),
            (b"tRNS", bytes(opacities)),
            (b"IDAT", zlib.compress(rows.tobytes(), 9)),
            (b"IEND", b""),
        )
    )
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
