"""The tables by which a forest is answered without walking its trees; see `runtimes/forest.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.optimise.bins import edges_and_starts, forest_bins
from modelyard.optimise.trees import Forest, Leaf, Node, Split, answer_of
from modelyard.runtimes.forest import VALUE, ForestTables

# Where tables were measured to be faster than ONNX Runtime in batches and hardly slower for one row alone; see
# `benchmarks/forests.py`. Beyond these the graph answers.
MIN_TREES = 100
MAX_LEAVES = 64  # of one tree: a bit for each
MAX_BYTES_A_TREE = 160  # that a row reads: the bytes of a mask for each feature that the forest asks
MAX_BYTES = 32_000_000  # of all masks, in each worker


def forest_tables(
    forest: Forest, answers: Mapping[str, str] | None = None, labels: Sequence[Any] = ()
) -> ForestTables | None:
    """The tables of a forest; None where walking the trees is the better way.

    answers: the form of each output (by default its one answer); labels: those of two classes, if an output says them.
    """
    trees = [tree for tree in forest.trees if isinstance(tree, Split)]
    base = forest.base + sum(tree.value for tree in forest.trees if isinstance(tree, Leaf))
    most = max((_count(tree) for tree in trees), default=0)
    if len(trees) < MIN_TREES or most > MAX_LEAVES:
        return None
    width = next(bits for bits in (8, 16, 32, 64) if bits >= most)
    bins = forest_bins(forest)
    used = [feature for feature, (edges, _) in enumerate(bins) if len(edges)]
    lines = sum(len(bins[feature][1]) for feature in used)
    if len(used) * width // 8 > MAX_BYTES_A_TREE or lines * len(trees) * width // 8 > MAX_BYTES:
        return None
    first, at = {}, 0
    for feature in used:
        first[feature] = at
        at += len(bins[feature][1])
    masks = np.zeros((lines, len(trees)), dtype=f"u{width // 8}")
    leaves = np.zeros((len(trees), width))
    for number, tree in enumerate(trees):
        values: list[float] = []
        for split, left in _left_leaves(tree, values):
            no = np.flatnonzero(~_goes_left(split, bins[split.feature][1]))
            masks[first[split.feature] + no, number] |= masks.dtype.type(left)
        leaves[number, : len(values)] = values
    edges, starts = edges_and_starts([bins[feature][0] for feature in used])
    asked, logistic = np.array(used, dtype=np.int32), forest.link == "logistic"
    answers = answers or {answer_of(forest): VALUE}
    return ForestTables(asked, edges, starts, masks, leaves, base, logistic, answers, np.array(labels))


def _count(node: Node) -> int:
    return 1 if isinstance(node, Leaf) else _count(node.left) + _count(node.right)


def _left_leaves(tree: Split, values: list[float]) -> list[tuple[Split, int]]:
    """Each split and, as bits, the leaves on its left; the leaves' values are added to `values` from left to right."""
    found: list[tuple[Split, int]] = []

    def walk(node: Node) -> int:
        if isinstance(node, Leaf):
            values.append(node.value)
            return 1 << (len(values) - 1)
        left = walk(node.left)
        found.append((node, left))
        return left | walk(node.right)

    walk(tree)
    return found


def _goes_left(split: Split, values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether a row with each of these values goes left; NaN is missing."""
    yes = np.isin(values, list(split.codes or ())) if split.threshold is None else values <= split.threshold
    return np.where(np.isnan(values), split.missing_left, yes)
