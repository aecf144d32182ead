"""The trees of scikit-learn's histogram boosting (`HistGradientBoosting…`)."""

from __future__ import annotations

from typing import Any, Literal

from modelyard.contract.errors import InvalidInput
from modelyard.optimise.trees import Forest, Leaf, Node, Split

_LINKS: dict[str, Literal["logistic", "identity"]] = {"LogitLink": "logistic", "IdentityLink": "identity"}


def read_histograms(model: Any) -> Forest:
    """The forest of a rounded, fitted model of two classes, or of a regression that needs no link.

    Raises InvalidInput for what is not exact here: more classes, other losses, columns that are categories.
    """
    link = _LINKS.get(type(model._loss.link).__name__)
    if link is None or model.n_trees_per_iteration_ != 1:
        raise InvalidInput(f"the loss {model.loss!r} of histogram boosting is not read tree by tree")
    if model.is_categorical_ is not None:
        raise InvalidInput("categories of histogram boosting are not read tree by tree")
    trees = tuple(_node(predictor.nodes, 0) for (predictor,) in model._predictors)
    return Forest(trees, int(model.n_features_in_), float(model._baseline_prediction.item()), link)


def _node(nodes: Any, at: int) -> Node:
    node = nodes[at]
    if node["is_leaf"]:
        return Leaf(float(node["value"]), float(node["count"]))
    return Split(
        feature=int(node["feature_idx"]),
        left=_node(nodes, int(node["left"])),
        right=_node(nodes, int(node["right"])),
        cover=float(node["count"]),
        threshold=float(node["num_threshold"]),
        missing_left=bool(node["missing_go_to_left"]),
    )
