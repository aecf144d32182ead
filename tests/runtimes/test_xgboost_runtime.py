"""XGBoost models served by XGBoost: JSON or UBJSON as it was brought, the same answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost as xgb

from kit.applicants import CODES, NUMBERS, WHOLE, fitted, on_shelf
from modelyard.contract.errors import InvalidInput
from modelyard.optimise.register import package_model
from modelyard.runtimes.conformance import check
from modelyard.runtimes.xgboost import XgboostRuntime

SMALL = {"n_estimators": 6, "n_jobs": 1, "max_depth": 3}


@pytest.mark.parametrize("suffix", ["json", "ubj"])
def test_a_file_is_kept_as_it_was_brought_and_answers_the_same(suffix: str, tmp_path: Path) -> None:
    booster = fitted(xgb.XGBClassifier(**SMALL), NUMBERS, CODES).get_booster()
    path = tmp_path / f"own.{suffix}"
    booster.save_model(path)
    manifest, files = package_model(path, NUMBERS, "own", runtime="native")
    assert files[f"model.{suffix}"] == path.read_bytes()
    assert (manifest.runtime, manifest.task, manifest.trusted) == ("xgboost", "binary", False)
    runtime = XgboostRuntime(on_shelf((manifest, files), tmp_path / "shelf"))
    answer = runtime.predict({"rows": NUMBERS.to_numpy(np.float32)})
    assert list(answer) == ["probability"]
    np.testing.assert_allclose(answer["probability"], booster.predict(xgb.DMatrix(NUMBERS)), atol=1e-6)


@pytest.mark.parametrize(
    ("model", "y", "names"),
    [
        (xgb.XGBClassifier(**SMALL), CODES, ["probability"]),
        (xgb.XGBClassifier(**SMALL), WHOLE.age % 3, ["label", "probabilities"]),
        (xgb.XGBRegressor(**SMALL), WHOLE.income, ["prediction"]),
        (xgb.XGBRegressor(**SMALL, objective="count:poisson"), WHOLE.age, ["prediction"]),
        (xgb.XGBClassifier(**SMALL, booster="dart"), CODES, ["probability"]),
        (xgb.XGBRegressor(n_estimators=6, n_jobs=1, booster="gblinear"), WHOLE.income, ["prediction"]),
    ],
)
def test_every_promise_is_kept(model: Any, y: Any, names: list[str], tmp_path: Path) -> None:
    artifact = on_shelf(package_model(fitted(model, WHOLE, y), WHOLE, "own", runtime="native"), tmp_path)
    runtime = XgboostRuntime(artifact)
    rows = WHOLE.to_numpy(np.float32)[:20]
    assert list(runtime.predict({"rows": rows})) == names == [spec.name for spec in artifact.manifest.signature.outputs]
    assert [promise for promise in check(runtime, rows) if not promise.is_kept] == []


def test_an_estimator_that_stopped_early_answers_with_its_best_rounds(tmp_path: Path) -> None:
    model = xgb.XGBClassifier(n_estimators=60, n_jobs=1, early_stopping_rounds=3)
    noise = np.random.default_rng(1).integers(0, 2, len(WHOLE))
    model.fit(WHOLE, CODES, eval_set=[(WHOLE, noise)], verbose=False)
    assert model.best_iteration < model.get_booster().num_boosted_rounds() - 1
    runtime = XgboostRuntime(on_shelf(package_model(model, WHOLE, "own", runtime="native"), tmp_path))
    answer = runtime.predict({"rows": WHOLE.to_numpy(np.float32)})["probability"]
    np.testing.assert_allclose(answer, model.predict_proba(WHOLE)[:, 1], atol=1e-6)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    manifest, files = package_model(fitted(xgb.XGBClassifier(**SMALL), WHOLE, CODES), WHOLE, "own", runtime="native")
    with pytest.raises(InvalidInput, match="not an XGBoost model"):
        XgboostRuntime(on_shelf((manifest, files | {"model.ubj": b"{}"}), tmp_path))
