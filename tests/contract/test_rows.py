"""Rows in any customary shape become plain rows, and nothing else does."""

import datetime
import decimal
import math
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.contract.errors import InvalidInput
from modelyard.contract.rows import plain_rows

VALUES = st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_infinity=False)


@given(st.lists(st.dictionaries(st.text(), VALUES, max_size=4), max_size=4))
def test_plain_rows_stay_what_they_are_but_for_nan(rows: list[dict[str, Any]]) -> None:
    found, single = plain_rows(rows)
    wanted = [
        {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
        for row in rows
    ]
    assert found == wanted
    assert not single
    assert msgspec.json.encode(found)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.float64("nan"), None),
        (decimal.Decimal("1.5"), 1.5),
        (pd.NA, None),
        (pd.NaT, None),
    ],
)
def test_other_peoples_scalars(value: Any, plain: Any) -> None:
    (row,), single = plain_rows({"x": value})
    assert single
    assert row["x"] == plain
    assert type(row["x"]) is type(plain)


@pytest.mark.parametrize("value", [math.inf, -np.inf, datetime.date(2026, 1, 1), [1], {"a": 1}, b"bytes", 1j])
def test_what_json_cannot_carry_is_named(value: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        plain_rows([{"x": 1}, {"x": value}])
    (violation,) = caught.value.violations
    assert (violation.row, violation.column) == (1, "x")


@pytest.mark.parametrize("rows", ["text", b"bytes", 3, None, [1, 2], ["ab"]])
def test_what_holds_no_rows(rows: Any) -> None:
    with pytest.raises(InvalidInput):
        plain_rows(rows)


def test_a_frame_with_columns_of_one_name_keeps_the_last() -> None:
    frame = pd.DataFrame([[1, 2]], columns=["x", "x"])
    assert plain_rows(frame) == ([{"x": 2}], False)


def test_a_generator_of_rows() -> None:
    assert plain_rows({"x": number} for number in range(2)) == ([{"x": 0}, {"x": 1}], False)
