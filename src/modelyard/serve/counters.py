"""Metrics that cost an addition: each worker owns a mapped slab of integers, and any worker tells of them all.

How a slab is laid out and read stands in `contract/counters.py`, because the control plane reads it as well.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest

from modelyard.contract.counters import CELLS, SECONDS, Labels, all_series, edges_of, map_slab, series_in, width_of

_SPARE = 64  # its last cells: gauges and histograms that found no room share them (counters share cell 0)
# What is told of a latency: every third edge or so of those that are counted; a version is a dozen lines, not fifty.
SHOWN_SECONDS = frozenset((0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0))
HELP = {
    "modelyard_requests": "Answered requests.",
    "modelyard_request_seconds": "Time from a whole request to its answer.",
    "modelyard_rows": "Rows answered.",
    "modelyard_batch_rows": "Rows in one call of the model.",
    "modelyard_batches": "Calls of the model, by why the batch had its size.",
    "modelyard_refusals": "Requests, or lines of a stream, answered with an error, whatever its reason.",
    "modelyard_failures": "Those of them that had been let in and had found their version.",
    "modelyard_errors": "Failures that the version is to blame for.",
    "modelyard_violations": "Failures because the input broke the version's contract.",
    "modelyard_step_seconds": "Time of one step of a version that is made of several, by batch.",
    "modelyard_executions": "Batches that answered calls of this deployment first.",
    "modelyard_stage_nanoseconds": "Time that calls spent: input (reading), queue, infer, output (answering), failure.",
    "modelyard_last_call_timestamp_seconds": "When the last call was answered, seconds since 1970.",
    "modelyard_batch_nanoseconds": "Time of the model's calls, by rows up to.",
    "modelyard_version_loads": "Versions brought into memory by a call, with `resident_bytes`.",
    "modelyard_version_evictions": "Versions put out of memory to make room, with `resident_bytes`.",
    "modelyard_resident_versions": "Versions in memory, with `resident_bytes`.",
    "modelyard_resident_bytes": "What the versions in memory take, with `resident_bytes`.",
    "modelyard_dropped_calls": "Calls whose caller had gone or whose deadline had passed, dropped before computing.",
    "modelyard_shadow_compared": "Copied calls whose answer was compared with a shadow's.",
    "modelyard_shadow_differing": "Those of them that the shadow would have decided otherwise.",
    "modelyard_shadow_dropped": "Copies that found no room, or for which there was no time.",
    "modelyard_shadow_failed": "Copies that the shadow could not answer, or whose answers cannot be compared.",
    "modelyard_shadow_seconds": "Time that a shadow computed a batch with a copied call in it.",
    "modelyard_shadow_difference": "Largest absolute difference of a shadow's numbers since the gateway's start.",
    "modelyard_lease_lapsed": "1 while the lease of an endpoint's canary has lapsed: its fallback answers all calls.",
    "modelyard_records_dropped": "Prediction records lost because the buffer was full.",
    "modelyard_feedback": "Truths received.",
    "modelyard_plan_revision": "Revision of the plan that is served; the lowest of all workers.",
    "modelyard_plan_published_timestamp_seconds": "When that plan was published, seconds since 1970.",
    "modelyard_loop_lag_seconds": "How late the event loop last woke; the worst worker.",
    "modelyard_connections": "Open connections.",
}

_EDGES_NS = [int(edge * 1e9) for edge in SECONDS]
_FAMILIES: dict[str, Any] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


class Counters:
    """One worker's slab, for adding."""

    def __init__(self, folder: Path, worker: int) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._names = open(folder / f"worker-{worker}.names", "a+", encoding="utf-8")  # noqa: SIM115 - for life
        self.cells = map_slab(folder / f"worker-{worker}.slab")  # after its names: readers start from the slab
        self._known: dict[tuple[str, Labels], int] = {}
        self._next = 1  # cell 0 takes what has no room
        self._names.seek(0)
        for kind, name, labels, cell in series_in(self._names):
            self._known[name, labels] = cell
            self._next = max(self._next, cell + width_of(kind, name))
        self._names.write("\n")  # a torn last line ends here

    def counter(self, name: str, **labels: str) -> int:
        """The cell of a counter; add to `cells[...]`."""
        return self._cell("counter", name, labels)

    def gauge(self, name: str, **labels: str) -> int:
        """The cell of a gauge, in millionths; assign to `cells[...]`."""
        return self._cell("gauge", name, labels)

    def histogram(self, name: str, **labels: str) -> int:
        """The first cell of a histogram: its buckets, then the sum (ns for seconds)."""
        return self._cell("histogram", name, labels)

    def close(self) -> None:
        """Let go of the list of names; the slab stays, and counts on under the next worker of this number."""
        self._names.close()

    def _cell(self, kind: str, name: str, labels: dict[str, str]) -> int:
        key = (name, tuple(sorted(labels.items())))
        if (cell := self._known.get(key)) is not None:
            return cell
        cell, width = self._next, width_of(kind, name)
        if cell + width > CELLS - _SPARE:
            return 0 if kind == "counter" else CELLS - width
        self._next += width
        self._known[key] = cell
        self._names.write(json.dumps([kind, name, key[1], cell]) + "\n")
        self._names.flush()
        return cell


def observe(cells: memoryview, first: int, took_ns: int) -> None:
    """One more time in a histogram of seconds; `first`: its first cell."""
    cells[first + bisect_left(_EDGES_NS, took_ns)] += 1
    cells[first + len(_EDGES_NS) + 1] += took_ns


def exposition(folder: Path) -> bytes:
    """All workers' counters together, in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Collector(folder))
    return generate_latest(registry)


class _Collector:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
        total: dict[tuple[str, str, Labels], list[int]] = {}
        for kind, name, labels, values in all_series(self.folder):
            _add(total.setdefault((kind, name, labels), []), values, kind, name)
        by_name: dict[tuple[str, str], list[tuple[Labels, list[int]]]] = {}
        for (kind, name, labels), values in total.items():
            by_name.setdefault((kind, name), []).append((labels, values))
        for (kind, name), series in sorted(by_name.items()):
            yield _family(kind, name, series)


def _add(sum_: list[int], values: list[int], kind: str, name: str) -> None:
    if not sum_:
        sum_ += values
    elif kind == "gauge" and name != "modelyard_connections":
        lowest = name.startswith("modelyard_plan")
        sum_[0] = min(sum_[0], values[0]) if lowest else max(sum_[0], values[0])
    else:
        sum_[:] = [a + b for a, b in zip(sum_, values, strict=True)]


def _family(
    kind: str, name: str, series: list[tuple[Labels, list[int]]]
) -> CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily:
    labels = [label for label, _ in series[0][0]]
    family: Any = _FAMILIES[kind](name, HELP[name], labels=labels)
    for pairs, values in series:
        texts = [text for _, text in pairs]
        if kind == "histogram":
            scale = 1e9 if name.endswith("_seconds") else 1
            buckets, running = [], 0
            for edge, value in zip([*edges_of(name), "+Inf"], values, strict=False):
                running += value
                if scale == 1 or edge == "+Inf" or edge in SHOWN_SECONDS:
                    buckets.append((str(edge), float(running)))
            family.add_metric(texts, buckets=buckets, sum_value=values[-1] / scale)
        else:
            family.add_metric(texts, values[0] / 1e6 if kind == "gauge" else values[0])
    return family  # type: ignore[no-any-return]
