"""The conformance kit: what `Runtime` promises, measured on a loaded version. The same kit for ours and a user's.

A promise that is not kept is a reason not to serve: above all, that a row's answer does not depend on its neighbours,
since the gateway joins callers' rows into batches.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from modelyard.contract.errors import ModelFailed
from modelyard.contract.tensor import Matrix, Tensors
from modelyard.runtimes.base import Runtime

# Absolute up to answers of size 1, relative above, as the parity gate has it: float32 sums may be taken in another
# order for another batch size.
TOLERANCE = 1e-5
_THREADS = 4


class Promise(NamedTuple):
    """One promise, whether it was kept, and what was seen."""

    name: str
    is_kept: bool
    seen: str


def check(runtime: Runtime, rows: Matrix) -> list[Promise]:
    """Every promise, measured on finished contract rows, float32[n >= 2, features]; some of them should be unusual."""
    if len(rows) < 2:
        raise ValueError("the kit needs at least two rows")
    whole = runtime.predict({"rows": rows})
    found = [
        _has_one_answer_for_each_row(whole, len(rows)),
        _repeats_itself(runtime, rows, whole),
        _rows_are_independent(runtime, rows, whole),
        _order_does_not_matter(runtime, rows, whole),
        _leaves_its_input_alone(runtime, rows),
        _explanations_add_up(runtime, rows, whole),
    ]
    if runtime.is_thread_safe:
        found.append(_threads_agree(runtime, rows, whole))
    return found


def require(runtime: Runtime, rows: Matrix) -> None:
    """Raises ModelFailed that names the first broken promise."""
    for promise in check(runtime, rows):
        if not promise.is_kept:
            raise ModelFailed(f"the version does not conform: {promise.name}: {promise.seen}")


def _has_one_answer_for_each_row(outputs: Tensors, count: int) -> Promise:
    lengths = {name: len(values) for name, values in outputs.items()}
    kept = bool(lengths) and set(lengths.values()) == {count}
    return Promise("every output has one answer for each row", kept, f"{lengths} for {count} rows")


def _repeats_itself(runtime: Runtime, rows: Matrix, whole: Tensors) -> Promise:
    difference = _difference(whole, runtime.predict({"rows": rows}))
    return Promise("the same rows get the same answer twice", difference == 0.0, f"differs by {difference:.3g}")


def _rows_are_independent(runtime: Runtime, rows: Matrix, whole: Tensors) -> Promise:
    singles = [runtime.predict({"rows": rows[at : at + 1]}) for at in range(len(rows))]
    joined = {name: np.concatenate([single[name] for single in singles]) for name in whole}
    difference = _difference(whole, joined)
    seen = f"one by one differs from together by {difference:.3g} (allowed {TOLERANCE:g})"
    return Promise("a row's answer does not depend on its neighbours", difference <= TOLERANCE, seen)


def _order_does_not_matter(runtime: Runtime, rows: Matrix, whole: Tensors) -> Promise:
    backwards = runtime.predict({"rows": np.ascontiguousarray(rows[::-1])})
    difference = _difference(whole, {name: values[::-1] for name, values in backwards.items()})
    seen = f"backwards differs by {difference:.3g} (allowed {TOLERANCE:g})"
    return Promise("row i of the answer belongs to row i of the input", difference <= TOLERANCE, seen)


def _leaves_its_input_alone(runtime: Runtime, rows: Matrix) -> Promise:
    given = rows.copy()
    runtime.predict({"rows": given})
    kept = np.array_equal(given, rows, equal_nan=True)
    return Promise("the input is not changed", kept, "changed" if not kept else "unchanged")


def _explanations_add_up(runtime: Runtime, rows: Matrix, whole: Tensors) -> Promise:
    name = "an explanation sums to the log-odds"
    contributions = runtime.contributions({"rows": rows})
    if contributions is None or "probability" not in whole:
        return Promise(name, True, "explains nothing")
    log_odds = contributions.astype(np.float64).sum(axis=1)
    with np.errstate(over="ignore"):  # a very unlikely row: its probability is 0
        difference = float(np.max(np.abs(1 / (1 + np.exp(-log_odds)) - whole["probability"])))
    return Promise(name, difference <= TOLERANCE, f"differs by {difference:.3g} (allowed {TOLERANCE:g})")


def _threads_agree(runtime: Runtime, rows: Matrix, whole: Tensors) -> Promise:
    with ThreadPoolExecutor(_THREADS) as pool:
        answers = list(pool.map(lambda _: runtime.predict({"rows": rows}), range(4 * _THREADS)))
    difference = max(_difference(whole, answer) for answer in answers)
    return Promise("several threads may call at once", difference <= TOLERANCE, f"differs by {difference:.3g}")


def _difference(one: Tensors, other: Tensors) -> float:
    """The largest difference of any output, relative above size 1; infinite where anything else differs."""
    worst = 0.0
    if one.keys() != other.keys():
        return float("inf")
    for name, values in one.items():
        others = other[name]
        if values.shape != others.shape:
            return float("inf")
        if values.dtype.kind != "f":
            if not np.array_equal(values, others):
                return float("inf")
        elif not np.array_equal(np.isfinite(values), np.isfinite(others)):
            return float("inf")
        elif (finite := np.isfinite(values)).any():
            size = np.maximum(1.0, np.abs(values[finite].astype(np.float64)))
            worst = max(worst, float(np.max(np.abs(values[finite] - others[finite]) / size)))
    return worst
