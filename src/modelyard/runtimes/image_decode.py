"""Bytes of an image become pixels: the size in its header is looked at first, and a bomb is refused undecoded.

The limit is the process's own (`max_pixels`, set once at its start); a pipeline may ask for a lower one. Decoding is
Pillow's (the extra `image`).
"""

from __future__ import annotations

import base64
import binascii
import io

import numpy as np
from numpy.typing import NDArray

from modelyard.contract.errors import InvalidInput, Violation

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 25_000_000  # unless a setting says otherwise: an A4 page at 500 dots an inch has 24 million

MAX_SCANS = 100  # of one JPEG; a progressive one has about ten, and each costs as much as the whole image

_MAGIC = (b"\x89PNG", b"\xff\xd8", b"RIFF")
_most = MAX_PIXELS


def allow_pixels(most: int) -> None:
    """Set what this process opens at most, in pixels of one image. Called once, before anything is loaded."""
    global _most
    _most = most


def decode_image(sent: object, column: str, row: int, most: int = 0) -> NDArray[np.uint8]:
    """The pixels of one image, uint8[height, width, 3], red, green, blue; what is transparent lies on white.

    sent: the file's bytes, or their base64 as text. column, row: what a refusal names. most: pixels, if fewer than the
    process allows. Turned as its camera said. Raises InvalidInput: no image, of another format, too large, cut off.
    """
    from PIL import Image, ImageOps

    limit = min(most or _most, _most)
    data = _bytes(sent, column, row)
    if data.startswith(b"RIFF") and _webp_pixels(data) > limit:  # its decoder takes the memory when it is opened
        raise _too_large(limit, column, row)
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > MAX_SCANS:
        raise _refused("image", f"has more scans than MAX_SCANS={MAX_SCANS}; save it anew", column, row)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > limit:
                raise _too_large(limit, column, row, f": it has {width} x {height}")
            image.load()
            turned = ImageOps.exif_transpose(image)
            return np.asarray(_on_white(turned))
    except InvalidInput:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # Pillow's own limit, on the header alone
        raise _too_large(limit, column, row) from None
    except Exception:  # decoders raise many kinds, and none of them says more than this
        formats = ", ".join(FORMATS)
        raise _refused("image", f"must be a whole image ({formats}), its bytes or their base64", column, row) from None


def _webp_pixels(data: bytes) -> int:
    """How many pixels a WebP file says that it has; 0 for what is none (RFC 9649)."""
    head = data[:30].ljust(30, b"\0")
    kind = head[12:16]
    if kind == b"VP8X":
        width, height = int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    elif kind == b"VP8L":
        packed = int.from_bytes(head[21:25], "little")
        width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (int.from_bytes(head[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    else:
        return 0
    return width * height


def _on_white(image: object) -> object:
    from PIL import Image

    assert isinstance(image, Image.Image)  # noqa: S101 - for the type checker: Pillow is asked only where it is needed
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGB", layer.size, (255, 255, 255))
        white.paste(layer, mask=layer.getchannel("A"))
        return white
    if image.mode.startswith("I"):  # 16 bits for each pixel: the upper ones count
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _bytes(sent: object, column: str, row: int) -> bytes:
    if isinstance(sent, bytes):
        return sent
    if not isinstance(sent, str):
        raise _refused("type", "must be an image: its bytes, or their base64 as text", column, row)
    try:
        return base64.b64decode(sent, validate=True)
    except (binascii.Error, ValueError):
        raw = sent.encode()
        if raw.startswith(_MAGIC):  # bytes that happen to be UTF-8
            return raw
        raise _refused("image", "must be an image as base64, or its bytes", column, row) from None


def _too_large(limit: int, column: str, row: int, shown: str = "") -> InvalidInput:
    return _refused("max_pixels", f"is above the limit max_pixels={limit}{shown}; send it smaller", column, row)


def _refused(rule: str, message: str, column: str, row: int) -> InvalidInput:
    return InvalidInput(f"row {row}: column {column!r} {message}", (Violation(rule, message, column, row),))
