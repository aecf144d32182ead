"""The V2 dialect without a gateway: what it reads, refuses and says; its quick ways against the careful one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from kit.contracts import any_rows, right_rows
from kit.in_process import InProcess
from kit.tensor_versions import ONNX_TYPES, store_identity
from kit.versions import CONTRACT, DATATYPES, expected, store
from modelyard.artifacts.manifest import Manifest
from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import InvalidInput, ModelyardError, TooLarge, Undecodable
from modelyard.contract.features import Column, Contract
from modelyard.contract.signature import Signature, TensorSpec
from modelyard.serve import v2, v2_answers, v2_metadata, v2_wishes
from modelyard.serve.call import DEFAULT_PRIORITY, Call
from modelyard.serve.tensors import to_binary
from modelyard.serve.v2_quick import quick_ways

V2 = (v2.read_infer, v2_answers.say_infer)
ALL = tuple(ONNX_TYPES)
NUMBERS = Contract(
    (
        Column("a", "number", minimum=-10.0, maximum=0.1),
        Column("b", "number", nullable=True),
        Column("c", "number", minimum=0.0),
    )
)
MATRIX = st.sampled_from((-11.0, -1.0, 0.1, 0.10000001, 1, 2.5, 1e39, None, True, "x", 10**30))


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("shelf"))


def opened(root: Path, digest: str, shelf: Shelf) -> Iterator[InProcess]:
    one = InProcess(root, digest, shelf)
    yield one
    one.close()


@pytest.fixture(scope="module")
def loans(tmp_path_factory: pytest.TempPathFactory, shelf: Shelf) -> Iterator[InProcess]:
    yield from opened(tmp_path_factory.mktemp("loans"), store(shelf), shelf)


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory, shelf: Shelf) -> Iterator[InProcess]:
    yield from opened(tmp_path_factory.mktemp("same"), store_identity(shelf, ALL), shelf)


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory, shelf: Shelf) -> Iterator[InProcess]:
    digest = store_identity(shelf, ("FP32",), classes=("cat", "dog", "eel"), name="scores")
    yield from opened(tmp_path_factory.mktemp("scores"), digest, shelf)


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory, shelf: Shelf) -> Iterator[InProcess]:
    digest = store_identity(shelf, ("INT64",), (-1, -1), name="free")
    yield from opened(tmp_path_factory.mktemp("free"), digest, shelf)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, shelf: Shelf) -> Iterator[InProcess]:
    digest = store_identity(shelf, ("FP32",), (2, 3), name="whole", joins=False)
    yield from opened(tmp_path_factory.mktemp("whole"), digest, shelf)


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory, shelf: Shelf) -> Iterator[InProcess]:
    takes = [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", 3])]
    gives = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])]
    graph = helper.make_graph([helper.make_node("Identity", ["rows"], ["y"])], "identity", takes, gives)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    signature = Signature((TensorSpec("rows", "FP32", (-1, 3)),), (TensorSpec("y", "FP32", (-1, 3)),), "matrix")
    manifest = Manifest("numbers", "regression", "onnx", "onnx", "2026-01-01T00:00:00Z", {}, signature, NUMBERS)
    digest = shelf.put(manifest, {"model.onnx": model.SerializeToString()})
    yield from opened(tmp_path_factory.mktemp("matrix"), digest, shelf)


def columns(rows: list[dict[str, Any]], **datatypes: str) -> list[dict[str, Any]]:
    """One tensor for each column that the first row has."""
    kinds = {column.name: DATATYPES[column.kind] for column in CONTRACT.columns} | datatypes
    return [
        {"name": name, "shape": [len(rows)], "datatype": kinds.get(name, "FP64"), "data": [row[name] for row in rows]}
        for name in rows[0]
    ]


def body(inputs: list[dict[str, Any]], **more: Any) -> bytes:
    return json.dumps({"inputs": inputs} | more).encode()


def read_both(one: InProcess, sent: bytes, headers: dict[bytes, bytes] | None = None) -> list[Any]:
    """What the quick ways and the careful one make of a body: the matrix, or that there is none."""
    found: list[Any] = []
    for read in (v2.read_infer, v2.read_carefully):
        try:
            call = one.read(read, sent, headers, max_rows=20)
        except ModelyardError as error:
            found.append((type(error), str(error)))
        else:
            found.append((call.inputs.tobytes(), call.inputs.shape, call.rows, call.options))  # type: ignore[union-attr]
    return found


# --- the quick ways say what the careful one says


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_columns_read_quickly_are_columns_read_carefully(loans: InProcess, data: st.DataObject) -> None:
    drawn = data.draw(st.lists(right_rows(CONTRACT) | any_rows(CONTRACT), min_size=1, max_size=3))
    names = [name for name in drawn[0] if isinstance(name, str)]
    rows = [{name: row.get(name) for name in names} for row in drawn]
    if not names:
        return
    inputs = columns(rows, **{name: data.draw(st.sampled_from(("FP64", "INT64", "INT8", "FP32", "BYTES", "BOOL")))
                              for name in names if data.draw(st.integers(0, 4)) == 0})  # fmt: skip
    if data.draw(st.booleans()):
        for tensor in inputs:
            tensor["shape"] = [len(rows), 1]
            if data.draw(st.booleans()):
                tensor["data"] = [[value] for value in tensor["data"]]
    quick, careful = read_both(loans, body(inputs, id="7"))
    assert quick == careful


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.tuples(MATRIX, MATRIX, MATRIX), min_size=1, max_size=4),
    is_nested=st.booleans(),
    datatype=st.sampled_from(("FP32", "FP64", "INT64")),
    shape=st.sampled_from((None, None, [1, 3], [3, 1], [4, 3])),
)
def test_a_matrix_read_quickly_is_a_matrix_read_carefully(
    matrix: InProcess, rows: list[Any], is_nested: bool, datatype: str, shape: list[int] | None
) -> None:
    data = [list(row) for row in rows] if is_nested else [value for row in rows for value in row]
    tensor = {"name": "rows", "shape": shape or [len(rows), 3], "datatype": datatype, "data": data}
    quick, careful = read_both(matrix, body([tensor], id="7"))
    assert quick == careful


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.tuples(*[st.floats(-11, 1, width=32)] * 3), min_size=0, max_size=4),
    wide=st.booleans(),
    off=st.sampled_from((0, 0, 0, -4, 4, 8)),
    more=st.sampled_from(({}, {"binary_data_output": True}, {"timeout": 5})),
)
def test_a_binary_matrix_read_quickly_is_one_read_carefully(
    matrix: InProcess, rows: list[Any], wide: bool, off: int, more: dict[str, Any]
) -> None:
    tail = np.array(rows, dtype=np.float64 if wide else np.float32).tobytes()
    tensor = {"name": "rows", "shape": [len(rows), 3], "datatype": "FP64" if wide else "FP32"}
    tensor["parameters"] = {"binary_data_size": len(tail) + off}
    head = body([tensor], parameters=more)
    quick, careful = read_both(matrix, head + tail, {v2.LENGTH: str(len(head)).encode()})
    assert quick == careful


def test_the_commonest_requests_are_read_quickly(loans: InProcess, matrix: InProcess) -> None:
    """A quick way that accepts nothing would pass every comparison."""
    numbers = {"name": "rows", "shape": [2, 3], "datatype": "FP32", "data": [0, 1.5, 2] * 2}
    nested = numbers | {"data": [[0, 1.5, 2]] * 2}
    single = numbers | {"shape": [1, 3], "data": [0, 1.5, 2]}
    one = columns([CONTRACT.example])
    upright = [tensor | {"shape": [1, 1], "data": [tensor["data"]]} for tensor in one]
    wishes = {"outputs": [{"name": "probability", "parameters": {"binary_data": False}}]}
    for where, sent in (
        (matrix, body([single])), (matrix, body([numbers])), (matrix, body([nested])),
        (loans, body(one)), (loans, body(upright)), (loans, body(one, **wishes)), (loans, body(one * 1, id="3")),
    ):  # fmt: skip
        ways, _ = quick_of(where)
        assert any(quick(sent, None, 100) is not None for quick in ways), sent
    tail = np.zeros((2, 3), dtype=np.float32).tobytes()
    head = body([{key: value for key, value in numbers.items() if key != "data"}
                 | {"parameters": {"binary_data_size": len(tail)}}])  # fmt: skip
    _, ways = quick_of(matrix)
    assert ways[0](head + tail, str(len(head)).encode(), 100) is not None


def quick_of(where: InProcess) -> Any:
    loaded = where.replica.loaded
    return quick_ways(loaded.manifest.signature, loaded.encoder)


# --- tables


def test_a_table_is_answered_with_all_it_has(loans: InProcess) -> None:
    rows = [CONTRACT.example, CONTRACT.example | {"income": None, "home": None}]
    said = loans.ask(V2, body(columns(rows), id="42")).json()
    assert said["id"] == "42"
    assert (said["model_name"], said["model_version"]) == ("loans", "1")
    by_name = {output["name"]: output for output in said["outputs"]}
    assert by_name["probability"]["data"] == pytest.approx([expected(row) for row in rows])
    assert by_name["decision"]["datatype"] == "BYTES"
    assert [by_name[name]["shape"] for name in ("probability", "score", "decision")] == [[2]] * 3


def test_a_limit_in_float64_holds_for_float32_in_json(matrix: InProcess) -> None:
    """0.1 is allowed, though the nearest float32 lies above it."""
    tensor = {"name": "rows", "shape": [2, 3], "datatype": "FP32", "data": [0.1, 1, 2] * 2}
    assert read_both(matrix, body([tensor]))[0][2] == 2


# --- tensors


SAMPLES: dict[str, list[Any]] = {
    "BOOL": [True, False, True],
    "FP16": [0.5, -2.0, 65504.0],
    "BF16": [0.5, -2.0, 3.0e38],
    "FP32": [0.1, -2.0, 1e30],
    "FP64": [0.1, -2.0, 1e300],
    "BYTES": ["a", "é", ""],
} | {name: [0, 1, 100] for name in ALL if "INT" in name}


def sample(datatype: str) -> np.ndarray:
    kinds = {"BYTES": object, "BF16": np.float32, "BOOL": np.bool_, "FP16": np.float16, "FP32": np.float32}
    dtype = kinds.get(datatype) or np.dtype(datatype.lower().replace("fp", "float"))
    return np.array([SAMPLES[datatype]], dtype=dtype)


def test_every_datatype_goes_through_a_real_graph(same: InProcess) -> None:
    inputs, parts = [], []
    for name in ALL:
        tensor: dict[str, Any] = {"name": f"in_{name}", "shape": [1, 3], "datatype": name}
        if name in ("FP16", "BF16", "INT32"):
            parts.append(to_binary(sample(name), name))
            tensor["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            tensor["data"] = SAMPLES[name]
        inputs.append(tensor)
    half = ("FP16", "BF16", "BYTES")
    outputs = [{"name": f"out_{name}", "parameters": {"binary_data": name in half}} for name in ALL]
    head = body(inputs, outputs=outputs)
    said = same.ask(V2, head + b"".join(parts), {v2.LENGTH: str(len(head)).encode()})
    tail = said.tail()
    for name, output in zip(ALL, said.json()["outputs"], strict=True):
        assert (output["name"], output["datatype"], output["shape"]) == (f"out_{name}", name, [1, 3])
        if name not in half:
            assert output["data"] == sample(name).reshape(-1).tolist()
            continue
        size = output["parameters"]["binary_data_size"]
        assert tail[:size] == to_binary(sample(name), name)
        tail = tail[size:]
    assert tail == b""


def fp32(shape: list[int], data: Any, **more: Any) -> dict[str, Any]:
    return {"name": "in_FP32", "shape": shape, "datatype": "FP32", "data": data} | more


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([fp32([1, 2], [1, 2])], "has the shape [-1, 3]"),
        ([fp32([3], [1, 2, 3])], "has the shape"),
        ([fp32([1, 3, 1], [1, 2, 3])], "has the shape"),
        ([fp32([1, 3], [1, 2, 3], datatype="FP64")], "is of datatype FP32"),
        ([fp32([1, 3], [1, 2, 3], name="rows")], "unexpected inference input 'rows' for model 'loans'"),
        ([], "no inputs"),
        ([fp32([0, 3], [])], "no row"),
        ([fp32([1, 3], [1, 2, 1e39])], "outside the range of FP32"),
        ([fp32([1, 3], [1, 2])], "2 elements where its shape needs 3"),
    ],
)
def test_tensors_that_are_not_the_signatures_are_refused(
    scores: InProcess, inputs: list[dict[str, Any]], says: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        scores.read(v2.read_infer, body(inputs))
    assert says in str(caught.value)


def test_a_graph_reads_text_only(same: InProcess, shelf: Shelf, tmp_path: Path) -> None:
    """ONNX Runtime would take other bytes for what Python prints of them."""
    text = InProcess(tmp_path, store_identity(shelf, ("BYTES",), (-1,), name="text"), shelf)
    tensor = {"name": "in_BYTES", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 6}}
    head = body([tensor])
    for tail, is_text in (("é".encode(), True), (b"\xff\xfe", False)):
        sent = head + b"\x02\0\0\0" + tail
        if is_text:
            assert text.ask(V2, sent, {v2.LENGTH: str(len(head)).encode()}).json()["outputs"][0]["data"] == ["é"]
        else:
            with pytest.raises(InvalidInput, match="not UTF-8"):
                text.read(v2.read_infer, sent, {v2.LENGTH: str(len(head)).encode()})
    text.close()


def test_rows_have_a_limit(scores: InProcess) -> None:
    with pytest.raises(TooLarge, match="max_rows=2"):
        scores.read(v2.read_infer, body([fp32([3, 3], [0] * 9)]), max_rows=2)


def test_only_equal_trailing_shapes_may_be_joined(free: InProcess, scores: InProcess) -> None:
    def group(length: int) -> object:
        tensor = {"name": "in_INT64", "shape": [1, length], "datatype": "INT64", "data": [7] * length}
        return free.read(v2.read_infer, body([tensor])).group

    assert group(3) == group(3) != group(4)
    assert scores.read(v2.read_infer, body([fp32([1, 3], [1, 2, 3])])).group is None  # nothing is free to differ


def test_a_version_whose_rows_depend_on_each_other_answers_whole(whole: InProcess) -> None:
    said = whole.ask(V2, body([fp32([2, 3], list(range(6)))])).json()
    assert said["outputs"][0]["shape"] == [2, 3]
    assert said["outputs"][0]["data"] == list(range(6))


def test_nan_and_infinity_as_some_clients_write_them(scores: InProcess) -> None:
    sent = body([fp32([1, 3], [1, 2, 3])]).replace(b"[1, 2, 3]", b"[NaN, Infinity, null]")
    said = scores.ask(V2, sent).json()
    assert said["outputs"][0]["data"] == [None, None, None]  # JSON has no form for them; binary has


# --- raw requests


def test_a_raw_request_is_its_one_input(scores: InProcess, free: InProcess, shelf: Shelf, tmp_path: Path) -> None:
    raw = {v2.LENGTH: b"0"}
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    said = scores.ask(V2, rows.tobytes(), raw)
    assert said.json()["outputs"][0]["shape"] == [2, 3]
    assert said.tail() == rows.tobytes()
    assert free.ask(V2, bytes(32), raw).json()["outputs"][0]["shape"] == [1, 4]
    text = InProcess(tmp_path, store_identity(shelf, ("BYTES",), (-1,), name="text"), shelf)
    assert text.ask(V2, b"no length before it", raw).tail() == b"\x13\0\0\0no length before it"
    text.close()


def test_a_raw_request_of_a_wrong_size_or_of_many_inputs_is_refused(scores: InProcess, same: InProcess) -> None:
    for where, sent in ((scores, bytes(13)), (scores, b""), (same, bytes(12))):
        with pytest.raises(InvalidInput):
            where.read(v2.read_infer, sent, {v2.LENGTH: b"0"})


# --- parameters


def wished(one: InProcess, **parameters: Any) -> Call:
    return one.read(v2.read_infer, body([fp32([1, 3], [1, 2, 3])], parameters=parameters))


def test_timeout_and_priority_reach_the_call(scores: InProcess) -> None:
    call = wished(scores, timeout=250_000, priority=2)
    assert call.deadline_ns - call.started_ns == 250_000_000
    assert call.priority == 2
    plain = wished(scores, timeout=0, priority=0)
    assert plain.deadline_ns - plain.started_ns == 10**10
    assert plain.priority == DEFAULT_PRIORITY
    assert wished(scores, priority=2**63).priority == v2_wishes.LOWEST_PRIORITY


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"timeout": -1}, "'timeout' is a whole number"),
        ({"timeout": 1.5}, "'timeout' is a whole number"),
        ({"timeout": True}, "'timeout' is a whole number"),
        ({"priority": -1}, "'priority' is a whole number"),
        ({"priority": "1"}, "'priority' is a whole number"),
        ({"binary_data_output": 1}, "'binary_data_output' is true or false"),
        ({"sequence_id": 7, "sequence_start": True}, "stateful"),
        ({"sequence_id": "a"}, "stateful"),
        ({"sequence_end": True}, "stateful"),
    ],
)
def test_wrong_parameters_are_refused(
    scores: InProcess, matrix: InProcess, loans: InProcess, parameters: dict[str, Any], says: str
) -> None:
    rows = {"name": "rows", "shape": [2, 3], "datatype": "FP32", "data": [0, 1.5, 2] * 2}
    for where, inputs in ((scores, [fp32([1, 3], [1, 2, 3])]), (matrix, [rows]), (loans, columns([CONTRACT.example]))):
        with pytest.raises(InvalidInput, match=says):
            where.read(v2.read_infer, body(inputs, parameters=parameters))


def test_free_parameters_and_hints_change_nothing(scores: InProcess) -> None:
    """No version reads any; clients send them to every server alike, and calls with different ones are one batch."""
    free = {"content_type": "np", "headers": "x", "mine": "x", "temperature": 0.9, "triton_enable_empty": True}
    call = wished(scores, **free, sequence_id=0, sequence_start=False)
    plain = wished(scores)
    assert (call.group, call.priority, call.options) == (plain.group, plain.priority, plain.options)
    assert call.group is None
    assert call.deadline_ns - call.started_ns == plain.deadline_ns - plain.started_ns


# --- outputs


def test_outputs_are_those_asked_for_in_their_order(loans: InProcess) -> None:
    outputs = [{"name": "decision"}, {"name": "probability", "parameters": {"binary_data": True}}]
    said = loans.ask(V2, body(columns([CONTRACT.example]), outputs=outputs))
    assert [output["name"] for output in said.json()["outputs"]] == ["decision", "probability"]
    assert np.frombuffer(said.tail(), np.float32) == pytest.approx([expected(CONTRACT.example)])


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        ([{"name": "score"}, {"name": "score"}], "requested twice"),
        ([{"name": "nothing"}], "unexpected inference output 'nothing' for model 'loans'"),
        ([{"name": "score", "parameters": {"shared_memory_region": "r"}}], "shared_memory_region"),
        ([{"name": "score", "parameters": {"binary_data": "yes"}}], "true or false"),
        ([{"name": "decision", "parameters": {"classification": 1}}], "no classification"),
        ([{"name": "score", "parameters": {"classification": -1}}], "whole number"),
        ([{"name": "score", "parameters": {"classification": 10**9}}], "limit"),
    ],
)
def test_wrong_outputs_are_refused(loans: InProcess, outputs: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        loans.read(v2.read_infer, body(columns([CONTRACT.example]), outputs=outputs))
    assert says in str(caught.value)


def test_half_numbers_as_json_are_refused_before_they_are_computed(shelf: Shelf, tmp_path: Path) -> None:
    half = InProcess(tmp_path, store_identity(shelf, ("FP16",), name="half"), shelf)
    tail = np.zeros((1, 3), dtype=np.float16).tobytes()
    tensor = {"name": "in_FP16", "shape": [1, 3], "datatype": "FP16", "parameters": {"binary_data_size": len(tail)}}
    for more in ({}, {"outputs": [{"name": "out_FP16"}]}):
        head = body([tensor], **more)
        with pytest.raises(InvalidInput, match="no JSON form"):
            half.read(v2.read_infer, head + tail, {v2.LENGTH: str(len(head)).encode()})
    head = body([tensor], outputs=[{"name": "out_FP16", "parameters": {"classification": 1}}])
    assert half.ask(V2, head + tail, {v2.LENGTH: str(len(head)).encode()}).json()["outputs"][0]["data"] == [
        "0.000000:0"
    ]
    half.close()


def test_classification_is_the_best_with_their_labels(scores: InProcess) -> None:
    outputs = [{"name": "out_FP32", "parameters": {"classification": 2}}]
    said = scores.ask(V2, body([fp32([2, 3], [0.1, 0.7, 0.2, 5, 5, 1])], outputs=outputs)).json()["outputs"][0]
    assert (said["datatype"], said["shape"]) == ("BYTES", [2, 2])
    assert said["data"] == ["0.700000:1:dog", "0.200000:2:eel", "5.000000:0:cat", "5.000000:1:dog"]
    outputs[0]["parameters"] = {"classification": 99, "binary_data": True}
    said_binary = scores.ask(V2, body([fp32([1, 3], [0.1, 0.7, 0.2])], outputs=outputs))
    assert said_binary.json()["outputs"][0]["shape"] == [1, 3]
    assert said_binary.tail().startswith(b"\x0e\0\0\x000.700000:1:dog")


# --- what is no request


@pytest.mark.parametrize(
    ("sent", "headers"),
    [
        (b"", {}),
        (b"[]", {}),
        (b"{", {}),
        (b"\xff", {}),
        (b'{"inputs":NaN}', {}),
        (b'{"inputs":' + b"[" * 100_000, {}),
        (
            b'{"inputs":[{"name":"in_FP32","shape":[1,3],"datatype":"FP32","data":'
            + b"[" * 5000
            + b"]" * 5000
            + b"}]}",
            {},
        ),
        (b"{}", {v2.LENGTH: b"9"}),
        (b"{}", {v2.LENGTH: b"-1"}),
        (b"{}", {v2.LENGTH: b"1" * 13}),
        (b"{}", {v2.LENGTH: b"\xb2"}),
    ],
)
def test_what_is_no_request_is_undecodable(scores: InProcess, sent: bytes, headers: dict[bytes, bytes]) -> None:
    with pytest.raises(InvalidInput) as caught:
        scores.read(v2.read_infer, sent, headers)
    assert isinstance(caught.value, Undecodable) or "data is flat" in str(caught.value)


# --- metadata


def test_metadata_and_config_of_a_table(loans: InProcess) -> None:
    metadata = json.loads(v2_metadata.model_metadata(loans.route, loans.deployment))
    assert metadata["versions"] == ["1"]
    assert {"name": "age", "datatype": "INT64", "shape": [-1]} in metadata["inputs"]
    config = json.loads(v2_metadata.model_config(loans.route, loans.deployment, 500))
    assert (config["name"], config["backend"], config["max_batch_size"]) == ("loans", "onnx", 500)
    assert config["input"][0] == {"name": "age", "data_type": "TYPE_INT64", "dims": [1], "reshape": {"shape": []}}
    assert [output["data_type"] for output in config["output"]] == ["TYPE_FP32", "TYPE_INT64", "TYPE_STRING"]
    assert config["version_policy"] == {"specific": {"versions": [1]}}
    assert "dynamic_batching" in config


def test_config_of_tensors_and_of_a_version_that_is_not_batched(free: InProcess, whole: InProcess) -> None:
    config = json.loads(v2_metadata.model_config(free.route, free.deployment, 500))
    assert config["input"] == [{"name": "in_INT64", "data_type": "TYPE_INT64", "dims": [-1]}]
    config = json.loads(v2_metadata.model_config(whole.route, whole.deployment, 500))
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (0, [2, 3])
    assert "dynamic_batching" not in config


# --- anything at all


NAMES = st.sampled_from(("in_FP32", "in_BYTES", "rows", "age", "home", "", "é"))
ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
PARAMETERS = st.dictionaries(
    st.sampled_from(
        (
            "binary_data_size",
            "binary_data",
            "binary_data_output",
            "classification",
            "timeout",
            "priority",
            "sequence_id",
            "x",
        )
    ),
    st.none() | st.booleans() | st.integers(-2, 2**65) | st.floats() | st.text(max_size=2),
    max_size=3,
)
REQUESTS = st.fixed_dictionaries(
    {
        "inputs": st.lists(
            st.fixed_dictionaries(
                {
                    "name": NAMES,
                    "shape": st.lists(st.integers(-1, 4), max_size=3) | ANY,
                    "datatype": st.sampled_from((*ALL, "FP8")),
                },
                optional={"data": st.lists(st.floats(-9, 9), max_size=4) | ANY, "parameters": PARAMETERS},
            ),
            max_size=3,
        )
        | ANY
    },
    optional={
        "id": st.text(max_size=3) | ANY,
        "parameters": PARAMETERS,
        "outputs": st.lists(st.fixed_dictionaries({"name": NAMES}, optional={"parameters": PARAMETERS}), max_size=2)
        | ANY,
    },
)


@settings(max_examples=200, deadline=None)
@given(sent=REQUESTS, tail=st.binary(max_size=20), length=st.sampled_from((None, 0, -1, "whole", 10**13)))
def test_any_request_is_read_or_refused_and_nothing_else(
    loans: InProcess, same: InProcess, scores: InProcess, matrix: InProcess, sent: Any, tail: bytes, length: Any
) -> None:
    head = json.dumps(sent).encode()
    headers = {} if length is None else {v2.LENGTH: str(len(head) if length == "whole" else length).encode()}
    for where in (loans, same, scores, matrix):
        try:
            call = where.read(v2.read_infer, head + tail, headers)
        except (InvalidInput, TooLarge):
            continue
        assert 0 < call.rows <= 1000
