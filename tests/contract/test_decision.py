"""What is said at which probability: points, and at most four reasons in plain words."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.contract.decision import MAX_REASONS, Decision, Scale
from modelyard.contract.features import Column, Contract

FEATURES = (
    Column("age", "integer", nullable=True, typical=40.0, label={"en": "Age", "zh": "年龄"}),
    Column("home", "category", nullable=True, categories=("owner", "rent"), typical=0.0, label={"en": "Home"}),
    Column("income", "number", nullable=True),
    Column("guarantor", "boolean"),
    Column("debt", "number", typical=1.0, label={"zh": "债务"}),
)
DECISION = Decision(0.3, "decline", "approve")
SHARES = st.floats(1e-6, 1 - 1e-6)


@given(SHARES, SHARES)
def test_more_points_are_never_worse(one: float, other: float) -> None:
    points = Scale().score(np.array([one, other]))
    assert points.dtype == np.int64
    if one < other:
        assert points[0] >= points[1]


@given(st.floats(0.01, 100.0), st.floats(300, 900), st.floats(5, 60))
def test_so_many_points_double_the_odds(odds: float, points: float, double: float) -> None:
    scale = Scale(points, odds, double)
    at, twice = (scale.score(np.array([1 / (1 + ratio)]))[0] for ratio in (odds, 2 * odds))
    assert at == pytest.approx(points, abs=0.51)
    assert twice - at == pytest.approx(double, abs=1.01)


def test_certainty_has_finite_points() -> None:
    low, high = Scale().score(np.array([1.0, 0.0], dtype=np.float32))
    assert low < 600 < high


@pytest.mark.parametrize("scale", [{"odds": 0.0}, {"odds": -1.0}, {"double": 0.0}, {"double": -20.0}])
def test_a_scale_that_cannot_be_is_refused(scale: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Scale(**scale)


@pytest.mark.parametrize("cutoff", [0.0, 1.0, -0.1, 1.1, math.nan])
def test_a_cut_off_lies_between_never_and_always(cutoff: float) -> None:
    with pytest.raises(ValueError, match="cut-off"):
        Decision(cutoff, "decline", "approve")


@given(
    st.lists(st.floats(-3, 3, width=32), min_size=5, max_size=5),
    st.lists(st.one_of(st.just(math.nan), st.sampled_from((0.0, 1.0))), min_size=5, max_size=5),
    st.sampled_from(("en", "zh", "fr")),
)
def test_reasons_are_few_positive_and_in_order(contributions: list[float], row: list[float], language: str) -> None:
    parts = np.array(contributions, dtype=np.float32)
    reasons = DECISION.reasons_for(parts, np.array(row, dtype=np.float32), FEATURES, language)
    assert len(reasons) == min(MAX_REASONS, int((parts > 0).sum()))
    given_parts = dict(zip((column.name for column in FEATURES), contributions, strict=True))
    assert [reason.column for reason in reasons] == sorted(
        (reason.column for reason in reasons), key=lambda name: -given_parts[name]
    )
    for reason in reasons:
        assert reason.contribution == pytest.approx(given_parts[reason.column], abs=1e-6)
        assert given_parts[reason.column] > 0
        assert reason.text
    left_out = set(given_parts) - {reason.column for reason in reasons}
    if reasons and len(reasons) == MAX_REASONS:
        assert max(given_parts[name] for name in left_out) <= min(given_parts[one.column] for one in reasons)


@pytest.mark.parametrize(
    ("column", "value", "code", "english", "chinese"),
    [
        (0, 60.0, "AGE_HIGH", "Age is high", "年龄偏高"),
        (0, 20.0, "AGE_LOW", "Age is low", "年龄偏低"),
        (0, 40.0, "AGE_TYPICAL", "Age raises the probability", "年龄提高了概率"),
        (0, math.nan, "AGE_MISSING", "Age is not stated", "未提供年龄"),
        (1, 1.0, "HOME_VALUE", "Home: this value raises the probability", "Home：该取值提高了概率"),
        (1, math.nan, "HOME_MISSING", "Home is not stated", "未提供Home"),
        (2, 5.0, "INCOME_TYPICAL", "income raises the probability", "income提高了概率"),
        (3, 1.0, "GUARANTOR_VALUE", "guarantor: this value raises the probability", "guarantor：该取值提高了概率"),
        (4, 9.0, "DEBT_HIGH", "debt is high", "债务偏高"),
    ],
)
def test_plain_words(column: int, value: float, code: str, english: str, chinese: str) -> None:
    parts = np.zeros(len(FEATURES), dtype=np.float32)
    parts[column] = 0.5
    row = np.zeros(len(FEATURES), dtype=np.float32)
    row[column] = value
    for language, text in (("en", english), ("zh", chinese), ("fr", english)):
        (reason,) = DECISION.reasons_for(parts, row, FEATURES, language)
        assert (reason.code, reason.column, reason.text) == (code, FEATURES[column].name, text)


def test_texts_of_the_artifact_come_first() -> None:
    own = Decision(0.3, "no", "yes", reasons={"age": {"high": {"en": "Older than most", "zh": "年龄较大"}}})
    parts = np.array([1, 0, 0, 0, 0], dtype=np.float32)
    for value, language, text in (
        (60, "en", "Older than most"),
        (60, "zh", "年龄较大"),
        (60, "fr", "Age is high"),
        (20, "en", "Age is low"),
        (20, "zh", "年龄偏低"),
    ):
        row = np.array([value, 0, 0, 0, 0], dtype=np.float32)
        assert own.reasons_for(parts, row, FEATURES, language)[0].text == text


def test_a_column_that_no_model_sees_is_never_a_reason() -> None:
    contract = Contract((Column("sex", "category", role="sensitive"), *FEATURES, Column("id", "number", role="unused")))
    reasons = DECISION.reasons_for(
        np.ones(len(contract.features), dtype=np.float32), np.zeros(5, dtype=np.float32), contract.features
    )
    assert {reason.column for reason in reasons} <= {column.name for column in FEATURES}


def test_a_sensitive_column_is_never_a_reason() -> None:
    columns = tuple(
        msgspec.structs.replace(column, sensitive=position == 0) for position, column in enumerate(FEATURES)
    )
    contributions = np.arange(len(columns), 0, -1, dtype=np.float32)  # the sensitive one moved the row most
    decision = Decision(0.5, "decline", "approve")
    named = {r.column for r in decision.reasons_for(contributions, np.zeros(len(columns), np.float32), columns)}
    assert named
    assert columns[0].name not in named
