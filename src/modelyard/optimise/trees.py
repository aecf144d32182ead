"""A tree ensemble as plain values: what its ONNX graph and its explanations are both made from.

Every condition is exact for float32 rows: a threshold is the largest float32 at or below the original double, so that
`x <= threshold` says the same for each float32 x.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from modelyard.contract.errors import InvalidInput


class Leaf(msgspec.Struct, frozen=True):
    """Where a path ends."""

    value: float
    cover: float  # training rows that ended here


class Split(msgspec.Struct, frozen=True):
    """One question: yes goes left."""

    feature: int
    left: Split | Leaf
    right: Split | Leaf
    cover: float
    threshold: float | None = None  # yes: x <= threshold, a float32
    codes: frozenset[int] | None = None  # yes: x is one of these category codes
    missing_left: bool = False  # where a missing value goes


Node = Split | Leaf


class Forest(msgspec.Struct, frozen=True):
    """Trees whose leaf values add up to the log-odds."""

    trees: tuple[Node, ...]
    features: int


def read_lightgbm(dump: dict[str, Any]) -> Forest:
    """The forest of a LightGBM `Booster.dump_model()` of a binary model.

    Raises InvalidInput for what is not exact here: linear leaves, zero as missing, averaged output.
    """
    objective = str(dump.get("objective", "")).split(" ")
    if objective[0] != "binary" or any(part.startswith("sigmoid:") and float(part[8:]) != 1 for part in objective):
        raise InvalidInput("a LightGBM forest is read only from the objective 'binary' with sigmoid 1")
    if dump.get("average_output"):
        raise InvalidInput("a LightGBM random forest averages its trees; only boosted trees are read")
    trees = tuple(_lightgbm_node(tree["tree_structure"]) for tree in dump["tree_info"])
    return Forest(trees, int(dump["max_feature_idx"]) + 1)


def _lightgbm_node(node: dict[str, Any]) -> Node:
    if "split_index" not in node:
        if "leaf_coeff" in node:
            raise InvalidInput("linear leaves are not read")
        return Leaf(float(node["leaf_value"]), float(node.get("leaf_count", 1)))
    threshold, codes = None, None
    if node["decision_type"] == "==":
        codes = frozenset(int(code) for code in str(node["threshold"]).split("||"))
        missing_left = False
    elif node["decision_type"] == "<=":
        threshold = float32_at_or_below(float(node["threshold"]))
        if node["missing_type"] == "Zero":
            raise InvalidInput("a model trained with zero as missing is not read")
        # Without missing values in training LightGBM takes a missing value for zero.
        missing_left = bool(node["default_left"]) if node["missing_type"] == "NaN" else float(node["threshold"]) >= 0
    else:
        raise InvalidInput(f"the split {node['decision_type']!r} is not read")
    return Split(
        feature=int(node["split_feature"]),
        left=_lightgbm_node(node["left_child"]),
        right=_lightgbm_node(node["right_child"]),
        cover=float(node["internal_count"]),
        threshold=threshold,
        codes=codes,
        missing_left=missing_left,
    )


def float32_at_or_below(value: float) -> float:
    """The largest float32 that is not above a double."""
    with np.errstate(over="ignore"):
        near = np.float32(value)
    if float(near) > value:
        near = np.nextafter(near, np.float32(-np.inf))
    return float(near)


def splits(forest: Forest) -> Iterator[Split]:
    """Every split of every tree."""
    todo: list[Node] = list(forest.trees)
    while todo:
        node = todo.pop()
        if isinstance(node, Split):
            todo += [node.left, node.right]
            yield node


def thresholds(forest: Forest) -> dict[int, list[float]]:
    """Every feature's distinct thresholds, ascending; a category's are its codes that a split names."""
    found: dict[int, set[float]] = {}
    for split in splits(forest):
        values = found.setdefault(split.feature, set())
        values.update(float(code) for code in split.codes or ())
        if split.threshold is not None:
            values.add(split.threshold)
    return {feature: sorted(values) for feature, values in found.items()}


def categorical_features(forest: Forest) -> set[int]:
    """The features that a split asks by code."""
    return {split.feature for split in splits(forest) if split.codes is not None}
