"""Bring your own model: what converts is proven, what does not is refused with its reason."""

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import joblib
import lightgbm as lgb
import numpy as np
import onnx
import pandas as pd
import polars as pl
import pytest
import xgboost as xgb
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.compose import make_column_transformer
from sklearn.ensemble import IsolationForest, RandomForestClassifier, RandomForestRegressor, VotingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import InvalidInput, NotFound
from modelyard.optimise import register as room
from modelyard.optimise.parity import ParityFailed
from modelyard.optimise.register import package_model, register
from modelyard.runtimes.version import LoadedVersion

ROWS = 300
NUMBERS = ["age", "income"]


def make_frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    income = rng.normal(30, 9, ROWS)
    income[::7] = np.nan
    home = rng.choice(["own", "rent", "with family"], ROWS).astype(object)
    home[::11] = np.nan
    return pd.DataFrame({"age": rng.integers(18, 80, ROWS), "income": income, "home": home})


FRAME = make_frame()
WHOLE = FRAME[NUMBERS].fillna(30.0)
BAD = pd.Series(np.where((WHOLE.income < 28) ^ (WHOLE.age < 30), "bad", "good"))
CODES = (BAD == "bad").astype(int)


def fitted(model: Any, frame: pd.DataFrame = WHOLE, y: Any = BAD) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(frame, y)


def opened(packed: tuple[Any, dict[str, bytes]], folder: Path) -> LoadedVersion:
    shelf = Shelf(folder)
    return LoadedVersion(shelf.open(shelf.put(*packed)))


@pytest.mark.parametrize(
    ("model", "y", "task"),
    [
        (make_pipeline(StandardScaler(), LogisticRegression()), BAD, "binary"),
        (RandomForestClassifier(5, max_depth=4, random_state=0), BAD, "binary"),
        (RandomForestClassifier(5, max_depth=4, random_state=0), WHOLE.age % 3, "multiclass"),
        (lgb.LGBMClassifier(n_estimators=5, verbosity=-1, n_jobs=1), BAD, "binary"),
        (xgb.XGBClassifier(n_estimators=5, n_jobs=1), CODES, "binary"),
        (xgb.XGBClassifier(n_estimators=3, n_jobs=1), WHOLE.age % 3, "multiclass"),
        (xgb.XGBRegressor(objective="binary:logistic", n_estimators=5, n_jobs=1), CODES, "binary"),
        (lgb.LGBMRegressor(n_estimators=5, verbosity=-1, n_jobs=1), WHOLE.income * 7, "regression"),
        (LinearRegression(), WHOLE.income * 7, "regression"),
        (RandomForestRegressor(5, max_depth=4, random_state=0), WHOLE.income * 7, "regression"),
        (Ridge(), np.column_stack([WHOLE.income, -WHOLE.age]), "regression"),
        (VotingClassifier([("one", LogisticRegression()), ("two", GaussianNB())], voting="soft"), BAD, "binary"),
        (GridSearchCV(lgb.LGBMClassifier(verbosity=-1, n_jobs=1), {"n_estimators": [3, 5]}), BAD, "binary"),
        (IsolationForest(n_estimators=5, random_state=0), None, "regression"),
        (KMeans(3, random_state=0), None, "regression"),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "get_params") else "",
)
def test_estimators_are_packaged_and_proven(model: Any, y: Any, task: str, tmp_path: Path) -> None:
    model = fitted(model, y=y)
    manifest, files = package_model(model, WHOLE, "mine")
    assert (manifest.task, manifest.runtime) == (task, "onnx")
    assert manifest.parity is not None
    assert manifest.parity.max_error <= 1e-5
    assert manifest.signature.layout == "matrix"
    version = opened((manifest, files), tmp_path)
    rows = WHOLE.astype(np.float32).astype({"age": int})
    answers = version.predict(version.encoder.encode_rows(rows.to_dict("records")))
    if task == "regression":
        np.testing.assert_allclose(answers["prediction"], model.predict(rows), rtol=1e-5)
    elif task == "multiclass":
        np.testing.assert_allclose(answers["probabilities"], model.predict_proba(rows), atol=1e-5)
    elif hasattr(model, "predict_proba"):
        np.testing.assert_allclose(answers["probability"], model.predict_proba(rows)[:, 1], atol=1e-5)
        assert manifest.contract.target is not None
        assert manifest.contract.target.classes == tuple(str(name) for name in model.classes_)


def mixed_pipeline() -> Any:
    text = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    columns = make_column_transformer((make_pipeline(SimpleImputer(), StandardScaler()), NUMBERS), (text, ["home"]))
    return fitted(make_pipeline(columns, LogisticRegression()), FRAME)


