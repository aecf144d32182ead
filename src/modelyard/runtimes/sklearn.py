"""Fitted scikit-learn estimators, from skops files (or pickles that were trusted); in model workers only."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from modelyard.artifacts.store import Artifact
from modelyard.contract.errors import InvalidInput
from modelyard.contract.features import Contract
from modelyard.contract.tensor import Matrix, Tensors
from modelyard.runtimes.answers import named_answers
from modelyard.runtimes.histograms import rounded

SAFE_FILE = "model.skops"
PICKLE = "model.joblib"
# Skops trusts no type that it does not know; this one names how numbers lie in memory, and runs nothing.
HARMLESS = frozenset(("numpy.dtype",))


class SklearnRuntime:
    """One estimator. A model that was fitted on named columns gets a data frame, others the contract's matrix."""

    is_thread_safe = False

    def __init__(self, artifact: Artifact, threads: int = 1) -> None:
        manifest = artifact.manifest
        if SAFE_FILE in manifest.files:
            model = read_skops(artifact.read(SAFE_FILE), manifest.trusted)
        elif manifest.trusted:
            model = read_pickle(artifact.read(PICKLE))
        else:
            raise InvalidInput("a pickle is served only if it was registered with --trust")
        self._model = rounded(model)
        self._manifest = manifest
        self._limits = threadpool_limits(threads)

    def predict(self, inputs: Tensors) -> Tensors:
        """See `Runtime.predict`."""
        by_name = self._manifest.framework == "sklearn"
        answers = estimator_answers(self._model, inputs["rows"], self._manifest.contract, by_name)
        return named_answers(answers, self._manifest)

    def contributions(self, inputs: Tensors) -> Matrix | None:
        """None: not every estimator can explain itself exactly."""
        return None

    def close(self) -> None:
        """Free the estimator."""
        self._limits.restore_original_limits()
        del self._model


def read_skops(data: bytes, trusted: bool = False) -> Any:
    """The estimator in a skops file. Raises InvalidInput that lists the types that skops does not trust, unless
    `trusted`, or says that it is no such file."""
    import skops.io

    try:
        known = skops.io.get_untrusted_types(data=data)
        unknown = sorted(set(known) - HARMLESS)
        if unknown and not trusted:
            raise InvalidInput(
                f"the skops file holds types that are not trusted: {', '.join(unknown[:20])}; if you know them, say "
                "that you trust the file (--trust)"
            )
        return skops.io.loads(data, trusted=known)
    except InvalidInput:
        raise
    except Exception as error:  # a damaged file fails in the archive, in JSON, or in any of the types
        raise InvalidInput(f"this is not a sound skops file: {type(error).__name__}") from None


def untrusted_types(data: bytes) -> list[str]:
    """The types in a skops file that skops does not trust."""
    import skops.io

    return sorted(set(skops.io.get_untrusted_types(data=data)) - HARMLESS)


def read_pickle(data: bytes) -> Any:
    """The object in a pickle or joblib file. This runs whatever code is in it."""
    import joblib

    return joblib.load(io.BytesIO(data))


def estimator_answers(model: Any, rows: Matrix, contract: Contract, by_name: bool = True) -> NDArray[Any]:
    """What an estimator answers to the contract's rows: probabilities, [n, classes], or predictions, [n] or [n, k].

    by_name: give a model that was fitted on named columns a data frame; boosters take codes for categories.
    """
    table = frame(rows, contract) if by_name and hasattr(model, "feature_names_in_") else rows
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unknown categories, feature names: both are asked for on purpose
        if hasattr(model, "predict_proba"):
            return np.asarray(model.predict_proba(table))
        return np.asarray(model.predict(table), dtype=np.float64)


def frame(rows: Matrix, contract: Contract) -> Any:
    """A matrix as the data frame that a pipeline knows: names, texts, whole numbers."""
    import pandas

    columns: dict[str, Any] = {}
    for position, column in enumerate(contract.features):
        values = rows[:, position].astype(np.float64)
        missing = np.isnan(values)
        if column.kind == "category":
            names = np.array([*column.categories, np.nan], dtype=object)
            columns[column.name] = names[np.where(missing, len(column.categories), values).astype(np.int64)]
        elif column.kind == "integer" and not missing.any():
            columns[column.name] = values.astype(np.int64)
        elif column.kind == "boolean" and not missing.any():
            columns[column.name] = values.astype(bool)
        else:
            columns[column.name] = values
    return pandas.DataFrame(columns).astype({c.name: object for c in contract.features if c.kind == "category"})
