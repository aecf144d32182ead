"""Models from scikit-learn, LightGBM and XGBoost: what they are, what they take, and what they answer.

Boosted classifiers of two classes and plain boosted regressions (LightGBM, XGBoost, scikit-learn's histogram boosting)
are read tree by tree, exactly. Everything else goes through skl2onnx and onnxmltools, and parity decides.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.artifacts.manifest import Task
from modelyard.contract.errors import InvalidInput
from modelyard.contract.features import Contract
from modelyard.contract.tensor import Matrix
from modelyard.optimise.histograms import histogram_categories, read_histograms
from modelyard.optimise.sample import Sample
from modelyard.optimise.trees import Forest, read_lightgbm, read_xgboost, xgboost_categories
from modelyard.runtimes.histograms import is_histogram_boosting, rounded, steps_of
from modelyard.runtimes.sklearn import estimator_answers, read_pickle, read_skops

_PICKLES = (".pkl", ".pickle", ".joblib")


class Brought(msgspec.Struct, frozen=True):
    """A model as its maker knows it."""

    model: Any
    framework: str  # sklearn, lightgbm, xgboost
    task: Task
    columns: list[str]  # that it takes, in order
    classes: tuple[str, ...] = ()
    categories: dict[str, tuple[tuple[str, ...], bool]] = {}  # column -> categories, and whether it takes others
    forest: Forest | None = None  # if it could be read tree by tree
    unreadable: str = ""  # why not, where no other way of converting is left

    def answers(self, contract: Contract) -> Callable[[Matrix], NDArray[np.floating]]:
        """What the model itself answers to a matrix: probabilities (of the second of two classes) or predictions."""
        return _original(self, contract)


def load_estimator(path: Path, trust: bool) -> Any:
    """The model in a file. A pickle runs whatever code is in it, so it is refused unless `trust`."""
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        if not trust:
            raise InvalidInput(
                f"{path.name} is a pickle, and opening one runs the code in it; if you made it yourself, say that you "
                "trust it (--trust), or save the model with skops, as ONNX, LightGBM text or XGBoost JSON"
            )
        return read_pickle(path.read_bytes())
    if suffix == ".skops":
        return read_skops(path.read_bytes(), trust)
    if suffix in (".txt", ".lgb"):
        import lightgbm

        try:
            return lightgbm.Booster(model_str=path.read_text("utf-8"))
        except (lightgbm.basic.LightGBMError, UnicodeDecodeError):
            raise InvalidInput(f"{path.name} is not a LightGBM model saved as text") from None
    if suffix in (".json", ".ubj"):
        import xgboost

        booster = xgboost.Booster()
        try:
            booster.load_model(bytearray(path.read_bytes()))
        except xgboost.core.XGBoostError:
            raise InvalidInput(f"{path.name} is not an XGBoost model") from None
        return booster
    raise InvalidInput(
        f"{path.name}: known are .onnx, .txt and .lgb (LightGBM), .json and .ubj (XGBoost), .skops, "
        f"{', '.join(_PICKLES)}"
    )


def describe_estimator(model: Any, sample: Sample, target: str | None) -> Brought:
    """What a model is and takes. Raises InvalidInput for models that are unknown here or not fitted.

    A finished search for parameters (GridSearchCV and the like) is the estimator that it found best.
    """
    model = getattr(model, "best_estimator_", model)
    kind = type(model).__module__.partition(".")[0]
    bare = [name for name in sample.table.columns if name != target]
    if kind == "lightgbm":
        return _lightgbm(model, sample, bare)
    if kind == "xgboost":
        return _xgboost(model, bare)
    if not hasattr(model, "predict") or not hasattr(model, "get_params"):
        raise InvalidInput("a model is an ONNX file, or a fitted scikit-learn, LightGBM or XGBoost estimator")
    return _sklearn(model, bare)


# --- what a model is --------------------------------------------------------------------------------------------


def _lightgbm(model: Any, sample: Sample, bare: list[str]) -> Brought:
    booster = model if hasattr(model, "dump_model") else _fitted(model, "booster_")
    dump = booster.dump_model()
    own = list(dump["feature_names"])
    columns = _columns([] if all(n == f"Column_{i}" for i, n in enumerate(own)) else own, len(own), bare)
    categories: dict[str, tuple[tuple[str, ...], bool]] = {}
    levels = dump.get("pandas_categorical") or []
    named = [name for name in columns if name in sample.categories] or [
        name
        for name in columns
        if not sample.table[name].dtype.is_numeric() and str(sample.table[name].dtype) != "Boolean"
    ]
    if len(levels) != len(named):
        raise InvalidInput(
            f"the LightGBM model knows {len(levels)} categorical columns and the sample shows {len(named)}; give the "
            "sample as the pandas frame that the model was trained with"
        )
    for name, known in zip(named, levels, strict=True):
        categories[name] = (tuple(str(level) for level in known), True)
    classes = tuple(str(name) for name in getattr(model, "classes_", ()))
    objective = str(dump.get("objective", "")).partition(" ")[0]
    task: Task = (
        "binary" if objective == "binary" else "multiclass" if objective.startswith("multiclass") else "regression"
    )
    forest, unreadable = None, ""
    try:
        forest = read_lightgbm(dump)
    except InvalidInput as error:
        unreadable = str(error) if not hasattr(model, "get_params") or categories else ""
    classes = classes or _numbered(task, int(dump.get("num_class", 1)))
    return Brought(model, "lightgbm", task, columns, classes, categories, forest, unreadable)


def _xgboost(model: Any, bare: list[str]) -> Brought:
    best = best_booster(model)
    saved = json.loads(best.save_raw("json"))
    objective = saved["learner"]["objective"]["name"]
    width = int(saved["learner"]["learner_model_param"]["num_feature"])
    columns = _columns(list(saved["learner"].get("feature_names") or ()), width, bare)
    task: Task = (
        "binary" if objective == "binary:logistic" else "multiclass" if objective.startswith("multi:") else "regression"
    )
    # Of all rounds: a booster that is cut to its best ones has lost the names.
    whole = saved if best is model else json.loads(model.get_booster().save_raw("json"))
    categories = {columns[feature]: (levels, False) for feature, levels in xgboost_categories(whole).items()}
    forest, unreadable = None, ""
    try:
        forest = read_xgboost(saved)
    except InvalidInput as error:
        unreadable = str(error) if not hasattr(model, "get_params") or categories else ""
    classes = tuple(str(name) for name in getattr(model, "classes_", ())) if task != "regression" else ()
    classes = classes or _numbered(task, int(saved["learner"]["learner_model_param"]["num_class"]))
    return Brought(model, "xgboost", task, columns, classes, categories, forest, unreadable)


def best_booster(model: Any) -> Any:
    """The trees that an XGBoost model predicts with: estimators that stopped early use those up to the best round."""
    if hasattr(model, "save_raw"):
        return model
    booster = _fitted_xgboost(model)
    return booster[: model.best_iteration + 1] if hasattr(model, "best_iteration") else booster


def _numbered(task: Task, count: int) -> tuple[str, ...]:
    """The classes of a booster, which knows them by number only."""
    return {"binary": ("0", "1"), "multiclass": tuple(map(str, range(count)))}.get(task, ())


def _sklearn(model: Any, bare: list[str]) -> Brought:
    columns = _columns(
        [str(n) for n in getattr(model, "feature_names_in_", ())], getattr(model, "n_features_in_", None), bare
    )
    if hasattr(model, "classes_") and hasattr(model, "predict_proba"):
        classes = tuple(str(name) for name in model.classes_)
        task: Task = "binary" if len(classes) == 2 else "multiclass"
    elif hasattr(model, "classes_"):
        raise InvalidInput(f"{type(model).__name__} gives no probabilities; wrap it or train one that does")
    else:
        classes, task = (), "regression"
    model, forest = rounded(model), None
    categories = dict(_encoded_columns(model, columns))
    if is_histogram_boosting(model):
        categories |= {columns[feature]: (levels, True) for feature, levels in histogram_categories(model).items()}
        with contextlib.suppress(InvalidInput):  # the converter is the other way
            forest = read_histograms(model)
    return Brought(model, "sklearn", task, columns, classes, categories, forest)


def _fitted(model: Any, attribute: str) -> Any:
    try:
        return getattr(model, attribute)
    except Exception:  # each framework has its own error for "not fitted"
        raise InvalidInput(f"this {type(model).__name__} is not fitted; fit it first") from None


def _fitted_xgboost(model: Any) -> Any:
    try:
        return model.get_booster()
    except Exception:  # XGBoost raises scikit-learn's NotFittedError or its own, by version
        raise InvalidInput(f"this {type(model).__name__} is not fitted; fit it first") from None


def _columns(own: list[str], width: int | None, bare: list[str]) -> list[str]:
    """The columns that a model takes: by its own names, else the sample's, if their number fits."""
    if own:
        if missing := [name for name in own if name not in bare]:
            raise InvalidInput(f"the sample lacks columns that the model takes: {', '.join(missing[:20])}")
        return own
    if width is None:
        raise InvalidInput("this model is not fitted; fit it first")
    if width != len(bare):
        raise InvalidInput(f"the model takes {width} columns and the sample has {len(bare)}; give just those, in order")
    return bare


