"""A file's first line is its caption, and its name says what is in it."""

import ast
from pathlib import Path

import pytest

import modelyard

SOURCE = Path(modelyard.__file__).parent
FILES = sorted(path for path in SOURCE.rglob("*.py") if "migrations" not in path.relative_to(SOURCE).parts)
ROOMS_FOR_ANYTHING = {"utils", "util", "helpers", "helper", "misc", "common"}


def test_there_are_files_to_look_at() -> None:
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_the_first_line_is_the_caption(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    caption = ast.get_docstring(ast.parse(text))
    assert text.startswith(('"""', 'r"""')), f"{path.name} does not open with a docstring"
    assert caption, f"{path.name} has an empty caption"
    assert len(text.splitlines()[0].strip('r"')) > 10, f"{path.name}: the caption stands on the first line"


@pytest.mark.parametrize("kind", ["*.py", "*"])
def test_no_room_is_for_anything(kind: str) -> None:
    assert [str(path) for path in SOURCE.rglob(kind) if path.stem in ROOMS_FOR_ANYTHING] == []
