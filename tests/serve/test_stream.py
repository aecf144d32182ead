"""NDJSON: one answer a line, in order, as soon as it is ready; a bad line costs nobody but itself."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from kit.gateway import Gateway, gateway, plan, until
from kit.versions import expected, store
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.contract.plan import PlannedKey
from modelyard.serve.stream import OUTSTANDING

ROW = {"age": 35, "income": 120.5, "home": "rent", "job": "fixed", "guarantor": False}
ROWS = [{**ROW, "income": float(number), "home": ("owner", "rent", None)[number % 3]} for number in range(3000)]
SECRET = "mk_stream_secret"
KEY = PlannedKey("k1", hashlib.sha256(SECRET.encode()).hexdigest(), "team", ("infer",), 1.0, 10)
NDJSON = {"content-type": "application/x-ndjson"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    root = tmp_path_factory.mktemp("home")
    digest = store(Shelf(Home(root).prepare().shelf))
    with gateway(root, plan(1, {1: digest}, keys=(KEY,)), workers=1) as running:
        yield running


def said(running: Gateway, body: bytes, **headers: str) -> list[dict[str, Any]]:
    answer = httpx.post(running.url + "/loans", content=body, headers=NDJSON | headers, timeout=30)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def lines(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


class Talk:
    """A stream on a raw socket: what is sent and read is up to the test."""

    def __init__(self, running: Gateway, path: str = "/loans") -> None:
        self.line = socket.create_connection(("127.0.0.1", running.port), 30)
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\n"
        self.line.sendall(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
        self.reader = self.line.makefile("rb")

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()
        self.line.close()

    def send(self, data: bytes) -> None:
        self.line.sendall(b"%x\r\n%b\r\n" % (len(data), data))

    def finish(self) -> None:
        self.line.sendall(b"0\r\n\r\n")

    def head(self) -> bytes:
        status = self.reader.readline()
        while self.reader.readline() != b"\r\n":
            pass
        return status

    def chunk(self) -> bytes:
        size = int(self.reader.readline(), 16)
        data = self.reader.read(size)
        assert self.reader.readline() == b"\r\n"
        return data


def test_every_line_is_answered_in_order(served: Gateway) -> None:
    answers = said(served, lines(ROWS))
    assert [answer["probability"] for answer in answers] == pytest.approx([expected(row) for row in ROWS], abs=1e-6)


def test_an_answer_comes_before_the_next_line_is_sent(served: Gateway) -> None:
    with Talk(served) as talk:
        for number in range(3):
            talk.send(lines([ROWS[number]]))
            if number == 0:
                assert talk.head() == b"HTTP/1.1 200 OK\r\n"
            assert json.loads(talk.chunk())["probability"] == pytest.approx(expected(ROWS[number]), abs=1e-6)
        talk.finish()
        assert talk.chunk() == b""
        talk.line.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert talk.reader.readline() == b"HTTP/1.1 200 OK\r\n", "the connection lives on"


def test_a_bad_line_is_answered_in_its_place(served: Gateway) -> None:
    body = lines([ROW]) + b"{not json\n" + lines([{**ROW, "age": 1}, [ROW], ROW]) + b"\n  \n" + lines([ROW])
    answers = said(served, body)
    assert [answer.get("code", "fine") for answer in answers] == [
        "fine", "invalid_input", "invalid_input", "invalid_input", "fine", "fine",
    ]  # fmt: skip
    assert answers[2]["violations"][0]["column"] == "age"


def test_a_line_in_pieces_and_many_lines_in_one_piece_are_the_same(served: Gateway) -> None:
    whole = lines(ROWS[:20])
    with Talk(served) as talk:
        for at in range(0, len(whole), 7):
            talk.send(whole[at : at + 7])
        talk.finish()
        talk.head()
        got = b""
        while piece := talk.chunk():
            got += piece
    answers = [json.loads(line)["probability"] for line in got.splitlines()]
    assert answers == pytest.approx([expected(row) for row in ROWS[:20]], abs=1e-6)


def test_the_last_line_needs_no_newline(served: Gateway) -> None:
    assert len(said(served, lines(ROWS[:2]).rstrip(b"\n"))) == 2


def test_a_line_that_is_too_long_is_refused_and_the_next_is_read(served: Gateway) -> None:
    answers = said(served, b'{"age":' + b" " * 200_000 + b"1}\n" + lines([ROW]))
    assert answers[0]["code"] == "too_large"
    assert answers[1]["probability"] == pytest.approx(expected(ROW), abs=1e-6)


def test_no_line_at_all_is_an_error(served: Gateway) -> None:
    answer = httpx.post(served.url + "/loans", content=b"\n\n", headers=NDJSON)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert served.post("/loans", ROW).status_code == 200


def test_each_row_is_charged(served: Gateway) -> None:
    answers = said(served, lines([ROW] * 14), authorization=f"Bearer {SECRET}")
    codes = [answer.get("code", "fine") for answer in answers]
    assert codes[:10] == ["fine"] * 10, "burst_rows=10"
    assert codes.count("quota_exceeded") >= 3


def test_who_does_not_read_is_not_read_from(served: Gateway) -> None:
    """Back-pressure: a caller who sends without reading is held up long before the gateway's memory is."""
    with Talk(served) as talk:
        talk.line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        talk.line.settimeout(1.0)
        flood = lines(ROWS[:100]) * 100
        with pytest.raises(TimeoutError):
            talk.line.sendall(b"%x\r\n" % (100 * len(flood)) + 100 * flood)
        assert served.post("/loans", ROW).status_code == 200


def test_a_caller_who_leaves_leaves_nothing_behind(served: Gateway) -> None:
    with Talk(served) as talk:
        talk.send(lines(ROWS[: OUTSTANDING * 4]))
    assert until(lambda: served.post("/loans", ROW).status_code == 200, "others are answered")


def test_a_stream_needs_http_1_1_and_a_plain_body(served: Gateway) -> None:
    packed = httpx.post(served.url + "/loans", content=b"x", headers=NDJSON | {"content-encoding": "gzip"})
    assert packed.status_code == 415
    with socket.create_connection(("127.0.0.1", served.port), 10) as line:
        head = b"POST /loans HTTP/1.0\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\n"
        line.sendall(head + b"content-length: 2\r\n\r\n{}")
        assert line.makefile("rb").readline().split(b" ")[1] == b"422"
