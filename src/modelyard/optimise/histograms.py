"""The trees of scikit-learn's histogram boosting (`HistGradientBoosting…`)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from modelyard.contract.errors import InvalidInput
from modelyard.optimise.trees import Forest, Leaf, Node, Split

_LINKS: dict[str, Literal["logistic", "identity"]] = {"LogitLink": "logistic", "IdentityLink": "identity"}


def read_histograms(model: Any) -> Forest:
    """The forest of a rounded, fitted model of two classes, or of a regression that needs no link.

    Raises InvalidInput for what is not exact here: more classes, other losses, categories that are numbers.
    """
    link = _LINKS.get(type(model._loss.link).__name__)
    if link is None or model.n_trees_per_iteration_ != 1:
        raise InvalidInput(f"the loss {model.loss!r} of histogram boosting is not read tree by tree")
    order = list(range(model.n_features_in_))
    if model.is_categorical_ is not None:  # the trees number categories first, and then the rest
        if len(histogram_categories(model)) < model.is_categorical_.sum():
            raise InvalidInput("categories of histogram boosting that are numbers are not read tree by tree")
        order = [*np.flatnonzero(model.is_categorical_), *np.flatnonzero(~model.is_categorical_)]
    trees = tuple(_node(predictor, order, 0) for (predictor,) in model._predictors)
    return Forest(trees, len(order), float(model._baseline_prediction.item()), link)


def histogram_categories(model: Any) -> dict[int, tuple[str, ...]]:
    """Feature -> its categories, in the order of their codes; none of a feature whose categories are numbers."""
    if model.is_categorical_ is None:
        return {}
    encoder = model._preprocessor.named_transformers_["encoder"]
    found = {}
    for feature, levels in zip(np.flatnonzero(model.is_categorical_), encoder.categories_, strict=True):
        names = [level for level in levels if level == level]  # the last may be missing, NaN
        if names and all(isinstance(name, str) and name for name in names):
            found[int(feature)] = tuple(map(str, names))
    return found


def _node(predictor: Any, order: list[int], at: int) -> Node:
    node = predictor.nodes[at]
    if node["is_leaf"]:
        return Leaf(float(node["value"]), float(node["count"]))
    codes = None
    if node["is_categorical"]:
        words = predictor.raw_left_cat_bitsets[node["bitset_idx"]].astype("<u4")
        codes = frozenset(np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).tolist())
    return Split(
        feature=int(order[node["feature_idx"]]),
        left=_node(predictor, order, int(node["left"])),
        right=_node(predictor, order, int(node["right"])),
        cover=float(node["count"]),
        threshold=None if codes is not None else float(node["num_threshold"]),
        codes=codes,
        missing_left=bool(node["missing_go_to_left"]),
    )