def _encoded_columns(model: Any, columns: list[str]) -> list[tuple[str, tuple[tuple[str, ...], bool]]]:
    """The categories that a pipeline's encoders learned, by column, and whether they take others."""
    found = []
    for step in steps_of(model):
        for _, inner, names in getattr(step, "transformers_", ()):
            encoder = next((part for part in parts_of(inner) if hasattr(part, "categories_")), None)
            if encoder is None:
                continue
            listed = [
                columns[name] if isinstance(name, int | np.integer) else str(name) for name in np.atleast_1d(names)
            ]
            # Behind an imputer a missing value is filled in, so an unknown category may not pass as one.
            filled = any(type(part).__name__ == "SimpleImputer" for part in parts_of(inner))
            others = getattr(encoder, "handle_unknown", "error") != "error" and not filled
            for name, levels in zip(listed, encoder.categories_, strict=False):
                texts = tuple(level for level in levels if isinstance(level, str) and level)
                if texts:
                    found.append((name, (texts, others)))
    return found


def selects_columns(model: Any) -> bool:
    """Whether a pipeline tells its columns apart."""
    return any(hasattr(step, "transformers_") for step in steps_of(model))


def parts_of(step: Any) -> list[Any]:
    """The same of a step inside a column transformer."""
    return [part for _, part in step.steps] if hasattr(step, "steps") else [step]


