"""The V2 statistics of every version, read from all workers' counters. Pure reading: nothing is counted here.

Times are of answered calls: from the whole request to its answer (`success`), reading it (`compute_input`), waiting
(`queue`), the model (`compute_infer`: each call of a batch counts the batch's time) and answering (`compute_output`).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from modelyard.contract.counters import ROWS, all_series
from modelyard.serve.routing import Deployment

Labels = dict[str, str]
# Which series is which number, and which of a histogram's cells: the last is its sum.
_NUMBERS = {
    "modelyard_requests": "success",
    "modelyard_request_seconds": "success_ns",
    "modelyard_rows": "rows",
    "modelyard_executions": "executions",
    "modelyard_failures": "fail",
}
_STAGES = {"input": "input_ns", "queue": "queue_ns", "infer": "infer_ns", "output": "output_ns", "failure": "fail_ns"}
_LAST = "modelyard_last_call_timestamp_seconds"
_BATCHES, _BATCH_NS = "modelyard_batch_rows", "modelyard_batch_nanoseconds"
_encode = msgspec.json.Encoder().encode


class Numbers:
    """What all workers have counted for one version, or for one model's batches."""

    def __init__(self) -> None:
        self.sums: dict[str, int] = {}
        self.last_us = 0  # since 1970
        self.batches = [0] * (len(ROWS) + 1)  # executions by number of rows ...
        self.batch_ns = [0] * (len(ROWS) + 1)  # ... and their time

    def add(self, name: str, value: int) -> None:
        """Another worker's share."""
        self.sums[name] = self.sums.get(name, 0) + value


def model_stats(deployments: Iterable[Deployment], folder: Path) -> bytes:
    """`{"model_stats": [...]}` of these deployments, in their order; `folder` holds the workers' counters."""
    asked = list(deployments)
    versions, models = read_numbers(folder, {name for one in asked for name in (one.endpoint, one.model)})
    nothing = Numbers()
    stats = [
        _one(one, versions.get((one.endpoint, one.version_text), nothing), models.get(one.model, nothing))
        for one in asked
    ]
    return _encode({"model_stats": stats})


def read_numbers(folder: Path, names: set[str]) -> tuple[dict[tuple[str, str], Numbers], dict[str, Numbers]]:
    """By (endpoint, version), and by model: the sums over all workers, at least for endpoints and models of `names`."""
    versions: dict[tuple[str, str], Numbers] = {}
    models: dict[str, Numbers] = {}
    for _, name, pairs, values in all_series(folder, names):
        labels = dict(pairs)
        if name in (_BATCHES, _BATCH_NS):
            _add_batches(models.setdefault(labels["model"], Numbers()), name, labels, values)
        elif name == _LAST or name in _NUMBERS or name == "modelyard_stage_nanoseconds":
            numbers = versions.setdefault((labels["endpoint"], labels["version"]), Numbers())
            if name == _LAST:
                numbers.last_us = max(numbers.last_us, values[0])
            else:
                numbers.add(_STAGES[labels["stage"]] if "stage" in labels else _NUMBERS[name], values[-1])
    return versions, models


def _add_batches(numbers: Numbers, name: str, labels: Labels, values: list[int]) -> None:
    if name == _BATCH_NS:
        edge = labels["rows"]
        bucket = ROWS.index(int(edge)) if edge.isdigit() else len(ROWS)
        numbers.batch_ns[bucket] += values[0]
        return
    for bucket in range(len(ROWS) + 1):
        numbers.batches[bucket] += values[bucket]


def _one(deployment: Deployment, numbers: Numbers, batches: Numbers) -> dict[str, Any]:
    sums = numbers.sums

    def spent(count: str, *stages: str) -> dict[str, int]:
        return {"count": sums.get(count, 0), "ns": sum(sums.get(stage, 0) for stage in stages)}

    none = {"count": 0, "ns": 0}
    return {
        "name": deployment.endpoint,
        "version": deployment.version_text,
        "last_inference": numbers.last_us // 1000,
        "inference_count": sums.get("rows", 0),
        "execution_count": sums.get("executions", 0),
        "inference_stats": {
            "success": spent("success", "success_ns", "output_ns"),
            "fail": spent("fail", "fail_ns"),
            "queue": spent("success", "queue_ns"),
            "compute_input": spent("success", "input_ns"),
            "compute_infer": spent("success", "infer_ns"),
            "compute_output": spent("success", "output_ns"),
            "cache_hit": none,
            "cache_miss": none,
        },
        "response_stats": {},
        "batch_stats": _batch_stats(batches),
        "memory_usage": [],
    }


def _batch_stats(batches: Numbers) -> list[dict[str, Any]]:
    """By number of rows up to a power of two; only what the model did has a time of its own for each size."""
    edges = [*ROWS, 2 * ROWS[-1]]
    return [
        {"batch_size": edge, "compute_infer": {"count": count, "ns": ns}}
        for edge, count, ns in zip(edges, batches.batches, batches.batch_ns, strict=True)
        if count and ns
    ]
