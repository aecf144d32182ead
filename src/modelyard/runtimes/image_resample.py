"""Pixels into other pixels: scaled, turned, and cut out of a page along a box at any angle. Pillow does the work."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # [height, width, 3]


def scaled(pixels: Pixels, height: int, width: int) -> Pixels:
    """The image at this size, bilinear; what is made smaller is averaged."""
    from PIL import Image

    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def cut_out(pixels: Pixels, box: NDArray[np.float32], upright: float) -> Pixels:
    """What lies in a box, float32[4, 2] clockwise from its upper left corner, made straight.

    upright: what is taller than so many times its width is turned a quarter to the left; 0: nothing is.
    """
    from PIL import Image

    width = max(1, round(max(_length(box[0], box[1]), _length(box[3], box[2]))))
    height = max(1, round(max(_length(box[0], box[3]), _length(box[1], box[2]))))
    way = _perspective(box, width, height)
    image = Image.fromarray(pixels).transform(
        (width, height), Image.Transform.PERSPECTIVE, way, Image.Resampling.BICUBIC
    )
    found = np.asarray(image)
    return np.ascontiguousarray(np.rot90(found)) if upright and height >= upright * width else found


def _length(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float(np.hypot(*(one - other)))


def _perspective(box: NDArray[np.float32], width: int, height: int) -> list[float]:
    """The eight numbers that lead from a place in the straight image to the place on the page (a to h, as in
    x = (a u + b v + c) / (g u + h v + 1))."""
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], dtype=np.float64)
    rows, places = [], []
    for (u, v), (x, y) in zip(corners, box.astype(np.float64), strict=True):
        rows += [[u, v, 1, 0, 0, 0, -x * u, -x * v], [0, 0, 0, u, v, 1, -y * u, -y * v]]
        places += [x, y]
    found: list[float] = np.linalg.lstsq(np.array(rows), np.array(places), rcond=None)[0].tolist()
    return found
