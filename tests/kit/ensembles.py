"""Versions to compose: additive graphs whose contracts differ in the order of columns, in categories and in ranges."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper

from kit.versions import CONTRACT, store
from modelyard.artifacts.manifest import Manifest
from modelyard.artifacts.store import Shelf
from modelyard.contract.features import Column, Contract, Target
from modelyard.contract.signature import Signature, TensorSpec
from modelyard.optimise.parts import Part

# The same columns in another order; `home` has its categories in another order and one that is not everybody's.
OTHER = Contract(
    columns=(
        Column("job", "category", categories=("freelance", "fixed"), unseen="missing", typical=1.0),
        Column("home", "category", nullable=True, categories=("other", "rent", "owner"), typical=2.0),
        Column("income", "number", nullable=True, minimum=10.0, maximum=2e6, typical=90.0, clip=(20.0, 500.0)),
        Column("guarantor", "boolean", default=False),
        Column("age", "integer", minimum=16, maximum=90, typical=44.0),
        Column("sex", "category", role="sensitive"),
    ),
    target=CONTRACT.target,
    example={"age": 50, "income": 80.0, "home": "owner", "job": "fixed", "guarantor": True},
)
FEWER = msgspec.structs.replace(
    CONTRACT,
    columns=(*CONTRACT.columns[:4], Column("branches", "integer", minimum=0, maximum=9, typical=2.0)),
    example={"age": 35, "income": 120.5, "home": "rent", "job": "fixed", "branches": 3},
)


def part(shelf: Shelf, digest: str, number: int = 1) -> Part:
    """A version on the shelf as if it were registered."""
    artifact = shelf.open(digest)
    return Part(f"{artifact.manifest.model}:{number}", artifact)


def three(shelf: Shelf) -> list[Part]:
    """Three versions with decisions and explanations that take different columns."""
    return [
        part(shelf, store(shelf, 0.5, CONTRACT, "first")),
        part(shelf, store(shelf, -0.4, OTHER, "second")),
        part(shelf, store(shelf, 0.1, FEWER, "third")),
    ]


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows that all three take."""
    random = np.random.default_rng(seed)
    return [
        {
            "age": int(random.integers(18, 90)),
            "income": None if random.random() < 0.2 else round(float(random.uniform(10, 1000)), 2),
            "home": str(random.choice(["owner", "rent", "other"])) if random.random() < 0.8 else None,
            "job": str(random.choice(["fixed", "freelance", "unheard of"])),
            "guarantor": bool(random.random() < 0.3),
            "branches": int(random.integers(0, 10)),
        }
        for _ in range(count)
    ]


def linear(shelf: Shelf, name: str, weights: Any, bias: Any, task: str, classes: tuple[str, ...] = ()) -> Part:
    """A version of two numbers: probabilities of more than two classes by softmax, or one number."""
    weights, bias = np.array(weights, dtype=np.float32), np.array(bias, dtype=np.float32)
    multi = task == "multiclass"
    nodes = [helper.make_node("Gemm", ["rows", "weights", "bias"], ["scores"])]
    if multi:
        nodes.append(helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1))
        outputs = [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(classes)])]
        specs = (TensorSpec("probabilities", "FP32", (-1, len(classes))),)
    else:
        nodes.append(helper.make_node("Identity", ["scores"], ["variable"]))
        outputs = [helper.make_tensor_value_info("variable", TensorProto.FLOAT, ["n", 1])]
        specs = (TensorSpec("variable", "FP32", (-1, 1)),)
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", 2])],
        outputs,
        [onnx.numpy_helper.from_array(weights, "weights"), onnx.numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    contract = Contract(
        (Column("x", "number", typical=0.0), Column("z", "number", typical=1.0)),
        Target("kind", classes) if multi else Target("price"),
        {"x": 1.0, "z": 2.0},
    )
    manifest = Manifest(
        name, task, "onnx", "onnx", "2026-01-01T00:00:00Z", {},  # type: ignore[arg-type]
        Signature((TensorSpec("rows", "FP32", (-1, 2)),), specs, "matrix"), contract,
    )  # fmt: skip
    return part(shelf, shelf.put(manifest, {"model.onnx": model.SerializeToString()}))
