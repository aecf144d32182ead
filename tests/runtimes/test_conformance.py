"""The kit passes what keeps its promises and names each promise that is broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kit.versions import CONTRACT, store
from modelyard.artifacts.store import Shelf
from modelyard.contract.encoding import Encoder
from modelyard.contract.errors import ModelFailed
from modelyard.contract.tensor import Matrix, Tensors
from modelyard.runtimes.conformance import check, require
from modelyard.runtimes.onnx import OnnxRuntime

ROWS = Encoder(CONTRACT).encode_rows(
    [CONTRACT.example | {"age": age, "income": income} for age in (18, 40, 100) for income in (None, 0.0, 1e6)]
)


def logistic(rows: Matrix) -> Tensors:
    return {"probability": (1 / (1 + np.exp(-np.nan_to_num(rows[:, 0]) / 50))).astype(np.float32)}


class Fake:
    """A runtime that is only a function."""

    is_thread_safe = True

    def __init__(self, function: Callable[[Matrix], Tensors]) -> None:
        self.function = function

    def predict(self, inputs: Tensors) -> Tensors:
        return self.function(inputs["rows"])

    def contributions(self, inputs: Tensors) -> Matrix | None:
        return None

    def close(self) -> None:
        pass


def test_our_onnx_runtime_keeps_every_promise(tmp_path: Path) -> None:
    runtime = OnnxRuntime(Shelf(tmp_path).open(store(Shelf(tmp_path))))
    assert [promise for promise in check(runtime, ROWS) if not promise.is_kept] == []
    require(runtime, ROWS)


def leaks_to_neighbours(rows: Matrix) -> Tensors:
    return {"probability": logistic(rows)["probability"] - np.float32(0.01 * len(rows))}


def mixes_rows(rows: Matrix) -> Tensors:
    return {"probability": np.sort(logistic(rows)["probability"])}


def loses_a_row(rows: Matrix) -> Tensors:
    return {"probability": logistic(rows)["probability"][: max(1, len(rows) - 1)]}


def writes_into_its_input(rows: Matrix) -> Tensors:
    answer = logistic(rows)
    rows[:, 0] = 0
    return answer


def forgets(rows: Matrix) -> Tensors:
    answer = logistic(rows)["probability"]
    return {"probability": answer + np.float32(np.random.default_rng().random())}


@pytest.mark.parametrize(
    ("function", "broken"),
    [
        (leaks_to_neighbours, "a row's answer does not depend on its neighbours"),
        (mixes_rows, "row i of the answer belongs to row i of the input"),
        (loses_a_row, "every output has one answer for each row"),
        (forgets, "the same rows get the same answer twice"),
    ],
)
def test_a_broken_promise_is_named(function: Callable[[Matrix], Tensors], broken: str) -> None:
    rows = ROWS[[6, 0, 3, 7, 1]]
    assert broken in [promise.name for promise in check(Fake(function), rows) if not promise.is_kept]
    with pytest.raises(ModelFailed):
        require(Fake(function), rows)


def test_a_runtime_that_writes_into_its_input_is_found_out() -> None:
    found = {promise.name: promise.is_kept for promise in check(Fake(writes_into_its_input), ROWS.copy())}
    assert not all(found.values())
