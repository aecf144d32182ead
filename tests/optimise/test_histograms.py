"""Histogram boosting of scikit-learn: served rows get what the model says of them as doubles, at its thresholds too."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from threadpoolctl import threadpool_limits

from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import InvalidInput
from modelyard.data.rows import json_rows
from modelyard.optimise.histograms import read_histograms
from modelyard.optimise.register import package_model
from modelyard.optimise.sample import read_sample
from modelyard.optimise.trees import thresholds
from modelyard.runtimes.forest import ForestRuntime
from modelyard.runtimes.histograms import rounded
from modelyard.runtimes.version import LoadedVersion

COUNT = 900
random = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {"x": random.normal(size=COUNT), "y": random.normal(10, 3, COUNT), "n": random.integers(0, 9, COUNT)}
)
FRAME.loc[random.random(COUNT) < 0.1, "y"] = np.nan
KIND = random.choice(["a", "b", "c"], COUNT)
BAD = np.where(FRAME.x + FRAME.y.fillna(20) / 9 + random.normal(size=COUNT) > 1, "bad", "good")
NUMBERS = FRAME.x * 3 + FRAME.n


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other take minutes on a busy machine."""
    with threadpool_limits(1):
        yield


def one_hot() -> Any:
    return make_column_transformer((OneHotEncoder(), ["kind"]), remainder="passthrough")


def opened(packed: tuple[Any, dict[str, bytes]], folder: Path) -> LoadedVersion:
    shelf = Shelf(folder)
    return LoadedVersion(shelf.open(shelf.put(*packed)))


def answers(version: LoadedVersion, frame: pd.DataFrame, output: str) -> Any:
    """As callers get them: rows of JSON, in doubles."""
    rows = json_rows(read_sample(frame).table, version.manifest.contract)
    return version.predict(version.encoder.encode_rows(rows))[output]


@pytest.mark.parametrize(
    ("model", "outcome", "output"),
    [
        (HistGradientBoostingClassifier(random_state=0), BAD, "probability"),
        (HistGradientBoostingClassifier(random_state=0), KIND, "probabilities"),
        (HistGradientBoostingRegressor(random_state=0), NUMBERS, "prediction"),
        (HistGradientBoostingRegressor(loss="absolute_error", random_state=0), NUMBERS, "prediction"),
        (GridSearchCV(HistGradientBoostingClassifier(random_state=0), {"max_leaf_nodes": [4, 8]}), BAD, "probability"),
    ],
    ids=["two classes", "three classes", "regression", "absolute error", "a search's best"],
)
def test_each_row_of_the_training_table_gets_the_models_own_answer(
    model: Any, outcome: Any, output: str, tmp_path: Path
) -> None:
    model.fit(FRAME, outcome)
    asked_at = np.concatenate(
        [tree.nodes["num_threshold"] for (tree, *_) in getattr(model, "best_estimator_", model)._predictors]
    )
    assert np.isin(FRAME.x, asked_at).sum() > 20, "thresholds are values of the table: the case in question"
    version = opened(package_model(model, FRAME, "mine"), tmp_path)
    wanted = model.predict(FRAME) if output == "prediction" else model.predict_proba(FRAME)
    wanted = wanted[:, 1] if output == "probability" else wanted
    np.testing.assert_allclose(answers(version, FRAME, output), wanted, rtol=1e-5, atol=1e-5)


def test_categories_keep_their_codes_and_unknown_ones_are_missing(tmp_path: Path) -> None:
    frame = FRAME.assign(kind=pd.Categorical(KIND), many=pd.Categorical([f"m{n % 40}" for n in range(COUNT)]))[
        ["x", "kind", "y", "many"]  # the trees number categories first
    ]
    frame.loc[::6, "kind"] = None
    bad = (frame.x > 0) ^ (frame.kind == "a") ^ (frame.many.cat.codes % 3 == 0)
    model = HistGradientBoostingClassifier(random_state=0).fit(frame, bad)
    version = opened(package_model(model, frame, "mine"), tmp_path)
    assert [column.unseen for column in version.manifest.contract.features if column.kind == "category"] == [
        "missing"
    ] * 2
    np.testing.assert_allclose(answers(version, frame, "probability"), model.predict_proba(frame)[:, 1], atol=1e-5)
    strange = [{"x": 0.1, "kind": "elsewhere", "y": None, "many": "m3"}]
    missing = [{"x": 0.1, "kind": None, "y": None, "many": "m3"}]
    found, same = (version.predict(version.encoder.encode_rows(rows))["probability"] for rows in (strange, missing))
    assert found == same


