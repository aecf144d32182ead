"""`modelyard quality`: what stands in the terminal and in the JSON is what the table holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelyard.cli.main import main

TABLE = "age,sex,income,status\n" + "".join(
    f"{20 + at % 50},{'fm'[at % 2]},{'' if at % 10 == 0 else at * 3},{'bad' if at % 4 == 0 else 'good'}\n"
    for at in range(100)
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "people.csv"
    file.write_text(TABLE)
    return str(file)


def test_json_is_the_report(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quality", path, "--target", "status", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    columns = {column["name"]: column for column in report["columns"]}
    assert report["rows"] == 100
    assert report["classes"] == {"bad": 25, "good": 75}
    assert columns["income"]["missing"] == 10
    assert columns["sex"]["sensitive"] is True


def test_the_terminal_shows_a_row_for_each_column(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quality", path, "--target", "status"]) == 0
    said = capsys.readouterr().out
    assert "100 rows, 4 columns" in said
    assert "10 (10.0%)" in said
    assert "sensitive" in said


def test_an_unknown_target_is_named_with_what_there_is(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quality", path, "--target", "outcome"]) == 1
    said = capsys.readouterr().err
    assert "outcome" in said
    assert "income" in said
