"""Refused rows are put aside and the rest is answered, in order."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelyard.cli import predict
from modelyard.cli.context import Context
from modelyard.cli.exits import Exit
from modelyard.cli.main import command_line
from modelyard.cli.predict import Answered
from modelyard.contract.decision import Reason
from modelyard.contract.errors import InvalidInput, NotFound, Violation
from modelyard.contract.infer import Prediction
from modelyard.data.answers import answer_cells, answer_columns, answer_each


class Gate:
    """Answers x >= 0; names at most two wrong rows in one refusal, as a gateway names a limited number."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def predict(self, rows: list[dict[str, Any]], **_: Any) -> list[Prediction]:
        self.asked.append(len(rows))
        wrong = [Violation("minimum", "must be at least 0", "x", at) for at, row in enumerate(rows) if row["x"] < 0]
        if wrong:
            raise InvalidInput("no", tuple(wrong[:2]))
        return [Prediction("r", 1, "approve", row["x"], 600, row=at) for at, row in enumerate(rows)]


@pytest.mark.parametrize(
    "values", [[], [0.1], [-1], [0.1, -1, 0.2], [-1, -2, -3, -4, -5], [0.1, -1, -2, 0.2, -3, 0.3], [0.3, 0.2, 0.1]]
)
def test_every_row_has_an_answer_or_a_reason(values: list[float]) -> None:
    gate = Gate()
    found = answer_each([{"x": value} for value in values], gate.predict)
    assert len(found) == len(values)
    for value, answer in zip(values, found, strict=True):
        if value < 0:
            assert isinstance(answer, tuple)
            assert answer[0].message == "must be at least 0"
        else:
            assert isinstance(answer, Prediction)
            assert answer.probability == value
    assert len(gate.asked) <= 1 + (sum(value < 0 for value in values) + 1) // 2


def test_a_refusal_that_names_no_row_ends_it() -> None:
    class Closed:
        def predict(self, rows: list[dict[str, Any]], **_: Any) -> list[Prediction]:
            raise InvalidInput("the endpoint takes no rows today")

    with pytest.raises(InvalidInput, match="today"):
        answer_each([{"x": 1}], Closed().predict)


def context(*words: str) -> Context:
    return Context(command_line().parse_args(["predict", "m", "--data", "rows.csv", *words]))


def answered() -> Iterator[Answered]:
    reasons = (Reason("X_LOW", "x", "x is low", 0.5), Reason("Y_HIGH", "y", "y is high", 0.2))
    yield Answered(1, {"x": "1", "score": "mine"}, Prediction("r1", 2, "approve", 0.25, 612))
    yield Answered(2, {"x": "-1", "score": ""}, (Violation("minimum", "must be at least 0", "x", 1),))
    yield Answered(3, {"x": "3", "score": "3"}, Prediction("r1", 2, "decline", 0.75, 512, reasons, row=1))


def read(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_the_file_keeps_its_columns_and_its_order(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    assert predict._to_file(context("--output", str(path)), ["x", "score"], answered()) == Exit.PARTLY_REFUSED
    assert read(path) == [
        ["x", "score", "decision", "probability", "predicted_score", "reasons", "version", "request_id", "request_row"],
        ["1", "mine", "approve", "0.25", "612", "", "2", "r1", "0"],
        ["3", "3", "decline", "0.75", "512", "x is low; y is high", "2", "r1", "1"],
    ]
    assert read(tmp_path / "out.rejected.csv") == [
        ["row", "refused_because", "x", "score"],
        ["2", "x: must be at least 0", "-1", ""],
    ]


def test_nothing_refused_leaves_no_file_of_refusals(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    (tmp_path / "out.rejected.csv").write_text("of an earlier run")
    entries = iter([entry for entry in answered() if entry.number != 2])
    assert predict._to_file(context("--output", str(path)), ["x", "score"], entries) == Exit.OK
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.csv"]


def test_columns_that_are_not_the_versions_stay_here() -> None:
    description = {
        "columns": [
            {"name": "x", "kind": "number", "required": True, "used": True},
            {"name": "sex", "kind": "category", "required": False, "used": False},
        ]
    }
    assert predict._kinds(description, ["x", "sex", "name"], "rows.csv") == {"x": "number"}
    with pytest.raises(InvalidInput, match=r"rows\.csv lacks columns that the endpoint requires: x"):
        predict._kinds(description, ["sex"], "rows.csv")


def test_outputs_by_name_where_there_is_no_decision() -> None:
    answer = Prediction("r", 1, outputs={"label": "cat", "margin": 0.5})
    assert answer_columns(answer) == ["label", "margin", "version", "request_id", "request_row"]
    assert answer_cells(answer, ["label", "margin"]) == ["cat", 0.5]


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotFound):
        predict.run_predict(context())