def test_a_pipeline_of_numbers_text_and_missing_values(tmp_path: Path) -> None:
    model = mixed_pipeline()
    manifest, files = package_model(model, pl.from_pandas(FRAME), "mine")
    assert manifest.signature.layout == "columns"
    home = manifest.contract.features[2]
    assert (home.categories, home.nullable, home.unseen) == (("own", "rent", "with family"), True, "refuse")
    version = opened((manifest, files), tmp_path)
    rows = [{k: None if pd.isna(v) else v for k, v in row.items()} for row in FRAME.to_dict("records")]
    found = version.predict(version.encoder.encode_rows(rows))["probability"]
    np.testing.assert_allclose(found, model.predict_proba(FRAME)[:, 1], atol=1e-5)


def test_lightgbm_with_pandas_categories_keeps_their_codes(tmp_path: Path) -> None:
    frame = FRAME.assign(home=FRAME.home.astype("category"))
    model = fitted(lgb.LGBMClassifier(n_estimators=10, verbosity=-1, n_jobs=1, min_child_samples=5), frame)
    version = opened(package_model(model, frame, "mine"), tmp_path)
    rows = [{k: None if pd.isna(v) else v for k, v in row.items()} for row in FRAME.to_dict("records")]
    found = version.predict(version.encoder.encode_rows(rows))["probability"]
    np.testing.assert_allclose(found, model.predict_proba(frame)[:, 1], atol=1e-5)
    assert version.explain(version.encoder.encode_rows(rows[:2])) is not None


@pytest.mark.parametrize("spelt", [str, int])
@pytest.mark.parametrize("early", [{}, {"early_stopping_rounds": 2}], ids=["all rounds", "stopped early"])
def test_xgboost_with_pandas_categories_keeps_their_codes(spelt: type, early: dict[str, int], tmp_path: Path) -> None:
    levels = pd.Series(np.arange(ROWS) * 7 % 5 + 3).astype(spelt).astype("category")
    frame = WHOLE.assign(level=levels)
    model = xgb.XGBClassifier(n_estimators=20, max_depth=3, n_jobs=1, enable_categorical=True, **early)
    codes = CODES ^ (levels.cat.codes == 2)
    model.fit(frame, codes, eval_set=[(frame, codes.sample(frac=1, random_state=0))], verbose=False)
    rows = frame.astype({"level": str}).to_dict("records")
    for runtime in ("onnx", "native"):
        version = opened(package_model(model, frame, "mine", runtime=runtime), tmp_path)  # type: ignore[arg-type]
        assert version.manifest.contract.features[2].categories == ("3", "4", "5", "6", "7")
        found = version.predict(version.encoder.encode_rows(rows))["probability"]
        np.testing.assert_allclose(found, model.predict_proba(frame)[:, 1], atol=1e-5)
        version.close()


def test_categories_that_are_numbers_are_spelt(tmp_path: Path) -> None:
    frame = WHOLE.assign(level=pd.Categorical(np.arange(ROWS) * 7 % 5 + 3))
    model = fitted(lgb.LGBMClassifier(n_estimators=5, verbosity=-1, n_jobs=1), frame)
    version = opened(package_model(model, frame, "mine"), tmp_path)
    rows = frame.astype({"level": str}).to_dict("records")
    found = version.predict(version.encoder.encode_rows(rows))["probability"]
    np.testing.assert_allclose(found, model.predict_proba(frame)[:, 1], atol=1e-5)


@pytest.mark.parametrize("zipmap", [True, False])
def test_an_onnx_file_as_it_is(zipmap: bool, tmp_path: Path) -> None:
    model = fitted(make_pipeline(StandardScaler(), LogisticRegression()), WHOLE.to_numpy(np.float32))
    graph = to_onnx(model, WHOLE.to_numpy(np.float32)[:1], target_opset=18, options={"zipmap": zipmap})
    path = tmp_path / "model.onnx"
    path.write_bytes(graph.SerializeToString())
    WHOLE.assign(y=BAD).to_csv(tmp_path / "rows.csv", index=False)
    manifest, files = package_model(path, tmp_path / "rows.csv", "mine", target="y")
    assert (manifest.framework, manifest.task) == ("onnx", "binary")
    assert manifest.contract.target is not None
    assert manifest.contract.target.classes == ("bad", "good")
    version = opened((manifest, files), tmp_path / "shelf")
    matrix = WHOLE.to_numpy(np.float32)
    np.testing.assert_allclose(version.predict(matrix)["probability"], model.predict_proba(matrix)[:, 1], atol=1e-5)


