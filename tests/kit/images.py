"""Images for tests: real ones, and files whose headers promise more than anybody should open."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

Pixels = np.ndarray


def encoded(pixels: Pixels, form: str = "PNG", **options: Any) -> bytes:
    """Pixels as the bytes of an image file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    """uint8[height, width, 3] of no pattern."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def files(*data: bytes | str) -> np.ndarray:
    """Image files as one BYTES tensor."""
    together = np.empty(len(data), dtype=object)
    together[:] = data
    return together


def png_of(width: int, height: int, body: bytes = b"") -> bytes:
    """A PNG whose header says this size, whatever its body holds."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def bomb(width: int, height: int) -> bytes:
    """A whole PNG of one colour: small as a file, large once it is decoded."""
    deflater = zlib.compressobj(9)
    row = b"\x00" + bytes(3 * width)
    body = b"".join(deflater.compress(row) for _ in range(height)) + deflater.flush()
    return png_of(width, height, body)


def resized_jpeg(jpeg: bytes, width: int, height: int) -> bytes:
    """The same JPEG with another size in its header than it holds."""
    at = next(jpeg.index(marker) for marker in (b"\xff\xc0", b"\xff\xc2") if marker in jpeg)
    return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
