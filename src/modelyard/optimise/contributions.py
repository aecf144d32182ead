"""The tables behind exact tree explanations, computed once when a version is packaged.

Path-dependent TreeSHAP (Lundberg et al. 2020), leaf by leaf. Splits on the same feature along a path merge into one
condition. For a leaf of value v with conditions i, o_i = 1 where the row meets condition i, and z_i the share of
training rows that meets it, the leaf gives feature j

    v (o_j - z_j) times the integral over t from 0 to 1 of the product over i != j of (t o_i + (1 - t) z_i),

a polynomial in t that Gauss-Legendre quadrature integrates exactly.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.optimise.trees import Forest, Leaf, Node, Split, categorical_features, thresholds
from modelyard.runtimes.contributions import TreeContributions

MAX_CONDITIONS = 8  # patterns are bytes, and a leaf has two to the power of its conditions
MAX_TABLE = 4_000_000  # numbers in all shares together


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


def explain_trees(forest: Forest) -> TreeContributions | None:
    """The look-up tables of a forest; None if its trees are too deep for tables."""
    paths = [path for tree in forest.trees for path in _paths(tree, {})]
    widths = [len(path.conditions) for path in paths]
    if max(widths, default=0) > MAX_CONDITIONS or sum(width << width for width in widths) > MAX_TABLE:
        return None
    cuts = thresholds(forest)
    categorical = categorical_features(forest)
    bins = [_bins(cuts.get(feature, []), feature in categorical) for feature in range(forest.features)]
    edges = [edge for edge, _ in bins]
    starts = np.cumsum([0, *(len(edge) for edge in edges)])
    shares, leaf_starts = [], []
    size = 0
    base = forest.base
    for path in paths:
        table = _leaf_shares(path)  # [conditions, patterns]
        leaf_starts.append(size + np.arange(len(table)) * table.shape[-1])
        shares.append(table.ravel())
        size += table.size
        base += path.value * float(np.prod([condition.share for condition in path.conditions.values()]))
    pairs = sorted(
        (feature, leaf, int(leaf_starts[leaf][slot]))
        for leaf, path in enumerate(paths)
        for slot, feature in enumerate(path.conditions)
    )
    counts = (
        np.bincount([feature for feature, _, _ in pairs], minlength=forest.features)
        if pairs
        else np.zeros(forest.features)
    )
    return TreeContributions(
        edges=np.concatenate([np.zeros(0), *edges]).astype(np.float32),
        starts=starts.astype(np.int32),
        bits=_bits(paths, [values for _, values in bins]),
        pair_leaf=np.array([leaf for _, leaf, _ in pairs], dtype=np.int32),
        pair_start=np.array([start for _, _, start in pairs], dtype=np.int32),
        shares=np.concatenate([np.zeros(0), *shares]).astype(np.float32),
        first=np.cumsum([0, *counts]).astype(np.int32),
        base=base,
    )


def _paths(node: Node, conditions: dict[int, Condition]) -> list[_Path]:
    """Every leaf below a node, with the merged conditions that lead to it."""
    if isinstance(node, Leaf):
        return [_Path(node.value, conditions)]
    found = []
    for child, left in ((node.left, True), (node.right, False)):
        before = conditions.get(node.feature, Condition())
        share = before.share * (child.cover / node.cover if node.cover else 0.0)
        found += _paths(child, {**conditions, node.feature: _narrowed(before, node, left, share)})
    return found


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
    met = np.array([[(pattern >> slot) & 1 for pattern in range(1 << count)] for slot in range(count)], dtype=float)
    nodes, weights = np.polynomial.legendre.leggauss(count // 2 + 1)
    t = ((nodes + 1) / 2)[:, None, None]
    factors = t * met + (1 - t) * z[:, None]  # [points, conditions, patterns]
    result = np.empty((count, 1 << count))
    for slot in range(count):
        others = np.prod(np.delete(factors, slot, axis=1), axis=1)
        result[slot] = (met[slot] - z[slot]) * (weights[:, None] / 2 * others).sum(axis=0)
    return path.value * result


def _bins(cuts: list[float], is_category: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where a feature's bins end, and a value that stands for each bin, the last for missing.

    A category's codes lie between halves; what lies beyond the codes that a split names is one bin.
    """
    if is_category:
        codes = np.arange(max(cuts) + 1)
        return np.append(codes, codes[-1] + 1) - 0.5, np.array([-1.0, *codes, codes[-1] + 1, np.nan])
    if not cuts:
        return np.zeros(0), np.array([0.0, np.nan])
    with np.errstate(over="ignore"):  # a split "missing or not" has the largest float32 as its threshold
        above = np.nextafter(np.float32(cuts[-1]), np.float32(np.inf))
    return np.array(cuts), np.array([*cuts, float(above), np.nan])


def _bits(paths: list[_Path], values_of: list[NDArray[np.float64]]) -> NDArray[np.uint8]:
    """Which conditions of each leaf each bin of each feature meets, uint8[all bins, leaves]."""
    parts = []
    by_feature: dict[int, list[tuple[int, int, Condition]]] = {}
    for leaf, path in enumerate(paths):
        for slot, (feature, condition) in enumerate(path.conditions.items()):
            by_feature.setdefault(feature, []).append((leaf, slot, condition))
    for feature, values in enumerate(values_of):
        part = np.zeros((len(values), len(paths)), dtype=np.uint8)
        for leaf, slot, condition in by_feature.get(feature, ()):
            part[condition.met(values), leaf] = 1 << slot
        parts.append(part)
    return np.concatenate([np.zeros((0, len(paths)), dtype=np.uint8), *parts])