def test_an_onnx_file_with_one_tensor_for_each_column(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"])]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in ("a", "b", "sum")]
    graph = helper.make_graph(nodes, "adds", tensors[:2], tensors[2:])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    manifest, files = package_model(data, pl.DataFrame({"b": [1.0, 2.0], "a": [3.0, 4.0], "other": [0, 0]}), "adds")
    assert (manifest.task, manifest.signature.layout) == ("regression", "columns")
    version = opened((manifest, files), tmp_path)
    assert version.predict(version.encoder.encode_rows([{"a": 2.0, "b": 0.5}]))["sum"].tolist() == [2.5]


def test_probabilities_that_are_called_probability_give_way(tmp_path: Path) -> None:
    model = fitted(LogisticRegression(max_iter=500), WHOLE.to_numpy(np.float32))
    graph = to_onnx(model, WHOLE.to_numpy(np.float32)[:1], target_opset=18, options={"zipmap": False})
    for node in graph.graph.node:
        for position, name in enumerate(node.output):
            node.output[position] = name.replace("probabilities", "probability")
        for position, name in enumerate(node.input):
            node.input[position] = name.replace("probabilities", "probability")
    for output in graph.graph.output:
        output.name = output.name.replace("probabilities", "probability")
    version = opened(package_model(graph.SerializeToString(), WHOLE, "mine"), tmp_path)
    matrix = WHOLE.to_numpy(np.float32)
    answers = version.predict(matrix)
    np.testing.assert_allclose(answers["probability"], model.predict_proba(matrix)[:, 1], atol=1e-5)
    np.testing.assert_allclose(answers["probabilities"], model.predict_proba(matrix), atol=1e-5)


def foreign_graph() -> bytes:
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Mine", ["x"], ["y"], domain="my.ops")], "g", tensors[:1], tensors[1:])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("my.ops", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def outside_graph() -> bytes:
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value="../secret.bin")
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in "xy"]
    node = helper.make_node("Add", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", tensors[:1], tensors[1:], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (b"nonsense", "not a sound ONNX model"),
        (foreign_graph(), "custom operators are refused"),
        (outside_graph(), "weights in other files"),
        (object(), "a model is an ONNX file"),
        (LogisticRegression(), "not fitted"),
        (lgb.LGBMClassifier(), "not fitted"),
        (xgb.XGBClassifier(), "not fitted"),
        (fitted(LinearSVC()), "gives no probabilities"),
        (fitted(LogisticRegression(max_iter=500), WHOLE.assign(more=1.0)), "lacks columns that the model takes: more"),
        (fitted(LogisticRegression(max_iter=500), WHOLE.assign(more=1.0).to_numpy()), "takes 3 columns"),
    ],
    ids=lambda value: "" if not isinstance(value, str) else value,
)
def test_what_cannot_be_served_says_why(model: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        package_model(model, WHOLE, "mine")


def test_a_conversion_that_changes_answers_is_refused() -> None:
    model = fitted(CalibratedClassifierCV(RandomForestClassifier(8, max_depth=3, random_state=0), method="isotonic"))
    with pytest.raises(ParityFailed, match="differs from the original by up to"):
        package_model(model, WHOLE, "mine")


def test_a_pickle_is_opened_only_by_those_who_trust_it(tmp_path: Path) -> None:
    path = tmp_path / "model.joblib"
    joblib.dump(fitted(LinearRegression(), y=WHOLE.income), path)
    with pytest.raises(InvalidInput, match="runs the code in it"):
        package_model(path, WHOLE, "mine")
    assert package_model(path, WHOLE, "mine", trust=True)[0].framework == "sklearn"


def test_safe_files_of_the_boosters(tmp_path: Path) -> None:
    fitted(lgb.LGBMClassifier(n_estimators=3, verbosity=-1, n_jobs=1), y=CODES).booster_.save_model(tmp_path / "m.txt")
    fitted(xgb.XGBClassifier(n_estimators=3, n_jobs=1), y=CODES).save_model(tmp_path / "m.json")
    for name, framework in (("m.txt", "lightgbm"), ("m.json", "xgboost")):
        manifest, files = package_model(tmp_path / name, WHOLE, "mine")
        assert (manifest.framework, manifest.task) == (framework, "binary")
        assert "contributions.npz" in files
    (tmp_path / "bad.txt").write_text("no model")
    with pytest.raises(InvalidInput, match="not a LightGBM model"):
        package_model(tmp_path / "bad.txt", WHOLE, "mine")
    with pytest.raises(NotFound, match=r"gone\.onnx"):
        package_model(tmp_path / "gone.onnx", WHOLE, "mine")


def test_registering_goes_through_the_one_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def register_packaged(manifest: Any, files: Any, by: str = "local", note: str = "") -> tuple[str, int]:
        seen.append((manifest.model, sorted(files), note))
        return manifest.model, 7

    monkeypatch.setattr(room, "import_module", lambda name: SimpleNamespace(register_packaged=register_packaged))
    model = fitted(LinearRegression(), y=WHOLE.income)
    assert register(model, sample=WHOLE, name="mine", note="hello") == ("mine", 7)
    assert seen == [("mine", ["card.md", "model.onnx", "samples.json"], "hello")]


def test_the_packaged_graph_is_sound() -> None:
    onnx.checker.check_model(
        onnx.load_model_from_string(package_model(mixed_pipeline(), FRAME, "mine")[1]["model.onnx"])
    )
