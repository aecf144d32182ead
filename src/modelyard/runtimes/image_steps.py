"""Steps on images: decode, scale, make numbers of pixels, find boxes, cut them out, turn them, gather what was read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.contract.errors import InvalidInput
from modelyard.contract.tensor import Tensors
from modelyard.runtimes.image_boxes import BoxRules, find_boxes, reading_order
from modelyard.runtimes.image_decode import decode_image
from modelyard.runtimes.image_resample import Pixels, cut_out, scaled
from modelyard.runtimes.pipeline_flows import PIXELS, ROWS, BuiltIn, Flow, expect, one_axis, ragged

Three = tuple[float, float, float]


class DecodeImage(BuiltIn, frozen=True, tag="decode_image"):
    """Image files (PNG, JPEG, WebP; bytes or base64) become pixels; see `image_decode.py` for what is refused."""

    takes: ClassVar[tuple[str, ...]] = ("image",)
    gives: ClassVar[tuple[str, ...]] = ("pixels",)
    max_pixels: int = 0  # of one image, if fewer than the process allows (setting max_pixels)

    def __post_init__(self) -> None:
        if self.max_pixels < 0:
            raise ValueError("max_pixels is above 0, or 0 for what the setting allows")

    def flows(self, given: Mapping[str, Flow], step: str) -> dict[str, Flow]:
        """`pixels`, UINT8 [rows, height, width, 3], each row of its own size."""
        flow = expect(given["image"], "image", ("BYTES",), (-1,))
        if flow.axis != ROWS:
            raise InvalidInput("'image' is of the pipeline's own rows")
        return {"pixels": Flow("UINT8", PIXELS, flow.axis, is_ragged=True)}

    def run(self, given: Tensors) -> Tensors:
        """See `BuiltIn.run`. Raises InvalidInput that names the row and the rule."""
        files = given["image"].tolist()
        return {"pixels": ragged([decode_image(one, "image", row, self.max_pixels) for row, one in enumerate(files)])}


class Resize(BuiltIn, frozen=True, tag="resize"):
    """Another size, with the proportions kept where only one of height and width is given.

    shortest, longest: the shorter side is made at least so long, then the longer at most; multiple: both sides are
    rounded to one of these, as networks that halve a map several times need it.
    """

    takes: ClassVar[tuple[str, ...]] = ("pixels",)
    gives: ClassVar[tuple[str, ...]] = ("pixels",)
    height: int = 0
    width: int = 0
    shortest: int = 0
    longest: int = 0
    multiple: int = 1

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.shortest, self.longest) < 0 or self.multiple < 1:
            raise ValueError("resize: sizes are 0 (not asked for) or more, and multiple is at least 1")

    def flows(self, given: Mapping[str, Flow], step: str) -> dict[str, Flow]:
        """Pixels again; of one size only where height and width are both given."""
        flow = expect(given["pixels"], "pixels", ("UINT8",), PIXELS)
        if self.height and self.width:
            return {"pixels": Flow("UINT8", (-1, self.height, self.width, 3), flow.axis)}
        return {"pixels": Flow("UINT8", (-1, self.height or -1, self.width or -1, 3), flow.axis, is_ragged=True)}

    def run(self, given: Tensors) -> Tensors:
        """See `BuiltIn.run`."""
        made = [scaled(pixels, *self._size(*pixels.shape[:2])) for pixels in given["pixels"]]
        return {"pixels": np.stack(made) if self.height and self.width and made else ragged(made)}

    def _size(self, height: int, width: int) -> tuple[int, int]:
        if self.height and self.width:
            return self.height, self.width
        scale = 1.0
        if self.height or self.width:
            scale = self.height / height if self.height else self.width / width
        elif self.shortest and min(height, width) < self.shortest:
            scale = self.shortest / min(height, width)
        if self.longest and max(height, width) * scale > self.longest:
            scale = self.longest / max(height, width)
        return self.height or self._side(height * scale), self.width or self._side(width * scale)

    def _side(self, length: float) -> int:
        return max(1, round(length / self.multiple)) * self.multiple


class Normalise(BuiltIn, frozen=True, tag="normalise"):
    """Pixels become the numbers that a network takes: (pixel x scale - mean) / spread, for each colour.

    order: of the colours, which mean and spread follow. layout: chw (colours first) or hwc. pad_width, pad_multiple:
    zeros are added to the right until an image is at least so wide, and its width such a multiple.
    """

    takes: ClassVar[tuple[str, ...]] = ("pixels",)
    gives: ClassVar[tuple[str, ...]] = ("x",)
    mean: Three = (0.0, 0.0, 0.0)
    spread: Three = (1.0, 1.0, 1.0)
    scale: float = 1 / 255
    order: Literal["rgb", "bgr"] = "rgb"
    layout: Literal["chw", "hwc"] = "chw"
    pad_width: int = 0
    pad_multiple: int = 1

    def __post_init__(self) -> None:
        if not all(self.spread) or self.pad_width < 0 or self.pad_multiple < 1:
            raise ValueError("normalise: no spread is 0, pad_width is 0 or more and pad_multiple at least 1")

    def flows(self, given: Mapping[str, Flow], step: str) -> dict[str, Flow]:
        """`x`, FP32 [rows, 3, height, width], or with the colours last."""
        flow = expect(given["pixels"], "pixels", ("UINT8",), PIXELS)
        height, width = flow.shape[1], flow.shape[2]
        width = self._padded(width) if width > 0 else -1
        shape = (-1, 3, height, width) if self.layout == "chw" else (-1, height, width, 3)
        return {"x": Flow("FP32", shape, flow.axis, flow.is_ragged)}

    def run(self, given: Tensors) -> Tensors:
        """See `BuiltIn.run`."""
        made = [self._numbers(pixels) for pixels in given["pixels"]]
        return {"x": ragged(made) if given["pixels"].dtype == object else np.stack(made)}

    def _numbers(self, pixels: Pixels) -> NDArray[np.float32]:
        height, width = pixels.shape[:2]
        colours = range(3) if self.order == "rgb" else (2, 1, 0)
        planes = np.zeros((3, height, self._padded(width)), dtype=np.float32)
        for plane, colour, mean, spread in zip(planes, colours, self.mean, self.spread, strict=True):
            part = plane[:, :width]  # plane by plane: three numbers at a time would cost ten times as much
            np.multiply(pixels[:, :, colour], np.float32(self.scale / spread), out=part)
            part -= np.float32(mean / spread)
        return planes if self.layout == "chw" else np.ascontiguousarray(planes.transpose(1, 2, 0))

    def _padded(self, width: int) -> int:
        return -(-max(width, self.pad_width) // self.pad_multiple) * self.pad_multiple


class Boxes(BuiltIn, frozen=True, tag="boxes"):
    """Boxes around the texts that a detector's map shows, in pixels of the page; see `image_boxes.py`."""

    takes: ClassVar[tuple[str, ...]] = ("heat", "pixels")
    gives: ClassVar[tuple[str, ...]] = ("boxes", "scores")
    threshold: float = 0.3  # from which on a pixel is text
    box_threshold: float = 0.5  # of the mean over a box
    unclip: float = 1.6  # how much a box is grown
    dilate: bool = True  # pixels reach one to the right and below, so that thin strokes hold together
    max_boxes: int = 1000  # of one page, the largest first

    def flows(self, given: Mapping[str, Flow], step: str) -> dict[str, Flow]:
        """`boxes` FP32 [rows, boxes, 4, 2] and `scores` FP32 [rows, boxes], each page with as many as it has."""
        expect(given["pixels"], "pixels", ("UINT8",), PIXELS)
        expect(given["heat"], "heat", ("FP32",), (-1, 1, -1, -1))
        axis = one_axis(given)
        return {"boxes": Flow("FP32", (-1, -1, 4, 2), axis, True), "scores": Flow("FP32", (-1, -1), axis, True)}

    def run(self, given: Tensors) -> Tensors:
        """See `BuiltIn.run`."""
        rules = BoxRules(self.threshold, self.box_threshold, self.unclip, self.dilate, self.max_boxes)
        boxes, scores = [], []
        for heat, pixels in zip(given["heat"], given["pixels"], strict=True):
            found, mean = find_boxes(heat[0], rules)
            height, width = pixels.shape[:2]
            found[:, :, 0] = np.clip(found[:, :, 0] * (width / heat.shape[2]), 0, width)
            found[:, :, 1] = np.clip(found[:, :, 1] * (height / heat.shape[1]), 0, height)
            order = reading_order(found)
            boxes.append(found[order])
            scores.append(mean[order])
        return {"boxes": ragged(boxes), "scores": ragged(scores)}


