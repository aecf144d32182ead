"""From a map of how likely each pixel is text to rectangles around texts. Pure numpy.

Pixels above a threshold that touch are one text; the smallest rectangle around them, at any angle, is grown again by
what the map was trained to shrink it. Source: Liao et al. (2020), Real-time scene text detection with differentiable
binarization; the smallest rectangle lies on an edge of the convex hull (Freeman and Shapira 1975).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Points = NDArray[np.int64]
_SMALLEST = 3.0  # pixels of the map: what is narrower is noise


class BoxRules(NamedTuple):
    """threshold: of a pixel. box_threshold: of a box's mean. unclip: how much a box is grown, see `grown`. dilate:
    whether pixels reach one to the right and below. most: boxes of one map, the largest first."""

    threshold: float
    box_threshold: float
    unclip: float
    dilate: bool
    most: int


class Rectangle(NamedTuple):
    """centre: [2]; along: the unit vector of its width; width and height are pixels."""

    centre: Floats
    along: Floats
    width: float
    height: float

    @property
    def corners(self) -> Floats:
        """float64[4, 2], x and y, in turn."""
        across = np.array([-self.along[1], self.along[0]])
        w, h = self.width / 2 * self.along, self.height / 2 * across
        return np.array([self.centre - w - h, self.centre + w - h, self.centre + w + h, self.centre - w + h])


def find_boxes(heat: NDArray[np.float32], rules: BoxRules) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The boxes of one map and the mean of each: float32[k, 4, 2] (corners from the upper left on, clockwise, x and y
    in pixels of the map) and float32[k]. heat: float32[height, width], 0 to 1."""
    mask = heat > rules.threshold
    if rules.dilate:
        mask[:, 1:] |= mask[:, :-1].copy()
        mask[1:] |= mask[:-1].copy()
    boxes, scores = [], []
    for points in components(mask)[: rules.most]:
        box = smallest_rectangle(points)
        if min(box.width, box.height) < _SMALLEST:
            continue
        score = mean_inside(heat, box)
        if score >= rules.box_threshold:
            boxes.append(clockwise(grown(box, rules.unclip).corners))
            scores.append(score)
    return np.array(boxes, dtype=np.float32).reshape(-1, 4, 2), np.array(scores, dtype=np.float32)


def components(mask: NDArray[np.bool_]) -> list[Points]:
    """Pixels that touch, also at corners: of each component the outermost pixels of each of its rows, int64[n, 2] of x
    and y; the component with most pixels first."""
    height, width = mask.shape
    padded = np.zeros((height, width + 2), dtype=np.int8)
    padded[:, 1:-1] = mask
    steps = np.diff(padded, axis=1)  # [height, width + 1]
    rows, starts = np.nonzero(steps == 1)
    ends = np.nonzero(steps == -1)[1] - 1  # of the same runs: both are in row-major order
    if not len(rows):
        return []
    labels = _labels(rows, starts, ends, width + 2)
    order = np.lexsort((rows, labels))
    labels, rows, starts, ends = labels[order], rows[order], starts[order], ends[order]
    sizes = np.bincount(labels, ends - starts + 1).astype(np.int64)
    first = np.flatnonzero(np.concatenate([[True], (labels[1:] != labels[:-1]) | (rows[1:] != rows[:-1])]))
    left, right = np.minimum.reduceat(starts, first), np.maximum.reduceat(ends, first)
    owner, line = labels[first], rows[first]
    found = []
    for label in np.argsort(-sizes, kind="stable").tolist():
        low, high = np.searchsorted(owner, (label, label + 1))
        x = np.concatenate([left[low:high], right[low:high]])
        found.append(np.stack([x, np.concatenate([line[low:high]] * 2)], axis=1))
    return found


def _labels(rows: Points, starts: Points, ends: Points, stride: int) -> Points:
    """Which component each run of pixels belongs to, from 0: runs of neighbouring rows that touch are one."""
    first = np.searchsorted(rows * stride + ends, (rows + 1) * stride + starts - 1)
    last = np.searchsorted(rows * stride + starts, (rows + 1) * stride + ends + 1, side="right")
    parents = list(range(len(rows)))

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = parents[parents[run]]
            run = parents[run]
        return run

    for run, (low, high) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        for other in range(low, high):
            one, two = root(run), root(other)
            parents[max(one, two)] = min(one, two)
    roots = np.array([root(run) for run in range(len(rows))])
    return np.unique(roots, return_inverse=True)[1].reshape(-1)


