"""Versions for pipelines: small graphs of tensors whose answers can be worked out by hand, registered in a home."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from modelyard.artifacts.names import publish_names
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.optimise.compose_pipeline import package_pipeline
from modelyard.optimise.parts import Composed
from modelyard.optimise.pipeline_file import pipeline_of
from modelyard.optimise.tensors import package_tensors
from modelyard.secure.signing import signer

WEIGHTS = np.array([[1.0, -1.0, 0.5], [0.0, 2.0, -0.5], [3.0, 0.0, 1.0], [-1.0, 1.0, 1.0]], dtype=np.float32)


def gemm(weights: np.ndarray = WEIGHTS, takes: str = "x", gives: str = "scores") -> bytes:
    """scores = x @ weights, FP32 [n, rows of weights] to [n, columns]."""
    return _model(
        [helper.make_node("MatMul", [takes, "weights"], [gives])],
        [(takes, ["n", len(weights)])],
        [(gives, ["n", weights.shape[1]])],
        weights=weights,
    )


def brightness() -> bytes:
    """The mean of an image and its width, FP32 [n, 3, h, w] to [n, 2]: what was padded or mixed up shows."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Shape", ["x"], ["wide"], start=3, end=4),
        helper.make_node("Cast", ["wide"], ["width"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "width"], ["widths"]),
        helper.make_node("Unsqueeze", ["mean", "one"], ["means"]),
        helper.make_node("Unsqueeze", ["widths", "one"], ["tall"]),
        helper.make_node("Concat", ["means", "tall"], ["seen"], axis=1),
    ]
    held = {"zero": np.zeros(1, dtype=np.float32), "one": np.array([1])}
    return _model(nodes, [("x", ["n", 3, "h", "w"])], [("seen", ["n", 2])], **held)


def inked() -> bytes:
    """How dark each pixel is, as a detector's map: FP32 [n, 3, h, w], 0 is black, to [n, 1, h, w], 1 is black."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["grey"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["one", "grey"], ["heat"]),
    ]
    held = {"one": np.ones(1, dtype=np.float32)}
    return _model(nodes, [("x", ["n", 3, "h", "w"])], [("heat", ["n", 1, "h", "w"])], **held)


def bars() -> bytes:
    """The grey of each column of an image as scores of blank, dark, middle and bright: FP32 [n, 3, h, w] to [n, w, 4].

    Dark below 0.25, middle below 0.6, bright below 0.9, blank above.
    """
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["grey"], axes=[1, 2], keepdims=0),  # [n, w]
        helper.make_node("Unsqueeze", ["grey", "two"], ["deep"]),
        helper.make_node("Sub", ["deep", "centres"], ["away"]),
        helper.make_node("Abs", ["away"], ["distance"]),
        helper.make_node("Neg", ["distance"], ["near"]),
        helper.make_node("Mul", ["near", "sharp"], ["scaled"]),
        helper.make_node("Softmax", ["scaled"], ["signs"], axis=2),
    ]
    held = {
        "two": np.array([2]),
        "centres": np.array([[[1.0, 0.0, 0.4, 0.75]]], dtype=np.float32),
        "sharp": np.array([40.0], dtype=np.float32),
    }
    return _model(nodes, [("x", ["n", 3, "h", "w"])], [("signs", ["n", "w", 4])], **held)


def register(home: Home, **versions: Any) -> Shelf:
    """Versions in a home, each as number 1: graphs' bytes, or digests of what is on its shelf already."""
    home.prepare()
    shelf = Shelf(home.shelf)
    names = {}
    for name, one in versions.items():
        digest = one if isinstance(one, str) else shelf.put(*package_tensors(one, name))
        names[f"{name}:1"] = names[f"{name}:champion"] = digest
    publish_names(home, names, signer(home.keys))
    return shelf


def composed(home: Home, told: dict[str, Any], name: str = "chain") -> Composed:
    """A pipeline from its tables."""
    return package_pipeline(name, pipeline_of(told), home, home.root)


def put(home: Home, told: dict[str, Any], name: str = "chain") -> Path:
    """The same on the shelf; its folder."""
    made = composed(home, told, name)
    shelf = Shelf(home.shelf)
    return shelf.folder / shelf.put(made.manifest, made.files)


READER: dict[str, Any] = {
    "inputs": {"page": {"datatype": "BYTES", "shape": [-1]}},
    "steps": [
        {"name": "decode", "do": "decode_image", "takes": {"image": "page"}, "gives": {"pixels": "pixels"}},
        {"name": "scale", "do": "normalise", "takes": {"pixels": "pixels"}, "gives": {"x": "whole"}},
        {"name": "detect", "version": "inked:1", "takes": {"x": "whole"}, "gives": {"heat": "heat"}},
        {"name": "boxes", "do": "boxes", "unclip": 0.0, "dilate": False, "box_threshold": 0.05, "threshold": 0.02},
        {"name": "crop", "do": "crop", "upright": 0.0, "takes": {"pixels": "pixels", "boxes": "boxes"},
         "gives": {"pixels": "crops", "row": "row"}},
        {"name": "scale_crops", "do": "normalise", "takes": {"pixels": "crops"}, "gives": {"x": "parts"}},
        {"name": "recognise", "version": "bars:1", "takes": {"x": "parts"}, "gives": {"signs": "signs"}},
        {"name": "read", "do": "ctc_decode", "characters": ["a", "b", "c"], "takes": {"scores": "signs"},
         "gives": {"text": "word", "confidence": "confidence"}},
        {"name": "lines", "do": "lines", "min_confidence": 0.3,
         "takes": {"text": "word", "confidence": "confidence", "row": "row", "boxes": "boxes"}},
    ],
    "outputs": {"text": "text", "lines": "lines"},
}  # fmt: skip
INK = {"a": 0, "b": 102, "c": 191}  # how dark a letter's bar is


def drawn(*words: str) -> np.ndarray:
    """A page of words, one below the other: a bar for each letter; touching bars are one word."""
    width = 20 + 12 * max(map(len, words))
    page = np.full((10 + 30 * len(words), width, 3), 255, dtype=np.uint8)
    for line, word in enumerate(words):
        for at, letter in enumerate(word):
            page[10 + 30 * line : 30 + 30 * line, 10 + 12 * at : 22 + 12 * at] = INK[letter]
    return page


def _model(nodes: list[Any], takes: list[Any], gives: list[Any], **held: np.ndarray) -> bytes:
    graph = helper.make_graph(
        nodes,
        "part",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in takes],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in gives],
        [numpy_helper.from_array(values, name) for name, values in held.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()