class Crop(BuiltIn, frozen=True, tag="crop"):
    """Every box becomes an image of its own: rows that this step makes, `row` says of which page each is."""

    takes: ClassVar[tuple[str, ...]] = ("pixels", "boxes")
    gives: ClassVar[tuple[str, ...]] = ("pixels", "row")
    upright: float = 1.5  # what is taller than so many times its width is turned a quarter; 0: nothing is

    def flows(self, given: Mapping[str, Flow], step: str) -> dict[str, Flow]:
        """`pixels` and `row`, INT64, on an axis of this step's own."""
        expect(given["pixels"], "pixels", ("UINT8",), PIXELS)
        expect(given["boxes"], "boxes", ("FP32",), (-1, -1, 4, 2))
        if one_axis(given) != ROWS:
            raise InvalidInput("'pixels' and 'boxes' are of the pipeline's own rows")
        return {"pixels": Flow("UINT8", PIXELS, step, is_ragged=True), "row": Flow("INT64", (-1,), step)}

    def run(self, given: Tensors) -> Tensors:
        """See `BuiltIn.run`."""
        pieces: list[Pixels] = []
        rows: list[int] = []
        for row, (pixels, boxes) in enumerate(zip(given["pixels"], given["boxes"], strict=True)):
            pieces += [cut_out(pixels, box, self.upright) for box in boxes]
            rows += [row] * len(boxes)
        return {"pixels": ragged(pieces), "row": np.array(rows, dtype=np.int64)}


