"""The tables behind exact tree explanations, computed once when a version is packaged.

Path-dependent TreeSHAP (Lundberg et al. 2020), leaf by leaf. Splits on the same feature along a path merge into one
condition. For a leaf of value v with conditions i, o_i = 1 where the row meets condition i, and z_i the share of
training rows that meets it, the leaf gives feature j

    v (o_j - z_j) times the integral over t from 0 to 1 of the product over i != j of (t o_i + (1 - t) z_i),

a polynomial in t that Gauss-Legendre quadrature integrates exactly.

What all leaves of a tree give together is then written down for every place that a row can have in it: a combination of
one local bin for each of its features, where bins that all its leaves treat alike are one.
"""

from __future__ import annotations

import math
from functools import cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.optimise.bins import edges_and_starts, forest_bins
from modelyard.optimise.trees import Forest, Leaf, Node, Split
from modelyard.runtimes.contributions import TreeContributions

MAX_CONDITIONS = 8  # of one leaf: it has two to the power of them as patterns
MAX_TABLE = 4_000_000  # numbers in all tables together
PLACES = (8192, 2048, 512, 64)  # at most in one table; fewer means more tables, which are slower and smaller


class Condition(msgspec.Struct, frozen=True):
    """What one path asks of one feature: an interval or a set of codes, and whether missing meets it."""

    share: float = 1.0  # of training rows that meet it, as the product of the splits' shares
    low: float = -np.inf  # low < x
    high: float = np.inf  # x <= high
    within: frozenset[int] | None = None  # codes; None: any
    without: frozenset[int] = frozenset()
    missing: bool = True

    def met(self, values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether each value meets it; NaN is missing."""
        with np.errstate(invalid="ignore"):
            inside = (values > self.low) & (values <= self.high)
        if self.within is not None:
            inside &= np.isin(values, list(self.within))
        if self.without:
            inside &= ~np.isin(values, list(self.without))
        return np.where(np.isnan(values), self.missing, inside)


class _Path(msgspec.Struct, frozen=True):
    value: float
    conditions: dict[int, Condition]


class _Table(msgspec.Struct, frozen=True):
    """What the leaves of one subtree give, for every place that a row can have in it."""

    paths: list[_Path]
    local: dict[int, NDArray[np.intp]]  # feature -> the local bin of each of its bins

    @property
    def sizes(self) -> list[int]:
        """How many local bins each feature has."""
        return [int(bins.max()) + 1 for bins in self.local.values()]

    @property
    def places(self) -> int:
        """How many combinations there are."""
        return math.prod(self.sizes)


def explain_trees(forest: Forest) -> TreeContributions | None:
    """The look-up tables of a forest; None if its trees are too deep for tables."""
    paths = [path for tree in forest.trees for path in _paths(tree, {})]
    if max((len(path.conditions) for path in paths), default=0) > MAX_CONDITIONS:
        return None
    bins = forest_bins(forest)
    values = [value for _, value in bins]
    for places in PLACES:
        tables = [table for tree in forest.trees for table in _tables(tree, {}, values, places)]
        if sum(table.places * len(table.local) for table in tables) <= MAX_TABLE:
            base = forest.base
            for path in paths:
                base += path.value * math.prod(condition.share for condition in path.conditions.values())
            return _packed(tables, [edge for edge, _ in bins], values, base)
    return None


def _tables(
    node: Node, conditions: dict[int, Condition], values: list[NDArray[np.float64]], places: int
) -> list[_Table]:
    """One table for everything below a node, or those of its children where it would be too large."""
    paths = _paths(node, conditions)
    table = _Table(paths, _local_bins(paths, values))
    if table.places <= places or isinstance(node, Leaf):
        return [table] if table.local else []
    return [
        table
        for child, left in ((node.left, True), (node.right, False))
        for table in _tables(child, _below(node, child, left, conditions), values, places)
    ]


def _local_bins(paths: list[_Path], values: list[NDArray[np.float64]]) -> dict[int, NDArray[np.intp]]:
    """For each feature that these leaves ask: which of its bins they all treat alike."""
    local = {}
    for feature in sorted({feature for path in paths for feature in path.conditions}):
        met = [path.conditions[feature].met(values[feature]) for path in paths if feature in path.conditions]
        local[feature] = np.unique(np.array(met), axis=1, return_inverse=True)[1].reshape(-1)
    return local


def _packed(
    tables: list[_Table], edges: list[NDArray[np.float64]], values: list[NDArray[np.float64]], base: float
) -> TreeContributions:
    """All tables end to end, and how to find the way in them."""
    row_of = np.cumsum([0, *(len(held) for held in values)])
    steps = np.zeros((row_of[-1], len(tables)), dtype=np.int32)
    pairs, origin, shares, size = [], [], [np.zeros(0)], 0
    for number, table in enumerate(tables):
        origin.append(size)
        stride = len(table.local)
        for slot, (feature, local) in reversed(list(enumerate(table.local.items()))):
            steps[row_of[feature] : row_of[feature + 1], number] = local * stride
            stride *= int(local.max()) + 1
            pairs.append((feature, number, slot))
        shares.append(_shares(table, values).ravel())
        size += len(shares[-1])
    pairs.sort()
    counts = np.bincount([feature for feature, _, _ in pairs], minlength=len(edges)) if pairs else [0] * len(edges)
    joined, starts = edges_and_starts(edges)
    return TreeContributions(
        edges=joined,
        starts=starts,
        steps=steps,
        origin=np.array(origin, dtype=np.int32),
        pair_tree=np.array([number for _, number, _ in pairs], dtype=np.int32),
        pair_slot=np.array([slot for _, _, slot in pairs], dtype=np.int32),
        shares=np.concatenate(shares).astype(np.float32),
        first=np.cumsum([0, *counts]).astype(np.int32),
        base=base,
    )


def _shares(table: _Table, values: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """What each place gives each of the table's features, float64[places, features]; the last feature moves fastest."""
    grid = np.indices(table.sizes).reshape(len(table.local), -1)  # [features, places]: local bins
    slots = {feature: slot for slot, feature in enumerate(table.local)}
    result = np.zeros((grid.shape[1], len(slots)))
    for path in table.paths:
        pattern = np.zeros(grid.shape[1], dtype=np.intp)
        for bit, (feature, condition) in enumerate(path.conditions.items()):
            local = table.local[feature]
            met = np.zeros(int(local.max()) + 1, dtype=np.intp)
            met[local] = condition.met(values[feature])
            pattern |= met[grid[slots[feature]]] << bit
        for share, feature in zip(_leaf_shares(path), path.conditions, strict=True):
            result[:, slots[feature]] += share[pattern]
    return result


def _paths(node: Node, conditions: dict[int, Condition]) -> list[_Path]:
    """Every leaf below a node, with the merged conditions that lead to it."""
    if isinstance(node, Leaf):
        return [_Path(node.value, conditions)]
    return [
        path
        for child, left in ((node.left, True), (node.right, False))
        for path in _paths(child, _below(node, child, left, conditions))
    ]


def _below(node: Split, child: Node, left: bool, conditions: dict[int, Condition]) -> dict[int, Condition]:
    """The conditions that lead to a child."""
    before = conditions.get(node.feature, Condition())
    share = before.share * (child.cover / node.cover if node.cover else 0.0)
    return {**conditions, node.feature: _narrowed(before, node, left, share)}


def _narrowed(before: Condition, node: Split, left: bool, share: float) -> Condition:
    """A condition after one more split on its feature."""
    missing = before.missing and (node.missing_left == left)
    replace = msgspec.structs.replace
    if node.codes is not None:
        if left:
            within = node.codes if before.within is None else before.within & node.codes
            return replace(before, share=share, missing=missing, within=within)
        return replace(before, share=share, missing=missing, without=before.without | node.codes)
    threshold = float(node.threshold)  # type: ignore[arg-type]
    if left:
        return replace(before, share=share, missing=missing, high=min(before.high, threshold))
    return replace(before, share=share, missing=missing, low=max(before.low, threshold))


def _leaf_shares(path: _Path) -> NDArray[np.float64]:
    """What the leaf gives each of its features under each pattern, float64[conditions, patterns]."""
    count = len(path.conditions)
    if not count:
        return np.zeros((0, 1))
    z = np.array([condition.share for condition in path.conditions.values()])
    met, nodes, weights = _patterns(count)
    t = ((nodes + 1) / 2)[:, None, None]
    factors = t * met + (1 - t) * z[:, None]  # [points, conditions, patterns]
    result = np.empty((count, 1 << count))
    for slot in range(count):
        others = np.prod(np.delete(factors, slot, axis=1), axis=1)
        result[slot] = (met[slot] - z[slot]) * (weights[:, None] / 2 * others).sum(axis=0)
    return path.value * result


@cache
def _patterns(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Which of `count` conditions each pattern meets, and the quadrature that is exact for so many."""
    met = np.array([[(pattern >> slot) & 1 for pattern in range(1 << count)] for slot in range(count)], dtype=float)
    nodes, weights = np.polynomial.legendre.leggauss(count // 2 + 1)
    return met, nodes, weights
