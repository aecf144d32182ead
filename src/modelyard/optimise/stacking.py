"""The small model over an ensemble's members: logistic or ridge regression, fitted on rows that no member learned from.

It is a version like any other, an ONNX graph with a contract whose columns are the members. Source: Wolpert (1992),
Stacked generalization; that its rows must be new to the members is the whole point of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from modelyard.artifacts.store import Artifact, Shelf
from modelyard.contract.errors import InvalidInput
from modelyard.contract.tensor import Matrix
from modelyard.data.quality import area
from modelyard.runtimes.ensemble_joins import squashed

MIN_ROWS = 50  # that no member learned from
FOLDS = 5
_PENALTIES = tuple(10.0**power for power in range(-3, 4))
_SEED = 0

Floats = NDArray[np.float64]
Fittable = Literal["binary", "regression"]


class Linear(msgspec.Struct, frozen=True):
    """answer = coefficients x columns + intercept, as log-odds where there are two classes."""

    coefficients: tuple[float, ...]
    intercept: float

    def predict(self, columns: Matrix, task: Fittable) -> Floats:
        """Probabilities, or predictions, float64[n]."""
        total = columns.astype(np.float64) @ np.array(self.coefficients) + self.intercept
        return squashed(total) if task == "binary" else total


def new_rows(members: Sequence[Artifact], data_digest: str, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which of a table's rows no member learned from, bool[len(rows)].

    data_digest: SHA-256 of the table's file. rows: positions in that file. A member that was trained on the same file
    knows which rows it held out; one that was trained on another file, or elsewhere, is taken at its maker's word.
    """
    fresh = np.ones(len(rows), dtype=np.bool_)
    for artifact in _whole(members):
        if data_digest and artifact.manifest.lineage.data_digest == data_digest:
            fresh &= np.isin(rows, _held_out(artifact))
    return fresh


def fit(columns: Matrix, y: Floats, task: Fittable) -> Linear:
    """columns: what the members say, float32[n, members]; y: 0 and 1, or the numbers to predict."""
    from sklearn.linear_model import LogisticRegression, RidgeCV

    x = columns.astype(np.float64)
    if task == "binary":
        model = LogisticRegression(max_iter=1000).fit(x, y)
        return Linear(tuple(model.coef_[0].tolist()), float(model.intercept_[0]))
    middle, spread = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-12)
    model = RidgeCV(_PENALTIES).fit((x - middle) / spread, y)
    coefficients = model.coef_ / spread
    return Linear(tuple(coefficients.tolist()), float(model.intercept_ - coefficients @ middle))


def out_of_fold(columns: Matrix, y: Floats, task: Fittable) -> Floats:
    """What a model like this says of each row when it was not fitted on that row, float64[n]."""
    from sklearn.model_selection import KFold, StratifiedKFold

    folds = (StratifiedKFold if task == "binary" else KFold)(FOLDS, shuffle=True, random_state=_SEED)
    said = np.empty(len(y))
    for learn, test in folds.split(columns, y):
        said[test] = fit(columns[learn], y[learn], task).predict(columns[test], task)
    return said


def measures(y: Floats, said: Floats, task: Fittable) -> dict[str, float]:
    """How good answers are: of probabilities AUC, log-loss and Brier; of numbers RMSE and the explained share."""
    if task == "binary":
        p = np.clip(said, 1e-12, 1 - 1e-12)
        return {
            "auc": area(y, said),
            "log_loss": float(-np.mean(y * np.log(p) + (1 - y) * np.log1p(-p))),
            "brier": float(np.mean((said - y) ** 2)),
        }
    error, spread = float(np.mean((said - y) ** 2)), float(np.var(y))
    return {"rmse": error**0.5, "r2": 1 - error / spread if spread else 0.0}


def graph_of(model: Linear, task: Fittable) -> bytes:
    """The model as ONNX: `rows`, FP32 [n, members], to `probability` and `contributions`, or to `prediction`."""
    width = len(model.coefficients)
    held: dict[str, NDArray[Any]] = {
        "weights": np.array(model.coefficients, dtype=np.float32),
        "base": np.array([[model.intercept]], dtype=np.float32),
        "axis": np.array([1], dtype=np.int64),
        "one": np.array([1], dtype=np.int64),
    }
    nodes = [
        helper.make_node("Mul", ["rows", "weights"], ["parts"]),
        helper.make_node("Shape", ["rows"], ["count"], start=0, end=1),
        helper.make_node("Concat", ["count", "one"], ["tall"], axis=0),
        helper.make_node("Expand", ["base", "tall"], ["bases"]),
        helper.make_node("Concat", ["parts", "bases"], ["contributions"], axis=1),
        helper.make_node("ReduceSum", ["contributions", "axis"], ["total"], keepdims=0),
    ]
    answer = "probability" if task == "binary" else "prediction"
    nodes.append(helper.make_node("Sigmoid" if task == "binary" else "Identity", ["total"], [answer]))
    outputs = [helper.make_tensor_value_info(answer, TensorProto.FLOAT, ["n"])]
    if task == "binary":
        outputs.append(helper.make_tensor_value_info("contributions", TensorProto.FLOAT, ["n", width + 1]))
    graph = helper.make_graph(
        nodes,
        "stacking",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", width])],
        outputs,
        [numpy_helper.from_array(values, name) for name, values in held.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


def _whole(members: Sequence[Artifact]) -> Iterator[Artifact]:
    """The members, and theirs, and so on."""
    for artifact in members:
        yield artifact
        shelf = Shelf(artifact.folder.parent)
        yield from _whole([shelf.open(member.digest) for member in artifact.manifest.members])


def _held_out(artifact: Artifact) -> NDArray[np.intp]:
    """The rows of its table that a version did not learn from; none where it does not say."""
    if "holdout.json" not in artifact.manifest.files:
        return np.array([], dtype=np.intp)
    try:
        told: dict[str, Any] = msgspec.json.decode(artifact.read("holdout.json"), type=dict[str, Any])
        return np.array([entry["index"] for entry in told["rows"]], dtype=np.intp)
    except (KeyError, TypeError, ValueError, msgspec.MsgspecError):
        raise InvalidInput(f"{artifact.manifest.model}: holdout.json does not say which rows were held out") from None
