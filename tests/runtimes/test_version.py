"""A loaded version answers matrices as its graph says, cleans them first, and refuses graphs that do not keep count."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from kit.versions import CONTRACT, expected, graph, store
from modelyard.artifacts.manifest import Manifest
from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import InvalidInput, ModelFailed
from modelyard.contract.features import Column, Contract
from modelyard.contract.signature import Signature
from modelyard.runtimes.version import WARM_SIZES, LoadedVersion

ROWS = st.fixed_dictionaries(
    {
        "age": st.integers(18, 100),
        "income": st.one_of(st.none(), st.floats(0, 1e4)),
        "home": st.sampled_from((None, "owner", "rent", "other")),
        "job": st.sampled_from(("fixed", "freelance", "never seen")),
    },
    optional={"guarantor": st.booleans(), "sex": st.sampled_from(("f", "m"))},
)


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> LoadedVersion:
    shelf = Shelf(tmp_path_factory.mktemp("shelf"))
    return LoadedVersion(shelf.open(store(shelf, base=0.5)))


def stored(
    folder: Path, model: onnx.ModelProto, contract: Contract, runtime: str = "onnx", **changes: object
) -> LoadedVersion:
    """A version of any graph, loaded."""
    manifest = Manifest("m", "regression", "onnx", runtime, "2026-01-01T00:00:00Z", {}, Signature((), ()), contract)
    shelf = Shelf(folder)
    manifest = msgspec.structs.replace(manifest, **changes)
    return LoadedVersion(shelf.open(shelf.put(manifest, {"model.onnx": model.SerializeToString()})))


def model(nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, list[object]]], output: int) -> onnx.ModelProto:
    """A graph from these inputs (name -> element type, shape) to one output `y`."""
    takes = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()]
    gives = [helper.make_tensor_value_info("y", output, None)]
    made = helper.make_graph(nodes, "g", takes, gives)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@settings(max_examples=60)
@given(st.lists(ROWS, min_size=1, max_size=20))
def test_each_row_is_answered_as_computed_apart(version: LoadedVersion, rows: list[dict[str, object]]) -> None:
    matrix = version.encoder.encode_rows(rows)
    probability = version.predict(matrix)["probability"]
    assert probability.dtype == np.float32
    np.testing.assert_allclose(probability, [expected(row, 0.5) for row in rows], atol=1e-6)
    for at in range(len(rows)):
        np.testing.assert_allclose(version.predict(matrix[at : at + 1])["probability"], probability[at], atol=1e-7)


@settings(max_examples=30)
@given(st.lists(ROWS, min_size=1, max_size=8))
def test_contributions_sum_to_the_log_odds(version: LoadedVersion, rows: list[dict[str, object]]) -> None:
    matrix = version.encoder.encode_rows(rows)
    parts = version.explain(matrix)
    assert parts is not None
    assert parts.shape == (len(rows), len(CONTRACT.features) + 1)
    assert parts.dtype == np.float32
    odds = [math.log(chance / (1 - chance)) for row in rows if 1e-9 < (chance := expected(row, 0.5)) < 1 - 1e-9]
    if len(odds) == len(rows):
        np.testing.assert_allclose(parts.sum(axis=1), odds, rtol=1e-4, atol=1e-3)


def test_warming_measures_every_size(version: LoadedVersion) -> None:
    curve = version.warm(rounds=1)
    assert tuple(curve) == WARM_SIZES
    assert all(0 < seconds < 1 for seconds in curve.values())
    assert version.explain_cost(rounds=1) > 0


def test_the_typical_row_is_the_example_or_typical_values(version: LoadedVersion, tmp_path: Path) -> None:
    example = version.encoder.encode_rows([CONTRACT.example])
    np.testing.assert_array_equal(version.typical_row(), example)
    shelf = Shelf(tmp_path)
    plain = LoadedVersion(shelf.open(store(shelf, contract=msgspec.structs.replace(CONTRACT, example={}))))
    np.testing.assert_array_equal(plain.typical_row(), [[40, 100, 0, 0, 0]])


def test_cleaning_happens_before_the_model(tmp_path: Path) -> None:
    contract = Contract((Column("x", "number", nullable=True, clip=(0.0, 10.0), fill=7.0),))
    same = model(
        [helper.make_node("Identity", ["rows"], ["y"])], {"rows": (TensorProto.FLOAT, ["n", 1])}, TensorProto.FLOAT
    )
    version = stored(tmp_path, same, contract)
    sent = np.array([[-1], [np.nan], [99], [3]], dtype=np.float32)
    np.testing.assert_array_equal(version.predict(sent)["y"][:, 0], [0, 7, 10, 3])
    assert version.explain(sent) is None


@pytest.mark.parametrize("kind", [TensorProto.DOUBLE, TensorProto.INT64], ids=["double", "int64"])
def test_a_matrix_goes_in_as_the_graphs_own_type(tmp_path: Path, kind: int) -> None:
    contract = Contract((Column("a", "number"), Column("b", "number")))
    same = model([helper.make_node("Identity", ["rows"], ["y"])], {"rows": (kind, ["n", 2])}, kind)
    version = stored(tmp_path, same, contract)
    np.testing.assert_array_equal(version.predict(np.array([[1, 2], [3, 4]], dtype=np.float32))["y"], [[1, 2], [3, 4]])


@pytest.mark.parametrize("shape", [["n"], ["n", 1]], ids=["rows", "rows by one"])
def test_columns_go_in_one_by_one_codes_as_their_names(tmp_path: Path, shape: list[object]) -> None:
    contract = Contract(
        (
            Column("unused", "number", role="unused"),
            Column("n", "integer"),
            Column("c", "category", nullable=True, categories=("red", "green")),
        )
    )
    text = model(
        [helper.make_node("Identity", ["c"], ["y"])],
        {"c": (TensorProto.STRING, shape), "n": (TensorProto.INT64, shape)},
        TensorProto.STRING,
    )
    version = stored(tmp_path, text, contract)
    rows = version.encoder.encode_rows([{"n": 1, "c": "green"}, {"n": 2, "c": None}, {"n": 3, "c": "red"}])
    assert version.predict(rows)["y"].reshape(-1).tolist() == ["green", "", "red"]


def test_one_column_called_as_the_input_is_a_column(tmp_path: Path) -> None:
    contract = Contract((Column("x", "number"),))
    same = model([helper.make_node("Identity", ["x"], ["y"])], {"x": (TensorProto.FLOAT, ["n", 1])}, TensorProto.FLOAT)
    version = stored(tmp_path, same, contract)
    np.testing.assert_array_equal(version.predict(np.array([[4]], dtype=np.float32))["y"], [[4]])


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ({"a": (TensorProto.FLOAT, ["n"]), "z": (TensorProto.FLOAT, ["n"])}, "'z' is no column"),
        ({"a": (TensorProto.UINT8, ["n"])}, "not served"),
    ],
)
def test_a_graph_that_the_contract_cannot_feed_is_refused(
    tmp_path: Path, inputs: dict[str, tuple[int, list[object]]], why: str
) -> None:
    odd = model([helper.make_node("Identity", ["a"], ["y"])], inputs, inputs["a"][0])
    with pytest.raises(InvalidInput, match=why):
        stored(tmp_path, odd, Contract((Column("a", "number"), Column("b", "number"))))


def test_a_graph_that_loses_rows_is_found_out(tmp_path: Path) -> None:
    mean = model(
        [helper.make_node("ReduceMean", ["rows"], ["y"], axes=[0], keepdims=1)],
        {"rows": (TensorProto.FLOAT, ["n", 1])},
        TensorProto.FLOAT,
    )
    version = stored(tmp_path, mean, Contract((Column("x", "number"),)))
    assert len(version.predict(np.ones((1, 1), dtype=np.float32))["y"]) == 1
    with pytest.raises(ModelFailed, match="'y' has 1 rows for 3 rows"):
        version.predict(np.ones((3, 1), dtype=np.float32))


def test_an_unknown_runtime_is_refused_by_name(tmp_path: Path) -> None:
    contract = Contract((Column("x", "number"),))
    with pytest.raises(InvalidInput, match="'quantum'"):
        stored(tmp_path, onnx.load_from_string(graph(0.0, 1)), contract, runtime="quantum")
