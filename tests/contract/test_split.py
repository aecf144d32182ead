"""Slots move to whom they must, and stay otherwise."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.contract.plan import TrafficSplit
from modelyard.contract.split import SLOTS, Spans, move_slots, widths


@st.composite
def weights(draw: st.DrawFn) -> dict[int, int]:
    """Percents of up to five versions."""
    cuts = sorted(draw(st.lists(st.integers(0, SLOTS), max_size=4)))
    edges = [0, *cuts, SLOTS]
    return {number + 1: high - low for number, (low, high) in enumerate(pairwise(edges))}


def slots_of(spans: Spans) -> list[int]:
    return [version for version, width in spans for _ in range(width)]


@given(weights(), weights())
def test_only_who_must_give_slots_up_does(before: dict[int, int], after: dict[int, int]) -> None:
    old = move_slots((), before)
    new = move_slots(old, after)
    assert widths(new) == {version: weight for version, weight in after.items() if weight}
    moved = sum(was != now for was, now in zip(slots_of(old), slots_of(new), strict=True))
    assert moved == sum(max(0, before.get(version, 0) - after.get(version, 0)) for version in {*before, *after})


@given(weights(), weights())
def test_equal_shares_move_nothing(start: dict[int, int], shares: dict[int, int]) -> None:
    spans = move_slots(move_slots((), start), shares)
    assert move_slots(spans, shares) == spans


def test_a_third_version_takes_from_both_and_moves_nobody_between_them() -> None:
    two = move_slots((), {1: 60, 2: 40})
    three = move_slots(two, {1: 50, 2: 35, 3: 15})
    for was, now in zip(slots_of(two), slots_of(three), strict=True):
        assert now in (was, 3)


def test_spans_that_are_not_the_weights_are_refused() -> None:
    TrafficSplit({1: 60, 2: 40}, spans=((2, 10), (1, 60), (2, 30)))
    with pytest.raises(ValueError, match="slots"):
        TrafficSplit({1: 60, 2: 40}, spans=((1, 100),))
