"""A bet that is fair: in expectation, summed over all outcomes, never above 1 for rates that are allowed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from modelyard.optimise.evidence import Table, log_evidence, log_mean

COUNTS = st.integers(1, 40)
RATES = st.sampled_from((0.0, 0.0005, 0.01, 0.1, 0.5, 0.9, 1.0))
MARGINS = st.sampled_from((0.0, 0.002, 0.05, 0.3))


def table(champion_calls: object, champion_bad: object, candidate_calls: object, candidate_bad: object) -> Table:
    """Of numbers or arrays, broadcast to one shape."""
    parts = np.broadcast_arrays(champion_calls, champion_bad, candidate_calls, candidate_bad)
    return Table(*(part.astype(float) for part in parts))


def expectation(seen: Table, calls: int, rate: float, others: int, worse: float, margin: float) -> float:
    """Of what a block multiplies the evidence by, over everything that it may hold."""
    bad, also = np.meshgrid(np.arange(calls + 1), np.arange(others + 1), indexing="ij")
    chance = binom.pmf(bad, calls, rate) * binom.pmf(also, others, worse)
    before = table(*(part * np.ones_like(bad) for part in seen))
    return float((chance * np.exp(log_evidence(before, table(calls, bad, others, also), margin))).sum())


@given(COUNTS, RATES, COUNTS, RATES, MARGINS, st.tuples(*[st.integers(0, 300)] * 4), st.floats(1, 8))
def test_a_good_candidate_gains_no_evidence_in_expectation(
    calls: int, rate: float, others: int, worse: float, margin: float, before: tuple[int, ...], share: float
) -> None:
    """Whatever was seen before, also if it misleads; also where calls count only in part."""
    allowed = min(worse, rate + margin, 1.0)
    seen = table(before[0] + before[1], before[0], before[2] + before[3], before[2])
    assert expectation(seen, calls, rate, others, allowed, margin) <= 1 + 1e-9


@given(COUNTS, COUNTS, MARGINS, st.integers(1, 300))
def test_the_edge_of_what_is_allowed_is_the_worst_case(calls: int, others: int, margin: float, seen: int) -> None:
    known = table(seen, seen // 10, 100, 60)
    at = [expectation(known, calls, 0.1, others, rate, margin) for rate in np.linspace(0, 0.1 + margin, 6)]
    assert all(later >= first - 1e-12 for first, later in pairwise(at))


@given(COUNTS, COUNTS, MARGINS, st.data())
def test_more_bad_calls_of_the_candidate_never_say_less_and_of_the_champion_never_more(
    calls: int, others: int, margin: float, data: st.DataObject
) -> None:
    seen = table(200, data.draw(st.integers(0, 100)), 50, data.draw(st.integers(0, 50)))
    here, there = data.draw(st.integers(0, calls - 1)), data.draw(st.integers(0, others - 1))

    def log(champion_bad: int, candidate_bad: int) -> float:
        return float(log_evidence(seen, table(calls, champion_bad, others, candidate_bad), margin))

    assert log(here, there + 1) >= log(here, there) - 1e-12
    assert log(here + 1, there) <= log(here, there) + 1e-12


@pytest.mark.parametrize(
    ("seen", "block"),
    [
        ((0, 0, 50, 5), (10, 1, 10, 1)),  # nothing is known of the champion yet
        ((50, 5, 50, 5), (0, 0, 10, 10)),  # the champion had no call in this time
        ((50, 5, 50, 5), (10, 10, 0, 0)),  # the candidate had none
        ((50, 50, 50, 5), (10, 10, 10, 10)),  # nothing can be worse than a champion that always fails
    ],
)
def test_where_nothing_can_be_said_nothing_is(seen: tuple[int, ...], block: tuple[int, ...]) -> None:
    assert log_evidence(table(*seen), table(*block), 0.0) == 0.0


def test_a_part_of_the_calls_says_a_part() -> None:
    """Calls that are answered together count as one: their evidence is a root of what they would say apart."""
    seen = table(1000, 10, 0, 0)
    whole = table(80, 0, 8, 8)
    tenth = Table(*(part / 8 for part in whole))
    assert 0 < log_evidence(seen, tenth, 0.0) < log_evidence(seen, whole, 0.0) / 4


def test_a_total_failure_is_believed_after_a_handful_of_calls() -> None:
    assert float(log_evidence(table(1000, 1, 0, 0), table(90, 0, 3, 3), 0.002)) > np.log(60)


def test_what_looks_good_is_no_longer_bet_against() -> None:
    seen = table(100_000, 1000, 100_000, 900)
    assert float(log_evidence(seen, table(1000, 10, 1000, 10), 0.0)) == pytest.approx(0.0, abs=1e-3)


def test_several_tests_together_are_their_mean() -> None:
    assert float(log_mean(np.log(np.array([1.0, 3.0, 8.0])))) == pytest.approx(np.log(4.0))
    assert np.isfinite(log_mean(np.array([900.0, -900.0])))
