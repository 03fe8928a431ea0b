"""Image files that PIL cannot write, or that few people have."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""PNG's, by the number of channels: grey, grey with alpha, colour, colour with alpha."""


def save_deep_png(path: Path, array: NDArray[np.uint16]) -> Path:
    """``array`` (H, W, 1 to 4) as a PNG of 16 bits a channel."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, channels = array.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    head = struct.pack(">IIBBBBB", width, height, 16, _COLOUR_TYPES[channels], 0, 0, 0)
    content = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


def save_deep_tiff(path: Path, array: NDArray[np.uint16], compressed: bool = False, extra: int = 0) -> Path:
    """``array`` (H, W, C) as a TIFF of 16 bits a channel in one strip; ``extra`` channels of it are no colours."""
    height, width, channels = array.shape
    data = array.astype("<u2").tobytes()
    data = zlib.compress(data) if compressed else data
    bits = 8 + len(data)
    start = bits + 2 * channels
    tags = [
        (256, 3, 1, width),
        (257, 3, 1, height),
        (258, 3, channels, bits),
        (259, 3, 1, 8 if compressed else 1),
        (262, 3, 1, 2),
        (273, 4, 1, 8),
        (277, 3, 1, channels),
        (278, 3, 1, height),
        (279, 4, 1, len(data)),
        *([(338, 3, extra, 0)] if extra else []),
    ]
    listed = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    depth = struct.pack(f"<{channels}H", *[16] * channels)
    path.write_bytes(
        b"II*\0" + struct.pack("<I", start) + data + depth + struct.pack("<H", len(tags)) + listed + b"\0\0\0\0"
    )
    return path


def save_turned(path: Path, array: NDArray[np.uint8], orientation: int, **options: Any) -> Path:
    """``array`` as an image file whose EXIF data say that it is to be turned."""
    image = Image.fromarray(array)
    exif = image.getexif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif.tobytes(), **options)
    return path
