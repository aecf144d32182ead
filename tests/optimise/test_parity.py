"""The gate lets equals through and nothing else, and it knows where to look."""

from typing import Any

import numpy as np
import pytest

from modelyard.contract.encoding import Encoder
from modelyard.contract.features import Column, Contract
from modelyard.contract.tensor import Matrix, Tensors
from modelyard.optimise.parity import ParityFailed, edge_rows, prove

CONTRACT = Contract(
    (
        Column("amount", "integer", minimum=0, maximum=100, clip=(1.0, 50.0)),
        Column("gap", "number", nullable=True),
        Column("home", "category", categories=("own", "rent"), unseen="missing"),
        Column("job", "category", categories=("a", "b")),
    )
)
TYPICAL = np.array([[10, 1, 0, 0]], dtype=np.float32)


class Packaged:
    """A runtime that answers with the sum of a row, off by `error` where `where` says."""

    is_thread_safe = True

    def __init__(self, error: float = 0.0, shape: tuple[int, ...] = (-1,)) -> None:
        self.error, self.shape = error, shape

    def predict(self, inputs: Tensors) -> Tensors:
        rows = inputs["rows"]
        missing = np.isnan(rows).any(axis=1)  # type: ignore[arg-type]
        return {"probability": (np.nansum(rows, axis=1) / 1000 + self.error * missing).reshape(self.shape)}

    def contributions(self, inputs: Tensors) -> Matrix | None:
        return None

    def close(self) -> None:
        pass


def original(rows: Matrix) -> np.ndarray:
    return np.nansum(rows.astype(np.float64), axis=1) / 1000


def test_equals_pass_and_the_proof_is_counted() -> None:
    edges = edge_rows(CONTRACT, TYPICAL)
    proof = prove(original, Packaged(), TYPICAL, edges)
    assert (proof.rows, proof.edge_rows) == (len(edges) + 1, len(edges))
    assert proof.max_error < 1e-6


def test_a_difference_on_edge_rows_alone_is_found() -> None:
    with pytest.raises(ParityFailed, match="edge rows") as caught:
        prove(original, Packaged(error=0.01), TYPICAL, edge_rows(CONTRACT, TYPICAL))
    assert caught.value.code == "invalid_input"


def test_an_answer_near_zero_is_measured_against_the_usual_ones() -> None:
    rows = np.arange(1, 12, dtype=np.float32)[:, None] * 1000 * np.ones((1, 4), dtype=np.float32)
    rows[0] = 0.0
    usual = 24.0  # the median of 4 x 0, 2000, …, 11000 by a thousand

    def off_by(error: float) -> Any:
        return lambda asked: original(asked) + error * (asked[:, 0] == 0)

    assert prove(off_by(0.9e-5 * usual), Packaged(), rows, rows[:0]).max_error < 1e-5
    with pytest.raises(ParityFailed, match="on 1 of 11 rows"):
        prove(off_by(1.1e-5 * usual), Packaged(), rows, rows[:0])


def test_another_shape_or_an_answer_that_is_no_number_is_found() -> None:
    with pytest.raises(ParityFailed, match="shape"):
        prove(original, Packaged(shape=(-1, 1)), TYPICAL, TYPICAL)
    with pytest.raises(ParityFailed, match="finite"):
        prove(original, Packaged(error=np.nan), TYPICAL, edge_rows(CONTRACT, TYPICAL))
    with pytest.raises(ParityFailed, match="at least one row"):
        prove(original, Packaged(), TYPICAL[:0], TYPICAL[:0])


def test_edges_hold_missing_unseen_ends_and_thresholds() -> None:
    edges = edge_rows(CONTRACT, TYPICAL, {1: [2.5], 0: [7.0]})
    amount, gap, home, job = edges.T
    assert {1.0, 50.0} <= set(amount.tolist())  # 0 and 100 are clipped, as a caller's would be
    assert 7.0 in amount
    middle = np.float32(2.5)
    assert {float(np.nextafter(middle, np.float32(side))) for side in (-9, 9)} | {2.5} <= set(gap.tolist())
    assert np.isnan(gap).any()
    assert np.isnan(home).any()
    assert (np.isnan(gap) & np.isnan(home)).any()
    assert not np.isnan(amount).any()
    assert set(job.tolist()) == {0.0, 1.0}


def test_every_edge_is_one_that_a_caller_may_send() -> None:
    encoder = Encoder(CONTRACT)
    for row in edge_rows(CONTRACT, TYPICAL, {1: [2.5, 1e-35]}):
        sent = {
            "amount": int(row[0]),
            "gap": None if np.isnan(row[1]) else float(row[1]),
            "home": "somewhere" if np.isnan(row[2]) else ("own", "rent")[int(row[2])],
            "job": ("a", "b")[int(row[3])],
        }
        np.testing.assert_array_equal(encoder.finish(encoder.encode_rows([sent]))[0], row)
