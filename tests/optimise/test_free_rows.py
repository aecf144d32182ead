"""Graphs that were exported for one row: any number where that changes no answer, else row by row."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import InvalidInput
from modelyard.optimise.free_rows import with_free_rows
from modelyard.optimise.register import package_model
from modelyard.optimise.tensors import package_tensors
from modelyard.runtimes.version import LoadedVersion

WEIGHTS = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
ROWS = np.random.default_rng(1).normal(size=(7, 3)).astype(np.float32)


def layer(rows: Any, inner: list[int] | None = None) -> bytes:
    """x [rows, 3] -> y [rows, 2]; with `inner`, by way of a shape that the exporter wrote down."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"])]
    weights = [numpy_helper.from_array(WEIGHTS, "w")]
    if inner is not None:
        weights.append(numpy_helper.from_array(np.array(inner, dtype=np.int64), "shape"))
        nodes.append(helper.make_node("Reshape", ["h", "shape"], ["y"]))
    else:
        nodes[0].output[0] = "y"
    value = [helper.make_tensor_value_info("h", TensorProto.FLOAT, [rows, 2])] if inner is not None else []
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 2])],
        weights,
        value_info=value,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def first_dimension(data: bytes) -> Any:
    dimension = onnx.load_model_from_string(data).graph.input[0].type.tensor_type.shape.dim[0]
    return dimension.dim_value or dimension.dim_param


@pytest.mark.parametrize(
    ("data", "first"),
    [
        (layer("N"), "N"),
        (layer(-1), -1),
        (layer(1), "N"),
        (layer(1, [-1, 2]), "N"),
        (layer(1, [1, 2]), 1),  # its shape inside says one row
        (layer(4), "N"),
    ],
    ids=[
        "free",
        "free as PaddlePaddle writes it",
        "one row",
        "one row, a free shape inside",
        "one row, and a shape inside says so",
        "four rows",
    ],
)
def test_any_number_of_rows_is_answered_as_each_alone(data: bytes, first: Any, tmp_path: Path) -> None:
    assert first_dimension(with_free_rows(data)) == first
    shelf = Shelf(tmp_path)
    version = LoadedVersion(shelf.open(shelf.put(*package_tensors(data, "mine"))))
    assert version.manifest.independent_rows
    assert [spec.shape for spec in version.manifest.signature.inputs] == [(-1, 3)]
    for count in (1, 2, len(ROWS)):
        found = version.predict({"x": ROWS[:count]})["y"]
        np.testing.assert_allclose(found, ROWS[:count] @ WEIGHTS, rtol=1e-5)


def test_a_graph_that_is_free_already_stays_byte_for_byte() -> None:
    assert with_free_rows(layer("N")) == layer("N")


def test_a_graph_for_four_rows_and_no_other_number_is_refused() -> None:
    with pytest.raises(InvalidInput, match="takes 4 rows at a time, and no other number"):
        with_free_rows(layer(4, [4, 2]))


@pytest.mark.parametrize("inner", [None, [1, 2]], ids=["freed", "row by row"])
def test_a_tables_graph_for_one_row_is_proven_on_its_sample(inner: list[int] | None, tmp_path: Path) -> None:
    manifest, files = package_model(layer(1, inner), pd.DataFrame(ROWS, columns=list("abc")), "mine")
    assert manifest.parity is not None
    assert manifest.parity.max_error < 1e-6
    shelf = Shelf(tmp_path)
    version = LoadedVersion(shelf.open(shelf.put(manifest, files)))
    matrix = version.encoder.encode_rows([dict(zip("abc", map(float, row), strict=True)) for row in ROWS])
    np.testing.assert_allclose(version.predict(matrix)["y"], ROWS @ WEIGHTS, rtol=1e-5)


def test_without_a_sample_a_graph_takes_tensors_and_anything_else_wants_one() -> None:
    manifest, _ = package_model(layer("N"), None, "mine")
    assert (manifest.signature.layout, manifest.task) == ("tensors", "tensor")
    with pytest.raises(InvalidInput, match="--sample is missing"):
        package_model(object(), None, "mine")
    with pytest.raises(InvalidInput, match="no target"):
        package_model(layer("N"), None, "mine", "y")
    with pytest.raises(InvalidInput, match="leave --runtime native out"):
        package_model(layer("N"), None, "mine", runtime="native")
