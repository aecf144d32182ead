"""The conformance kit: what `Runtime` promises, measured on a loaded version. The same kit for ours and a user's.

A promise that is not kept is a reason not to serve, with one exception: where a row's answer depends on its neighbours
the version is served, but its calls are never joined into batches nor split.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelyard.contract.errors import ModelFailed
from modelyard.contract.signature import TensorSpec
from modelyard.contract.tensor import NUMPY_TYPES, Inputs, Tensors
from modelyard.runtimes.base import Runtime

# Absolute up to answers of size 1, relative above, as the parity gate has it: float32 sums may be taken in another
# order for another batch size.
TOLERANCE = 1e-5
FREE_SIZE = 4  # of a dimension that may be anything, in tensors that are made up
_THREADS = 4
_SLOW_S = 0.1  # one answer
_WORDS = ("one", "zwei", "три", "四", "", "five and a half")

ONE_FOR_EACH = "every output has one answer for each row"
REPEATS = "the same rows get the same answer twice"
INDEPENDENT = "a row's answer does not depend on its neighbours"
IN_ORDER = "row i of the answer belongs to row i of the input"
LEAVES_INPUT = "the input is not changed"
EXPLAINS = "an explanation sums to the log-odds"
THREADS_AGREE = "several threads may call at once"

OF_JOINING = frozenset((INDEPENDENT, IN_ORDER))  # without these a version is served, but never joined


class Promise(NamedTuple):
    """One promise, whether it was kept, and what was seen."""

    name: str
    is_kept: bool
    seen: str


def check(runtime: Runtime, rows: Inputs, joins: bool = True) -> list[Promise]:
    """Every promise, measured on two or more rows, some of them unusual: finished contract rows, float32[n, features],
    or the tensors of a version that takes tensors. joins: whether the version says that its rows are independent."""
    return list(each(runtime, rows, joins))


def each(runtime: Runtime, rows: Inputs, joins: bool = True) -> Iterator[Promise]:
    """The same one by one, so that what was seen is known even if the version ends the process."""
    inputs = rows if isinstance(rows, dict) else {"rows": rows}
    count = _count(inputs)
    if count < 2:
        raise ValueError("the kit needs at least two rows")
    whole = runtime.predict(inputs)
    if joins:
        yield (one_for_each := _has_one_answer_for_each_row(whole, count))
        if not one_for_each.is_kept:
            return  # nothing below could be compared
    yield _repeats_itself(runtime, inputs, whole)
    if joins:
        yield _rows_are_independent(runtime, inputs, whole)
        yield _order_does_not_matter(runtime, inputs, whole)
    yield _leaves_its_input_alone(runtime, inputs)
    if "rows" in inputs:
        yield _explanations_add_up(runtime, inputs, whole)
    if runtime.is_thread_safe:
        yield _threads_agree(runtime, inputs, whole)


def require(runtime: Runtime, rows: Inputs) -> None:
    """Raises ModelFailed that names the first broken promise."""
    rows_are_independent(check(runtime, rows), needed=OF_JOINING)


def rows_are_independent(promises: list[Promise], needed: frozenset[str] = frozenset()) -> bool:
    """Whether calls may be joined, by what was measured. Raises ModelFailed that names the first broken promise that
    is not only about joining, or that is `needed` all the same."""
    broken = [promise for promise in promises if not promise.is_kept]
    for promise in broken:
        if promise.name not in OF_JOINING - needed:
            raise ModelFailed(f"the version does not conform: {promise.name}: {promise.seen}")
    return not broken


def random_tensors(specs: tuple[TensorSpec, ...], count: int = 6, free_size: int = FREE_SIZE) -> Tensors:
    """Made-up tensors of `count` rows as a signature wants them, the same each time."""
    random = np.random.default_rng(0)
    return {spec.name: _random(spec, count, free_size, random) for spec in specs}


def _random(spec: TensorSpec, count: int, free_size: int, random: np.random.Generator) -> NDArray[Any]:
    first, *rest = spec.shape
    shape = [count if first < 0 else first, *(free_size if size < 0 else size for size in rest)]
    dtype = NUMPY_TYPES[spec.datatype]
    if dtype.kind == "O":
        return random.choice(np.array(_WORDS, dtype=object), shape)
    if dtype.kind in "iu":
        return random.integers(0, 10, shape).astype(dtype)  # small enough for whatever the numbers stand for
    return random.normal(size=shape).astype(dtype) if dtype.kind == "f" else random.integers(0, 2, shape).astype(dtype)


def _count(inputs: Tensors) -> int:
    return min((len(values) for values in inputs.values() if values.ndim), default=0)


def _rows(inputs: Tensors, which: slice) -> Tensors:
    return {name: np.ascontiguousarray(values[which]) for name, values in inputs.items()}


def _has_one_answer_for_each_row(outputs: Tensors, count: int) -> Promise:
    lengths = {name: len(values) if np.ndim(values) else 0 for name, values in outputs.items()}
    kept = bool(lengths) and set(lengths.values()) == {count}
    return Promise(ONE_FOR_EACH, kept, f"{lengths} for {count} rows")


def _repeats_itself(runtime: Runtime, inputs: Tensors, whole: Tensors) -> Promise:
    difference = _difference(whole, runtime.predict(inputs))
    return Promise(REPEATS, difference == 0.0, f"differs by {difference:.3g}")


def _rows_are_independent(runtime: Runtime, inputs: Tensors, whole: Tensors) -> Promise:
    singles = [runtime.predict(_rows(inputs, slice(at, at + 1))) for at in range(_count(inputs))]
    joined = {name: np.concatenate([single[name] for single in singles]) for name in whole}
    difference = _difference(whole, joined)
    seen = f"one by one differs from together by {difference:.3g} (allowed {TOLERANCE:g})"
    return Promise(INDEPENDENT, difference <= TOLERANCE, seen)


def _order_does_not_matter(runtime: Runtime, inputs: Tensors, whole: Tensors) -> Promise:
    backwards = runtime.predict(_rows(inputs, slice(None, None, -1)))
    difference = _difference(whole, {name: values[::-1] for name, values in backwards.items()})
    return Promise(IN_ORDER, difference <= TOLERANCE, f"backwards differs by {difference:.3g} (allowed {TOLERANCE:g})")


def _leaves_its_input_alone(runtime: Runtime, inputs: Tensors) -> Promise:
    given = {name: values.copy() for name, values in inputs.items()}
    runtime.predict(given)
    kept = all(_is_same(given[name], values) for name, values in inputs.items())
    return Promise(LEAVES_INPUT, kept, "changed" if not kept else "unchanged")


def _explanations_add_up(runtime: Runtime, inputs: Tensors, whole: Tensors) -> Promise:
    contributions = runtime.contributions(inputs)
    if contributions is None or "probability" not in whole:
        return Promise(EXPLAINS, True, "explains nothing")
    log_odds = contributions.astype(np.float64).sum(axis=1)
    with np.errstate(over="ignore"):  # a very unlikely row: its probability is 0
        difference = float(np.max(np.abs(1 / (1 + np.exp(-log_odds)) - whole["probability"])))
    return Promise(EXPLAINS, difference <= TOLERANCE, f"differs by {difference:.3g} (allowed {TOLERANCE:g})")


def _threads_agree(runtime: Runtime, inputs: Tensors, whole: Tensors) -> Promise:
    began = time.perf_counter()
    answers = [runtime.predict(inputs)]
    rounds = 4 if time.perf_counter() - began < _SLOW_S else 1  # what takes long meets the others in one round
    with ThreadPoolExecutor(_THREADS) as pool:
        answers += pool.map(lambda _: runtime.predict(inputs), range(rounds * _THREADS))
    difference = max(_difference(whole, answer) for answer in answers)
    return Promise(THREADS_AGREE, difference <= TOLERANCE, f"differs by {difference:.3g}")


def _is_same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


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
