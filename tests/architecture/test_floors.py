"""The ground floor stands on numpy, msgspec and the standard library: whatever it imports is read here."""

import ast
import sys
from pathlib import Path

import pytest

import modelyard.contract

GROUND = Path(modelyard.contract.__file__).parent
ALLOWED = {"numpy", "msgspec", *sys.stdlib_module_names}


def imported_by(path: Path) -> set[str]:
    """Every module that the file names in an import, wherever in the file it stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add("modelyard.contract" if node.level else node.module or "")
            assert node.level < 2, f"{path.name} reaches above its own room"
    return names


@pytest.mark.parametrize("path", sorted(GROUND.rglob("*.py")), ids=lambda path: path.name)
def test_the_ground_floor_needs_nobody(path: Path) -> None:
    strangers = {
        name
        for name in imported_by(path)
        if name.partition(".")[0] not in ALLOWED and f"{name}.".partition("modelyard.contract.")[0]
    }
    assert strangers == set()