def smallest_rectangle(points: Points) -> Rectangle:
    """The rectangle of least area around points, int[n, 2], at any angle."""
    hull = convex_hull(points)
    edges = np.diff(np.concatenate([hull, hull[:1]]), axis=0)
    lengths = np.hypot(edges[:, 0], edges[:, 1])
    edges, lengths = edges[lengths > 0], lengths[lengths > 0]
    if not len(edges):
        return Rectangle(hull[0], np.array([1.0, 0.0]), 0.0, 0.0)
    along = edges / lengths[:, None]
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    u, v = hull @ along.T, hull @ across.T  # [points, edges]
    width, height = np.ptp(u, axis=0), np.ptp(v, axis=0)
    best = int(np.argmin(width * height))
    middle_u, middle_v = (u[:, best].min() + u[:, best].max()) / 2, (v[:, best].min() + v[:, best].max()) / 2
    centre = middle_u * along[best] + middle_v * across[best]
    return Rectangle(centre, along[best], float(width[best]), float(height[best]))


def convex_hull(points: Points) -> Floats:
    """The corners of the convex hull, float64[k, 2], in turn (Andrew's monotone chain)."""
    ordered = np.unique(points, axis=0).tolist()
    if len(ordered) < 3:
        return np.array(ordered, dtype=np.float64)

    def half(side: list[list[int]]) -> list[list[int]]:
        chain: list[list[int]] = []
        for point in side:
            while len(chain) > 1 and _turn(chain[-2], chain[-1], point) <= 0:
                chain.pop()
            chain.append(point)
        return chain[:-1]

    return np.array(half(ordered) + half(ordered[::-1]), dtype=np.float64)


def _turn(a: list[int], b: list[int], c: list[int]) -> int:
    """Above 0 where the way from a over b to c turns left."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def mean_inside(heat: NDArray[np.float32], box: Rectangle) -> float:
    """The mean of the map over the pixels whose centres lie in a box."""
    corners = box.corners
    low = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0)
    high = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 1, heat.shape[::-1])
    x, y = np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1]))
    dx, dy = x - box.centre[0], y - box.centre[1]
    along = np.abs(dx * box.along[0] + dy * box.along[1]) <= box.width / 2 + 0.5
    across = np.abs(dy * box.along[0] - dx * box.along[1]) <= box.height / 2 + 0.5
    inside = heat[low[1] : high[1], low[0] : high[0]][along & across]
    return float(inside.mean()) if inside.size else 0.0


def grown(box: Rectangle, unclip: float) -> Rectangle:
    """The box moved out on all sides by area x unclip / perimeter: what the map was shrunk by when it was trained."""
    by = box.width * box.height * unclip / (2 * (box.width + box.height))
    return box._replace(width=box.width + 2 * by, height=box.height + 2 * by)


def clockwise(corners: Floats) -> Floats:
    """The corners of a rectangle: upper left, upper right, lower right, lower left, as a reader would say."""
    by_x = corners[np.argsort(corners[:, 0], kind="stable")]
    left, right = by_x[:2], by_x[2:]
    left, right = left[np.argsort(left[:, 1], kind="stable")], right[np.argsort(right[:, 1], kind="stable")]
    return np.array([left[0], right[0], right[1], left[1]])


def reading_order(boxes: NDArray[np.float32]) -> list[int]:
    """Positions of boxes, float32[k, 4, 2], as one reads them: lines from the top, in each from the left.

    A box belongs to a line if their heights overlap by more than half of the smaller.
    """
    if not len(boxes):
        return []
    top, bottom, left = boxes[:, :, 1].min(axis=1), boxes[:, :, 1].max(axis=1), boxes[:, :, 0].min(axis=1)
    lines: list[list[int]] = []
    for at in np.argsort((top + bottom) / 2, kind="stable").tolist():
        if lines:
            first = lines[-1][0]
            shared = min(bottom[at], bottom[first]) - max(top[at], top[first])
            if shared > 0.5 * min(bottom[at] - top[at], bottom[first] - top[first]):
                lines[-1].append(at)
                continue
        lines.append([at])
    return [at for line in lines for at in sorted(line, key=lambda one: float(left[one]))]
