"""Large requests are answered by the bulk worker: right, once, in order, and without holding anybody up."""

from __future__ import annotations

import gzip
import hashlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from kit.gateway import Gateway, gateway, plan, until
from kit.versions import expected, store
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.contract.plan import PlannedKey
from modelyard.serve.main import BULK_NICE

ROW = {"age": 35, "income": 120.5, "home": "rent", "job": "fixed", "guarantor": False}
ROWS = [{**ROW, "income": float(number), "home": ("owner", "rent", None)[number % 3]} for number in range(4000)]
SECRET = "mk_bulk_secret"
KEY = PlannedKey("k1", hashlib.sha256(SECRET.encode()).hexdigest(), "team", ("infer",), 1.0, 5000)
AUTH = {"authorization": f"Bearer {SECRET}"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    root = tmp_path_factory.mktemp("home")
    digest = store(Shelf(Home(root).prepare().shelf))
    with gateway(root, plan(1, {1: digest}, keys=(KEY,)), workers=1) as running:
        yield running


def bulk_pid(running: Gateway) -> int:
    """The bulk worker's process; 0 while there is none."""
    state = running.state()
    assert state is not None
    return next((worker.pid for worker in state.workers if worker.worker == 1 and worker.revision), 0)


def probabilities(answer: httpx.Response) -> list[float]:
    assert answer.status_code == 200, answer.text[:300]
    return [row["probability"] for row in answer.json()["predictions"]]


def test_every_row_of_a_large_request_is_answered_right(served: Gateway) -> None:
    found = probabilities(served.post("/loans", ROWS))
    assert found == pytest.approx([expected(row) for row in ROWS], abs=1e-6)
    assert bulk_pid(served), "it was the bulk worker's"


def test_a_small_request_starts_no_bulk_worker(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("small")
    with gateway(root, plan(1, {1: store(Shelf(Home(root).prepare().shelf))}), workers=1) as running:
        assert probabilities(running.post("/loans", ROWS[:50])) == pytest.approx(
            [expected(row) for row in ROWS[:50]], abs=1e-6
        )
        assert not bulk_pid(running)
        state = running.state()
        assert state is not None
        assert len(state.workers) == 1


def test_the_bulk_worker_gives_way_to_the_others_also_as_a_session_of_its_own(served: Gateway) -> None:
    served.post("/loans", ROWS)
    pid = int(str(until(lambda: bulk_pid(served), "a bulk worker runs")))
    (worker,) = [one for one in served.workers() if one != pid]
    assert os.getpriority(os.PRIO_PROCESS, pid) - os.getpriority(os.PRIO_PROCESS, worker) == BULK_NICE
    group = Path(f"/proc/{pid}/autogroup")
    if group.exists() and (said := group.read_text()):  # a kernel that shares processors among sessions first
        assert said.split()[-1] == str(BULK_NICE)


def test_errors_of_a_large_request_name_its_rows(served: Gateway) -> None:
    bad = [*ROWS[:1500], {**ROW, "age": 1}, *ROWS[1500:2000]]
    answer = served.post("/loans", bad)
    assert answer.status_code == 422
    assert answer.json()["violations"] == [
        {"rule": "minimum", "message": "must be at least 18", "column": "age", "row": 1500}
    ]


def test_a_large_request_is_charged_once(served: Gateway) -> None:
    first = served.post("/loans", ROWS, headers=AUTH)
    assert first.status_code == 200
    refused = served.post("/loans", ROWS, headers=AUTH)
    assert refused.status_code == 429
    assert served.post("/loans", ROWS[:900], headers=AUTH).status_code == 200, "5,000 rows less 4,000 are left"


def test_answers_keep_their_order_beside_small_requests(served: Gateway) -> None:
    """A large request and small ones on one connection: answers leave in the order of the requests."""
    large, small = msgspec.json.encode(ROWS), msgspec.json.encode(ROW)
    with socket.create_connection(("127.0.0.1", served.port), 30) as line:
        for body in (small, large, small):
            line.sendall(b"POST /loans HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        reader, sizes = line.makefile("rb"), []
        for _ in range(3):
            assert reader.readline() == b"HTTP/1.1 200 OK\r\n"
            length = 0
            while (header := reader.readline()) != b"\r\n":
                if header.startswith(b"content-length:"):
                    length = int(header.partition(b":")[2])
            reader.read(length)
            sizes.append(length)
    assert sizes[0] == pytest.approx(sizes[2], abs=3)
    assert sizes[1] > 100 * sizes[0]


def test_a_compressed_body_that_inflates_to_a_large_one_is_the_bulk_workers(served: Gateway) -> None:
    packed = gzip.compress(msgspec.json.encode(ROWS))
    assert len(packed) < 65536
    answer = httpx.post(served.url + "/loans", content=packed, headers={"content-encoding": "gzip"}, timeout=30)
    assert probabilities(answer) == pytest.approx([expected(row) for row in ROWS], abs=1e-6)
    assert answer.headers["content-encoding"] in ("gzip", "deflate"), (
        "the answer is as large, and the caller accepts it"
    )
    bomb = gzip.compress(b" " * 100_000_000)
    refused = httpx.post(served.url + "/loans", content=bomb, headers={"content-encoding": "gzip"}, timeout=30)
    assert refused.status_code == 413
    assert "max_inflated_bytes" in refused.text


def test_a_deadline_holds_for_large_requests(served: Gateway) -> None:
    pid = bulk_pid(served) or until(lambda: served.post("/loans", ROWS) and bulk_pid(served), "a bulk worker")
    os.kill(int(str(pid)), signal.SIGSTOP)
    try:
        began = time.monotonic()
        answer = served.post("/loans", ROWS, headers={"x-timeout-ms": "300"})
        assert answer.status_code == 504
        assert time.monotonic() - began < 5
        assert served.post("/loans", ROW).status_code == 200, "small requests go on"
    finally:
        os.kill(int(str(pid)), signal.SIGCONT)


def test_a_bulk_worker_that_dies_loses_only_what_it_held(served: Gateway) -> None:
    served.post("/loans", ROWS)
    pid = int(str(until(lambda: bulk_pid(served), "a bulk worker runs")))
    os.kill(pid, signal.SIGSTOP)  # so that the request is certainly with it when it dies
    held: list[httpx.Response] = []
    asker = threading.Thread(target=lambda: held.append(served.post("/loans", ROWS)))
    asker.start()
    try:
        assert served.post("/loans", ROW).status_code == 200
    finally:
        os.kill(pid, signal.SIGKILL)
        asker.join(30)
    assert held[0].status_code in (503, 200), "refused as retryable, or not yet handed over and so answered by the next"
    until(lambda: bulk_pid(served) not in (0, pid) or served.post("/loans", ROWS).status_code == 200, "a new one")
    assert probabilities(served.post("/loans", ROWS))[0] == pytest.approx(expected(ROWS[0]), abs=1e-6)
