"""Graphs with a flaw or a cost, and versions made of them: what a gateway must bear."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from modelyard.artifacts.manifest import Manifest
from modelyard.artifacts.store import Shelf
from modelyard.contract.features import Column, Contract
from modelyard.contract.signature import Signature, TensorSpec

NUMBERS = Contract((Column("x", "number"), Column("y", "number", nullable=True)), example={"x": 1.0, "y": 2.0})


def store_graph(shelf: Shelf, model: onnx.ModelProto, name: str, layout: str = "columns", *, joins: bool = True) -> str:
    """A version of any graph over the two columns of `NUMBERS`, without a decision. Returns its digest.

    joins: its rows are independent.
    """
    columns = (TensorSpec("x", "FP64", (-1,)), TensorSpec("y", "FP64", (-1,)))
    inputs = columns if layout == "columns" else (TensorSpec("rows", "FP32", (-1, 2)),)
    outputs = tuple(TensorSpec(output.name, "FP32", (-1,)) for output in model.graph.output)
    signature = Signature(inputs, outputs, layout)
    manifest = Manifest(
        name, "regression", "onnx", "onnx", "2026-01-01T00:00:00Z", {}, signature, NUMBERS, independent_rows=joins
    )
    return shelf.put(manifest, {"model.onnx": model.SerializeToString()})


def total() -> onnx.ModelProto:
    """`total` = x + y."""
    axis = numpy_helper.from_array(np.array([1], dtype=np.int64), "axis")
    return _model([helper.make_node("ReduceSum", ["rows", "axis"], ["total"], keepdims=0)], [axis], "total")


def fragile(limit: int = 50) -> onnx.ModelProto:
    """`value` = x, looked up in a table of `limit` numbers: a row with a larger x fails the whole batch."""
    table = numpy_helper.from_array(np.arange(limit, dtype=np.float32), "table")
    zero = numpy_helper.from_array(np.array(0, dtype=np.int64), "zero")
    nodes = [
        helper.make_node("Gather", ["rows", "zero"], ["column"], axis=1),
        helper.make_node("Cast", ["column"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["value"]),
    ]
    return _model(nodes, [table, zero], "value")


def slow(rounds: int = 6, size: int = 512) -> onnx.ModelProto:
    """`total` = x + y, after `rounds` products of large matrices that depend on the rows."""
    axis = numpy_helper.from_array(np.array([1], dtype=np.int64), "axis")
    shape = numpy_helper.from_array(np.array([size, size], dtype=np.int64), "shape")
    nothing = numpy_helper.from_array(np.array(0.0, dtype=np.float32), "nothing")
    nodes = [
        helper.make_node("ReduceSum", ["rows", "axis"], ["sums"], keepdims=0),
        helper.make_node("ReduceMax", ["sums"], ["largest"], keepdims=0),
        helper.make_node("Mul", ["largest", "nothing"], ["seed"]),
        helper.make_node("Expand", ["seed", "shape"], ["m0"]),
    ]
    nodes += [helper.make_node("MatMul", [f"m{at}", f"m{at}"], [f"m{at + 1}"]) for at in range(rounds)]
    nodes += [
        helper.make_node("ReduceMax", [f"m{rounds}"], ["zero"], keepdims=0),
        helper.make_node("Add", ["sums", "zero"], ["total"]),
    ]
    return _model(nodes, [axis, shape, nothing], "total")


def _model(nodes: list[onnx.NodeProto], initial: list[onnx.TensorProto], output: str) -> onnx.ModelProto:
    takes = [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", 2])]
    gives = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n"])]
    graph = helper.make_graph(nodes, output, takes, gives, initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def heavy(add: float, megabytes: int) -> onnx.ModelProto:
    """`total` = x + y + `add`, in a graph that takes so many megabytes."""
    axis = numpy_helper.from_array(np.array([1], dtype=np.int64), "axis")
    ballast = numpy_helper.from_array(np.full(megabytes * 2**18, add, dtype=np.float32), "ballast")
    nodes = [
        helper.make_node("ReduceSum", ["rows", "axis"], ["sums"], keepdims=0),
        helper.make_node("ReduceMax", ["ballast"], ["most"], keepdims=0),
        helper.make_node("Add", ["sums", "most"], ["total"]),
    ]
    return _model(nodes, [axis, ballast], "total")


def brittle(limit: int) -> onnx.ModelProto:
    """`total` = x + y; a row whose x is `limit` or more fails."""
    table = numpy_helper.from_array(np.zeros(limit, dtype=np.float32), "table")
    zero = numpy_helper.from_array(np.array(0, dtype=np.int64), "zero")
    axis = numpy_helper.from_array(np.array([1], dtype=np.int64), "axis")
    nodes = [
        helper.make_node("Gather", ["rows", "zero"], ["column"], axis=1),
        helper.make_node("Cast", ["column"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["nothing"]),
        helper.make_node("ReduceSum", ["rows", "axis"], ["sums"], keepdims=0),
        helper.make_node("Add", ["sums", "nothing"], ["total"]),
    ]
    return _model(nodes, [table, zero, axis], "total")
