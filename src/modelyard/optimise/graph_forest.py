"""The forest in an ONNX graph that is nothing else: one tree ensemble, and nodes that only hand its answer on.

That is what the usual converters write for boosted trees of two classes or of one number. Any other graph is left to
ONNX Runtime.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from modelyard.optimise.masks import forest_tables
from modelyard.optimise.trees import Forest, Leaf, Node, Split
from modelyard.runtimes.forest import BOTH, COLUMN, LABEL, VALUE, ForestTables


class GraphForest(msgspec.Struct, frozen=True):
    """The trees, and what each output of the graph says of their sum."""

    forest: Forest
    answers: dict[str, str]  # output -> form, see `runtimes.forest`
    labels: tuple[Any, ...]  # of the two classes; for one number none

    def tables(self) -> ForestTables | None:
        """The same as tables, where they pay."""
        return forest_tables(self.forest, self.answers, self.labels)


def read_forest(data: bytes) -> GraphForest | None:
    """The forest that a graph is; None if it is more than that, or something else."""
    model = onnx.load_model_from_string(data)
    ensembles = [node for node in model.graph.node if node.op_type.startswith("TreeEnsemble")]
    inputs = {value.name: value.type.tensor_type for value in model.graph.input}
    if len(ensembles) != 1 or list(inputs) != list(ensembles[0].input):
        return None
    (taken,) = inputs.values()
    given = {a.name: helper.get_attribute_value(a) for a in ensembles[0].attribute}
    width = taken.shape.dim[1].dim_value if len(taken.shape.dim) == 2 else 0
    if taken.elem_type != TensorProto.FLOAT or not width or any(name.endswith("_as_tensor") for name in given):
        return None
    found = _forest(ensembles[0].op_type, given, width)
    forms = _forms(model.graph, ensembles[0])
    if found is None or forms is None:
        return None
    labels = tuple(given.get("classlabels_int64s") or [text.decode() for text in given.get("classlabels_strings", ())])
    return GraphForest(found, {output.name: forms[output.name] for output in model.graph.output}, labels)


# --- what the outputs say ---------------------------------------------------------------------------------------


def _forms(graph: onnx.GraphProto, ensemble: onnx.NodeProto) -> dict[str, str] | None:
    """What each tensor of the graph says of the sum; None if a node does more than hand on."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    forms: dict[str, str] = {}
    for node in graph.node:
        if node is ensemble:
            said = (LABEL, BOTH) if node.op_type == "TreeEnsembleClassifier" else (COLUMN,)
            forms |= dict(zip(node.output, said, strict=True))
            continue
        form = _handed_on(node, forms.get(node.input[0], ""), [constants.get(name) for name in node.input[1:]])
        if form is None:
            return None
        forms[node.output[0]] = form
    return forms if all(output.name in forms for output in graph.output) else None


def _handed_on(node: onnx.NodeProto, form: str, constants: list[Any]) -> str | None:
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    match node.op_type, constants:
        case "Identity", []:
            return form or None
        case "Cast", []:
            same = given["to"] == (TensorProto.INT64 if form == LABEL else TensorProto.FLOAT)
            return form if form and same else None
        case "Mul", [np.ndarray() as factor] if factor.size == 1 and factor.item() == 1 and form != LABEL:
            return form or None
        case "Gather", [np.ndarray() as index] if form == BOTH and given.get("axis") == 1 and index.shape == ():
            return VALUE if index.item() == 1 else None
        case "Reshape", [np.ndarray() as shape] if form == COLUMN and shape.tolist() == [-1]:
            return VALUE
    return None


# --- the trees --------------------------------------------------------------------------------------------------


def _forest(kind: str, given: dict[str, Any], width: int) -> Forest | None:
    """The trees of an ensemble with one sum for each row."""
    is_classifier = kind == "TreeEnsembleClassifier"
    of = "class" if is_classifier else "target"
    base, after = given.get("base_values", [0.0]), given.get("post_transform", b"NONE")
    if len(set(given[f"{of}_ids"])) != 1 or len(base) != 1 or given.get("aggregate_function", b"SUM") != b"SUM":
        return None
    if is_classifier:
        if len(given.get("classlabels_int64s") or given.get("classlabels_strings", ())) != 2:
            return None
        if after not in (b"LOGISTIC", b"NONE"):
            return None
    elif kind != "TreeEnsembleRegressor" or after != b"NONE":
        return None
    weights: dict[tuple[int, int], float] = {}
    for tree, node, weight in zip(given[f"{of}_treeids"], given[f"{of}_nodeids"], given[f"{of}_weights"], strict=True):
        weights[tree, node] = weights.get((tree, node), 0.0) + weight
    trees = _Trees(given, weights, width)
    try:
        found = tuple(trees.under(tree, 0) for tree in dict.fromkeys(given["nodes_treeids"]))
    except (_NotATree, RecursionError):
        return None
    return Forest(found, width, float(base[0]), "logistic" if after == b"LOGISTIC" else "identity")


class _NotATree(Exception):
    """A question that is not asked here, or nodes that are no tree."""


class _Trees:
    """The nodes of an ensemble, each of which is taken once: a graph may name one twice, or in a circle."""

    def __init__(self, given: dict[str, Any], weights: dict[tuple[int, int], float], width: int) -> None:
        count = len(given["nodes_treeids"])
        missing = given.get("nodes_missing_value_tracks_true") or [0] * count
        columns = [given[f"nodes_{name}"] for name in ("featureids", "modes", "values", "truenodeids", "falsenodeids")]
        keys = zip(given["nodes_treeids"], given["nodes_nodeids"], strict=True)
        self._nodes = dict(zip(keys, zip(*columns, missing, strict=True), strict=True))
        self._weights, self._width = weights, width

    def under(self, tree: int, at: int) -> Node:
        """The node of that number, and all below it. Raises _NotATree."""
        node = self._nodes.pop((tree, at), None)
        if node is None:
            raise _NotATree
        feature, mode, value, yes, no, missing = node
        if mode == b"LEAF":
            return Leaf(self._weights.get((tree, at), 0.0), 1.0)
        if not 0 <= feature < self._width:
            raise _NotATree
        on_yes, on_no = self.under(tree, yes), self.under(tree, no)
        below = float(np.nextafter(np.float32(value), np.float32(-np.inf)))
        match mode:
            case b"BRANCH_LEQ":
                return Split(feature, on_yes, on_no, 1.0, threshold=value, missing_left=bool(missing))
            case b"BRANCH_LT":
                return Split(feature, on_yes, on_no, 1.0, threshold=below, missing_left=bool(missing))
            case b"BRANCH_GT":
                return Split(feature, on_no, on_yes, 1.0, threshold=value, missing_left=not missing)
            case b"BRANCH_GTE":
                return Split(feature, on_no, on_yes, 1.0, threshold=below, missing_left=not missing)
        raise _NotATree
