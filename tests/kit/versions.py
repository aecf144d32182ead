"""Small versions made by hand in a moment: a real ONNX graph that adds up what each column is worth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from modelyard.artifacts.manifest import Manifest
from modelyard.artifacts.store import Shelf
from modelyard.contract.decision import Decision
from modelyard.contract.features import Column, Contract, Target
from modelyard.contract.signature import Signature, TensorSpec

CONTRACT = Contract(
    columns=(
        Column(
            "age", "integer", minimum=18, maximum=100, typical=40.0, unit="years", label={"en": "Age", "zh": "年龄"}
        ),
        Column("income", "number", nullable=True, minimum=0.0, maximum=1e6, typical=100.0, label={"en": "Income"}),
        Column("home", "category", nullable=True, categories=("owner", "rent", "other"), typical=0.0),
        Column("job", "category", categories=("fixed", "freelance"), unseen="missing", typical=0.0),
        Column("guarantor", "boolean", default=False),
        Column("sex", "category", role="sensitive"),
    ),
    target=Target("status", ("good", "bad"), "bad"),
    example={"age": 35, "income": 120.5, "home": "rent", "job": "fixed", "guarantor": False},
)

WEIGHTS = np.array([-0.03, -0.004, 0.5, 0.7, -0.8], dtype=np.float32)
MISSING = np.array([0.0, 0.9, 0.2, 0.3, 0.0], dtype=np.float32)


def graph(base: float, width: int = len(WEIGHTS)) -> bytes:
    """rows -> contributions (weight x value, or a constant where missing), summed and squashed."""
    initial = [
        numpy_helper.from_array(WEIGHTS[:width], "weights"),
        numpy_helper.from_array(MISSING[:width], "missing"),
        numpy_helper.from_array(np.array([base], dtype=np.float32), "base"),
        numpy_helper.from_array(np.array([1], dtype=np.int64), "axis"),
    ]
    nodes = [
        helper.make_node("IsNaN", ["rows"], ["is_missing"]),
        helper.make_node("Mul", ["rows", "weights"], ["worth"]),
        helper.make_node("Where", ["is_missing", "missing", "worth"], ["parts"]),
        helper.make_node("ReduceSum", ["parts", "axis"], ["sum"], keepdims=1),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "base"], ["bases"]),
        helper.make_node("Concat", ["parts", "bases"], ["contributions"], axis=1),
        helper.make_node("Add", ["sum", "base"], ["log_odds"]),
        helper.make_node("Sigmoid", ["log_odds"], ["squashed"]),
        helper.make_node("Squeeze", ["squashed", "axis"], ["probability"]),
    ]
    initial.append(numpy_helper.from_array(np.array([0], dtype=np.float32), "zero"))
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "additive",
            [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", width])],
            [
                helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n"]),
                helper.make_tensor_value_info("contributions", TensorProto.FLOAT, ["n", width + 1]),
            ],
            initial,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


DATATYPES = {"integer": "INT64", "number": "FP64", "category": "BYTES", "boolean": "BOOL"}


def store(shelf: Shelf, base: float = 0.0, contract: Contract = CONTRACT, name: str = "loans") -> str:
    """A version on the shelf; another `base` makes another version. Returns its digest."""
    inputs = tuple(TensorSpec(column.name, DATATYPES[column.kind], (-1,)) for column in contract.features)
    manifest = Manifest(
        model=name,
        task="binary",
        framework="logistic",
        runtime="onnx",
        created_at="2026-01-01T00:00:00Z",
        files={},
        signature=Signature(inputs, (TensorSpec("probability", "FP32", (-1,)),)),
        contract=contract,
        decision=Decision(0.3, "decline", "approve", "probability of default"),
    )
    return shelf.put(manifest, {"model.onnx": graph(base)})


def expected(row: dict[str, Any], base: float = 0.0) -> float:
    """What the version must answer, computed apart from everything that serves it."""
    features = CONTRACT.features
    total = base
    for position, column in enumerate(features):
        value = row.get(column.name, column.default)
        if column.kind == "category":
            number = float(column.categories.index(value)) if value in column.categories else math.nan
        else:
            number = math.nan if value is None else float(value)
        total += float(MISSING[position]) if math.isnan(number) else float(WEIGHTS[position]) * number
    return 1 / (1 + math.exp(-total))