class Turn(BuiltIn, frozen=True, tag="turn"):
    """Images that a classifier finds upside down are turned by half a circle."""

    takes: ClassVar[tuple[str, ...]] = ("pixels", "probabilities")
    gives: ClassVar[tuple[str, ...]] = ("pixels",)
    threshold: float = 0.9  # of the probability of being upside down
    column: int = 1  # where that stands

    def flows(self, given: Mapping[str, Flow], step: str) -> dict[str, Flow]:
        """Pixels again."""
        flow = expect(given["pixels"], "pixels", ("UINT8",), PIXELS)
        told = expect(given["probabilities"], "probabilities", ("FP32",), (-1, -1))
        if -1 < told.shape[1] <= self.column or self.column < 0:
            raise InvalidInput(f"'probabilities' has no column {self.column}: it is {told}")
        one_axis(given)
        return {"pixels": flow}

    def run(self, given: Tensors) -> Tensors:
        """See `BuiltIn.run`."""
        turned = given["probabilities"][:, self.column] > self.threshold
        made = [pixels[::-1, ::-1] if turn else pixels for pixels, turn in zip(given["pixels"], turned, strict=True)]
        return {"pixels": ragged(made) if given["pixels"].dtype == object or not made else np.stack(made)}


class _Line(msgspec.Struct):
    """One text of a page, as callers see it."""

    text: str
    confidence: float
    box: list[list[float]]


class Lines(BuiltIn, frozen=True, tag="lines"):
    """What was read goes back to its page, in reading order: `text`, a line for each, and `lines`, JSON with boxes."""

    takes: ClassVar[tuple[str, ...]] = ("text", "confidence", "row", "boxes")
    gives: ClassVar[tuple[str, ...]] = ("text", "lines")
    min_confidence: float = 0.5  # what is less certain is left out, and what holds no sign

    def flows(self, given: Mapping[str, Flow], step: str) -> dict[str, Flow]:
        """`text` and `lines`, BYTES, one for each page."""
        read = {port: given[port] for port in ("text", "confidence", "row")}
        expect(given["text"], "text", ("BYTES",), (-1,))
        expect(given["confidence"], "confidence", ("FP32",), (-1,))
        expect(given["row"], "row", ("INT64",), (-1,))
        boxes = expect(given["boxes"], "boxes", ("FP32",), (-1, -1, 4, 2))
        if one_axis(read) == boxes.axis:
            raise InvalidInput("'text' is of the boxes that were cut out, and 'boxes' of the pages")
        return {"text": Flow("BYTES", (-1,), boxes.axis), "lines": Flow("BYTES", (-1,), boxes.axis, content="json")}

    def run(self, given: Tensors) -> Tensors:
        """See `BuiltIn.run`."""
        pages: list[list[_Line]] = [[] for _ in given["boxes"]]
        places = [iter(boxes.tolist()) for boxes in given["boxes"]]  # cut out page by page, in their order
        for text, confidence, row in zip(
            given["text"], given["confidence"].tolist(), given["row"].tolist(), strict=True
        ):
            box = next(places[row])
            if text and confidence >= self.min_confidence:
                pages[row].append(_Line(text, round(confidence, 4), [[round(x, 1), round(y, 1)] for x, y in box]))
        text = np.array(["\n".join(line.text for line in page) for page in pages], dtype=object)
        lines = np.array([msgspec.json.encode(page).decode() for page in pages], dtype=object)
        return {"text": text, "lines": lines}


NEED_PILLOW = (DecodeImage, Resize, Crop)
