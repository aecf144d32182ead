"""Contradictory columns, plans and names are refused where they are made; a contract's schema says what it takes."""

from __future__ import annotations

import math
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.contracts import contracts, right_rows
from kit.versions import CONTRACT
from modelyard.contract.encoding import Encoder
from modelyard.contract.errors import InvalidInput
from modelyard.contract.features import Column, Contract
from modelyard.contract.names import RESERVED, check_name
from modelyard.contract.plan import PlannedEndpoint, PlannedKey, PlannedVersion, ServingPlan, TrafficSplit
from modelyard.contract.schema import row_schema


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ({"kind": "category"}, "needs its categories"),
        ({"kind": "category", "categories": ("a", "a")}, "distinct"),
        ({"kind": "category", "categories": ("a", "")}, "not empty"),
        ({"kind": "number", "categories": ("a",)}, "only a category"),
        ({"kind": "boolean", "minimum": 0.0}, "only numbers"),
        ({"kind": "category", "categories": ("a",), "maximum": 1.0}, "only numbers"),
        ({"kind": "number", "minimum": 2.0, "maximum": 1.0}, "above maximum"),
        ({"kind": "number", "minimum": math.nan}, "finite"),
        ({"kind": "integer", "maximum": math.inf}, "finite"),
        ({"kind": "number", "clip": (2.0, 1.0)}, "clip"),
        ({"kind": "number", "bins": (2.0, 1.0)}, "ascend"),
        ({"kind": "number", "minimum": 1.0, "default": 0.0}, "default"),
        ({"kind": "number", "default": "a"}, "default"),
        ({"kind": "number", "default": True}, "default"),
        ({"kind": "integer", "default": 1.5}, "default"),
        ({"kind": "boolean", "default": 1.0}, "default"),
        ({"kind": "category", "categories": ("a",), "default": "b"}, "default"),
    ],
)
def test_a_column_that_contradicts_itself_is_refused_by_name(rules: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why) as refusal:
        Column("the column", **rules)
    assert "'the column'" in str(refusal.value)


def test_a_contract_has_features_and_distinct_names() -> None:
    with pytest.raises(ValueError, match="twice"):
        Contract((Column("x", "number"), Column("x", "integer", role="unused")))
    with pytest.raises(ValueError, match="at least one feature"):
        Contract((Column("x", "number", role="sensitive"),))
    assert Contract(()).features == (), "a version of tensors has no columns"


def test_features_keep_their_order() -> None:
    columns = (Column("b", "number"), Column("s", "category", role="sensitive"), Column("a", "number"))
    assert [column.name for column in Contract(columns).features] == ["b", "a"]


# --- the schema


def test_the_example_fits_the_schema_and_works_as_posted() -> None:
    schema = row_schema(CONTRACT)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(CONTRACT.example)
    assert schema["examples"] == [CONTRACT.example]
    Encoder(CONTRACT).encode_rows([CONTRACT.example])
    assert schema["required"] == ["age", "income", "home", "job"]
    assert schema["properties"]["home"]["enum"] == ["owner", "rent", "other", None]
    assert "enum" not in schema["properties"]["job"]
    assert schema["properties"]["age"] == {
        "title": "Age", "type": "integer", "minimum": 18, "maximum": 100, "description": "in years",
    }  # fmt: skip


@settings(max_examples=50)
@given(st.data())
def test_whatever_fits_the_schema_is_taken(data: st.DataObject) -> None:
    contract = data.draw(contracts())
    schema = row_schema(contract)
    jsonschema.Draft202012Validator.check_schema(schema)
    row = data.draw(right_rows(contract))
    # Two liberties of the encoder are not in the schema: an empty text is missing, and whole floats are whole numbers.
    strict = {name: value for name, value in row.items() if value != ""}
    fits = jsonschema.Draft202012Validator(schema).is_valid(strict)
    try:
        Encoder(contract).encode_rows([strict])
    except InvalidInput:
        assert not fits


# --- names


@pytest.mark.parametrize("name", ["a", "A-b_c.9", "x" * 63, "credit_scoring", "V3"])
def test_names_that_may_be(name: str) -> None:
    assert check_name("endpoint", name) == name


@pytest.mark.parametrize("name", ["", "1a", "-a", ".a", "a b", "a/b", "a%2f", "é", "x" * 64, "a\n", "a:b", "..", "{m}"])
@pytest.mark.parametrize("kind", ["model", "endpoint", "alias"])
def test_names_that_may_not_be(kind: str, name: str) -> None:
    with pytest.raises(InvalidInput, match=kind):
        check_name(kind, name)


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_an_endpoint_never_takes_a_path_of_the_gateway(name: str) -> None:
    for spelling in (name, name.upper()):
        with pytest.raises(InvalidInput):
            check_name("endpoint", spelling)


# --- the plan


@pytest.mark.parametrize("weights", [{}, {1: 99}, {1: 101}, {1: 50, 2: 49}, {1: 150, 2: -50}])
def test_a_split_is_percents_that_sum_to_a_hundred(weights: dict[int, int]) -> None:
    with pytest.raises(ValueError, match="sum to 100"):
        TrafficSplit(weights)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_any_split_that_sums_to_a_hundred_is_taken(parts: list[int]) -> None:
    parts[-1] += 100 - sum(parts)
    weights = dict(enumerate(parts, 1))
    if min(parts) >= 0:
        assert TrafficSplit(weights).weights == weights
    else:
        with pytest.raises(ValueError, match="percents"):
            TrafficSplit(weights)


ONE = PlannedVersion(1, "0" * 64)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"split": TrafficSplit({2: 100})}, "does not hold"),
        ({"split": TrafficSplit({1: 100, 2: 0})}, "does not hold"),
        ({"aliases": {"champion": 3}}, "does not hold"),
        ({"versions": (ONE, ONE)}, "twice"),
        ({"cutoff": 0.0}, "cut-off"),
        ({"cutoff": 1.5}, "cut-off"),
        ({"max_rows": 0}, "max_rows"),
        ({"max_rows": -1}, "max_rows"),
    ],
)
def test_an_endpoint_that_cannot_be_served_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        PlannedEndpoint(**{"name": "a", "model": "m", "versions": (ONE,), "split": TrafficSplit({1: 100})} | changes)


def test_a_plan_names_an_endpoint_once_and_never_a_reserved_one() -> None:
    endpoint = PlannedEndpoint("a", "m", (ONE,), TrafficSplit({1: 100}))
    with pytest.raises(ValueError, match="twice"):
        ServingPlan(1, 0.0, (endpoint, endpoint))
    with pytest.raises(InvalidInput, match="reserved"):
        PlannedEndpoint("metrics", "m", (ONE,), TrafficSplit({1: 100}))


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": "my_secret"},
        {"digest": "G" * 64},
        {"rows_per_second": 0.0},
        {"rows_per_second": -1.0},
        {"burst_rows": -1},
    ],
)
def test_a_key_in_a_plan_is_a_digest_with_a_quota_that_can_be(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="key 'k'") as refusal:
        PlannedKey(**{"id": "k", "digest": "a" * 64, "principal": "p", "scopes": ()} | changes)
    assert "my_secret" not in str(refusal.value)
