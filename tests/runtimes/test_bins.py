"""The bin of a value is the number of thresholds below it, for every float32 that there is."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.runtimes.bins import Bins

numbers = st.floats(width=32, allow_nan=False)
anything = st.one_of(numbers, st.integers(0, 2**32 - 1).map(lambda bits: np.uint32(bits).view(np.float32)))


def bins_of(features: list[list[float]]) -> Bins:
    edges = np.array([edge for own in features for edge in own], dtype=np.float32)
    return Bins(edges, np.cumsum([0, *map(len, features)]).astype(np.int32))


@given(
    features=st.lists(st.lists(numbers, max_size=6, unique=True).map(sorted), min_size=1, max_size=4),
    values=st.lists(anything, min_size=1, max_size=40),
)
def test_every_value_finds_the_line_of_its_bin(features: list[list[float]], values: list[float]) -> None:
    bins = bins_of(features)
    matrix = np.repeat(np.array(values, dtype=np.float32)[:, None], len(features), axis=1)
    found = bins.lines(matrix)
    first = 0
    for feature, own in enumerate(features):
        for row, value in enumerate(values):
            below = len(own) + 1 if np.isnan(value) else sum(edge < value for edge in own)
            assert found[row, feature] == first + below, (own, value)
        first += len(own) + 2
    assert len(bins) == first


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7F800001, 0x7FFFFFFF, 0xFFC00000, 0xFF800001, 0xFFFFFFFF])
def test_every_nan_is_missing(bits: int) -> None:
    bins = bins_of([[0.0, np.inf], [-np.inf]])
    matrix = np.full((1, 2), np.uint32(bits).view(np.float32))
    assert bins.lines(matrix).tolist() == [[3, 6]]


def test_zeros_are_equal_whatever_their_sign() -> None:
    for edge, value in itertools.product((0.0, -0.0), repeat=2):
        assert bins_of([[edge]]).lines(np.array([[value]], dtype=np.float32)).tolist() == [[0]]


def test_columns_of_a_larger_matrix_are_read_where_they_lie() -> None:
    bins = bins_of([[1.0], [2.0, 3.0]])
    wide = np.arange(24, dtype=np.float32).reshape(6, 4)
    np.testing.assert_array_equal(bins.lines(wide[::2, 1:3]), bins.lines(np.ascontiguousarray(wide[::2, 1:3])))
