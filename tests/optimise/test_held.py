"""What packaging measures is recorded: whether rows are independent, and that the file is the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from sklearn.base import BaseEstimator, RegressorMixin

from kit.applicants import CODES, WHOLE, fitted
from modelyard.contract.errors import InvalidInput
from modelyard.optimise import held
from modelyard.optimise.parity import ParityFailed
from modelyard.optimise.register import package_model

SMALL = lgb.LGBMClassifier(n_estimators=4, verbosity=-1, n_jobs=1)


class AboveTheRest(RegressorMixin, BaseEstimator):
    """Says by how much a row is above its neighbours."""

    def fit(self, x: Any, y: Any) -> AboveTheRest:
        self.n_features_in_ = x.shape[1]
        return self

    def predict(self, x: Any) -> Any:
        values = np.asarray(x)[:, 0]
        return values - values.mean()


def centred() -> bytes:
    """A graph that does the same."""
    nodes = [
        helper.make_node("ReduceMean", ["rows"], ["means"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["rows", "means"], ["centred"]),
        helper.make_node("ReduceSum", ["centred", "axis"], ["prediction"], keepdims=0),
    ]
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(
        nodes,
        "centred",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["n"])],
        [axis],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def test_a_graph_whose_rows_depend_on_each_other_is_recorded_as_that() -> None:
    onnx.checker.check_model(onnx.load_model_from_string(centred()))
    assert not package_model(centred(), WHOLE, "own")[0].independent_rows
    assert package_model(fitted(SMALL, WHOLE, CODES), WHOLE, "own")[0].independent_rows


def test_an_estimator_whose_rows_depend_on_each_other_is_recorded_as_that() -> None:
    model = AboveTheRest().fit(WHOLE, WHOLE.income)
    manifest, files = package_model(model, WHOLE, "own", trust=True, runtime="native")
    assert manifest.trusted  # a type that skops does not know
    assert "model.skops" in files
    assert not manifest.independent_rows
    with pytest.raises(InvalidInput, match="not trusted"):
        package_model(model, WHOLE, "own", runtime="native")


def test_a_file_that_is_not_the_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = fitted(SMALL, WHOLE, 1 - CODES).booster_.model_to_string().encode()
    monkeypatch.setattr("modelyard.optimise.register.file_of", lambda *_: ("model.txt", other, False))
    model = fitted(lgb.LGBMClassifier(n_estimators=4, verbosity=-1, n_jobs=1), WHOLE, CODES)
    with pytest.raises(ParityFailed, match="differs from the original"):
        package_model(model, WHOLE, "own", runtime="native")


def test_a_refused_conversion_names_the_next_step() -> None:
    model = fitted(lgb.LGBMRegressor(n_estimators=4, verbosity=-1, n_jobs=1, objective="poisson"), WHOLE, WHOLE.age)
    with pytest.raises((ParityFailed, InvalidInput), match="keep it with --runtime native"):
        package_model(model.booster_, WHOLE, "own")
    assert package_model(model.booster_, WHOLE, "own", runtime="native")[0].task == "regression"


def test_a_graph_is_not_kept_as_anything_else() -> None:
    with pytest.raises(InvalidInput, match="leave --runtime native out"):
        package_model(centred(), WHOLE, "own", runtime="native")


def test_names_that_the_artifact_itself_uses_are_not_a_user_s(tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text("mine")
    with pytest.raises(InvalidInput, match="rename them"):
        held.package_class("kit.own_models:Words", "own", tmp_path)
