"""Rows and columns of any contract, whichever form they come in: one meaning, and the same broken rules by name."""

from __future__ import annotations

import csv
import io
import json
import time
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kit.contracts import any_rows, contracts, right_rows
from modelyard.contract.encoding import Encoder
from modelyard.contract.errors import InvalidInput, Undecodable
from modelyard.contract.features import Contract
from modelyard.serve import forms, mlflow, v1
from modelyard.serve.call import Call

ROWS = 100


def call_for(contract: Contract, body: bytes = b"", **headers: str) -> Call:
    """What a dialect sees of a call: its body, and the version that is asked."""
    signature = SimpleNamespace(layout="columns", inputs=())
    loaded = SimpleNamespace(is_table=True, encoder=Encoder(contract), manifest=SimpleNamespace(signature=signature))
    said = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return SimpleNamespace(  # type: ignore[return-value]
        exchange=SimpleNamespace(body=body, headers=said),
        deployment=SimpleNamespace(replica=SimpleNamespace(loaded=loaded)),
    )


def told(read: Any, contract: Contract, body: bytes, **headers: str) -> tuple[Any, ...]:
    """The matrix that was read, or the sentence and violations that refuse it."""
    call = call_for(contract, body, **headers)
    try:
        read(call, ROWS)
    except InvalidInput as error:
        return str(error), error.violations
    assert call.rows == len(call.inputs)
    matrix: Any = call.inputs
    return matrix.shape, matrix.tobytes()


def native(contract: Contract, rows: list[dict[str, Any]]) -> tuple[Any, ...]:
    try:
        matrix, _ = Encoder(contract).decode_json(msgspec.json.encode(rows), ROWS)
    except InvalidInput as error:
        return str(error), error.violations
    return matrix.shape, matrix.tobytes()


def as_json(form: str, data: object) -> bytes:
    return json.dumps({form: data}).encode()


@given(data=st.data())
def test_rows_as_objects_are_what_the_native_dialect_reads(data: st.DataObject) -> None:
    contract = data.draw(contracts())
    rows = data.draw(st.lists(any_rows(contract), min_size=1, max_size=3))
    wanted = native(contract, rows)
    assert told(v1.read_predict, contract, as_json("instances", rows)) == wanted
    assert told(v1.read_predict, contract, as_json("inputs", rows)) == wanted
    assert told(mlflow.read_invocations, contract, as_json("dataframe_records", rows)) == wanted


@given(data=st.data())
def test_rows_as_lists_are_the_same_rows(data: st.DataObject) -> None:
    contract = data.draw(contracts())
    names = [column.name for column in contract.features]
    rows = data.draw(st.lists(any_rows(contract), min_size=1, max_size=3))
    assume(all(name in row for row in rows for name in names))
    rows = [{name: row[name] for name in names} for row in rows]
    listed = [list(row.values()) for row in rows]
    wanted = native(contract, rows)
    assert told(v1.read_predict, contract, as_json("instances", listed)) == wanted
    split = {"columns": names, "data": listed}
    assert told(mlflow.read_invocations, contract, as_json("dataframe_split", split)) == wanted


@given(data=st.data())
def test_whole_columns_are_the_same_rows(data: st.DataObject) -> None:
    contract = data.draw(contracts())
    first, *others = data.draw(st.lists(any_rows(contract), min_size=1, max_size=3))
    known = {column.name for column in contract.columns}
    rows = [first, *(row for row in others if row.keys() == first.keys())]
    assume(first and first.keys() <= known)
    columns = {name: [row[name] for row in rows] for name in first}
    assume(not any(all(isinstance(one, list) and len(one) == 1 for one in held) for held in columns.values()))
    assert told(v1.read_predict, contract, as_json("inputs", columns)) == native(contract, rows)


@given(data=st.data())
def test_a_csv_of_right_rows_is_the_same_rows(data: st.DataObject) -> None:
    contract = data.draw(contracts())
    first, *others = data.draw(st.lists(right_rows(contract), min_size=1, max_size=3))
    rows = [first, *(row for row in others if row.keys() == first.keys())]
    used = {column.name for column in contract.features}
    names = [name for name in first if name in used]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(names)
    writer.writerows([row[name] for name in names] for row in rows)
    assume(names and "\0" not in text.getvalue() and not names[0].startswith("\ufeff"))
    wanted = native(contract, [{name: row[name] for name in names} for row in rows])
    assert told(mlflow.read_invocations, contract, text.getvalue().encode(), content_type="text/csv") == wanted


TEXTS = st.text(st.sampled_from('aN"\\n,[]{}: é'), max_size=8)
NAN_JSON = st.recursive(
    st.one_of(st.just(float("nan")), st.none(), st.integers(), TEXTS, st.just("NaN")),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=12,
)


def nulled(value: Any) -> Any:
    """The same with None for every NaN."""
    if isinstance(value, list):
        return [nulled(one) for one in value]
    if isinstance(value, dict):
        return {key: nulled(one) for key, one in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value


@given(value=NAN_JSON, indent=st.sampled_from((None, 1)))
def test_a_bare_nan_is_a_null_and_one_in_a_text_stays(value: Any, indent: int | None) -> None:
    body = json.dumps({"a": value}, ensure_ascii=False, indent=indent).encode()
    found = forms.open_object(body)
    assert forms.value_of(found["a"]) == nulled(value)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":' + b'"NaN",' * 200_000,
        b'{"a":"' + b"NaN" * 500_000,
        b'{"a":' + b"NaN " * 100_000,
        b'{"a":' + b"N" * 2_000_000 + b"NaN",
        b'{"a":' + b'"\\' * 500_000 + b"NaN",
        b'{"a":' + b"[" * 500_000 + b"NaN",
    ],
)
def test_a_search_for_bare_nan_is_one_walk(body: bytes) -> None:
    started = time.process_time()
    with pytest.raises(Undecodable):
        forms.open_object(body)
    assert time.process_time() - started < 5  # a search that starts anew at each place takes hours
