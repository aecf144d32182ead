"""One row answered piece by piece: as each is made, in order, with errors in their place and room for slow readers."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kit.gateway import Gateway, gateway, until
from kit.model_workers import KIT_PATH, store_class
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.contract.plan import PlannedEndpoint, PlannedVersion, ServingPlan, TrafficSplit
from modelyard.serve.pieces import STREAMS


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    root = tmp_path_factory.mktemp("home")
    shelf = Shelf(Home(root).prepare().shelf)
    endpoints = tuple(
        PlannedEndpoint(name, name, (PlannedVersion(1, store_class(shelf, entry)),), TrafficSplit({1: 100}))
        for name, entry in (("counting", "kit.streaming:Counting"), ("slow", "kit.streaming:Slow"))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", KIT_PATH)
        with gateway(root, ServingPlan(1, time.time(), endpoints), workers=1, model_workers=1) as running:
            yield running


def pieces(running: Gateway, name: str, row: Any) -> list[Any]:
    answer = httpx.post(f"{running.url}/{name}/stream", json=row, timeout=30)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def test_every_piece_in_order(served: Gateway) -> None:
    assert [piece["number"] for piece in pieces(served, "counting", {"upto": [100, 0]})] == list(range(100))


def test_no_piece_at_all_is_an_empty_answer(served: Gateway) -> None:
    assert pieces(served, "counting", {"upto": [0, 0]}) == []


def test_a_piece_leaves_before_the_next_is_made(served: Gateway, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    with httpx.stream("POST", served.url + "/slow/stream", json={"file": str(go_on)}, timeout=30) as answer:
        lines = answer.iter_lines()
        assert json.loads(next(lines)) == {"says": "first"}
        go_on.touch()
        assert json.loads(next(lines)) == {"says": "second"}


def test_an_error_comes_in_its_place_and_tells_nothing(served: Gateway) -> None:
    *numbers, last = pieces(served, "counting", {"upto": [3, 1]})
    assert [piece["number"] for piece in numbers] == [0, 1, 2]
    assert last["code"] == "model_failed"
    assert "4711" not in json.dumps(last)
    assert pieces(served, "counting", {"upto": [1, 0]})[0]["number"] == 0


def test_a_connection_lives_on_after_its_pieces(served: Gateway) -> None:
    with httpx.Client() as client:
        for _ in range(12):  # more than may be outstanding on one connection
            assert client.post(served.url + "/counting/stream", json={"upto": [2, 0]}).status_code == 200
            assert client.post(served.url + "/counting", json={"upto": [2, 0]}).json()["number"] == 2


def test_who_does_not_read_holds_the_model_up_and_who_leaves_ends_it(served: Gateway) -> None:
    body = json.dumps({"upto": [0, 2]}).encode()
    request = b"POST /counting/stream HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    readers = [socket.create_connection(("127.0.0.1", served.port), 10) for _ in range(STREAMS)]
    try:
        for reader in readers:
            reader.sendall(request)
            assert reader.recv(100).startswith(b"HTTP/1.1 200")
        refused = httpx.post(served.url + "/counting/stream", json={"upto": [1, 0]})
        assert refused.status_code == 503
        assert "piece by piece" in refused.text
        assert served.post("/counting", {"upto": [7, 0]}).json()["number"] == 7, "whole answers go on"
    finally:
        for reader in readers:
            reader.close()
    until(lambda: pieces_again(served), "streams whose callers left make room")


def pieces_again(running: Gateway) -> bool:
    return httpx.post(running.url + "/counting/stream", json={"upto": [1, 0]}).status_code == 200


def test_the_caller_s_own_timeout_ends_an_answer_that_would_go_on(served: Gateway) -> None:
    headers = {"x-timeout-ms": "400"}
    began = time.monotonic()
    answer = httpx.post(f"{served.url}/counting/stream", json={"upto": [0, 2]}, headers=headers, timeout=20)
    assert time.monotonic() - began < 10
    *_, last = (json.loads(line) for line in answer.text.splitlines())
    assert last["code"] == "deadline_exceeded"


def test_only_one_row_and_only_where_the_class_can(served: Gateway) -> None:
    two = httpx.post(served.url + "/counting/stream", json=[{"upto": [1, 0]}, {"upto": [1, 0]}])
    assert two.status_code == 413
    bad = httpx.post(served.url + "/counting/stream", json={"upto": [1]})
    assert bad.status_code == 422
