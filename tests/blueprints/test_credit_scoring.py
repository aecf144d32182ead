"""The shipped blueprint: its words cover its columns, and its rules let every shipped row pass."""

import pytest

from modelyard.blueprints.catalogue import blueprint, blueprint_names, table_of
from modelyard.contract.encoding import Encoder
from modelyard.contract.errors import NotFound
from modelyard.contract.features import Contract
from modelyard.data.rows import json_rows

READY = blueprint("credit_scoring")


def test_every_shipped_row_passes_the_contract() -> None:
    contract = Contract(READY.columns)
    table = table_of(READY).table
    assert Encoder(contract).encode_rows(json_rows(table, contract)).shape == (4454, 13)
    assert set(table.columns) == {column.name for column in READY.columns} | {READY.target}


def test_every_column_has_a_label_and_reasons_in_both_languages() -> None:
    for column in READY.columns:
        assert {"en", "zh"} <= set(column.label), column.name
        wanted = {"value"} if column.kind == "category" else {"high", "low", "typical"}
        wanted |= {"missing"} if column.nullable else set()
        if column.sensitive:
            assert column.name not in READY.decision.reasons
            continue
        reasons = READY.decision.reasons[column.name]
        assert set(reasons) == wanted, column.name
        assert all({"en", "zh"} == set(texts) and all(texts.values()) for texts in reasons.values()), column.name


def test_an_unknown_blueprint_lists_those_there_are() -> None:
    assert blueprint_names() == ["credit_scoring"]
    with pytest.raises(NotFound, match="credit_scoring"):
        blueprint("credit")
