"""A loaded version: its artifact, its encoder, its runtime and its decision, as one thing that answers batches.

The gateway and `modelyard.load` both answer through this class, so they cannot disagree.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.artifacts.store import Artifact
from modelyard.contract.encoding import Encoder
from modelyard.contract.errors import ModelFailed
from modelyard.contract.features import Column
from modelyard.contract.signature import TensorSpec
from modelyard.contract.tensor import NUMPY_TYPES, Inputs, Matrix, Tensors, joined, row_slice
from modelyard.runtimes.catalogue import open_runtime

WARM_S = 0.25  # what measuring a version may take, the first call not counted
WARM_ROWS = 2048  # different rows to measure with
WARM_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
FREE_DIMENSION = 16  # of tensors that are made up to measure with


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


def _made_up(spec: TensorSpec, count: int, random: np.random.Generator) -> NDArray[Any]:
    first, *rest = spec.shape
    shape = [count if first < 0 else first, *(FREE_DIMENSION if size < 0 else size for size in rest)]
    dtype = NUMPY_TYPES[spec.datatype]
    if dtype.kind == "O":
        return np.full(shape, "text", dtype=object)
    if dtype.kind in "iub":
        return random.integers(0, 2, shape).astype(dtype)  # small enough for whatever the numbers stand for
    return random.normal(size=shape).astype(dtype)


class LoadedVersion:
    """One version in memory. A table's takes raw contract matrices (cleaning happens inside), others their tensors."""

    def __init__(self, artifact: Artifact, threads: int = 1) -> None:
        self.artifact = artifact
        self.manifest = artifact.manifest
        self.encoder = Encoder(artifact.manifest.contract)
        self.decision = artifact.manifest.decision
        self.is_table = artifact.manifest.signature.layout != "tensors"
        self.runtime = open_runtime(artifact, threads)

    def predict(self, inputs: Inputs) -> Tensors:
        """Answer a batch: float32[n, features], or tensors whose first axis is n where rows are independent.

        Every output has n rows, or ModelFailed says that it has not.
        """
        if isinstance(inputs, dict):
            outputs = self.runtime.predict(inputs)
            if not self.manifest.independent_rows:
                return outputs
            rows = len(next(iter(inputs.values())))
        else:
            outputs = self.runtime.predict({"rows": self.encoder.finish(inputs)})
            rows = len(inputs)
        for name, values in outputs.items():
            if len(values) != rows:
                raise ModelFailed(f"output {name!r} has {len(values)} rows for {rows} rows of input")
        return outputs

    def predict_joined(self, parts: Sequence[Inputs]) -> Tensors:
        """Answer several callers' rows as one batch; their rows follow each other in the outputs."""
        return self.predict(joined(parts))

    def explain(self, matrix: Matrix) -> Matrix | None:
        """Log-odds of each feature and, last, the base: float32[n, features + 1]; None if it cannot explain."""
        if not self.is_table:
            return None
        return self.runtime.contributions({"rows": self.encoder.finish(matrix)})

    def warm(self, sizes: Sequence[int] = WARM_SIZES, rounds: int = 15) -> dict[int, float]:
        """Call the model before traffic does; return seconds for each batch size (a good one of `rounds`).

        Each round takes other rows: the processor learns the way of a few rows through a forest by heart, and a small
        batch that comes again and again looks twice as cheap as it is.
        A slow model is measured up to the size for which `WARM_S` is enough: nobody waits longer for its deployment.
        """
        curve: dict[int, float] = {}
        began = now = time.perf_counter()
        joins = self.manifest.independent_rows
        count = WARM_ROWS if joins else 1
        rows: Inputs = self.varied_rows(count) if self.is_table else self.varied_tensors(count)
        at = 0
        for size in sizes if joins else sizes[:1]:
            seconds: list[float] = []
            first = time.perf_counter()
            while len(seconds) < rounds:
                at = at + size if at + 2 * size <= WARM_ROWS else 0
                batch = row_slice(rows, at, at + size) if joins else rows
                start = time.perf_counter()
                self.predict(batch)
                now = time.perf_counter()
                seconds.append(now - start)
                if now - first > WARM_S / len(sizes):
                    break
            curve[size] = sorted(seconds)[len(seconds) // 4]
            if now - began + 2 * curve[size] > WARM_S:  # the next size takes about twice as long
                break
        return curve

    def explain_cost(self, rows: int = 8, rounds: int = 3) -> float:
        """Seconds that explaining one row takes, measured on `rows` at once (the best of `rounds`)."""
        if not self.is_table:
            return 0.0
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

    def varied_tensors(self, count: int) -> Tensors:
        """Tensors as the signature wants them, the same each time: the version's own example repeated, or made up; then
        free dimensions are `FREE_DIMENSION`."""
        example: Tensors | None = getattr(self.runtime, "example", None)
        if example is not None:
            return {name: np.resize(values, (count, *values.shape[1:])) for name, values in example.items()}
        random = np.random.default_rng(0)
        return {spec.name: _made_up(spec, count, random) for spec in self.manifest.signature.inputs}

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
