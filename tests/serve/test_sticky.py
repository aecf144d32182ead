"""One value in every dialect: whoever is the same caller is found to be, whatever he speaks."""

from __future__ import annotations

import csv
import io
import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.in_process import Said
from modelyard.contract.tensor import NUMPY_TYPES
from modelyard.serve.grpc_messages import message_class
from modelyard.serve.routing import Place
from modelyard.serve.sticky import in_forms, in_frame, in_message, in_rows, in_tensors, text_of

REQUEST = message_class("inference.ModelInferRequest")
LENGTH = b"inference-header-content-length"
EVENT = b"application/cloudevents+json"
Rows = list[dict[str, Any]]
Asked = Callable[[Rows, Place], bytes | None]


def native(rows: Rows, place: Place) -> bytes | None:
    return in_rows(Said(json.dumps(rows).encode()), place)


def native_single(rows: Rows, place: Place) -> bytes | None:
    return in_rows(Said(json.dumps(rows[0], ensure_ascii=False).encode()), place)


def v1_objects(rows: Rows, place: Place) -> bytes | None:
    return in_forms(Said(json.dumps({"signature_name": "", "instances": rows}).encode()), place)


def v1_lists(rows: Rows, place: Place) -> bytes | None:
    listed = [list(row.values()) for row in rows]
    return in_forms(Said(json.dumps({"instances": listed}).encode()), place)


def v1_columns(rows: Rows, place: Place) -> bytes | None:
    return in_forms(Said(json.dumps({"inputs": columns_of(rows)}).encode()), place)


def v1_nested_columns(rows: Rows, place: Place) -> bytes | None:
    nested = {name: [[value] for value in values] for name, values in columns_of(rows).items()}
    return in_forms(Said(json.dumps({"inputs": nested}).encode()), place)


def v1_event(rows: Rows, place: Place) -> bytes | None:
    event = {"id": "1", "source": "s", "type": "t", "specversion": "1.0", "data": {"instances": rows}}
    return in_forms(Said(json.dumps(event).encode(), {b"content-type": EVENT}), place)


def v1_with_nan(rows: Rows, place: Place) -> bytes | None:
    return in_forms(Said(json.dumps({"instances": [row | {"gap": float("nan")} for row in rows]}).encode()), place)


def mlflow_records(rows: Rows, place: Place) -> bytes | None:
    return in_frame(Said(json.dumps({"dataframe_records": rows}).encode()), place)


def mlflow_split(rows: Rows, place: Place) -> bytes | None:
    frame = {"columns": list(rows[0]), "index": [3], "data": [list(row.values()) for row in rows]}
    return in_frame(Said(json.dumps({"dataframe_split": frame}).encode()), place)


def mlflow_columns(rows: Rows, place: Place) -> bytes | None:
    return in_frame(Said(json.dumps({"inputs": columns_of(rows)}).encode()), place)


def mlflow_csv(rows: Rows, place: Place) -> bytes | None:
    lines = io.StringIO()
    table = csv.writer(lines, quoting=csv.QUOTE_ALL)  # or a line end in a text would be one of the table
    table.writerow(rows[0])
    table.writerows(["" if value is None else value for value in row.values()] for row in rows)
    return in_frame(Said(lines.getvalue().encode(), {b"content-type": b"text/csv; charset=utf-8"}), place)


def v2_json(rows: Rows, place: Place) -> bytes | None:
    tensors = [
        {"name": name, "shape": [len(values)], "datatype": datatype(values), "data": values}
        for name, values in columns_of(rows).items()
    ]
    return in_tensors(Said(json.dumps({"inputs": tensors, "id": "7"}).encode()), place)


def v2_nested(rows: Rows, place: Place) -> bytes | None:
    tensors = [
        {
            "name": name, "shape": [len(values), 1], "datatype": datatype(values),
            "data": [[value] for value in values],
        }
        for name, values in columns_of(rows).items()
    ]  # fmt: skip
    return in_tensors(Said(json.dumps({"inputs": tensors}, indent=1).encode()), place)


def v2_binary(rows: Rows, place: Place) -> bytes | None:
    tensors, tail = [], b""
    for name, values in columns_of(rows).items():
        raw = raw_of(values)
        size = {"binary_data_size": len(raw)}
        tensors.append({"name": name, "shape": [len(values)], "datatype": datatype(values), "parameters": size})
        tail += raw
    head = json.dumps({"inputs": tensors}).encode()
    return in_tensors(Said(head + tail, {LENGTH: b"%d" % len(head)}), place)


