"""The gate: no version is ready before its runtime answers as the original did, on ordinary and on edge rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.artifacts.manifest import Manifest, Parity
from modelyard.artifacts.store import Shelf
from modelyard.contract.encoding import Encoder
from modelyard.contract.errors import ModelyardError
from modelyard.contract.features import Column, Contract
from modelyard.contract.tensor import Matrix
from modelyard.runtimes.base import Runtime
from modelyard.runtimes.catalogue import open_runtime
from modelyard.runtimes.forest import FILE

TOLERANCE = 1e-5
_NOTHING = 1e-30  # below it LightGBM takes a value for zero when it explains, though not when it predicts

Answer = Callable[[Matrix], NDArray[Any]]


class ParityFailed(ModelyardError):
    """The packaged model does not answer as the original does; it must not be served."""

    code = "invalid_input"


def prove(
    original: Answer,
    runtime: Runtime,
    matrix: Matrix,
    edge_rows: Matrix,
    tolerance: float = TOLERANCE,
    output: str = "probability",
    alone: bool = True,
) -> Parity:
    """The proof that `runtime` answers as `original` on all rows: in batches and, for some, one by one.

    matrix, edge_rows: finished rows, float32[n, features]; both sides see the very same float32 values. A difference is
    counted against the answer's size, or the median size of the answers to `matrix` where that is larger, and at least
    against one: absolutely for all probabilities. alone: whether a row gets the same answer alone as among others;
    else both sides are asked alone. Raises ParityFailed with the largest difference.
    """
    return compare(original, lambda rows: runtime.predict({"rows": rows})[output], matrix, edge_rows, tolerance, alone)


def prove_ways(
    check: Callable[[Runtime], Parity | None], shelf: Shelf, manifest: Manifest, files: Mapping[str, bytes]
) -> Parity | None:
    """The proof of what is served and, where tables answer in the place of a graph, of that graph: the worse one.

    The graph is what leaves for other places, so it has to be as equal as what answers here. Raises what `check` does.
    """
    ways = [dict(files)]
    if FILE in files:
        ways.append({name: data for name, data in files.items() if name != FILE})
    proofs = []
    for way in ways:
        runtime = open_runtime(shelf.open(shelf.put(manifest, way)))
        try:
            proofs.append(check(runtime))
        finally:
            runtime.close()
    return max(filter(None, proofs), key=lambda proof: proof.max_error, default=None)


def compare(
    original: Answer, packaged: Answer, matrix: Matrix, edge_rows: Matrix, tolerance: float, alone: bool = True
) -> Parity:
    """The proof for any two ways of answering, as `prove` says."""
    rows = np.concatenate([matrix, edge_rows]) if len(edge_rows) else matrix
    if not len(rows):
        raise ParityFailed("parity needs at least one row; give a sample")
    wanted = np.asarray(original(rows), dtype=np.float64)
    usual = _usual_size(wanted[: len(matrix)])
    worst = _difference(wanted, np.asarray(packaged(rows), dtype=np.float64), usual, len(matrix), tolerance)
    for row in np.unique(np.linspace(0, len(rows) - 1, 50).astype(int)):
        single = rows[row : row + 1]
        one = np.asarray(packaged(single), dtype=np.float64)
        same = wanted[row : row + 1] if alone else np.asarray(original(single), dtype=np.float64)
        worst = max(worst, _difference(same, one, usual, len(matrix) - row, tolerance))
    return Parity(rows=len(rows), edge_rows=len(edge_rows), tolerance=tolerance, max_error=worst)


def edge_rows(contract: Contract, typical: Matrix, cuts: Mapping[int, Sequence[float]] | None = None) -> Matrix:
    """Rows at the edges of what the contract accepts, finished, float32[n, features].

    Each nullable column missing and all of them at once; each category and one unseen; each end of each range; and
    every tree threshold in `cuts` (feature position -> thresholds), exactly and one float32 to either side.
    typical: one raw row, float32[1, features], that the others start from.
    """
    encoder = Encoder(contract)
    rows = [typical[0]]
    nothing = typical[0].copy()
    for position, column in enumerate(encoder.features):
        values = [*_edge_values(column), *itertools.chain.from_iterable(map(_around, (cuts or {}).get(position, ())))]
        for value in values:
            if _accepts(column, value):
                row = typical[0].copy()
                row[position] = value
                rows.append(row)
        if _takes_missing(column):
            nothing[position] = np.nan
    rows.append(nothing)
    return encoder.finish(np.unique(np.array(rows, dtype=np.float32), axis=0))


def _usual_size(answers: NDArray[np.float64]) -> NDArray[np.float64]:
    """The median size of ordinary answers, for each number of an answer; at least one.

    A sum of float32 is as exact as what is added: an answer near zero is no more exact than its neighbours.
    """
    if not len(answers):
        return np.ones(1)
    sizes = np.where(np.isfinite(answers), np.abs(answers), 0.0)
    usual: NDArray[np.float64] = np.maximum(1.0, np.median(sizes, axis=0))
    return usual


def _difference(
    wanted: NDArray[np.float64], got: NDArray[np.float64], usual: NDArray[np.float64], ordinary: int, tolerance: float
) -> float:
    if wanted.shape != got.shape:
        raise ParityFailed(f"the packaged model answers shape {got.shape} where the original answers {wanted.shape}")
    if not np.array_equal(np.isfinite(wanted), np.isfinite(got)):
        raise ParityFailed("the packaged model and the original differ in which rows have a finite answer")
    finite = np.isfinite(wanted)
    target = np.where(finite, wanted, 0.0)
    errors = np.abs(target - np.where(finite, got, 0.0)) / np.maximum(usual, np.abs(target))
    worst = float(errors.max(initial=0.0))
    if worst > tolerance:
        off = np.flatnonzero(errors.reshape(len(errors), -1).max(axis=1) > tolerance)
        kind = "edge rows (missing, unseen or extreme values)" if off.min() >= ordinary else "ordinary rows"
        raise ParityFailed(
            f"the packaged model differs from the original by up to {worst:.3g} (allowed: {tolerance:.3g}) on "
            f"{len(off)} of {len(wanted)} rows, among them {kind}; it is not served"
        )
    return worst


def _edge_values(column: Column) -> list[float]:
    if column.kind == "category":
        return [*range(len(column.categories)), np.nan]
    if column.kind == "boolean":
        return [0.0, 1.0, np.nan]
    limits = [limit for limit in (column.minimum, column.maximum) if limit is not None]
    clips = list(column.clip or ())
    return [0.0, 1.0, -1.0, *limits, *itertools.chain.from_iterable(map(_around, clips)), np.nan]


def _around(value: float) -> list[float]:
    middle = np.float32(value)
    with np.errstate(over="ignore"):
        below, above = np.nextafter(middle, np.float32(-np.inf)), np.nextafter(middle, np.float32(np.inf))
    return [float(below), float(middle), float(above)]


def _accepts(column: Column, value: float) -> bool:
    if np.isnan(value):
        return _takes_missing(column)
    if np.isinf(value) or 0 < abs(value) < _NOTHING:
        return False
    if column.kind == "category":
        return 0 <= value < len(column.categories) and value == int(value)
    if column.kind in ("integer", "boolean") and value != np.floor(value):
        return False
    low = -np.inf if column.minimum is None else column.minimum
    high = np.inf if column.maximum is None else column.maximum
    return bool(low <= value <= high)


def _takes_missing(column: Column) -> bool:
    """Whether NaN can reach the model: a missing value, or a category that the contract does not list."""
    return column.nullable or (column.kind == "category" and column.unseen == "missing")
