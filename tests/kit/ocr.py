"""PP-OCRv4 read out of a package that is installed apart, a font with Chinese signs, and pages drawn with it."""

from __future__ import annotations

import functools
import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from kit.apart import ROOT, python_of
from modelyard.artifacts.names import publish_names
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.optimise.compose_pipeline import package_pipeline
from modelyard.optimise.pipeline_file import read_pipeline
from modelyard.optimise.tensors import package_tensors
from modelyard.secure.signing import signer

GRAPHS = {
    "text_detector": "ch_PP-OCRv4_det_infer.onnx",
    "text_direction": "ch_ppocr_mobile_v2.0_cls_infer.onnx",
    "text_recogniser": "ch_PP-OCRv4_rec_infer.onnx",
}
FILE = ROOT / "docs/how-to/ocr.toml"  # the very one that the guide shows

# What is drawn, line by line.
LETTER = (
    "Modelyard serves models",
    "Invoice No. 48213",
    "Total: 1,250.00 EUR",
    "Please pay within 14 days.",
)
NOTICE = ("模型服务平台", "今天天气很好，我们去公园", "客户编号：20261122", "请在十四天内付款")


@functools.cache
def site() -> Path:
    """Where the packages lie; their code is never imported."""
    return next(Path(python_of("ocr")).parents[1].glob("lib/python*/site-packages"))


def graph(name: str) -> Path:
    """One of the three graphs."""
    return site() / "rapidocr_onnxruntime/models" / GRAPHS[name]


def font(size: int) -> ImageFont.FreeTypeFont:
    """Noto Sans CJK."""
    return ImageFont.truetype(str(next(site().glob("cvttf_NotoSansCJK_Regular/*.otf"))), size)


def page(*lines: str, size: int = 28, angle: float = 0.0, wide: int = 480) -> bytes:
    """Lines of text in black on white, as PNG; angle: by how many degrees the page is turned to the left."""
    image = Image.new("RGB", (wide, 30 + 2 * size * len(lines)), "white")
    draw = ImageDraw.Draw(image)
    for at, line in enumerate(lines):
        draw.text((30, 20 + 2 * size * at), line, font=font(size), fill="black")
    if angle:
        image = image.rotate(angle, Image.Resampling.BICUBIC, expand=True, fillcolor="white")
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def store_ocr(home: Home) -> str:
    """The whole chain on the home's shelf, as the guide composes it; its digest."""
    shelf = Shelf(home.prepare().shelf)
    names = {}
    for name in GRAPHS:
        names[f"{name}:1"] = shelf.put(*package_tensors(graph(name), name))
    publish_names(home, names, signer(home.keys))
    made = package_pipeline("ocr", read_pipeline(FILE), home)
    return shelf.put(made.manifest, made.files)
