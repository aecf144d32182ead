"""One meaning on every path: the fast decoder, the careful one, rows and columns make the same matrix or refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kit.contracts import any_rows, contracts, right_rows
from modelyard.contract.encoding import MAX_VIOLATIONS, Encoder
from modelyard.contract.errors import InvalidInput, TooLarge, Undecodable
from modelyard.contract.features import Column, Contract

FLOAT32_MAX = float(np.finfo(np.float32).max)


def encoder(*columns: Column) -> Encoder:
    """The encoder of these columns."""
    return Encoder(Contract(columns))


def outcome(made: Callable[[], Any]) -> Any:
    """What a path says: bytes of its matrix, or every broken rule."""
    try:
        matrix = made()
    except InvalidInput as refusal:
        return str(refusal), refusal.violations
    return (
        matrix.dtype.str,
        matrix.shape,
        np.where(np.isnan(matrix), -1.5, matrix).tobytes(),
        np.isnan(matrix).tobytes(),
    )


def refusal_of(made: Callable[[], Any]) -> InvalidInput | None:
    """The error that a path raises, if it does."""
    try:
        made()
    except InvalidInput as refusal:
        return refusal
    return None


@st.composite
def contract_and_rows(draw: st.DrawFn, rows: Any) -> tuple[Contract, list[dict[str, Any]]]:
    contract = draw(contracts())
    return contract, draw(st.lists(rows(contract), min_size=1, max_size=4))


@settings(max_examples=50)
@given(contract_and_rows(right_rows))
def test_a_right_row_makes_the_same_matrix_on_every_path(case: tuple[Contract, list[dict[str, Any]]]) -> None:
    contract, rows = case
    compiled = Encoder(contract)
    body = json.dumps(rows).encode()
    fast, single = compiled.decode_json(body, 10)
    assert not single
    assert fast.shape == (len(rows), len(compiled.names))
    careful, _ = compiled._decode_carefully(body, 10)
    expected = outcome(lambda: fast)
    assert outcome(lambda: careful) == expected
    assert outcome(lambda: compiled.encode_rows(rows)) == expected
    one, single = compiled.decode_json(json.dumps(rows[0]).encode(), 10)
    assert single
    assert outcome(lambda: one) == outcome(lambda: fast[:1])


@settings(max_examples=50)
@given(contract_and_rows(right_rows))
def test_whole_columns_make_the_same_matrix(case: tuple[Contract, list[dict[str, Any]]]) -> None:
    contract, rows = case
    compiled = Encoder(contract)
    defaults = {column.name: column.default for column in compiled.features}
    columns = {name: [row.get(name, defaults[name]) for row in rows] for name in compiled.names}
    expected = outcome(lambda: compiled.encode_rows(rows))
    assert outcome(lambda: compiled.encode_columns(columns, len(rows))) == expected
    arrays = {}
    for column in compiled.features:
        values = columns[column.name]
        if column.kind in ("number", "integer") and all(type(value) in (int, float) for value in values):
            arrays[column.name] = np.array(values, dtype=np.float64)
        else:
            arrays[column.name] = np.array(values, dtype=object)
    assert outcome(lambda: compiled.encode_columns(arrays, len(rows))) == expected


@settings(max_examples=50)
@given(contract_and_rows(any_rows))
def test_a_wrong_row_is_refused_alike_on_every_path(case: tuple[Contract, list[dict[str, Any]]]) -> None:
    contract, rows = case
    compiled = Encoder(contract)
    body = json.dumps(rows).encode()
    careful = outcome(lambda: compiled._decode_carefully(body, 10)[0])
    assert outcome(lambda: compiled.decode_json(body, 10)[0]) == careful
    assert outcome(lambda: compiled.encode_rows(rows)) == careful


@settings(max_examples=50)
@given(contract_and_rows(any_rows))
def test_a_violation_names_row_column_and_rule(case: tuple[Contract, list[dict[str, Any]]]) -> None:
    contract, rows = case
    compiled = Encoder(contract)
    refusal = refusal_of(lambda: compiled.encode_rows(rows))
    if refusal is not None:
        assert refusal.violations
        for violation in refusal.violations:
            assert violation.row is not None
            assert 0 <= violation.row < len(rows)
            assert violation.column in (*compiled.names, "no such column")
            assert violation.rule in {
                "required", "unknown", "type", "whole", "minimum", "maximum", "category", "missing", "finite",
            }  # fmt: skip
            assert violation.message
        first = refusal.violations[0]
        assert str(refusal).startswith(f"row {first.row}: column {first.column!r} {first.message}")
        places = [(violation.row, violation.column) for violation in refusal.violations]
        assert len(set(places)) == len(places), "one rule for each place"


TOKEN = "zq7Xtoken"


@settings(max_examples=50)
@given(contracts(), st.sampled_from((TOKEN, [TOKEN], {TOKEN: 1}, {"a": TOKEN}, 8191727379313, 8191727379313.5)))
def test_no_message_ever_repeats_a_value(contract: Contract, secret: Any) -> None:
    compiled = Encoder(contract)
    rows = [{column.name: secret for column in contract.columns}]
    for made in (
        lambda: compiled.encode_rows(rows),
        lambda: compiled.decode_json(json.dumps(rows).encode(), 10),
        lambda: compiled.decode_json(json.dumps(rows[0]).encode()[:-1], 10),
        lambda: compiled.encode_columns({name: [secret] for name in compiled.names}, 1),
    ):
        if (refusal := refusal_of(made)) is not None:
            said = f"{refusal} {refusal.violations}"
            assert TOKEN not in said
            assert "8191727379313" not in said


def test_a_key_that_is_itself_data_is_not_repeated() -> None:
    key = "Anna Schmidt, born 1970, " * 4
    with pytest.raises(InvalidInput) as refusal:
        encoder(Column("x", "number")).encode_rows([{"x": 1, key: 1}])
    assert "Anna" not in f"{refusal.value} {refusal.value.violations}"
    assert refusal.value.violations[0].rule == "unknown"


NUMBER = Column("x", "number", minimum=0.0, maximum=10.0)
WHOLE = Column("n", "integer", minimum=18, maximum=100)


@pytest.mark.parametrize(
    ("column", "value", "number"),
    [
        (NUMBER, 5, 5.0),
        (NUMBER, 5.5, 5.5),
        (NUMBER, 0, 0.0),
        (NUMBER, 10.0, 10.0),
        (WHOLE, 30, 30.0),
        (WHOLE, 30.0, 30.0),
        (Column("x", "number", nullable=True), None, np.nan),
        (Column("x", "number", nullable=True), "", np.nan),
        (Column("x", "number"), 2**63, float(2**63)),
        (Column("n", "integer"), 2**62 + 2**40, float(2**62 + 2**40)),
        (Column("n", "integer"), -(2**70), -float(2**70)),
        (Column("x", "number", maximum=1e300), 1e30, 1e30),
        (Column("n", "integer", minimum=-1e300, maximum=1e300), 7, 7.0),
        (Column("b", "boolean"), True, 1.0),
        (Column("b", "boolean"), False, 0.0),
        (Column("b", "boolean"), 1, 1.0),
        (Column("b", "boolean"), 0.0, 0.0),
        (Column("c", "category", categories=("a", "b")), "b", 1.0),
        (Column("c", "category", categories=("a", "b"), nullable=True), "", np.nan),
        (Column("c", "category", categories=("a",), unseen="missing"), "never seen", np.nan),
    ],
)
def test_what_is_right_though_unusual_is_taken(column: Column, value: Any, number: float) -> None:
    compiled = encoder(column)
    for matrix in (
        compiled.decode_json(json.dumps({column.name: value}).encode(), 1)[0],
        compiled.encode_rows([{column.name: value}]),
    ):
        np.testing.assert_array_equal(matrix, np.array([[number]], dtype=np.float32))


@pytest.mark.parametrize(
    ("column", "value", "rule"),
    [
        (NUMBER, None, "missing"),
        (NUMBER, "", "missing"),
        (NUMBER, "5", "type"),
        (NUMBER, True, "type"),
        (NUMBER, [5], "type"),
        (NUMBER, -0.001, "minimum"),
        (NUMBER, 10.001, "maximum"),
        (WHOLE, 30.5, "whole"),
        (WHOLE, 17, "minimum"),
        (WHOLE, 101, "maximum"),
        (WHOLE, True, "type"),
        (Column("x", "number"), 1e39, "finite"),
        (Column("x", "number", maximum=1e300), 1e200, "finite"),
        (Column("n", "integer"), 10**400, "finite"),
        (Column("b", "boolean"), 2, "type"),
        (Column("b", "boolean"), "true", "type"),
        (Column("c", "category", categories=("a", "b")), "c", "category"),
        (Column("c", "category", categories=("a", "b")), 0, "type"),
        (Column("c", "category", categories=("a", "b")), "", "missing"),
        (Column("c", "category", categories=("a",), unseen="missing"), None, "missing"),
        (Column("c", "category", categories=("a",), unseen="missing"), 3, "type"),
    ],
)
def test_what_is_wrong_is_refused_by_its_rule(column: Column, value: Any, rule: str) -> None:
    compiled = encoder(column)
    for made in (
        lambda: compiled.decode_json(json.dumps([{column.name: value}]).encode(), 1),
        lambda: compiled.encode_rows([{column.name: value}]),
        lambda: compiled.encode_columns({column.name: [value]}, 1),
    ):
        with pytest.raises(InvalidInput) as refusal:
            made()
        assert [(one.row, one.column, one.rule) for one in refusal.value.violations] == [(0, column.name, rule)]


@pytest.mark.parametrize(
    "array",
    [np.array([np.inf]), np.array([30.5]), np.array([17], dtype=np.int8), np.array([np.nan]), np.array([True])],
    ids=str,
)
def test_arrays_are_held_to_the_same_rules(array: np.ndarray) -> None:
    with pytest.raises(InvalidInput) as refusal:
        encoder(WHOLE).encode_columns({"n": array}, 1)
    assert [(one.row, one.column) for one in refusal.value.violations] == [(0, "n")]


def test_a_category_sent_as_numbers_is_refused() -> None:
    with pytest.raises(InvalidInput, match="must be text"):
        encoder(Column("c", "category", categories=("0", "1"))).encode_columns({"c": np.array([0, 1])}, 2)


def test_absent_is_not_null() -> None:
    column = Column("x", "number", nullable=True, default=4.0)
    for row, number in (({}, 4.0), ({"x": None}, np.nan)):
        for matrix in (encoder(column).encode_rows([row]), encoder(column).decode_json(json.dumps(row).encode(), 1)[0]):
            np.testing.assert_array_equal(matrix, np.array([[number]], dtype=np.float32))
    with pytest.raises(InvalidInput, match="is required"):
        encoder(NUMBER).decode_json(b"{}", 1)


def test_columns_that_no_model_sees_are_taken_and_dropped() -> None:
    compiled = encoder(NUMBER, Column("sex", "category", role="sensitive"), Column("id", "number", role="unused"))
    for body in (b'{"x": 1}', b'{"x": 1, "sex": 17, "id": "any"}', b'{"id": [], "x": 1, "sex": null}'):
        np.testing.assert_array_equal(compiled.decode_json(body, 1)[0], [[1.0]])
    assert compiled.names == ("x",)


def test_of_a_key_that_appears_twice_the_last_counts_on_every_path() -> None:
    compiled = encoder(NUMBER)
    for body in (b'{"x": 1, "x": 2}', b'{"x": "wrong", "x": 2.0}'):
        np.testing.assert_array_equal(compiled.decode_json(body, 1)[0], [[2.0]])


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"x": NaN}', b"[1, 2", b"\xff\xfe", b'{"x": 1} {"x": 2}', b"[" * 100_000]
)
def test_what_is_no_json_is_undecodable(body: bytes) -> None:
    with pytest.raises(Undecodable):
        encoder(NUMBER).decode_json(body, 10)


@pytest.mark.parametrize("body", [b"3", b'"text"', b"null", b"[]", b"[1]", b'[{"x": 1}, null]'])
def test_json_that_is_no_row_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput) as refusal:
        encoder(NUMBER).decode_json(body, 10)
    assert not isinstance(refusal.value, Undecodable)


@pytest.mark.parametrize("value", ["1", '"30"'])  # the fast way, and the careful one
def test_more_rows_than_the_limit_are_refused_by_its_name(value: str) -> None:
    row = '{"x": ' + value + "}"
    body = f"[{','.join([row] * 4)}]".encode()
    with pytest.raises(TooLarge, match="max_rows=3"):
        encoder(Column("x", "number")).decode_json(body, 3)


def test_violations_listed_are_bounded_and_the_rest_counted() -> None:
    with pytest.raises(InvalidInput) as refusal:
        encoder(NUMBER).encode_rows([{"x": "wrong"}] * 200)
    assert len(refusal.value.violations) == MAX_VIOLATIONS
    assert "(and 199 more)" in str(refusal.value)
    assert [one.row for one in refusal.value.violations] == list(range(MAX_VIOLATIONS))


def test_cleaning_clips_then_fills() -> None:
    compiled = encoder(
        Column("a", "number", nullable=True, clip=(0.0, 10.0), fill=99.0),
        Column("b", "number", nullable=True),
        Column("c", "number", nullable=True, clip=(-1.0, 1.0)),
    )
    matrix = np.array([[-5, -5, -5], [50, 50, 50], [np.nan] * 3, [3, 3, 0.5]], dtype=np.float32)
    before = matrix.copy()
    finished = compiled.finish(matrix)
    expected = np.array([[0, -5, -1], [10, 50, 1], [99, np.nan, np.nan], [3, 3, 0.5]], dtype=np.float32)
    np.testing.assert_array_equal(finished, expected)
    np.testing.assert_array_equal(matrix, before)  # the record holds what the caller sent
    assert finished.dtype == np.float32


def test_a_contract_without_cleaning_costs_nothing() -> None:
    matrix = np.zeros((2, 1), dtype=np.float32)
    assert encoder(Column("x", "number")).finish(matrix) is matrix


@settings(max_examples=50)
@given(contract_and_rows(right_rows))
@example((Contract((Column("x", "number", nullable=True, clip=(1.0, 2.0), fill=5.0),)), [{"x": None}]))
def test_finishing_leaves_no_gap_that_has_a_fill_and_nothing_outside_a_clip(
    case: tuple[Contract, list[dict[str, Any]]],
) -> None:
    contract, rows = case
    compiled = Encoder(contract)
    raw = compiled.encode_rows(rows)
    finished = compiled.finish(raw)
    for position, column in enumerate(compiled.features):
        values, sent = finished[:, position], raw[:, position]
        missing = np.isnan(sent)
        if column.fill is not None:
            assert (values[missing] == np.float32(column.fill)).all()
        else:
            assert np.isnan(values[missing]).all()
        if column.clip is not None:
            low, high = np.float32(column.clip[0]), np.float32(column.clip[1])
            assert ((values[~missing] >= low) & (values[~missing] <= high)).all()
        else:
            np.testing.assert_array_equal(values[~missing], sent[~missing])


def test_private_columns_are_known_by_position() -> None:
    compiled = encoder(Column("x", "number"), Column("name", "category", categories=("a",), pii="personal"))
    assert compiled.private is not None
    assert compiled.private.tolist() == [False, True]
    assert encoder(Column("x", "number")).private is None


def test_float32s_last_number_is_taken_and_the_next_is_not() -> None:
    compiled = encoder(Column("x", "number"))
    assert compiled.decode_json(json.dumps({"x": FLOAT32_MAX}).encode(), 1)[0][0, 0] == np.float32(FLOAT32_MAX)
    with pytest.raises(InvalidInput, match="finite"):
        compiled.decode_json(json.dumps({"x": np.nextafter(FLOAT32_MAX, np.inf)}).encode(), 1)


def test_a_limit_holds_for_float32_as_its_sender_means_it() -> None:
    encoder = Encoder(Contract((Column("share", "number", minimum=0.1, maximum=0.7), Column("x", "number"))))
    at_the_limits = np.array([[0.1, 1.0], [0.7, 2.0]], dtype=np.float32)
    assert np.array_equal(encoder.encode_matrix(at_the_limits), at_the_limits)
    columns = {"share": at_the_limits[:, 0], "x": at_the_limits[:, 1]}
    assert np.array_equal(encoder.encode_columns(columns, 2), at_the_limits)
    for beyond in (np.nextafter(np.float32(0.1), np.float32(0)), np.nextafter(np.float32(0.7), np.float32(1))):
        with pytest.raises(InvalidInput, match="share"):
            encoder.encode_matrix(np.array([[beyond, 1.0]], dtype=np.float32))
