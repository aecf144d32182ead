"""A contract survives its file, and a slip of the editor's hand is found again by line."""

from pathlib import Path

import pytest

from modelyard.contract.errors import InvalidInput, NotFound
from modelyard.contract.features import Column, Contract, Target
from modelyard.data.contract_file import from_toml, read_contract, to_toml

CONTRACT = Contract(
    (
        Column("age", "integer", minimum=18, maximum=100, clip=(18.0, 70.0), label={"en": "Age", "zh": "年龄"}),
        Column("home", "category", nullable=True, categories=("own", 'say "rent"'), unseen="missing"),
        Column("sex", "category", role="sensitive"),
        Column("member", "boolean", default=False),
    ),
    Target("status", ("good", "bad"), "bad"),
    {"age": 30, "home": "own", "member": True},
)


def test_there_and_back() -> None:
    assert from_toml(to_toml(CONTRACT)) == CONTRACT


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('kind = "integer"', 'kind = "int"', r"line 7: column 'age', kind: "),
        ("maximum = 100", "maxximum = 100", r"line 9: column 'age': .*maxximum"),
        ("maximum = 100", 'maximum = "x"', r"line 9: column 'age', maximum"),
        ("maximum = 100", "maximum = 10", r"column 'age': minimum 18.0 is above maximum 10.0"),
        ("nullable = true", "nullable =", "not TOML.*line"),
        ("[target]", "[taret]", "taret"),
    ],
)
def test_a_slip_is_named(old: str, new: str, says: str) -> None:
    text = to_toml(CONTRACT)
    assert old in text
    with pytest.raises(InvalidInput, match=says):
        from_toml(text.replace(old, new), "contract.toml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="none"):
        read_contract(tmp_path / "none.toml")
