"""The contract that a table gives: open to honest new rows, closed to nonsense."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.contract.encoding import Encoder
from modelyard.contract.errors import InvalidInput
from modelyard.data.cleaning import encode_table, fit_cleaning
from modelyard.data.contracts import infer_contract, read_target, rounded_up
from modelyard.data.rows import json_rows

ROWS = 300


def make_table() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "id": range(ROWS),
            "amount": rng.integers(1, 900, ROWS),
            "change": rng.normal(0, 3, ROWS),
            "gap": [None if i % 5 == 0 else float(i % 11) for i in range(ROWS)],
            "home": rng.choice(["own", "rent"], ROWS),
            "town": ["once", *rng.choice(["a", "b", "c"], ROWS - 1).tolist()],
            "story": [f"text number {i}" for i in range(ROWS)],
            "member": rng.random(ROWS) < 0.5,
            "gender": rng.choice(["f", "m"], ROWS),
            "status": rng.choice(["good", "bad"], ROWS, p=[0.7, 0.3]),
        }
    )


def test_kinds_roles_and_rules() -> None:
    contract = infer_contract(make_table(), "status")
    columns = {column.name: column for column in contract.columns}
    assert {name: column.role for name, column in columns.items() if column.role != "feature"} == {
        "id": "unused",
        "story": "unused",
        "gender": "sensitive",
    }
    assert (columns["amount"].kind, columns["amount"].minimum, columns["amount"].maximum) == ("integer", 0, 10_000)
    assert columns["change"].minimum == -columns["change"].maximum  # type: ignore[operator]
    assert [name for name, column in columns.items() if column.nullable] == ["gap"]
    assert (columns["home"].unseen, columns["town"].unseen) == ("refuse", "missing")
    assert columns["member"].kind == "boolean"
    assert contract.target is not None
    assert contract.target.classes == ("good", "bad")


def test_the_example_works_as_posted_and_is_nobody() -> None:
    table = make_table()
    contract = infer_contract(table, "status")
    matrix = Encoder(contract).encode_rows([contract.example])
    assert matrix.shape == (1, len(contract.features))
    assert contract.example not in json_rows(table, contract)


def test_declared_columns_stay() -> None:
    contract = infer_contract(make_table(), "status", declared=["gender"])
    assert "gender" in [column.name for column in contract.features]


def test_a_leak_is_left_out_and_says_so() -> None:
    table = make_table().with_columns(copy=pl.col("status").replace({"good": "x", "bad": "z"}))
    column = next(column for column in infer_contract(table, "status").columns if column.name == "copy")
    assert (column.role, column.note) == ("unused", "repeats the target")


@pytest.mark.parametrize(
    ("values", "positive", "chosen"),
    [
        (["good"] * 60 + ["bad"] * 40, None, "bad"),
        (["bad"] * 60 + ["good"] * 40, None, "bad"),  # by its name, though it is not the rarer
        (["a"] * 60 + ["b"] * 40, None, "b"),
        ([0] * 60 + [1] * 40, None, "1"),
        ([0.0] * 60 + [1.0] * 40, "0", "0"),
        ([True] * 60 + [False] * 40, None, "true"),
    ],
)
def test_the_positive_class(values: list[object], positive: str | None, chosen: str) -> None:
    labelled = read_target(pl.DataFrame({"y": values}), "y", positive)
    assert labelled.target.positive == chosen
    assert chosen in labelled.note
    assert labelled.target.classes[1] == chosen


@pytest.mark.parametrize(
    ("values", "positive", "says"),
    [
        (["a"] * 100, None, "two are needed"),
        (["a", "b", "c"] * 40, None, "3 classes: a, b, c"),
        (["a", "b"] * 10, None, "too few"),
        (["a"] * 97 + ["b"] * 3, None, "a class has 3 rows"),
        (["a", "b"] * 50, "c", "its classes are: a, b"),
        ([None] * 100, None, "two are needed"),
    ],
)
def test_an_unfit_target_says_why(values: list[object], positive: str | None, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        read_target(pl.DataFrame({"y": values}), "y", positive)


def test_an_unknown_target_lists_the_columns() -> None:
    with pytest.raises(InvalidInput, match="the columns are: x"):
        read_target(pl.DataFrame({"x": [1]}), "y")


def test_rows_without_an_outcome_are_dropped_and_counted() -> None:
    labelled = read_target(pl.DataFrame({"y": ["a", None, "b"] * 40}), "y")
    assert (labelled.dropped, labelled.table.height, labelled.rows[1]) == (40, 80, 2)


def test_cleaning_is_fitted_and_keeps_what_is_stated() -> None:
    table = make_table()
    contract = infer_contract(table, "status")
    matrix = encode_table(contract, table)
    fitted = fit_cleaning(contract, matrix)
    assert fit_cleaning(fitted, matrix * 0) == fitted
    amount = next(column for column in fitted.features if column.name == "amount")
    assert amount.clip is not None
    assert amount.clip[1] < 900
    finished = Encoder(fitted).finish(matrix)
    position = [column.name for column in fitted.features].index("amount")
    assert finished[:, position].max() <= np.float32(amount.clip[1])


def test_every_row_of_the_table_passes_its_own_contract() -> None:
    table = make_table()
    contract = infer_contract(table, "status")
    rows = json_rows(table, contract)
    np.testing.assert_array_equal(Encoder(contract).encode_rows(rows), encode_table(contract, table))


@given(st.floats(1e-6, 1e12))
def test_rounded_up_is_a_round_number_at_or_above(value: float) -> None:
    limit = rounded_up(value)
    assert value <= limit * (1 + 1e-9)
    assert limit < 2.6 * value
    assert f"{limit:e}"[0] in "125"


def test_what_is_sensitive_is_left_out_unless_declared_and_then_never_a_reason() -> None:
    table = make_table().with_columns(age=pl.Series(range(ROWS)) % 60 + 18)
    columns = {column.name: column for column in infer_contract(table, "status", declared=["gender"]).columns}
    assert (columns["gender"].role, columns["gender"].sensitive) == ("feature", True)
    assert (columns["age"].role, columns["age"].sensitive) == ("feature", True)  # protected in some places
    assert (columns["amount"].role, columns["amount"].sensitive) == ("feature", False)
