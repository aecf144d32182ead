"""Image files become pixels; bombs, liars and rubbish are refused before they cost anything."""

from __future__ import annotations

import base64
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kit.images import bomb, encoded, noise, png_of, resized_jpeg
from modelyard.contract.errors import InvalidInput
from modelyard.runtimes import image_decode
from modelyard.runtimes.image_decode import MAX_PIXELS, allow_pixels, decode_image


@pytest.fixture(autouse=True)
def usual_limit() -> Iterator[None]:
    yield
    allow_pixels(MAX_PIXELS)


def refusal(sent: object, most: int = 0) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        decode_image(sent, "page", 3, most)
    (violation,) = caught.value.violations
    assert (violation.column, violation.row) == ("page", 3)
    return caught.value


PIXELS = noise(40, 60)


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_a_lossless_file_gives_its_pixels(form: str) -> None:
    data = encoded(PIXELS, form, **({"lossless": True} if form == "WEBP" else {}))
    np.testing.assert_array_equal(decode_image(data, "page", 0), PIXELS)
    np.testing.assert_array_equal(decode_image(base64.b64encode(data).decode(), "page", 0), PIXELS)


def test_a_jpeg_gives_nearly_its_pixels_the_way_up_that_its_camera_said() -> None:
    smooth = np.repeat(np.linspace(0, 255, 60, dtype=np.uint8)[None, :, None], 40, axis=0).repeat(3, axis=2)
    np.testing.assert_allclose(decode_image(encoded(smooth, "JPEG", quality=95), "page", 0), smooth, atol=6)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it a quarter to the right
    turned = decode_image(encoded(smooth, "JPEG", quality=95, exif=exif), "page", 0)
    np.testing.assert_allclose(turned, np.rot90(smooth, -1), atol=6)


def test_what_is_transparent_lies_on_white_and_greys_are_grey() -> None:
    layer = np.zeros((4, 4, 4), dtype=np.uint8)
    layer[:2, :, 3] = 255
    found = decode_image(encoded(layer), "page", 0)
    assert found[:2].max() == 0
    assert found[2:].min() == 255
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16
    np.testing.assert_array_equal(decode_image(encoded(grey), "page", 0), np.stack([grey] * 3, axis=2))
    deep = np.linspace(0, 65535, 16).astype(np.uint16).reshape(4, 4)
    np.testing.assert_array_equal(decode_image(encoded(deep), "page", 0)[:, :, 0], deep >> 8)


def test_a_bomb_is_refused_by_its_header_and_never_decoded() -> None:
    data = bomb(12_000, 12_000)  # 432 MB of pixels
    assert len(data) < 600_000
    tracemalloc.start()
    try:
        refused = refusal(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refused.violations[0].rule == "max_pixels"
    assert f"max_pixels={MAX_PIXELS}" in str(refused)
    assert peak < 4_000_000


@pytest.mark.parametrize(
    ("width", "height"), [(2**31 - 1, 2**31 - 1), (100_000, 100_000), (10_000, 9_500), (5001, 5000)]
)
def test_a_header_that_promises_too_much_is_refused(width: int, height: int) -> None:
    refused = refusal(png_of(width, height))
    assert refused.violations[0].rule in ("max_pixels", "image")
    jpeg = encoded(PIXELS, "JPEG")
    assert refusal(resized_jpeg(jpeg, min(width, 65_500), min(height, 65_500))).violations[0].rule == "max_pixels"


def test_a_header_that_promises_less_than_there_is_gives_no_more_than_it_promised() -> None:
    lying = resized_jpeg(encoded(noise(400, 400), "JPEG"), 16, 16)
    assert decode_image(lying, "page", 0).shape == (16, 16, 3)
    body = bomb(3000, 3000)
    small = png_of(10, 10, body[body.index(b"IDAT") + 4 : -16])
    assert decode_image(small, "page", 0).shape == (10, 10, 3)


@pytest.mark.parametrize("kind", ["VP8X", "VP8L", "VP8 "])
def test_a_webp_is_measured_before_its_decoder_takes_the_memory(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = noise(600, 500)
    with_alpha = np.dstack([pixels, pixels[:, :, :1]])
    data = {
        "VP8 ": lambda: encoded(pixels, "WEBP"),
        "VP8L": lambda: encoded(pixels, "WEBP", lossless=True),
        "VP8X": lambda: encoded(with_alpha, "WEBP", exif=Image.Exif().tobytes() or b"Exif\0\0"),
    }[kind]()
    assert data[12:16] == kind.encode()
    assert decode_image(data, "page", 0, 300_000).shape == (600, 500, 3)
    monkeypatch.setattr(Image, "open", None)  # nothing below may open it
    assert refusal(data, 299_999).violations[0].rule == "max_pixels"
    huge = data[:24] + b"\xff" * 6 + data[30:]
    if kind == "VP8X":
        assert refusal(huge).violations[0].rule == "max_pixels"


def test_a_jpeg_of_very_many_scans_is_refused() -> None:
    data = encoded(noise(64, 64), "JPEG", progressive=True)
    at = data.index(b"\xff\xda")
    end = data.index(b"\xff\xc4", at) if b"\xff\xc4" in data[at:] else data.index(b"\xff\xda", at + 2)
    assert decode_image(data, "page", 0).shape == (64, 64, 3)
    many = data[:at] + data[at:end] * 200 + data[end:]
    assert "MAX_SCANS" in str(refusal(many))


def test_the_process_and_the_version_each_set_a_limit() -> None:
    data = encoded(PIXELS)
    assert refusal(data, 2399).violations[0].rule == "max_pixels"
    assert decode_image(data, "page", 0, 2400).shape == PIXELS.shape
    allow_pixels(2399)
    assert "max_pixels=2399: it has 60 x 40" in str(refusal(data, 10_000))


RUBBISH = {
    "nothing": b"", "gif": b"GIF89a" + bytes(50), "a head": b"\x89PNG\r\n\x1a\n", "bmp": encoded(PIXELS, "BMP"),
    "png cut off": encoded(PIXELS)[:-200], "jpeg cut off": encoded(PIXELS, "JPEG")[:300], "no base64": "no base64!",
    "no image": "aGVsbG8=", "empty": "", "number": 17, "null": None, "list": ["x"],
}  # fmt: skip


@pytest.mark.parametrize("sent", RUBBISH.values(), ids=RUBBISH.keys())
def test_what_is_no_whole_image_is_refused_and_not_repeated(sent: object) -> None:
    refused = refusal(sent)
    assert refused.violations[0].rule in ("image", "type")
    assert "hello" not in str(refused)


@given(st.binary(max_size=200), st.integers(0, 500), st.sampled_from(("PNG", "JPEG", "WEBP")))
def test_a_damaged_file_is_an_image_or_a_refusal(damage: bytes, at: int, form: str) -> None:
    whole = encoded(noise(12, 12), form)
    at = min(at, len(whole))
    try:
        found = decode_image(whole[:at] + damage + whole[at + len(damage) :], "page", 0)
    except InvalidInput:
        return
    assert found.dtype == np.uint8
    assert found.ndim == 3
    assert found.shape[0] * found.shape[1] <= image_decode.MAX_PIXELS
