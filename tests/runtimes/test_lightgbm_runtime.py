"""LightGBM models served by LightGBM: the file as it was brought, the same answers under the same names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm as lgb
import msgspec
import numpy as np
import pytest

from kit.applicants import BAD, CODES, FRAME, NUMBERS, WHOLE, fitted, on_shelf
from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import InvalidInput
from modelyard.optimise.register import package_model
from modelyard.runtimes.conformance import check
from modelyard.runtimes.lightgbm import LightGbmRuntime

SMALL = {"n_estimators": 8, "verbosity": -1, "n_jobs": 1, "min_child_samples": 5}


def opened(model: Any, sample: Any, folder: Path) -> LightGbmRuntime:
    return LightGbmRuntime(on_shelf(package_model(model, sample, "own", runtime="native"), folder))


def test_a_file_is_kept_as_it_was_brought_and_answers_the_same(tmp_path: Path) -> None:
    booster = fitted(lgb.LGBMClassifier(**SMALL), NUMBERS, CODES).booster_
    path = tmp_path / "own.txt"
    booster.save_model(path)
    manifest, files = package_model(path, NUMBERS, "own", runtime="native")
    assert files["model.txt"] == path.read_bytes()
    assert (manifest.runtime, manifest.framework, manifest.task) == ("lightgbm", "lightgbm", "binary")
    assert not manifest.trusted
    assert manifest.independent_rows
    assert manifest.parity is not None
    runtime = LightGbmRuntime(on_shelf((manifest, files), tmp_path / "shelf"))
    rows = NUMBERS.to_numpy(np.float32)
    answer = runtime.predict({"rows": rows})
    assert list(answer) == ["probability"]
    np.testing.assert_allclose(answer["probability"], booster.predict(rows), atol=1e-6)


@pytest.mark.parametrize(
    ("model", "y"),
    [
        (lgb.LGBMClassifier(**SMALL), BAD),
        (lgb.LGBMClassifier(**SMALL, sigmoid=0.5), BAD),  # its raw scores are not log-odds
        (lgb.LGBMClassifier(**SMALL, boosting_type="rf", bagging_freq=1, bagging_fraction=0.5), BAD),  # a mean
        (lgb.LGBMClassifier(**SMALL), WHOLE.age % 3),
        (lgb.LGBMRegressor(**SMALL), WHOLE.income),
        (lgb.LGBMRegressor(**SMALL, objective="poisson"), WHOLE.income),  # no conversion reads it
    ],
)
def test_every_promise_is_kept(model: Any, y: Any, tmp_path: Path) -> None:
    runtime = opened(fitted(model, WHOLE, y), WHOLE, tmp_path)
    assert [promise for promise in check(runtime, WHOLE.to_numpy(np.float32)[:20]) if not promise.is_kept] == []


def test_answers_bear_the_names_of_converted_models(tmp_path: Path) -> None:
    model = fitted(lgb.LGBMClassifier(**SMALL), WHOLE, WHOLE.age % 3)
    rows = WHOLE.to_numpy(np.float32)
    native = opened(model, WHOLE, tmp_path / "a").predict({"rows": rows})
    assert list(native) == ["label", "probabilities"]
    np.testing.assert_array_equal(native["label"], model.predict(WHOLE))
    np.testing.assert_allclose(native["probabilities"], model.predict_proba(WHOLE), atol=1e-6)
    regression = fitted(lgb.LGBMRegressor(**SMALL), WHOLE, WHOLE.income)
    assert list(opened(regression, WHOLE, tmp_path / "b").predict({"rows": rows})) == ["prediction"]


def test_categories_travel_as_codes(tmp_path: Path) -> None:
    frame = FRAME.assign(home=FRAME.home.astype("category"))
    model = fitted(lgb.LGBMClassifier(**SMALL), frame, BAD)
    artifact = on_shelf(package_model(model, frame, "own", runtime="native"), tmp_path)
    assert artifact.manifest.signature.layout == "columns"
    rows = np.column_stack([frame.age, frame.income, frame.home.cat.codes.replace(-1, np.nan)]).astype(np.float32)
    answer = LightGbmRuntime(artifact).predict({"rows": rows})["probability"]
    np.testing.assert_allclose(answer, model.predict_proba(frame)[:, 1], atol=1e-6)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    manifest, files = package_model(fitted(lgb.LGBMClassifier(**SMALL)), WHOLE, "own", runtime="native")
    shelf = Shelf(tmp_path)
    artifact = shelf.open(shelf.put(msgspec.structs.replace(manifest, files={}), files | {"model.txt": b"tree\n"}))
    with pytest.raises(InvalidInput, match=r"model\.txt is not a LightGBM model"):
        LightGbmRuntime(artifact)
