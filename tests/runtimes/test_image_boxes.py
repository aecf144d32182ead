"""From a map to boxes: components, the smallest rectangle around one, how it grows, and the order of reading."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import scipy.spatial
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from modelyard.runtimes.image_boxes import (
    BoxRules,
    clockwise,
    components,
    convex_hull,
    find_boxes,
    reading_order,
    smallest_rectangle,
)

RULES = BoxRules(0.3, 0.5, 1.6, False, 1000)


@given(arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_components_are_those_of_scipy(mask: np.ndarray) -> None:
    labels, count = scipy.ndimage.label(mask, structure=np.ones((3, 3)))
    found = components(mask)
    assert len(found) == count
    seen = set()
    for points in found:
        (label,) = {int(labels[y, x]) for x, y in points.tolist()}
        assert label not in seen
        seen.add(label)
        rows, columns = np.nonzero(labels == label)
        for y in np.unique(rows).tolist():  # the outermost pixels of each row
            own = columns[rows == y]
            assert {x for x, at in points.tolist() if at == y} == {own.min(), own.max()}
    sizes = [int((labels == labels[points[0][1], points[0][0]]).sum()) for points in found]
    assert sizes == sorted(sizes, reverse=True)


@given(arrays(np.int64, st.tuples(st.integers(3, 30), st.just(2)), elements=st.integers(-50, 50)))
def test_the_hull_is_scipys_and_the_rectangle_holds_every_point(points: np.ndarray) -> None:
    box = smallest_rectangle(points)
    across = np.array([-box.along[1], box.along[0]])
    away = points - box.centre
    assert np.abs(away @ box.along).max() <= box.width / 2 + 1e-6
    assert np.abs(away @ across).max() <= box.height / 2 + 1e-6
    if np.linalg.matrix_rank(points - points[0]) == 2:
        hull = scipy.spatial.ConvexHull(points)
        assert len(convex_hull(points)) == len(hull.vertices)
        turned = [np.deg2rad(angle) for angle in range(90)]
        areas = [np.ptp(points @ [np.cos(a), np.sin(a)]) * np.ptp(points @ [-np.sin(a), np.cos(a)]) for a in turned]
        assert box.width * box.height <= min(areas) + 1e-6


def drawn(height: int, width: int, boxes: list[tuple[float, float, float, float, float]]) -> np.ndarray:
    """A map with rectangles: centre x and y, width, height, angle in degrees."""
    y, x = np.mgrid[:height, :width]
    heat = np.zeros((height, width), dtype=np.float32)
    for cx, cy, w, h, angle in boxes:
        a = np.deg2rad(angle)
        u, v = (x - cx) * np.cos(a) + (y - cy) * np.sin(a), (y - cy) * np.cos(a) - (x - cx) * np.sin(a)
        heat[(np.abs(u) <= w / 2) & (np.abs(v) <= h / 2)] = 0.9
    return heat


@pytest.mark.parametrize("angle", [0, 7, -20, 45])
def test_a_rectangle_is_found_and_grown_by_the_rule(angle: float) -> None:
    boxes, scores = find_boxes(drawn(200, 300, [(150, 100, 120, 20, angle)]), RULES)
    assert boxes.shape == (1, 4, 2)
    assert scores[0] == pytest.approx(0.9, abs=0.1)
    by = 120 * 20 * 1.6 / (2 * 140)
    width, height = np.hypot(*(boxes[0][1] - boxes[0][0])), np.hypot(*(boxes[0][3] - boxes[0][0]))
    assert sorted((width, height)) == pytest.approx(sorted((120 + 2 * by, 20 + 2 * by)), abs=3)
    np.testing.assert_allclose(boxes[0].mean(axis=0), [150, 100], atol=1.5)


def test_what_is_faint_or_tiny_is_no_text_and_the_largest_come_first() -> None:
    heat = drawn(100, 200, [(50, 30, 60, 10, 0), (150, 30, 40, 10, 0), (50, 70, 30, 10, 0)])
    faint = heat * 0.5
    assert len(find_boxes(heat, RULES)[0]) == 3
    assert len(find_boxes(faint, RULES)[0]) == 0  # above the threshold, below the box's
    assert len(find_boxes(drawn(50, 50, [(20, 20, 2, 2, 0)]), RULES)[0]) == 0
    (one,), _ = find_boxes(heat, RULES._replace(most=1))
    np.testing.assert_allclose(one.mean(axis=0), [50, 30], atol=1.5)
    assert find_boxes(np.zeros((9, 9), dtype=np.float32), RULES)[0].shape == (0, 4, 2)


def test_dilating_joins_what_a_gap_of_one_parts() -> None:
    heat = drawn(40, 100, [(30, 20, 40, 10, 0), (72, 20, 40, 10, 0)])
    heat[:, 51] = 0.0
    assert len(find_boxes(heat, RULES)[0]) == 2
    assert len(find_boxes(heat, RULES._replace(dilate=True))[0]) == 1


def test_corners_go_round_from_the_upper_left() -> None:
    corners = np.array([[10.0, 5.0], [0.0, 5.0], [10.0, 0.0], [0.0, 0.0]])
    assert clockwise(corners).tolist() == [[0, 0], [10, 0], [10, 5], [0, 5]]


def box_at(x: float, y: float, width: float = 40, height: float = 10) -> list[list[float]]:
    return [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]


@settings(max_examples=50)
@given(st.permutations(range(6)))
def test_lines_are_read_from_the_top_and_each_from_the_left(order: list[int]) -> None:
    placed = [box_at(0, 2), box_at(50, 0), box_at(100, 3), box_at(10, 30), box_at(60, 33), box_at(0, 60, 90, 14)]
    boxes = np.array([placed[at] for at in order], dtype=np.float32)
    assert [order[at] for at in reading_order(boxes)] == [0, 1, 2, 3, 4, 5]
    assert reading_order(np.empty((0, 4, 2), dtype=np.float32)) == []
