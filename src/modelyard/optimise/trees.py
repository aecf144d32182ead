"""A tree ensemble as plain values: what its ONNX graph and its explanations are both made from.

Every condition is exact for float32 rows: a threshold is the largest float32 at or below the original double, so that
`x <= threshold` says the same for each float32 x.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, Literal

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
    """Trees whose leaf values, with the base, add up to the log-odds (or, without a link, to the answer itself)."""

    trees: tuple[Node, ...]
    features: int
    base: float = 0.0
    link: Literal["logistic", "identity"] = "logistic"


def answer_of(forest: Forest) -> str:
    """What the one output of a forest's version is called."""
    return "probability" if forest.link == "logistic" else "prediction"


_IDENTITY = ("regression", "regression_l1", "huber", "fair", "quantile", "mape")


def read_lightgbm(dump: dict[str, Any]) -> Forest:
    """The forest of a LightGBM `Booster.dump_model()` of a binary classifier or a plain regression.

    Raises InvalidInput for what is not exact here: other objectives, linear leaves, zero as missing.
    """
    objective = str(dump.get("objective", "")).split(" ")
    if objective[0] == "binary" and all(part == "sigmoid:1" for part in objective[1:]):
        link: Literal["logistic", "identity"] = "logistic"
    elif objective[0] in _IDENTITY and "sqrt" not in objective:
        link = "identity"
    else:
        raise InvalidInput(f"the LightGBM objective {objective[0] or 'none'!r} is not read tree by tree")
    part = 1 / len(dump["tree_info"]) if dump.get("average_output") else 1.0  # a random forest is the trees' mean
    trees = tuple(_lightgbm_node(tree["tree_structure"], part) for tree in dump["tree_info"])
    return Forest(trees, int(dump["max_feature_idx"]) + 1, link=link)


def read_xgboost(saved: dict[str, Any]) -> Forest:
    """The forest of an XGBoost model saved as JSON: a binary classifier or a squared-error regression.

    Raises InvalidInput for what is not exact here: other objectives or boosters.
    """
    learner = saved["learner"]
    objective = learner["objective"]["name"]
    if objective not in ("binary:logistic", "reg:squarederror", "reg:logistic"):
        raise InvalidInput(f"the XGBoost objective {objective!r} is not read tree by tree")
    booster = learner["gradient_booster"]
    if booster["name"] not in ("gbtree", "dart"):
        raise InvalidInput(f"the XGBoost booster {booster['name']!r} is not read tree by tree")
    trees = _xgboost_trees(booster)["trees"]
    parts = booster.get("weight_drop") or [1.0] * len(trees)  # dart: how much of each tree counts
    score = float(str(learner["learner_model_param"]["base_score"]).strip("[]"))
    logistic = objective != "reg:squarederror"
    return Forest(
        tuple(_xgboost_node(tree, _xgboost_codes(tree), part, 0) for tree, part in zip(trees, parts, strict=True)),
        int(learner["learner_model_param"]["num_feature"]),
        math.log(score / (1 - score)) if logistic else score,
        "logistic" if logistic else "identity",
    )


def xgboost_categories(saved: dict[str, Any]) -> dict[int, tuple[str, ...]]:
    """Feature -> its categories, in the order of their codes, of an XGBoost model saved as JSON.

    None of a feature that was trained on codes without names.
    """
    found = {}
    trees = _xgboost_trees(saved["learner"]["gradient_booster"])
    for feature, column in enumerate(trees.get("cats", {}).get("enc", ())):
        values, offsets = column["values"], column.get("offsets")
        if values and offsets:
            texts = [bytes(values[start:end]).decode() for start, end in itertools.pairwise(offsets)]
        else:
            texts = [str(value) for value in values]
        if texts:
            found[feature] = tuple(texts)
    return found


def _xgboost_trees(booster: dict[str, Any]) -> dict[str, Any]:
    """The part of a saved booster that holds its trees; without any if it is linear."""
    return dict(booster.get("gbtree", booster).get("model", {}))


def _xgboost_codes(tree: dict[str, Any]) -> dict[int, frozenset[int]]:
    """Node -> the codes that it asks for."""
    parts = zip(tree["categories_nodes"], tree["categories_segments"], tree["categories_sizes"], strict=True)
    return {node: frozenset(tree["categories"][start : start + size]) for node, start, size in parts}


def _xgboost_node(tree: dict[str, Any], codes: dict[int, frozenset[int]], part: float, at: int) -> Node:
    cover = float(tree["sum_hessian"][at])
    if tree["left_children"][at] == -1:
        return Leaf(part * float(tree["split_conditions"][at]), cover)
    left, right = (_xgboost_node(tree, codes, part, tree[side][at]) for side in ("left_children", "right_children"))
    feature, missing_left = int(tree["split_indices"][at]), bool(tree["default_left"][at])
    if tree["split_type"][at]:  # XGBoost sends the codes that it lists to the right
        return Split(feature, right, left, cover, codes=codes[at], missing_left=not missing_left)
    # XGBoost asks x < t; for float32 that is x <= the float32 below t.
    threshold = np.nextafter(np.float32(tree["split_conditions"][at]), np.float32(-np.inf))
    return Split(feature, left, right, cover, threshold=float(threshold), missing_left=missing_left)


def _lightgbm_node(node: dict[str, Any], part: float) -> Node:
    if "split_index" not in node:
        if "leaf_coeff" in node:
            raise InvalidInput("linear leaves are not read")
        return Leaf(part * float(node["leaf_value"]), float(node.get("leaf_count", 1)))
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
        left=_lightgbm_node(node["left_child"], part),
        right=_lightgbm_node(node["right_child"], part),
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