def grpc_raw(rows: Rows, place: Place) -> bytes | None:
    request = REQUEST(model_name="m")
    for name, values in columns_of(rows).items():
        request.inputs.add(name=name, datatype=datatype(values), shape=[len(values)])
        request.raw_input_contents.append(raw_of(values))
    return in_message(Said(request.SerializeToString()), place)


def grpc_typed(rows: Rows, place: Place) -> bytes | None:
    fields = {"BYTES": "bytes_contents", "INT64": "int64_contents", "FP64": "fp64_contents", "BOOL": "bool_contents"}
    request = REQUEST(model_name="m")
    for name, values in columns_of(rows).items():
        tensor = request.inputs.add(name=name, datatype=datatype(values), shape=[len(values)])
        sent = [value.encode() if isinstance(value, str) else value for value in values]
        getattr(tensor.contents, fields[datatype(values)]).extend(sent)
    return in_message(Said(request.SerializeToString()), place)


def columns_of(rows: Rows) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def datatype(values: list[Any]) -> str:
    return {str: "BYTES", bool: "BOOL", int: "INT64", float: "FP64"}[type(values[0])]


def raw_of(values: list[Any]) -> bytes:
    if isinstance(values[0], str):
        return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in values)
    return np.array(values, NUMPY_TYPES[datatype(values)]).tobytes()


EVERY: list[Asked] = [
    native, native_single, v1_objects, v1_lists, v1_columns, v1_nested_columns, v1_event, v1_with_nan, mlflow_records,
    mlflow_split, mlflow_columns, mlflow_csv, v2_json, v2_nested, v2_binary, grpc_raw, grpc_typed,
]  # fmt: skip
KINDS = {str: "category", bool: "boolean", int: "integer", float: "number"}
VALUES = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
)


@given(VALUES, st.integers(1, 3), st.integers(0, 2))
def test_every_dialect_finds_the_same_value(value: Any, count: int, at: int) -> None:
    names = ["age", "customer", "income"]
    names.insert(at, names.pop(1))
    rows = [{name: value if name == "customer" else 1.5 + turn for name in names} for turn in range(count)]
    for row in rows[1:]:
        row["customer"] = type(value)(7)  # a batch goes by its first row
    place = Place("customer", names.index("customer"), KINDS[type(value)])
    expected = text_of(value)
    assert {asked.__name__: asked(rows, place) for asked in EVERY} == {asked.__name__: expected for asked in EVERY}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("7", b"7"), (7, b"7"), (7.0, b"7"), (-0.0, b"0"), (0.1, b"0.1"), (1e300, b"1e+300"), (True, b"true"),
        (np.float32(0.1), b"0.1"), (np.float32(7), b"7"), (np.int8(-3), b"-3"), (2**70, b"%d" % 2**70),
        ("é", "é".encode()), ("7.0", b"7.0"), ("", None), (None, None), ([1], None), ({"a": 1}, None),
        (float("nan"), None), (float("inf"), None),
    ],
)  # fmt: skip
def test_the_text_of_a_value(value: Any, text: bytes | None) -> None:
    assert text_of(value) == text


@pytest.mark.parametrize("asked", EVERY, ids=lambda asked: asked.__name__)
def test_a_missing_column_has_no_value(asked: Asked) -> None:
    assert asked([{"age": 1.0, "income": 2.0}], Place("customer")) is None


NULL = [asked for asked in EVERY if asked not in (v2_binary, grpc_raw, grpc_typed, v2_json, v2_nested)]


@pytest.mark.parametrize("asked", NULL, ids=lambda asked: asked.__name__)
def test_null_is_no_value(asked: Asked) -> None:
    assert asked([{"customer": None, "income": 2.0}], Place("customer", 0, "number")) is None


@pytest.mark.parametrize("peek", [in_rows, in_forms, in_frame, in_tensors, in_message])
@given(body=st.one_of(st.binary(max_size=60), st.sampled_from([b"[", b"{}", b"[]", b'{"customer":', b"[" * 5000])))
def test_what_cannot_be_read_has_no_value(peek: Any, body: bytes) -> None:
    for headers in ({}, {LENGTH: b"2"}, {LENGTH: b"x"}, {b"content-type": b"text/csv"}, {b"content-type": EVENT}):
        found = peek(Said(body, headers), Place("customer", 0, "number"))
        assert found is None or isinstance(found, bytes)


