"""Scikit-learn estimators as they are: skops files, pickles only by trust, frames as they were fitted on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib
import msgspec
import numpy as np
import pytest
import skops.io
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from kit.applicants import BAD, FRAME, WHOLE, fitted, on_shelf
from modelyard.contract.encoding import Encoder
from modelyard.contract.errors import InvalidInput
from modelyard.data.rows import json_rows
from modelyard.optimise.parity import ParityFailed
from modelyard.optimise.register import package_model
from modelyard.optimise.sample import read_sample
from modelyard.runtimes.conformance import check
from modelyard.runtimes.sklearn import SklearnRuntime

TEXTS = (WHOLE.age % 3).map({0: "low", 1: "mid", 2: "high"})


def doubled(values: Any) -> Any:
    """A step of the user's own: skops does not know it."""
    return values * 2


def mixed() -> Any:
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    texts = make_pipeline(OneHotEncoder(handle_unknown="ignore"))
    return make_pipeline(
        make_column_transformer((numbers, ["age", "income"]), (texts, ["home"])), LogisticRegression(max_iter=500)
    )


def saved(model: Any, folder: Path, suffix: str = "skops") -> Path:
    path = folder / f"own.{suffix}"
    if suffix == "skops":
        skops.io.dump(model, path)
    else:
        joblib.dump(model, path)
    return path


@pytest.mark.parametrize(
    ("model", "y", "names", "trust"),
    [
        (make_pipeline(StandardScaler(), LogisticRegression()), BAD, ["probability"], False),
        (make_pipeline(StandardScaler(), LogisticRegression()), WHOLE.age % 3, ["label", "probabilities"], False),
        (make_pipeline(StandardScaler(), LogisticRegression()), TEXTS, ["label", "probabilities"], False),
        (LinearRegression(), WHOLE.income, ["prediction"], False),
        # Skops does not trust trees: their numbers are read by compiled code that does not check them.
        (RandomForestClassifier(5, max_depth=4, random_state=0), BAD, ["probability"], True),
        (RandomForestRegressor(5, max_depth=4, random_state=0), WHOLE.income, ["prediction"], True),
        (HistGradientBoostingClassifier(max_iter=5), BAD, ["probability"], True),
    ],
)
def test_a_skops_file_is_served_as_it_is(model: Any, y: Any, names: list[str], trust: bool, tmp_path: Path) -> None:
    path = saved(fitted(model, WHOLE, y), tmp_path)
    manifest, files = package_model(path, WHOLE, "own", runtime="native", trust=trust)
    assert files["model.skops"] == path.read_bytes()
    assert (manifest.runtime, manifest.framework, manifest.trusted) == ("sklearn", "sklearn", trust)
    runtime = SklearnRuntime(on_shelf((manifest, files), tmp_path / "shelf"))
    rows = WHOLE.to_numpy(np.float32)
    answers = runtime.predict({"rows": rows})
    assert list(answers) == names == [spec.name for spec in manifest.signature.outputs]
    if names == ["label", "probabilities"]:
        np.testing.assert_array_equal(answers["label"], model.predict(WHOLE.astype(np.float32)))
    assert [promise for promise in check(runtime, rows[:20]) if not promise.is_kept] == []


def test_texts_and_gaps_reach_the_pipeline_as_it_was_fitted(tmp_path: Path) -> None:
    model = fitted(mixed(), FRAME, BAD)
    artifact = on_shelf(package_model(saved(model, tmp_path), FRAME, "own", runtime="native"), tmp_path / "shelf")
    contract = artifact.manifest.contract
    assert artifact.manifest.signature.layout == "columns"
    rows = Encoder(contract).encode_rows(json_rows(read_sample(FRAME).table, contract))
    answer = SklearnRuntime(artifact).predict({"rows": rows})["probability"]
    np.testing.assert_allclose(answer, model.predict_proba(FRAME)[:, 1], atol=1e-6)


def test_a_skops_file_goes_the_onnx_way_when_that_is_exact(tmp_path: Path) -> None:
    path = saved(fitted(make_pipeline(StandardScaler(), LogisticRegression())), tmp_path)
    manifest, files = package_model(path, WHOLE, "own")
    assert (manifest.runtime, manifest.trusted) == ("onnx", False)
    assert "model.onnx" in files


def test_what_does_not_convert_exactly_names_the_next_step(tmp_path: Path) -> None:
    model = CalibratedClassifierCV(RandomForestClassifier(4, max_depth=3, random_state=0), method="isotonic", cv=2)
    path = saved(fitted(model), tmp_path)
    with pytest.raises((ParityFailed, InvalidInput), match="keep it with --runtime native"):
        package_model(path, WHOLE, "own", trust=True)
    assert package_model(path, WHOLE, "own", trust=True, runtime="native")[0].parity is not None


def test_types_that_skops_does_not_know_are_listed_and_refused(tmp_path: Path) -> None:
    path = saved(fitted(make_pipeline(FunctionTransformer(doubled), LogisticRegression())), tmp_path)
    with pytest.raises(InvalidInput, match=r"not trusted: .*doubled.*--trust"):
        package_model(path, WHOLE, "own", runtime="native")
    manifest, files = package_model(path, WHOLE, "own", trust=True, runtime="native")
    assert manifest.trusted
    assert "Trusted code" in files["card.md"].decode()
    artifact = on_shelf((manifest, files), tmp_path / "a")
    assert len(SklearnRuntime(artifact).predict({"rows": WHOLE.to_numpy(np.float32)})["probability"]) == len(WHOLE)
    untrusted = on_shelf((msgspec.structs.replace(manifest, trusted=False), files), tmp_path / "b")
    with pytest.raises(InvalidInput, match="not trusted"):
        SklearnRuntime(untrusted)


@pytest.mark.parametrize("suffix", ["joblib", "pkl"])
def test_a_pickle_is_kept_only_by_those_who_trust_it(suffix: str, tmp_path: Path) -> None:
    path = saved(fitted(RandomForestClassifier(3, max_depth=3, random_state=0)), tmp_path, suffix)
    with pytest.raises(InvalidInput, match="trust"):
        package_model(path, WHOLE, "own", runtime="native")
    manifest, files = package_model(path, WHOLE, "own", trust=True, runtime="native")
    assert manifest.trusted
    assert files["model.joblib"] == path.read_bytes()
    untrusted = on_shelf((msgspec.structs.replace(manifest, trusted=False), files), tmp_path / "b")
    with pytest.raises(InvalidInput, match="--trust"):
        SklearnRuntime(untrusted)


def test_a_damaged_file_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "own.skops"
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(InvalidInput, match="not a sound skops file"):
        package_model(path, WHOLE, "own")
