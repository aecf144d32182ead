"""Predictions as columns of a table, and refusals as one cell of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from modelyard.contract.errors import InvalidInput, Violation
from modelyard.contract.infer import Prediction

Answer = Prediction | tuple[Violation, ...]  # violations: the row was refused

ANSWERS = ("decision", "probability", "score", "reasons", "version", "request_id", "request_row")


def answer_each(
    rows: Sequence[dict[str, Any]], ask: Callable[[list[dict[str, Any]]], Sequence[Prediction]]
) -> list[Answer]:
    """An answer for each row: those that `ask` names as wrong are taken out, and it is asked for the rest again.

    Raises the InvalidInput that names no row.
    """
    found: list[Answer] = [()] * len(rows)
    pending = list(range(len(rows)))
    while pending:
        try:
            answers = ask([rows[at] for at in pending])
        except InvalidInput as error:
            wrong: dict[int, list[Violation]] = {}
            for violation in error.violations:
                if violation.row is not None and violation.row < len(pending):
                    wrong.setdefault(violation.row, []).append(violation)
            if not wrong:  # nothing can be saved
                raise
            for position, violations in wrong.items():
                found[pending[position]] = tuple(violations)
            pending = [at for position, at in enumerate(pending) if position not in wrong]
        else:
            for at, answer in zip(pending, answers, strict=True):
                found[at] = answer
            break
    return found


def answer_columns(answer: Prediction) -> list[str]:
    """The answer's own columns: those of a decision, or the outputs of a version that has none."""
    if answer.decision is not None:
        return list(ANSWERS)
    known = ["probability"] if answer.probability is not None else []
    return [*known, *answer.outputs, *ANSWERS[-3:]]


def answer_cells(answer: Prediction, columns: Sequence[str]) -> list[Any]:
    """One answer's value in each of these columns; None where it has none."""
    return [
        answer.outputs[column]
        if column in answer.outputs
        else "; ".join(reason.text for reason in answer.reasons)
        if column == "reasons"
        else getattr(answer, "row" if column == "request_row" else column, None)
        for column in columns
    ]


def without_clash(names: Sequence[str], taken: Sequence[str]) -> list[str]:
    """The names as a table that has columns `taken` can hold them beside those."""
    return [f"predicted_{name}" if name in taken else name for name in names]


def why(violations: Sequence[Violation]) -> str:
    """Every broken rule of a row, for a reader."""
    return "; ".join(
        f"{violation.column}: {violation.message}" if violation.column else violation.message
        for violation in violations
    )