# --- what it answers --------------------------------------------------------------------------------------------


def _original(brought: Brought, contract: Contract) -> Callable[[Matrix], NDArray[np.floating]]:
    model = brought.model
    if brought.framework == "lightgbm":
        booster = model if hasattr(model, "dump_model") else model.booster_
        return lambda rows: np.asarray(booster.predict(rows))
    if brought.framework == "xgboost" and (brought.categories or not hasattr(model, "get_params")):
        best = best_booster(model)
        return lambda rows: np.asarray(best.predict(_coded(best, rows)))

    def answer(rows: Matrix) -> NDArray[np.floating]:
        table = _named(model, rows) if brought.framework == "xgboost" else rows
        both = estimator_answers(model, table, contract, by_name=brought.framework == "sklearn")
        return both[:, 1] if brought.task == "binary" and both.ndim == 2 else both

    return answer


def _coded(booster: Any, rows: Matrix) -> Any:
    """Rows as a booster takes them, categories as their codes."""
    import xgboost

    return xgboost.DMatrix(
        rows, feature_names=booster.feature_names, feature_types=booster.feature_types, enable_categorical=True
    )


def _named(model: Any, rows: Matrix) -> Any:
    """Rows under the names of their columns, which XGBoost's linear boosters insist on."""
    import pandas

    names = model.get_booster().feature_names
    return rows if names is None else pandas.DataFrame(rows, columns=names)
