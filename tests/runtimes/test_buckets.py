"""Texts of like length share a run: all of them, in no run too many, little padded."""

from __future__ import annotations

from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.runtimes.buckets import runs


@pytest.mark.parametrize(
    ("lengths", "budget", "wanted"),
    [
        ([], 64, []),
        ([5], 64, [[0]]),
        ([5, 60, 6], 64, [[0, 2], [1]]),  # a short text is not padded to a long one
        ([8, 8, 8], 16, [[0, 1], [2]]),  # no run is larger than the budget
        ([40, 3], 16, [[1], [0]]),  # what is larger alone runs alone
        ([16, 17], 1000, [[0], [1]]),  # an edge belongs to its bucket
        ([70, 90], 1000, [[0, 1]]),  # above the last edge there is one more bucket
        ([5, 5], 0, [[0], [1]]),  # no budget: every text alone
    ],
)
def test_texts_share_a_run_only_with_their_like(lengths: list[int], budget: int, wanted: list[list[int]]) -> None:
    assert runs(lengths, (16, 32, 64), budget) == wanted


@given(
    st.lists(st.integers(1, 300), max_size=60),
    st.lists(st.integers(1, 256), max_size=5, unique=True).map(sorted),
    st.integers(0, 1000),
)
def test_every_text_runs_once_within_its_bucket_and_the_budget(
    lengths: list[int], buckets: list[int], budget: int
) -> None:
    found = runs(lengths, buckets, budget)
    assert sorted(position for run in found for position in run) == list(range(len(lengths)))
    for run in found:
        tokens = [lengths[position] for position in run]
        assert tokens == sorted(tokens)
        assert len({bisect_left(buckets, length) for length in tokens}) == 1
        assert len(run) == 1 or len(run) * max(tokens) <= budget
