"""Graphs that converters write for boosted trees are answered by tables, as ONNX Runtime would; others are not."""

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnx
import onnxruntime as ort
import pandas
import pytest
import xgboost
from onnx import TensorProto, helper
from onnxmltools.convert import convert_lightgbm, convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType
from skl2onnx import to_onnx
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from modelyard.artifacts.store import Shelf
from modelyard.optimise import masks, register
from modelyard.optimise.graph_forest import read_forest
from modelyard.optimise.parity import ParityFailed
from modelyard.optimise.register import package_model
from modelyard.runtimes.catalogue import open_runtime
from modelyard.runtimes.forest import ForestRuntime
from modelyard.runtimes.onnx import OnnxRuntime

pytestmark = pytest.mark.filterwarnings("ignore:.*")  # the converters warn of their own libraries
FEATURES = 4
NAMES = [f"x{position}" for position in range(FEATURES)]
random = np.random.default_rng(0)
ROWS = random.normal(size=(600, FEATURES)).astype(np.float32)
CLASSES = (ROWS[:, 0] + ROWS[:, 1] * ROWS[:, 2] > 0).astype(int)
NUMBERS = ROWS[:, 0] * 3 + ROWS[:, 3]
TYPES = [("input", FloatTensorType([None, FEATURES]))]


def by_lightgbm(zipmap: bool = False, words: bool = False) -> onnx.ModelProto:
    outcome = np.array(["no", "yes"])[CLASSES] if words else CLASSES
    model = lightgbm.LGBMClassifier(n_estimators=120, num_leaves=9, verbose=-1, n_jobs=1).fit(ROWS, outcome)
    return convert_lightgbm(model, initial_types=TYPES, zipmap=zipmap)


def by_skl(model: Any, outcome: np.ndarray = CLASSES, sample: np.ndarray = ROWS) -> onnx.ModelProto:
    options = {"zipmap": False} if hasattr(model, "predict_proba") else None
    return to_onnx(model.fit(sample, outcome), sample[:1], options=options)


GRAPHS = {
    "lightgbm": by_lightgbm,
    "lightgbm, ZipMap": lambda: by_lightgbm(zipmap=True),
    "lightgbm, words": lambda: by_lightgbm(words=True),
    "lightgbm, regression": lambda: convert_lightgbm(
        lightgbm.LGBMRegressor(n_estimators=120, num_leaves=9, verbose=-1, n_jobs=1).fit(ROWS, NUMBERS),
        initial_types=TYPES,
    ),
    "xgboost": lambda: convert_xgboost(
        xgboost.XGBClassifier(n_estimators=120, max_depth=3, n_jobs=1).fit(ROWS, CLASSES), initial_types=TYPES
    ),
    "histograms": lambda: by_skl(HistGradientBoostingClassifier(max_iter=120, max_leaf_nodes=9, early_stopping=False)),
    "boosting": lambda: by_skl(GradientBoostingClassifier(n_estimators=120)),
    "random forest": lambda: by_skl(RandomForestClassifier(n_estimators=120, max_depth=5)),
    "boosted regression": lambda: by_skl(GradientBoostingRegressor(n_estimators=120), NUMBERS),
}


def probing(forest: Any) -> np.ndarray:
    """Other rows, and those at every threshold with both its neighbours."""
    from modelyard.optimise.trees import thresholds

    rows = [*np.random.default_rng(1).normal(size=(300, FEATURES)).astype(np.float32)]
    for feature, cuts in thresholds(forest).items():
        for cut in np.array(cuts, dtype=np.float32):
            for value in (np.nextafter(cut, np.float32(-np.inf)), cut, np.nextafter(cut, np.float32(np.inf))):
                rows.append(rows[feature].copy())
                rows[-1][feature] = value
    return np.array(rows)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_brought_graph_is_answered_by_tables_as_onnx_runtime_answers_it(name: str, tmp_path: Path) -> None:
    model = GRAPHS[name]()
    manifest, files = package_model(
        model.SerializeToString(), pandas.DataFrame(ROWS[:200], columns=NAMES), "brought", None
    )
    shelf = Shelf(tmp_path)
    by_tables = open_runtime(shelf.open(shelf.put(manifest, files)))
    by_graph = open_runtime(shelf.open(shelf.put(manifest, {"model.onnx": files["model.onnx"]})))
    assert (type(by_tables), type(by_graph)) == (ForestRuntime, OnnxRuntime)
    found = read_forest(files["model.onnx"])
    assert found is not None
    rows = probing(found.forest)
    said, wanted = by_tables.predict({"rows": rows}), by_graph.predict({"rows": rows})
    assert list(said) == list(wanted)
    for output, values in wanted.items():
        assert (said[output].dtype, said[output].shape) == (values.dtype, values.shape), output
        if values.dtype == np.float32:
            np.testing.assert_allclose(said[output], values, rtol=1e-5, atol=1e-6)
        else:
            sure = np.abs(wanted["probability"] - 0.5) > 1e-6
            np.testing.assert_array_equal(said[output][sure], values[sure])
    assert manifest.parity is not None
    assert manifest.parity.max_error < 1e-5


def test_an_estimator_that_skl2onnx_converts_gets_tables_too(tmp_path: Path) -> None:
    model = HistGradientBoostingClassifier(max_iter=120, max_leaf_nodes=9, early_stopping=False).fit(ROWS, CLASSES)
    manifest, files = package_model(model, pandas.DataFrame(ROWS[:200], columns=NAMES), "fitted", None)
    shelf = Shelf(tmp_path)
    runtime = open_runtime(shelf.open(shelf.put(manifest, files)))
    assert type(runtime) is ForestRuntime
    found = runtime.predict({"rows": ROWS})["probability"]
    np.testing.assert_allclose(found, model.predict_proba(ROWS)[:, 1], atol=1e-6)