def test_behind_an_encoder_too(tmp_path: Path) -> None:
    frame = FRAME.assign(kind=KIND)
    model = make_pipeline(one_hot(), HistGradientBoostingClassifier(random_state=0)).fit(frame, BAD)
    version = opened(package_model(model, frame, "mine"), tmp_path)
    np.testing.assert_allclose(answers(version, frame, "probability"), model.predict_proba(frame)[:, 1], atol=1e-5)


def test_kept_as_it_is_too(tmp_path: Path) -> None:
    model = HistGradientBoostingClassifier(random_state=0).fit(FRAME, BAD)
    path = tmp_path / "own.skops"
    skops.io.dump(model, path)
    version = opened(package_model(path, FRAME, "mine", runtime="native", trust=True), tmp_path / "shelf")
    np.testing.assert_allclose(answers(version, FRAME, "probability"), model.predict_proba(FRAME)[:, 1], atol=1e-6)


def test_it_is_answered_by_tables_and_explained(tmp_path: Path) -> None:
    model = HistGradientBoostingClassifier(max_iter=120, max_leaf_nodes=6, random_state=0).fit(FRAME, BAD)
    packed = package_model(model, FRAME, "mine")
    shelf = Shelf(tmp_path)
    version = LoadedVersion(shelf.open(shelf.put(*packed)))
    assert type(version.runtime) is ForestRuntime
    rows = json_rows(read_sample(FRAME.head(30)).table, version.manifest.contract)
    matrix = version.encoder.encode_rows(rows)
    explained = version.explain(matrix)
    assert explained is not None
    log_odds = explained.sum(axis=1)
    np.testing.assert_allclose(1 / (1 + np.exp(-log_odds)), version.predict(matrix)["probability"], atol=1e-5)


def test_the_model_that_was_brought_is_left_as_it_was() -> None:
    model = HistGradientBoostingClassifier(max_iter=5, random_state=0).fit(FRAME, BAD)
    before = model._predictors[0][0].nodes.copy()
    asked = rounded(model)
    assert asked is not model
    np.testing.assert_array_equal(model._predictors[0][0].nodes, before)
    values = np.concatenate([np.array(cuts) for cuts in thresholds(read_histograms(asked)).values()])
    np.testing.assert_array_equal(values, values.astype(np.float32))


def test_a_question_that_only_missing_values_answer_differently_is_finite(tmp_path: Path) -> None:
    """Whether a value is missing is asked as x <= infinity."""
    table = pd.DataFrame({"x": np.where(np.arange(400) % 2, np.nan, np.arange(400.0))})
    model = HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=2).fit(table, np.arange(400) % 2)
    assert np.isinf(model._predictors[0][0].nodes["num_threshold"][0])
    version = opened(package_model(model, table, "mine"), tmp_path)
    np.testing.assert_allclose(answers(version, table, "probability"), model.predict_proba(table)[:, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("model", "outcome", "frame", "says"),
    [
        (HistGradientBoostingClassifier(max_iter=3), KIND, FRAME, "log_loss"),
        (HistGradientBoostingRegressor(loss="poisson", max_iter=3), FRAME.n, FRAME, "poisson"),
        (HistGradientBoostingClassifier(max_iter=3, categorical_features=["n"]), BAD, FRAME, "categories"),
    ],
)
def test_what_is_not_read_tree_by_tree_says_why(model: Any, outcome: Any, frame: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        read_histograms(model.fit(frame, outcome))
