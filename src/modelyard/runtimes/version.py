"""A loaded version: its artifact, its encoder, its runtime and its decision, as one thing that answers matrices.

The gateway and `modelyard.load` both answer through this class, so they cannot disagree.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from modelyard.artifacts.store import Artifact
from modelyard.contract.encoding import Encoder
from modelyard.contract.errors import ModelFailed
from modelyard.contract.features import Column
from modelyard.contract.tensor import Matrix, Tensors
from modelyard.runtimes.catalogue import open_runtime

WARM_S = 0.5  # what measuring a version may take, the last call not counted
WARM_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def _span(column: Column) -> tuple[float, float]:
    """Between which numbers most values lie, as far as the contract knows."""
    if column.clip is not None:
        return column.clip
    if column.bins:
        return column.bins[0], column.bins[-1]
    if column.minimum is not None and column.maximum is not None:
        return column.minimum, column.maximum
    middle = column.typical or 0.0
    return middle - 1.0, middle + 1.0


class LoadedVersion:
    """One version in memory. `predict` and `explain` take raw contract matrices; cleaning happens inside."""

    def __init__(self, artifact: Artifact, threads: int = 1) -> None:
        self.artifact = artifact
        self.manifest = artifact.manifest
        self.encoder = Encoder(artifact.manifest.contract)
        self.decision = artifact.manifest.decision
        self.runtime = open_runtime(artifact, threads)

    def predict(self, matrix: Matrix) -> Tensors:
        """Answer a batch, float32[n, features]; outputs have n rows each, or ModelFailed says that they have not."""
        outputs = self.runtime.predict({"rows": self.encoder.finish(matrix)})
        for name, values in outputs.items():
            if len(values) != len(matrix):
                raise ModelFailed(f"output {name!r} has {len(values)} rows for {len(matrix)} rows of input")
        return outputs

    def explain(self, matrix: Matrix) -> Matrix | None:
        """Log-odds of each feature and, last, the base: float32[n, features + 1]; None if it cannot explain."""
        return self.runtime.contributions({"rows": self.encoder.finish(matrix)})

    def warm(self, sizes: Sequence[int] = WARM_SIZES, rounds: int = 9) -> dict[int, float]:
        """Call the model before traffic does; return seconds for each batch size (the best of `rounds`).

        A slow model is measured up to the size at which `WARM_S` is spent: nobody waits longer for its deployment.
        """
        rows = self.varied_rows(max(sizes))
        curve: dict[int, float] = {}
        until = time.perf_counter() + WARM_S
        for size in sizes:
            batch = rows[:size]
            best = float("inf")
            for _ in range(rounds):
                start = time.perf_counter()
                self.predict(batch)
                best = min(best, time.perf_counter() - start)
                if time.perf_counter() > until:
                    break
            curve[size] = best
            if time.perf_counter() > until:
                break
        return curve

    def explain_cost(self, rows: int = 8, rounds: int = 3) -> float:
        """Seconds that explaining one row takes, measured on `rows` at once (the best of `rounds`)."""
        batch = self.varied_rows(rows)
        best = float("inf")
        for _ in range(rounds):
            start = time.perf_counter()
            self.explain(batch)
            best = min(best, time.perf_counter() - start)
        return best / rows

    def varied_rows(self, count: int) -> Matrix:
        """Raw rows unlike each other, float32[count, features], the same each time: equal rows flatter a tree model.

        Numbers lie between the fitted clips (or around the typical value), categories take turns, some are missing.
        """
        random = np.random.default_rng(0)
        rows = np.repeat(self.typical_row(), count, axis=0)
        for position, column in enumerate(self.encoder.features):
            if column.kind in ("category", "boolean"):
                rows[:, position] = random.integers(0, max(2, len(column.categories)), count)
            else:
                rows[:, position] = random.uniform(*_span(column), count)
            if column.nullable:
                rows[random.random(count) < 0.1, position] = np.nan
        return rows

    def typical_row(self) -> Matrix:
        """One raw row that the contract accepts: its example, or typical values."""
        contract = self.manifest.contract
        if contract.example:
            return self.encoder.encode_rows([contract.example])
        values = [column.typical if column.typical is not None else 0.0 for column in self.encoder.features]
        return np.array([values], dtype=np.float32)

    def close(self) -> None:
        """Free the runtime; no call follows."""
        self.runtime.close()