def test_missing_values_go_where_the_graph_sends_them() -> None:
    rows = ROWS.copy()
    rows[::3, 0] = np.nan
    rows[::5, 1] = np.nan
    model = lightgbm.LGBMClassifier(n_estimators=120, num_leaves=9, verbose=-1, n_jobs=1).fit(rows, CLASSES)
    data = convert_lightgbm(model, initial_types=TYPES, zipmap=False).SerializeToString()
    found = read_forest(data)
    assert found is not None
    tables = found.tables()
    assert tables is not None
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(
        tables.answer(rows)["probabilities"], session.run(["probabilities"], {"input": rows})[0], atol=1e-6
    )


@pytest.mark.parametrize("mode", ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GT", "BRANCH_GTE"])
@pytest.mark.parametrize("missing", [0, 1])
def test_every_kind_of_question_is_asked_as_onnx_runtime_asks_it(
    mode: str, missing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masks, "MIN_TREES", 1)
    data = graph(mode, missing).SerializeToString()
    found = read_forest(data)
    assert found is not None
    tables = found.tables()
    assert tables is not None
    around = [np.nextafter(np.float32(0.5), np.float32(way)) for way in (-1, 1)]
    rows = np.array([[value] for value in (-1.0, around[0], 0.5, around[1], np.inf, -np.inf, np.nan)], dtype=np.float32)
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(tables.answer(rows)["sum"], session.run(["sum"], {"rows": rows})[0])


def graph(mode: str = "BRANCH_LEQ", missing: int = 0, **other: Any) -> onnx.ModelProto:
    """One question to one number: 1 for yes, 2 for no, and 10 more."""
    given: dict[str, Any] = {
        "n_targets": 1, "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [0, 0, 0],
        "nodes_values": [0.5, 0.0, 0.0], "nodes_modes": [mode, "LEAF", "LEAF"], "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0], "nodes_missing_value_tracks_true": [missing, 0, 0],
        "target_treeids": [0, 0], "target_nodeids": [1, 2], "target_ids": [0, 0], "target_weights": [1.0, 2.0],
        "base_values": [10.0],
    }  # fmt: skip
    node = helper.make_node("TreeEnsembleRegressor", ["rows"], ["sum"], domain="ai.onnx.ml", **(given | other))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    inner = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["n", 1])],
    )
    return helper.make_model(inner, opset_imports=opsets, ir_version=9)


def more(model: onnx.ModelProto, *nodes: onnx.NodeProto, output: str = "said", **constants: float) -> onnx.ModelProto:
    """The same with nodes behind it."""
    model.graph.node.extend(nodes)
    for name, value in constants.items():
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT, [], [value]))
    model.graph.output[0].name = output
    return model


NOT_FORESTS = {
    "no trees": lambda: by_skl(LogisticRegression()),
    "a step before the trees": lambda: by_skl(make_pipeline(StandardScaler(), GradientBoostingClassifier())),
    "three classes": lambda: by_skl(GradientBoostingClassifier(n_estimators=3), np.arange(len(ROWS)) % 3),
    "numbers of 64 bits": lambda: by_skl(GradientBoostingRegressor(n_estimators=3), NUMBERS, ROWS.astype(np.float64)),
    "another question": lambda: graph("BRANCH_NEQ"),
    "a node that two others lead to": lambda: graph(nodes_falsenodeids=[1, 0, 0]),
    "nodes in a circle": lambda: graph(nodes_modes=["BRANCH_LEQ", "BRANCH_LEQ", "LEAF"]),
    "a node that is not there": lambda: graph(nodes_falsenodeids=[9, 0, 0]),
    "a feature that is not there": lambda: graph(nodes_featureids=[1, 0, 0]),
    "the mean of the trees": lambda: graph(aggregate_function="AVERAGE"),
    "a link that is not applied here": lambda: graph(post_transform="PROBIT"),
    "two sums": lambda: graph(n_targets=2, target_ids=[0, 1], base_values=[1.0, 2.0]),
    "a step behind the trees": lambda: more(graph(), helper.make_node("Exp", ["sum"], ["said"])),
    "a factor": lambda: more(graph(), helper.make_node("Mul", ["sum", "two"], ["said"]), two=2.0),
    "an output cut short": lambda: more(graph(), helper.make_node("Cast", ["sum"], ["said"], to=TensorProto.FLOAT16)),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_FORESTS)
def test_a_graph_that_is_more_than_a_forest_is_left_to_onnx_runtime(name: str) -> None:
    assert read_forest(NOT_FORESTS[name]().SerializeToString()) is None


def test_what_only_hands_the_answer_on_does_not_hide_a_forest() -> None:
    cast = helper.make_node("Cast", ["sum"], ["same"], to=TensorProto.FLOAT)
    factor = helper.make_node("Mul", ["same", "one"], ["said"])
    found = read_forest(more(graph(), cast, factor, one=1.0).SerializeToString())
    assert found is not None
    assert found.answers == {"said": "column"}


def test_tables_that_answer_otherwise_than_the_brought_graph_fail_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    data = by_lightgbm().SerializeToString()
    sample = pandas.DataFrame(ROWS[:200], columns=NAMES)

    def wrongly(graph: bytes) -> Any:
        import msgspec

        found = read_forest(graph)
        assert found is not None
        return msgspec.structs.replace(found, labels=found.labels[::-1])

    monkeypatch.setattr(register, "read_forest", wrongly)
    with pytest.raises(ParityFailed, match="'label' differs"):
        package_model(data, sample, "wrong", None)
