"""Versions of tensors: real ONNX graphs that answer what they were sent, in any datatype and shape."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from modelyard.artifacts.manifest import Manifest
from modelyard.artifacts.store import Shelf
from modelyard.contract.features import Contract, Target
from modelyard.contract.signature import Signature, TensorSpec

# What ONNX Runtime passes through unchanged, and what the graph calls it. BF16 travels as float32 inside.
ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.FLOAT,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def identity(datatypes: tuple[str, ...], shape: tuple[int, ...] = (-1, 3)) -> onnx.ModelProto:
    """`out_X` = `in_X` for each datatype X."""
    dims = [f"d{at}" if size < 0 else size for at, size in enumerate(shape)]
    takes = [helper.make_tensor_value_info(f"in_{name}", ONNX_TYPES[name], dims) for name in datatypes]
    gives = [helper.make_tensor_value_info(f"out_{name}", ONNX_TYPES[name], dims) for name in datatypes]
    nodes = [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in datatypes]
    graph = helper.make_graph(nodes, "identity", takes, gives)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def store_identity(
    shelf: Shelf, datatypes: tuple[str, ...] = ("FP32",), shape: tuple[int, ...] = (-1, 3), *,
    name: str = "same", classes: tuple[str, ...] = (), joins: bool = True,
) -> str:  # fmt: skip
    """A version that answers what it was sent, one input `in_X` and one output `out_X` for each datatype X.

    classes: labels of what an output holds for each row. joins: its rows are independent. Returns its digest.
    """
    signature = Signature(
        tuple(TensorSpec(f"in_{datatype}", datatype, shape) for datatype in datatypes),
        tuple(TensorSpec(f"out_{datatype}", datatype, shape) for datatype in datatypes),
        "tensors",
    )
    contract = Contract((), Target("class", classes) if classes else None)
    manifest = Manifest(
        name, "tensor", "onnx", "onnx", "2026-01-01T00:00:00Z", {}, signature, contract, independent_rows=joins
    )
    return shelf.put(manifest, {"model.onnx": identity(datatypes, shape).SerializeToString()})
