"""Two answers to one call: how far apart they are, and whether it matters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from modelyard.contract.tensor import Tensors
from modelyard.serve.comparison import Comparison, compare


def said(**outputs: Any) -> Tensors:
    return {name: np.asarray(values) for name, values in outputs.items()}


def probability(*values: float) -> Tensors:
    return {"probability": np.array(values, np.float32)}


def test_a_decision_differs_only_across_the_cut_off() -> None:
    near = compare(probability(0.31, 0.1), probability(0.39, 0.1), (0.5, 0.5))
    assert near is not None
    assert (near.differs, near.row) == (False, 0)
    assert near.difference == pytest.approx(0.08, abs=1e-6)
    across = compare(probability(0.1, 0.49, 0.9), probability(0.4, 0.51, 0.9), (0.5, 0.5))
    assert across is not None
    assert (across.differs, across.row) == (True, 1), "the row whose decision differs, not the one further apart"
    assert (across.answered, across.shadowed) == (pytest.approx(0.49), pytest.approx(0.51))
    assert across.difference == pytest.approx(0.3)


NUMBERS = st.floats(0, 1, width=32) | st.sampled_from((math.nan, math.inf, -math.inf))


@given(NUMBERS, NUMBERS)
def test_one_row_is_compared_as_many_are(one: float, other: float) -> None:
    for cutoffs in ((0.5, 0.25), None):
        alone = compare(probability(one), probability(other), cutoffs)
        many = compare(probability(one, one), probability(other, other), cutoffs)
        assert alone is not None
        assert many is not None
        assert np.array_equal(alone, many, equal_nan=True)


def test_each_side_has_its_own_cut_off() -> None:
    both = probability(0.4), probability(0.4)
    assert compare(*both, (0.5, 0.3)).differs  # type: ignore[union-attr]
    assert not compare(*both, (0.3, 0.4)).differs  # type: ignore[union-attr]
    assert not compare(*both, None).differs  # type: ignore[union-attr]


def test_a_label_decides_where_there_is_no_cut_off() -> None:
    ours = said(label=np.array(["a", "b"], object), probabilities=np.array([[0.6, 0.4], [0.3, 0.7]], np.float32))
    close = said(label=np.array(["a", "b"], object), probabilities=np.array([[0.9, 0.2], [0.3, 0.7]], np.float32))
    other = said(label=np.array(["a", "a"], object), probabilities=np.array([[0.6, 0.4], [0.7, 0.3]], np.float32))
    found = compare(ours, close)
    assert found is not None
    assert (found.differs, found.row) == (False, 0)
    assert (found.answered, found.shadowed) == (pytest.approx(0.6), pytest.approx(0.9))
    found = compare(ours, other)
    assert found is not None
    assert (found.differs, found.row) == (True, 1)


@pytest.mark.parametrize(
    ("theirs", "differs"),
    [([1.0, 2.0], False), ([1.0, 2.0000001], False), ([1.0, 2.01], True), ([1.0, math.nan], True)],
)
def test_numbers_differ_beyond_rounding(theirs: list[float], differs: bool) -> None:
    found = compare(said(prediction=[1.0, 2.0]), said(prediction=theirs))
    assert found is not None
    assert found.differs is differs


def test_no_number_on_both_sides_is_the_same() -> None:
    same = said(prediction=[math.nan, math.inf, -math.inf])
    found = compare(same, same)
    assert found is not None
    assert (found.difference, found.differs) == (0.0, False)
    assert compare(same, said(prediction=[0.0, math.inf, -math.inf])).difference == math.inf  # type: ignore[union-attr]
    assert compare(same, said(prediction=[math.nan, -math.inf, -math.inf])).differs  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (said(a=[1.0]), said(b=[1.0])),
        (said(a=[1.0]), said(a=[1.0, 2.0])),
        (said(a=[1.0]), said(a=[1])),
        (said(a=np.array(["x"], object)), said(a=np.array(["x"], object))),
        ({}, said(a=[1.0])),
    ],
)
def test_what_cannot_be_compared(ours: Tensors, theirs: Tensors) -> None:
    assert compare(ours, theirs) is None


def test_no_rows_do_not_differ() -> None:
    nothing = said(a=np.empty((0, 3), np.float32))
    assert compare(nothing, nothing) == Comparison(0.0, False, 0, 0.0, 0.0)


SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, max_side=4)


@given(st.data(), SHAPES, st.sampled_from(["<f4", "<f8", "<i8", "|b1"]))
def test_the_difference_is_the_largest(data: st.DataObject, shape: tuple[int, ...], dtype: str) -> None:
    ours, theirs = (data.draw(arrays.arrays(np.dtype(dtype), shape)) for _ in range(2))
    found = compare({"a": ours}, {"a": theirs})
    assert found is not None
    assert compare({"a": ours}, {"a": ours}).difference == 0.0  # type: ignore[union-attr]
    with np.errstate(all="ignore"):
        apart = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    if np.isfinite(apart).all():
        assert found.difference == apart.max(initial=0.0)
    assert found.differs or found.difference <= 1e-6 + 1e-4 * np.abs(np.nan_to_num(ours.astype(np.float64))).max()
