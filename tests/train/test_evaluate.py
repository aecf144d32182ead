"""The measures agree with scikit-learn, and with what they say of themselves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.metrics import log_loss as reference_log_loss

from modelyard.train.evaluate import auc, auc_interval, calibration_error, ks_cutoff, log_loss, measures, roc_curve

Case = tuple[list[int], list[float]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    count = draw(st.integers(2, 60))
    y = draw(st.lists(st.integers(0, 1), min_size=count, max_size=count).filter(lambda v: 0 < sum(v) < len(v)))
    p = draw(st.lists(st.sampled_from([0.01, 0.1, 0.25, 0.5, 0.5001, 0.9]), min_size=count, max_size=count))
    return y, p


@given(cases())
def test_measures_agree_with_the_reference(case: Case) -> None:
    y, p = np.array(case[0], dtype=float), np.array(case[1])
    found = measures(y, p)
    assert found["auc"] == pytest.approx(roc_auc_score(y, p))
    assert found["gini"] == pytest.approx(2 * found["auc"] - 1)
    assert found["log_loss"] == pytest.approx(reference_log_loss(y, p))
    assert found["brier"] == pytest.approx(brier_score_loss(y, p))


@given(cases())
def test_the_cutoff_opens_the_gap_that_is_stated(case: Case) -> None:
    y, p = np.array(case[0], dtype=float), np.array(case[1])
    gap, cutoff = ks_cutoff(y, p)
    assert (p[y == 1] >= cutoff).mean() - (p[y == 0] >= cutoff).mean() == pytest.approx(gap)


def test_the_interval_holds_the_value_and_is_repeatable() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random(400) < 0.3).astype(float)
    p = np.clip(0.3 + 0.2 * y + rng.normal(0, 0.2, 400), 0.01, 0.99)
    low, high = auc_interval(y, p, 200)
    assert low < auc(y, p) < high
    assert (low, high) == auc_interval(y, p, 200)


def test_a_perfectly_calibrated_forecast_has_no_error() -> None:
    y = np.array([0.0, 1.0] * 50)
    assert calibration_error(y, np.full(100, 0.5), bins=5) == pytest.approx(0)


def test_certainty_that_is_wrong_costs_but_stays_finite() -> None:
    assert np.isfinite(log_loss(np.array([1.0, 0.0]), np.array([0.0, 1.0])))


def test_the_curve_runs_from_corner_to_corner() -> None:
    curve = roc_curve(np.array([0.0, 1.0, 1.0, 0.0]), np.array([0.1, 0.9, 0.4, 0.4]))
    assert (curve["false_positive_rate"][0], curve["true_positive_rate"][0]) == (0, 0)
    assert (curve["false_positive_rate"][-1], curve["true_positive_rate"][-1]) == (1, 1)
