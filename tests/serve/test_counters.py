"""Counters of all workers add up, outlive a worker, and survive what a killed one leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from modelyard.contract.counters import ROWS, SECONDS
from modelyard.serve import counters as module
from modelyard.serve.counters import Counters, exposition


def samples(folder: Path) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample as a scraper reads it."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(exposition(folder).decode())
        for sample in family.samples
    }


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(("a", "b", 'é"\\\n')), st.integers(0, 1000)), max_size=20))
def test_workers_add_up(tmp_path_factory: pytest.TempPathFactory, additions: list[tuple[int, str, int]]) -> None:
    folder = tmp_path_factory.mktemp("counters")
    workers = [Counters(folder, number) for number in range(3)]
    expected: dict[str, int] = {}
    for number, endpoint, amount in additions:
        worker = workers[number]
        worker.cells[worker.counter("modelyard_rows", endpoint=endpoint, version="1")] += amount
        expected[endpoint] = expected.get(endpoint, 0) + amount
    found = samples(folder)
    for endpoint, amount in expected.items():
        assert found["modelyard_rows_total", (("endpoint", endpoint), ("version", "1"))] == amount
    assert len(found) == len(expected)
    for worker in workers:
        worker.close()


def test_a_restarted_worker_goes_on_counting(tmp_path: Path) -> None:
    first = Counters(tmp_path, 0)
    cell = first.counter("modelyard_rows", endpoint="a", version="1")
    first.cells[cell] += 5
    first.close()
    second = Counters(tmp_path, 0)
    other = second.counter("modelyard_rows", endpoint="b", version="1")
    assert second.counter("modelyard_rows", version="1", endpoint="a") == cell, "labels have no order"
    assert other != cell
    second.cells[cell] += 2
    second.cells[other] += 1
    second.close()
    assert samples(tmp_path) == {
        ("modelyard_rows_total", (("endpoint", "a"), ("version", "1"))): 7,
        ("modelyard_rows_total", (("endpoint", "b"), ("version", "1"))): 1,
    }


@pytest.mark.parametrize("torn", ['["counter", "modelyard_rows", [["endpoint", "x"]', "[", '["counter"', "\0\0\0"])
def test_a_torn_last_line_is_no_series(tmp_path: Path, torn: str) -> None:
    first = Counters(tmp_path, 0)
    first.cells[first.counter("modelyard_rows", endpoint="a", version="1")] += 5
    first.close()
    with open(tmp_path / "worker-0.names", "a", encoding="utf-8") as names:
        names.write(torn)
    one = ("modelyard_rows_total", (("endpoint", "a"), ("version", "1")))
    assert samples(tmp_path) == {one: 5}
    second = Counters(tmp_path, 0)
    second.cells[second.counter("modelyard_rows", endpoint="a", version="1")] += 1
    second.cells[second.counter("modelyard_rows", endpoint="b", version="1")] += 9
    second.close()
    assert samples(tmp_path) == {one: 6, ("modelyard_rows_total", (("endpoint", "b"), ("version", "1"))): 9}


def test_histograms_are_cumulative_and_sum_in_their_unit(tmp_path: Path) -> None:
    worker = Counters(tmp_path, 0)
    rows = worker.histogram("modelyard_batch_rows", model="m")
    seconds = worker.histogram("modelyard_request_seconds", endpoint="a", version="1")
    for bucket, amount in ((0, 1), (2, 4), (len(ROWS), 20_000)):
        worker.cells[rows + bucket] += 1
        worker.cells[rows + len(ROWS) + 1] += amount
    worker.cells[seconds + 1] += 2
    worker.cells[seconds + len(SECONDS) + 1] += 1_500_000_000
    worker.close()
    found = samples(tmp_path)
    model = ("model", "m")
    buckets = [found["modelyard_batch_rows_bucket", tuple(sorted((("le", str(edge)), model)))] for edge in ROWS]
    assert buckets == [1, 1] + [2] * (len(ROWS) - 2)
    assert found["modelyard_batch_rows_bucket", (("le", "+Inf"), model)] == 3
    assert found["modelyard_batch_rows_count", (model,)] == 3
    assert found["modelyard_batch_rows_sum", (model,)] == 20_005
    assert found["modelyard_request_seconds_sum", (("endpoint", "a"), ("version", "1"))] == 1.5


def test_gauges_say_the_lowest_plan_the_worst_lag_and_all_connections(tmp_path: Path) -> None:
    for number, (revision, lag, open_) in enumerate(((7, 0.5, 3), (5, 0.1, 4))):
        worker = Counters(tmp_path, number)
        worker.cells[worker.gauge("modelyard_plan_revision")] = revision * 1_000_000
        worker.cells[worker.gauge("modelyard_loop_lag_seconds")] = int(lag * 1e6)
        worker.cells[worker.gauge("modelyard_connections")] = open_ * 1_000_000
        worker.close()
    assert samples(tmp_path) == {
        ("modelyard_plan_revision", ()): 5,
        ("modelyard_loop_lag_seconds", ()): 0.5,
        ("modelyard_connections", ()): 7,
    }


def test_a_full_slab_never_counts_into_anothers_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CELLS", 128)
    worker = Counters(tmp_path, 0)
    named = [worker.counter("modelyard_rows", endpoint=str(number), version="1") for number in range(300)]
    late = worker.histogram("modelyard_request_seconds", endpoint="late", version="1")
    gauge = worker.gauge("modelyard_connections")
    owned = {cell for cell in named if cell}
    assert len(owned) == sum(bool(cell) for cell in named), "no cell has two owners"
    assert not owned & set(range(late, late + len(SECONDS) + 2))
    assert gauge not in owned
    assert late + len(SECONDS) + 2 <= 128
    for cell in named:
        worker.cells[cell] += 1
    worker.cells[late] += 1
    worker.close()
    found = samples(tmp_path)
    assert len(found) == len(owned)
    assert set(found.values()) == {1}


def test_no_worker_yet_is_no_metric(tmp_path: Path) -> None:
    assert exposition(tmp_path / "none") == b""
