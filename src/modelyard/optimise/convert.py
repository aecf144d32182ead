"""Models as ONNX graphs: one tensor `rows` in, `probability` out.

The graphs of tree ensembles are written here, split by split, because general converters round thresholds and give
the answer a fixed number of rows. Opset and IR version are those that ONNX Runtime 1.24 and newer read.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from modelyard.optimise.trees import Forest, Leaf, Node, Split, answer_of

OPSET = 18
ML_OPSET = 3
IR_VERSION = 9
_MISSING_RIGHT, _MISSING_LEFT = 0, 1
_LOWEST = float(np.finfo(np.float32).min)


def forest_to_onnx(forest: Forest) -> bytes:
    """A forest as a graph: `rows` float32[N, features] -> `probability` (without a link: `prediction`) float32[N]."""
    trees = helper.make_node(
        "TreeEnsembleRegressor",
        ["rows"],
        ["log_odds"],
        domain="ai.onnx.ml",
        n_targets=1,
        aggregate_function="SUM",
        post_transform="NONE",  # ONNX Runtime does not apply LOGISTIC to a single target
        **_tree_attributes(forest),
    )
    flat = helper.make_node("Reshape", ["log_odds", "flat"], ["sums"])
    output = answer_of(forest)
    linked = helper.make_node("Sigmoid" if forest.link == "logistic" else "Identity", ["sums"], [output])
    constants = {"flat": np.array([-1], dtype=np.int64)}
    return graph_to_bytes([trees, flat, linked], constants, forest.features, {output: ["N"]}, "forest")


def graph_to_bytes(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray[Any, Any]],
    features: int,
    outputs: dict[str, list[str | int]],
    name: str,
) -> bytes:
    """A checked graph over `rows` float32[N, features] with float32 outputs of the given shapes."""
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["N", features])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape) for output, shape in outputs.items()],
        [numpy_helper.from_array(value, constant) for constant, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="modelyard")
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _tree_attributes(forest: Forest) -> dict[str, Any]:
    rows: list[tuple[int, int, int, float, str, int, int, int]] = []
    leaves: list[tuple[int, int, float]] = []
    for tree, root in enumerate(forest.trees):
        _write_tree(tree, root, rows, leaves)
    columns = list(zip(*rows, strict=True))
    names = [
        "nodes_treeids",
        "nodes_nodeids",
        "nodes_featureids",
        "nodes_values",
        "nodes_modes",
        "nodes_truenodeids",
        "nodes_falsenodeids",
        "nodes_missing_value_tracks_true",
    ]
    attributes: dict[str, Any] = dict(zip(names, map(list, columns), strict=True))
    attributes |= {
        "base_values": [forest.base],
        "target_treeids": [tree for tree, _, _ in leaves],
        "target_nodeids": [node for _, node, _ in leaves],
        "target_ids": [0] * len(leaves),
        "target_weights": [value for _, _, value in leaves],
    }
    return attributes


def _write_tree(
    tree: int,
    root: Node,
    rows: list[tuple[int, int, int, float, str, int, int, int]],
    leaves: list[tuple[int, int, float]],
) -> None:
    """One tree as nodes with numbers. A set of codes becomes a chain of questions that share one yes."""
    todo: deque[tuple[Node, int]] = deque([(root, 0)])
    free = 1
    while todo:
        node, number = todo.popleft()
        if isinstance(node, Leaf):
            rows.append((tree, number, 0, 0.0, "LEAF", 0, 0, 0))
            leaves.append((tree, number, node.value))
            continue
        yes = free
        free += 1
        todo.append((node.left, yes))
        for mode, value, missing in _questions(node):
            no = free
            free += 1
            rows.append((tree, number, node.feature, value, mode, yes, no, missing))
            number = no
        todo.append((node.right, number))


def _questions(node: Split) -> list[tuple[str, float, int]]:
    """What is asked one after the other, and whether a missing value says yes to it."""
    if node.codes is None:
        return [("BRANCH_LEQ", float(node.threshold), int(node.missing_left))]  # type: ignore[arg-type]
    chain = [("BRANCH_EQ", float(code), _MISSING_RIGHT) for code in sorted(node.codes)]
    # ONNX Runtime asks a chain of codes as one question, and forgets missing values then: they are asked for before.
    return [("BRANCH_LEQ", _LOWEST, _MISSING_LEFT), *chain] if node.missing_left else chain
