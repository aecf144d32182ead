"""Which failures a version is to blame for, which are its contract's, and which are neither's: on a real gateway."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kit.gateway import Gateway, gateway, until
from kit.graphs import fragile, slow, store_graph
from modelyard.artifacts.store import Shelf
from modelyard.contract.counters import SECONDS, Counts, read_counts
from modelyard.contract.errors import all_errors
from modelyard.contract.home import Home
from modelyard.contract.plan import PlannedEndpoint, PlannedKey, PlannedVersion, ServingPlan, TrafficSplit
from modelyard.secure.keys import digest_of
from modelyard.serve.telemetry import BLAMED

GOOD = {"x": 1.0, "y": 1.0}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    root = tmp_path_factory.mktemp("blame") / "home"
    shelf = Shelf(Home(root).prepare().shelf)
    digests = {
        "fragile": store_graph(shelf, fragile(), "fragile"),
        "slow": store_graph(shelf, slow(6, 700), "slow", joins=False),
    }
    endpoints = tuple(
        PlannedEndpoint(name, name, (PlannedVersion(3, digest),), TrafficSplit({3: 100}))
        for name, digest in digests.items()
    )
    few = PlannedKey("few", digest_of("few"), "few", ("infer",), rows_per_second=0.001, burst_rows=2)
    with gateway(root, ServingPlan(1, 0.0, endpoints, (few,)), workers=1, max_queued_rows=4, max_rows=3) as found:
        yield found


def counted(running: Gateway, name: str = "fragile") -> Counts:
    return read_counts(running.home.run / "counters", name).get(3, Counts())


def since(running: Gateway, before: Counts, name: str = "fragile") -> tuple[int, int, int]:
    """Answered, errors and violations that came since."""
    came = counted(running, name) - before
    return came.answered, came.errors, came.violations


@pytest.mark.parametrize(
    ("body", "status", "came"),
    [
        (GOOD, 200, (1, 0, 0)),
        ({"x": 70.0, "y": 1.0}, 500, (0, 1, 0)),  # the model's own failure
        ({"x": "much", "y": 1.0}, 422, (0, 0, 1)),  # the contract's
        ({"x": 1.0, "y": 1.0, "z": 1.0}, 422, (0, 0, 1)),
        ([GOOD, {"x": None, "y": 1.0}], 422, (0, 0, 1)),  # a call is counted once, not each of its rows
        ([GOOD, GOOD], 200, (1, 0, 0)),
        ([GOOD] * 4, 413, (0, 0, 0)),  # a limit of the gateway
        (b"{", 400, (0, 0, 0)),  # whoever sends this would send it to any version
    ],
)
def test_a_call_counts_as_what_it_is(running: Gateway, body: Any, status: int, came: tuple[int, int, int]) -> None:
    before = counted(running)
    url = f"{running.url}/fragile"
    reply = httpx.post(url, content=body) if isinstance(body, bytes) else httpx.post(url, json=body)
    assert reply.status_code == status, reply.text
    answered, *others = came
    httpx.post(url, json=GOOD)  # counts come in the order of calls: when this one is counted, the one before is
    until(lambda: since(running, before)[0] > answered, "the later call is counted")
    assert since(running, before) == (answered + 1, *others)


def test_a_quota_is_nobodys_fault(running: Gateway) -> None:
    before = counted(running)
    headers = {"Authorization": "Bearer few"}
    replies = [httpx.post(f"{running.url}/fragile", json=[GOOD, GOOD], headers=headers) for _ in range(3)]
    assert {reply.status_code for reply in replies} == {200, 429}
    answered = sum(reply.status_code == 200 for reply in replies)
    httpx.post(f"{running.url}/fragile", json=GOOD)
    until(lambda: since(running, before)[0] > answered, "the later call is counted")
    assert since(running, before) == (answered + 1, 0, 0)


def test_a_version_that_is_too_slow_for_its_calls_is_to_blame(running: Gateway) -> None:
    """Its own queue is full, or its callers' time is over."""
    before = counted(running, "slow")
    found: list[int] = []

    def call() -> None:
        headers = {"x-timeout-ms": str(random.choice((30, 20_000)))}
        reply = httpx.post(f"{running.url}/slow", json=GOOD, headers=headers, timeout=60)
        found.append(reply.status_code)

    while not {503, 504} <= set(found):
        threads = [threading.Thread(target=call) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert set(found) <= {200, 503, 504}
    blamed = sum(status != 200 for status in found)
    until(lambda: since(running, before, "slow") == (found.count(200), blamed, 0), "all are counted")


def test_the_codes_that_a_version_is_blamed_for_exist() -> None:
    assert {error.code for error in all_errors()} > BLAMED


def test_latency_is_counted_finely_and_told_coarsely(running: Gateway) -> None:
    before = counted(running)
    httpx.post(f"{running.url}/fragile", json=GOOD)
    until(lambda: since(running, before)[0] == 1, "calls are counted just after their answers")
    came = counted(running) - before
    assert (len(came.latency), sum(came.latency), came.batches) == (len(SECONDS) + 1, 1, 1)
    text = running.get("/metrics").text
    told = [
        line for line in text.splitlines() if line.startswith('modelyard_request_seconds_bucket{endpoint="fragile"')
    ]
    assert len(told) == 15
    assert float(told[-1].split()[-1]) == sum(counted(running).latency)
    assert f'modelyard_errors_total{{endpoint="fragile",version="3"}} {float(counted(running).errors)}' in text


def test_the_folder_is_where_control_reads(running: Gateway) -> None:
    assert (Path(running.home.root) / "run" / "counters" / "worker-0.slab").exists()
