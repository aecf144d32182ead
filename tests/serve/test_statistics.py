"""Statistics are sums over all workers' counters, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.contract.counters import ROWS, SECONDS
from modelyard.serve.counters import Counters
from modelyard.serve.statistics import model_stats

STAGES = ("input", "queue", "infer", "output", "failure")


def deployment(endpoint: str, version: int) -> Any:
    return SimpleNamespace(endpoint=endpoint, version_text=str(version), model=f"{endpoint}_model")


def count(folder: Path, worker: int, endpoint: str, version: int, numbers: dict[str, int]) -> None:
    """What one worker has counted."""
    counters = Counters(folder, worker)
    labels = {"endpoint": endpoint, "version": str(version)}
    cells = counters.cells
    cells[counters.counter("modelyard_requests", code="200", **labels)] += numbers["requests"]
    cells[counters.counter("modelyard_rows", **labels)] += numbers["rows"]
    cells[counters.histogram("modelyard_request_seconds", **labels) + len(SECONDS) + 1] += numbers["ns"]
    cells[counters.counter("modelyard_failures", **labels)] += numbers["failures"]
    cells[counters.counter("modelyard_executions", **labels)] += numbers["executions"]
    for stage in STAGES:
        cells[counters.counter("modelyard_stage_nanoseconds", stage=stage, **labels)] += numbers[stage]
    counters.close()


NUMBERS = st.fixed_dictionaries(
    {name: st.integers(0, 10**12) for name in ("requests", "rows", "ns", "failures", "executions", *STAGES)}
)


@settings(max_examples=20, deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=3))
def test_every_worker_counts(tmp_path_factory: Any, workers: list[dict[str, int]]) -> None:
    folder = tmp_path_factory.mktemp("counters")
    for number, numbers in enumerate(workers):
        count(folder, number, "loans", 2, numbers)
        count(folder, number, "loans", 1, dict.fromkeys(numbers, 1))  # a neighbour that must not be added
    total = {name: sum(numbers[name] for numbers in workers) for name in workers[0]}
    (stats,) = json.loads(model_stats([deployment("loans", 2)], folder))["model_stats"]
    assert (stats["name"], stats["version"]) == ("loans", "2")
    assert stats["inference_count"] == total["rows"]
    assert stats["execution_count"] == total["executions"]
    spent = stats["inference_stats"]
    assert spent["success"] == {"count": total["requests"], "ns": total["ns"] + total["output"]}
    assert spent["fail"] == {"count": total["failures"], "ns": total["failure"]}
    for name, stage in (("queue",) * 2, ("compute_input", "input"), ("compute_infer", "infer")):
        assert spent[name] == {"count": total["requests"], "ns": total[stage]}
    assert spent["compute_output"]["ns"] == total["output"]


def test_a_version_that_was_never_asked_has_zeros(tmp_path: Path) -> None:
    (stats,) = json.loads(model_stats([deployment("loans", 9)], tmp_path))["model_stats"]
    assert stats["inference_count"] == stats["execution_count"] == stats["last_inference"] == 0
    assert set(stats["inference_stats"]) == {
        "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss",
    }  # fmt: skip
    assert stats["batch_stats"] == stats["memory_usage"] == []


def test_the_last_call_is_the_latest_of_any_worker_in_milliseconds(tmp_path: Path) -> None:
    for worker, microseconds in enumerate((1_700_000_000_123_456, 1_700_000_000_999_999, 0)):
        counters = Counters(tmp_path, worker)
        cell = counters.gauge("modelyard_last_call_timestamp_seconds", endpoint="loans", version="1")
        counters.cells[cell] = microseconds
        counters.close()
    (stats,) = json.loads(model_stats([deployment("loans", 1)], tmp_path))["model_stats"]
    assert stats["last_inference"] == 1_700_000_000_999


def test_batches_are_told_by_their_size(tmp_path: Path) -> None:
    for worker in range(2):
        counters = Counters(tmp_path, worker)
        first = counters.histogram("modelyard_batch_rows", model="loans_model")
        for bucket, times in ((0, 3), (ROWS.index(32), 1), (len(ROWS), 2)):
            counters.cells[first + bucket] += times
        for rows, ns in (("1", 30), ("32", 400), ("more", 9000)):
            counters.cells[counters.counter("modelyard_batch_nanoseconds", model="loans_model", rows=rows)] += ns
        counters.close()
    (stats,) = json.loads(model_stats([deployment("loans", 1)], tmp_path))["model_stats"]
    assert stats["batch_stats"] == [
        {"batch_size": 1, "compute_infer": {"count": 6, "ns": 60}},
        {"batch_size": 32, "compute_infer": {"count": 2, "ns": 800}},
        {"batch_size": 2 * ROWS[-1], "compute_infer": {"count": 4, "ns": 18000}},
    ]
