"""LightGBM models as LightGBM itself answers them; in model workers only, for its import alone brings two others."""

from __future__ import annotations

import re

import lightgbm
import numpy as np

from modelyard.artifacts.store import Artifact
from modelyard.contract.errors import InvalidInput
from modelyard.contract.tensor import Matrix, Tensors
from modelyard.runtimes.answers import named_answers

FILE = "model.txt"
ALONE_ROWS = 128  # up to so many, one thread has answered before a second has begun


class LightGbmRuntime:
    """One booster, read from text. It takes the contract's matrix as it is: categories as codes, NaN for missing."""

    is_thread_safe = False

    def __init__(self, artifact: Artifact, threads: int = 1) -> None:
        try:
            self._booster = lightgbm.Booster(model_str=artifact.read(FILE).decode())
        except lightgbm.basic.LightGBMError:
            raise InvalidInput(f"{FILE} is not a LightGBM model") from None
        self._manifest, self._threads = artifact.manifest, threads
        head = artifact.read(FILE)[:100_000].decode(errors="replace")
        slope = re.search(r"^objective=binary sigmoid:(\S+)", head, re.MULTILINE)
        self._slope = float(slope[1]) if slope else 1.0
        if re.search(r"^average_output$", head, re.MULTILINE):  # contributions are of the sum, answers of the mean
            self._slope /= self._booster.num_trees()

    def predict(self, inputs: Tensors) -> Tensors:
        """See `Runtime.predict`."""
        answers = self._booster.predict(inputs["rows"], num_threads=self._threads_for(inputs["rows"]))
        return named_answers(np.asarray(answers), self._manifest)

    def contributions(self, inputs: Tensors) -> Matrix | None:
        """Exact TreeSHAP values; see `Runtime.contributions`."""
        if self._manifest.task != "binary":
            return None
        rows = inputs["rows"]
        shares = self._booster.predict(rows, num_threads=self._threads_for(rows), pred_contrib=True)
        return (np.asarray(shares) * self._slope).astype(np.float32)

    def _threads_for(self, rows: Matrix) -> int:
        return 1 if len(rows) <= ALONE_ROWS else self._threads

    def close(self) -> None:
        """Free the booster."""
        del self._booster
