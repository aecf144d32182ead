"""XGBoost models as XGBoost itself answers them; in model workers only."""

from __future__ import annotations

import json

import numpy as np
import xgboost

from modelyard.artifacts.store import Artifact
from modelyard.contract.errors import InvalidInput
from modelyard.contract.tensor import Matrix, Tensors
from modelyard.runtimes.answers import named_answers

FILES = ("model.ubj", "model.json")


class XgboostRuntime:
    """One booster, read from JSON or UBJSON. It takes the contract's matrix as it is, NaN for missing."""

    is_thread_safe = False

    def __init__(self, artifact: Artifact, threads: int = 1) -> None:
        name = next((name for name in FILES if name in artifact.manifest.files), FILES[0])
        self._booster = xgboost.Booster({"nthread": threads, "verbosity": 0})
        try:
            self._booster.load_model(bytearray(artifact.read(name)))
        except xgboost.core.XGBoostError:
            raise InvalidInput(f"{name} is not an XGBoost model") from None
        self._booster.set_param({"nthread": threads})
        self._manifest, self._threads = artifact.manifest, threads
        # Read in place a small batch is answered in half the time; linear boosters cannot.
        self._in_place = json.loads(self._booster.save_config())["learner"]["gradient_booster"]["name"] != "gblinear"

    def predict(self, inputs: Tensors) -> Tensors:
        """See `Runtime.predict`."""
        if self._in_place:
            answers = self._booster.inplace_predict(inputs["rows"], validate_features=False)
        else:
            answers = self._booster.predict(self._matrix(inputs), validate_features=False)
        return named_answers(np.asarray(answers), self._manifest)

    def contributions(self, inputs: Tensors) -> Matrix | None:
        """Exact TreeSHAP values; see `Runtime.contributions`."""
        if self._manifest.task != "binary":
            return None
        shares = self._booster.predict(self._matrix(inputs), pred_contribs=True, validate_features=False)
        return np.asarray(shares, dtype=np.float32)

    def close(self) -> None:
        """Free the booster."""
        del self._booster

    def _matrix(self, inputs: Tensors) -> xgboost.DMatrix:
        return xgboost.DMatrix(inputs["rows"], nthread=self._threads)
