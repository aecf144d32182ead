"""Random contracts and rows for property tests: every kind of column, odd names, right values and wrong ones."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from modelyard.contract.features import Column, Contract

ODD_NAMES = (
    "Loan Amount", "class", "é", "f0", "u0", "self", "nan", "row", 'say "hi"', "back\\slash", "a.b", "x-y", "金额",
    "tab\there", "{}", "%s", "lambda", "__init__", "1st",
)  # fmt: skip
NAMES = st.one_of(
    st.sampled_from(ODD_NAMES), st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)
)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=6)
EDGES = st.floats(-1e6, 1e6).map(lambda value: round(value, 3) + 0.0)


@st.composite
def columns(draw: st.DrawFn, name: str) -> Column:
    """One column whose rules do not contradict each other."""
    kind = draw(st.sampled_from(("number", "integer", "category", "boolean")))
    role = draw(st.sampled_from(("feature", "feature", "feature", "sensitive", "unused")))
    given: dict[str, Any] = {"nullable": draw(st.booleans())}
    if kind == "category":
        given["categories"] = tuple(draw(st.lists(TEXTS, min_size=1, max_size=4, unique=True)))
        given["unseen"] = draw(st.sampled_from(("refuse", "missing")))
        given["default"] = draw(st.sampled_from((None, given["categories"][0])))
    elif kind == "boolean":
        given["default"] = draw(st.sampled_from((None, True, False)))
    else:
        low, high = sorted((draw(EDGES), draw(EDGES)))
        if kind == "integer":
            low, high = float(int(low)), float(int(high)) + 1
        given["minimum"] = draw(st.sampled_from((None, low)))
        given["maximum"] = draw(st.sampled_from((None, high)))
        given["default"] = draw(st.sampled_from((None, low)))
        given["clip"] = draw(st.sampled_from((None, (low, high))))
        given["fill"] = draw(st.sampled_from((None, low)))
    return Column(name, kind, role, **given)


@st.composite
def contracts(draw: st.DrawFn) -> Contract:
    """A contract with at least one feature."""
    names = draw(st.lists(NAMES, min_size=1, max_size=6, unique=True))
    drawn = [draw(columns(name)) for name in names]
    if not any(column.role == "feature" for column in drawn):
        drawn.append(Column("always here", "number"))
    return Contract(tuple(drawn))


def right_values(column: Column) -> st.SearchStrategy[Any]:
    """Values that the column takes."""
    if column.kind == "category":
        known = st.sampled_from(column.categories)
        value: st.SearchStrategy[Any] = known if column.unseen == "refuse" else st.one_of(known, TEXTS)
    elif column.kind == "boolean":
        value = st.booleans()
    else:
        low = -1e6 if column.minimum is None else column.minimum
        high = max(1e6, low) if column.maximum is None else column.maximum
        low = min(low, high)
        value = st.floats(low, high) if column.kind == "number" else st.integers(int(low), int(high))
        if column.kind == "integer":
            value = st.one_of(value, value.map(float))  # 30.0 is a whole number
    return st.one_of(st.none(), st.just(""), value) if column.nullable else value


@st.composite
def right_rows(draw: st.DrawFn, contract: Contract) -> dict[str, Any]:
    """A row that the contract takes; columns that may be absent sometimes are."""
    row = {}
    for column in contract.columns:
        if column.role != "feature":
            if draw(st.booleans()):
                row[column.name] = draw(st.sampled_from((None, "anything", 3, [1], {"a": 1})))
        elif column.default is None or draw(st.booleans()):
            row[column.name] = draw(right_values(column))
    return row


WRONG = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXTS,
    st.just(""),
    st.lists(st.integers(), max_size=2),
    st.just({"a": 1}),
)


@st.composite
def any_rows(draw: st.DrawFn, contract: Contract) -> dict[str, Any]:
    """A right row in which some values, and perhaps columns, are anything at all."""
    row = draw(right_rows(contract))
    for column in contract.features:
        if draw(st.integers(0, 3)) == 0:
            row[column.name] = draw(WRONG)
    if draw(st.integers(0, 5)) == 0:
        row.pop(draw(st.sampled_from(sorted(row))), None) if row else None
    if draw(st.integers(0, 7)) == 0:
        row["no such column"] = 1
    return row
