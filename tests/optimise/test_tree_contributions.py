"""Explanations by table look-up equal LightGBM's and XGBoost's own TreeSHAP, and the graph equals the trees."""

import json
from typing import Any

import lightgbm as lgb
import numpy as np
import onnxruntime as ort
import pandas as pd
import pytest
import xgboost as xgb

from modelyard.contract.errors import InvalidInput
from modelyard.optimise.contributions import explain_trees
from modelyard.optimise.convert import forest_to_onnx
from modelyard.optimise.trees import (
    Forest,
    float32_at_or_below,
    read_lightgbm,
    read_xgboost,
    splits,
    thresholds,
    xgboost_categories,
)
from modelyard.runtimes.contributions import TreeContributions

ROWS, LEVELS = 900, 7


def make_rows(seed: int, rows: int = ROWS) -> np.ndarray:
    """Three numbers, one of them often missing and one never; two categories."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(0, 2, (rows, 5)).astype(np.float32)
    matrix[rng.random(rows) < 0.3, 1] = np.nan
    matrix[:, 3] = rng.integers(0, LEVELS, rows)
    matrix[:, 4] = rng.integers(0, 3, rows)
    matrix[rng.random(rows) < 0.1, 4] = np.nan
    return matrix


def make_outcome(matrix: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(9)
    z = matrix[:, 0] + np.isnan(matrix[:, 1]) + (matrix[:, 3] % 3 == 1) - matrix[:, 2] * (matrix[:, 4] == 1)
    return (rng.random(len(matrix)) < 1 / (1 + np.exp(-z))).astype(float)


@pytest.fixture(scope="module", params=[3, 6])
def booster(request: pytest.FixtureRequest) -> lgb.Booster:
    matrix = make_rows(0)
    parameters = {
        "objective": "binary",
        "num_leaves": 15,
        "max_depth": request.param,
        "min_data_in_leaf": 5,
        "bagging_fraction": 0.7,
        "bagging_freq": 1,
        "max_cat_to_onehot": 2,
        "cat_smooth": 1,
        "verbosity": -1,
        "num_threads": 1,
    }
    return lgb.train(parameters, lgb.Dataset(matrix, make_outcome(matrix), categorical_feature=[3, 4]), 40)


def probing_rows(forest: Forest) -> np.ndarray:
    """Other rows, unseen and missing codes, and every threshold with both its neighbours."""
    rows = make_rows(1, 300)
    rows[:20, 3], rows[20:40, 3], rows[40:60, 1] = np.nan, LEVELS + 3, np.nan
    edges = []
    for feature, cuts in thresholds(forest).items():
        if feature > 2:
            continue
        for cut in [cut for cut in cuts if abs(cut) > 1e-30][:60]:  # LightGBM explains smaller values as zero
            for value in (
                np.nextafter(np.float32(cut), np.float32(-1e9)),
                cut,
                np.nextafter(np.float32(cut), np.float32(1e9)),
            ):
                row = rows[100].copy()
                row[feature] = value
                edges.append(row)
    return np.concatenate([rows, np.array(edges, dtype=np.float32)])


def test_lightgbm_is_explained_exactly(booster: lgb.Booster) -> None:
    forest = read_lightgbm(booster.dump_model())
    tables = explain_trees(forest)
    assert tables is not None
    rows = probing_rows(forest)
    found = TreeContributions.load(tables.dump()).of(rows)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, booster.predict(rows, pred_contrib=True), atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), booster.predict(rows, raw_score=True), atol=2e-5)
    np.testing.assert_array_equal(tables.of(rows[:1])[0], found[0])


def test_lightgbm_as_a_graph_is_exact(booster: lgb.Booster) -> None:
    forest = read_lightgbm(booster.dump_model())
    rows = probing_rows(forest)
    session = ort.InferenceSession(forest_to_onnx(forest), providers=["CPUExecutionProvider"])
    (found,) = session.run(["probability"], {"rows": rows})
    assert found.shape == (len(rows),)
    np.testing.assert_allclose(found, booster.predict(rows), atol=1e-6)


@pytest.mark.parametrize("kind", [{}, {"booster": "dart", "rate_drop": 0.5}], ids=["gbtree", "dart"])
def test_xgboost_is_explained_and_written_exactly(kind: dict[str, Any]) -> None:
    matrix = make_rows(0)
    model = xgb.XGBClassifier(n_estimators=30, max_depth=4, n_jobs=1, **kind).fit(matrix, make_outcome(matrix))
    booster = model.get_booster()
    forest = read_xgboost(json.loads(booster.save_raw("json")))
    rows = probing_rows(forest)
    tables = explain_trees(forest)
    assert tables is not None
    np.testing.assert_allclose(tables.of(rows), booster.predict(xgb.DMatrix(rows), pred_contribs=True), atol=1e-4)
    session = ort.InferenceSession(forest_to_onnx(forest), providers=["CPUExecutionProvider"])
    (found,) = session.run(["probability"], {"rows": rows})
    np.testing.assert_allclose(found, model.predict_proba(rows)[:, 1], atol=1e-6)


@pytest.mark.parametrize("one_by_one", [1, 99], ids=["sets of categories", "one category at a time"])
def test_xgboost_with_categories_is_explained_and_written_exactly(one_by_one: int) -> None:
    rng = np.random.default_rng(0)
    levels = [f"level {number}" for number in range(9)]
    frame = pd.DataFrame({"x": rng.normal(size=800), "c": pd.Categorical(rng.choice(levels, 800), categories=levels)})
    frame.loc[::6, "c"] = None
    y = (frame.x > 0) ^ frame.c.isin(levels[::2]) ^ (rng.random(800) < 0.1)
    model = xgb.XGBClassifier(
        n_estimators=20, max_depth=4, n_jobs=1, enable_categorical=True, max_cat_to_onehot=one_by_one
    ).fit(frame, y)
    saved = json.loads(model.get_booster().save_raw("json"))
    assert xgboost_categories(saved) == {1: tuple(levels)}
    forest = read_xgboost(saved)
    assert {split.missing_left for split in splits(forest) if split.codes is not None} == {True, False}
    codes = frame.c.cat.codes.to_numpy()
    rows = np.column_stack([frame.x, np.where(codes < 0, np.nan, codes)]).astype(np.float32)
    (found,) = ort.InferenceSession(forest_to_onnx(forest)).run(["probability"], {"rows": rows})
    np.testing.assert_allclose(found, model.predict_proba(frame)[:, 1], atol=1e-6)
    tables = explain_trees(forest)
    assert tables is not None
    wanted = model.get_booster().predict(xgb.DMatrix(frame, enable_categorical=True), pred_contribs=True)
    np.testing.assert_allclose(tables.of(rows), wanted, atol=1e-4)


def test_a_random_forest_of_lightgbm_is_the_mean_of_its_trees() -> None:
    rows = make_rows(0)
    parameters = {"objective": "binary", "boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}
    booster = lgb.train(parameters | {"verbosity": -1, "num_threads": 1}, lgb.Dataset(rows, make_outcome(rows)), 20)
    forest = read_lightgbm(booster.dump_model())
    (found,) = ort.InferenceSession(forest_to_onnx(forest)).run(["probability"], {"rows": rows})
    np.testing.assert_allclose(found, booster.predict(rows), atol=1e-6)
    tables = explain_trees(forest)
    assert tables is not None
    np.testing.assert_allclose(tables.of(rows) * 20, booster.predict(rows, pred_contrib=True), atol=1e-4)


def test_trees_too_deep_for_tables_are_not_explained() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(3000, 20)).astype(np.float32)
    y = (matrix.sum(axis=1) > 0).astype(float)
    parameters = {"objective": "binary", "num_leaves": 256, "min_data_in_leaf": 2, "verbosity": -1, "num_threads": 1}
    deep = lgb.train(parameters, lgb.Dataset(matrix, y), 3)
    assert explain_trees(read_lightgbm(deep.dump_model())) is None


def test_a_model_without_a_split_has_only_a_base() -> None:
    matrix = make_rows(0, 60)
    parameters = {"objective": "binary", "min_data_in_leaf": 100, "verbosity": -1, "num_threads": 1}
    stump = lgb.train(parameters, lgb.Dataset(matrix, make_outcome(matrix)), 2)
    forest = read_lightgbm(stump.dump_model())
    tables = explain_trees(forest)
    assert tables is not None
    np.testing.assert_allclose(tables.of(matrix[:2]).sum(axis=1), stump.predict(matrix[:2], raw_score=True), atol=1e-6)


@pytest.mark.parametrize("value", [0.1, -0.1, 1e300, -1e300, 16777217.0, 5e-46, -5e-46])
def test_the_float32_below_a_threshold_decides_alike(value: float) -> None:
    limit = float32_at_or_below(value)
    assert limit <= value
    above = float(np.nextafter(np.float32(limit), np.float32(np.inf), dtype=np.float64).astype(np.float64))
    assert above > limit
    if np.isfinite(limit):
        with np.errstate(over="ignore"):
            assert float(np.nextafter(np.float32(limit), np.float32(np.inf))) > value


def test_other_objectives_are_refused() -> None:
    with pytest.raises(InvalidInput, match="poisson"):
        read_lightgbm({"objective": "poisson"})