def matrix_json(values: list[list[float]], nested: bool, name: str = "input") -> bytes:
    data = values if nested else [value for row in values for value in row]
    shape = [len(values), len(values[0])]
    return json.dumps({"inputs": [{"name": name, "shape": shape, "datatype": "FP32", "data": data}]}).encode()


@pytest.mark.parametrize("nested", [True, False])
def test_a_matrix_has_no_names_so_a_feature_is_found_by_its_place(nested: bool) -> None:
    body = matrix_json([[1.0, 0.5, 3.0], [4.0, 5.0, 6.0]], nested)
    assert in_tensors(Said(body), Place("income", 1)) == b"0.5"
    assert in_tensors(Said(body), Place("id")) is None, "what is no feature is not in the matrix"
    raw = np.array([[1.0, 0.5, 3.0], [4.0, 5.0, 6.0]], np.float32).tobytes()
    head = json.dumps(
        {
            "inputs": [
                {"name": "input", "shape": [2, 3], "datatype": "FP32", "parameters": {"binary_data_size": len(raw)}}
            ]
        }
    ).encode()
    assert in_tensors(Said(head + raw, {LENGTH: b"%d" % len(head)}), Place("income", 1)) == b"0.5"
    assert in_tensors(Said(raw, {LENGTH: b"0"}), Place("income", 1, datatype="FP32")) == b"0.5"
    request = REQUEST(model_name="m", raw_input_contents=[raw])
    request.inputs.add(name="input", datatype="FP32", shape=[2, 3])
    assert in_message(Said(request.SerializeToString()), Place("income", 1)) == b"0.5"
    assert in_forms(Said(b'{"inputs": {"input": [[1, 0.5, 3]]}}'), Place("income", 1)) == b"0.5"


def test_an_id_beside_a_matrix_is_found_by_its_name() -> None:
    body = json.loads(matrix_json([[1.0, 2.0]], True))
    body["inputs"].append({"name": "id", "shape": [1], "datatype": "BYTES", "data": ["abc"]})
    assert in_tensors(Said(json.dumps(body).encode()), Place("id")) == b"abc"


@pytest.mark.parametrize("rows", [b'["a", "b"]', b'[["a"], ["b"]]', b'[{"text": "a"}]'])
@pytest.mark.parametrize("at", [0, None])
def test_a_row_may_be_the_only_value(rows: bytes, at: int | None) -> None:
    """As that of a version with one column, or with one input."""
    place = Place("text", at, is_only=True)
    assert in_forms(Said(b'{"instances": %b}' % rows), place) == b"a"
    if at is None:
        assert in_rows(Said(rows), place) == b"a"


def test_a_form_holds_the_value_as_a_text_and_not_as_a_file() -> None:
    part = b'--mark\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
    headers = {b"content-type": b"multipart/form-data; boundary=mark"}
    body = part % (b"image", b'; filename="a.png"', b"\x89PNG") + part % (b"id", b"", b"17") + b"--mark--\r\n"
    assert in_rows(Said(body, headers), Place("id")) == b"17"
    assert in_rows(Said(body, headers), Place("image")) is None
    assert in_rows(Said(body[:-4], headers), Place("id")) is None


def test_a_column_of_any_name() -> None:
    for name in ('a "quoted" one', "back\\slash", "é", "with.dot", "tab\tbed"):
        assert in_rows(Said(json.dumps([{name: "x"}]).encode()), Place(name)) == b"x"


def test_numbers_in_csv_are_numbers_only_where_the_contract_says_so() -> None:
    headers = {b"content-type": b"text/csv"}
    body = b"id,age\n007,1.0\n"
    assert in_frame(Said(body, headers), Place("id", kind="category")) == b"007"
    assert in_frame(Said(body, headers), Place("id", kind="integer")) == b"7"
    assert in_frame(Said(b"\xef\xbb\xbfid\r\n\r\n7.0\r\n", headers), Place("id", kind="number")) == b"7"
    assert in_forms(Said(b'{"instances": [{"id": 7}]}', headers), Place("id")) == b"7", "V1 does not speak CSV"
