"""Bodies that are begun and not ended cost one budget in each worker, and whatever ends them gives it back."""

from __future__ import annotations

import asyncio
import contextlib
import select
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from h2.exceptions import StreamClosedError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kit.every_kind import grpc_message, plan_of
from kit.gateway import Gateway, gateway, until
from kit.graphs import store_graph, total
from kit.grpc import Caller, caller, infer
from kit.lines import Line, Reply, request
from kit.versions import CONTRACT, expected, store
from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import InvalidInput, ModelyardError, Overloaded
from modelyard.contract.home import Home
from modelyard.contract.settings import Settings
from modelyard.serve.exchange import Exchange
from modelyard.serve.http import HttpServer
from modelyard.serve.http_connection import Connection
from modelyard.serve.pending import PendingBytes
from modelyard.serve.stream import NdjsonStream

KIB = 1024
INVALID_ARGUMENT, DEADLINE_EXCEEDED, UNAVAILABLE = 3, 4, 14


# --- the count


def test_what_does_not_fit_is_not_counted() -> None:
    pending = PendingBytes(100)
    assert pending.replace(0, 60) == 60
    with pytest.raises(Overloaded, match="max_pending_bytes=100"):
        pending.replace(0, 41)
    with pytest.raises(Overloaded):
        pending.replace(60, 101)
    assert pending.held == 60
    pending.replace(60, 100)
    pending.replace(100, 30)
    assert pending.held == 30
    pending.replace(30, 0)
    assert pending.held == 0


def test_one_body_must_fit() -> None:
    with pytest.raises(ValueError, match="max_pending_bytes is at least max_body_bytes"):
        Settings(max_body_bytes=2000, max_pending_bytes=1999)


# --- every way in which a body may end, on connections without a socket


class Wire(asyncio.Transport):
    """What a connection writes to, and what it does to it."""

    def __init__(self) -> None:
        super().__init__()
        self.said = b""
        self.is_over = False

    def write(self, data: Any) -> None:
        self.said += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.is_over = True

    def is_closing(self) -> bool:
        return self.is_over

    def close(self) -> None:
        self.is_over = True

    abort = close

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Echo:
    """An application that answers when it is told to; `/no` is refused at its head, `/lines` is a stream."""

    def __init__(self, limit: int, loop: asyncio.AbstractEventLoop) -> None:
        self.pending = PendingBytes(limit)
        self.waiting: list[Any] = []
        self._loop = loop

    def admit(self, exchange: Exchange) -> None:
        if exchange.target == b"/no":
            raise InvalidInput("no")
        if exchange.target == b"/lines":
            exchange.sink = NdjsonStream(
                exchange, lambda slot, _: self.waiting.append(slot), self.problem_line, self._loop, 4 * KIB
            )

    def handle(self, exchange: Exchange) -> None:
        if len(exchange.body) % 7 == 3:
            raise InvalidInput("not this one")
        self.waiting.append(exchange)

    def refuse(self, exchange: Exchange, error: ModelyardError, status: int | None = None) -> None:
        exchange.respond(status or (503 if isinstance(error, Overloaded) else 422), str(error).encode())

    def problem_line(self, error: ModelyardError) -> bytes:
        return str(error).encode()

    def failed(self, error: BaseException) -> ModelyardError:
        raise error


HEADS = [
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6000\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST /lines HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST /no HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 6000\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 6000\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n" + b"x" * 500,
]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["head", "more", "more", "line", "rest"]), st.integers(0, 1), st.integers(0, 6)),
        st.tuples(st.sampled_from(["answer", "answer", "turn", "drain", "garbage"]), st.integers(0, 1), st.just(0)),
        st.tuples(st.sampled_from(["half", "lose", "expire", "pause", "go on"]), st.integers(0, 1), st.just(0)),
    ),
    max_size=50,
)


def said_next(line: Connection, what: str, which: int) -> bytes:
    """The next bytes of a caller who goes on with what he began, or begins something."""
    asked = line.current
    if what == "garbage":
        return b"zz\r\n\r\n"
    if asked is None or what == "head":
        return HEADS[which]
    size = [10, 100, 500, 1500, 2500, 3000, 9000][which]
    if what == "rest":
        return b"0\r\n\r\n" if asked.length is None else b"x" * (asked.length - len(asked.body))
    if asked.length is None:
        return b"%x\r\n%b\r\n" % (size + 1, b"y" * size + (b"\n" if what == "line" else b"y"))
    return b"x" * min(size, asked.length - len(asked.body))


@settings(max_examples=400, deadline=None)
@given(STEPS)
@example([("head", 0, 2), ("line", 0, 0), ("answer", 0, 0), ("more", 0, 2), ("expire", 0, 0)])  # a stream cut off
def test_whatever_ends_a_body_gives_its_bytes_back(steps: list[tuple[str, int, int]]) -> None:
    loop = asyncio.new_event_loop()
    try:
        app = Echo(8 * KIB, loop)
        limits = Settings(max_body_bytes=7 * KIB, max_pending_bytes=8 * KIB, max_outstanding=2)
        server = HttpServer(limits, app, loop)
        lines = [opened(server) for _ in range(2)]
        for what, at, which in steps:
            line = lines[at]
            if what in ("head", "more", "line", "rest", "garbage"):
                line.data_received(said_next(line, what, which))
            elif what == "half":
                line.eof_received()
            elif what == "expire":
                line.expire(server.now())
            elif what == "pause":
                line.pause_writing()
            elif what == "go on":
                line.resume_writing()
            elif what == "answer" and app.waiting:
                app.waiting.pop(0).respond(200, b"{}")
                turn(loop)
            elif what == "turn":
                turn(loop)
            elif what == "drain":
                server.drain()
            elif what == "lose":
                line.connection_lost(None)
                lines[at] = opened(server)
            assert 0 <= app.pending.held <= app.pending.limit
            waits = [one for each in lines for one in each.slots if one.pending > 0]
            assert app.pending.held == sum(one.pending for one in waits)
            assert [one.pending for one in waits] == [kept(one) for one in waits]
        for line in lines:
            line.connection_lost(None)
        turn(loop)
        assert app.pending.held == 0
    finally:
        loop.close()


def kept(exchange: Exchange) -> int:
    """The bytes of a body that are really there."""
    if isinstance(exchange.sink, NdjsonStream):
        return sum(map(len, exchange.sink._unread)) + len(exchange.sink._tail)
    return len(exchange.body)


def turn(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_soon(loop.stop)
    loop.run_forever()


def opened(server: HttpServer) -> Connection:
    line = server()
    line.connection_made(Wire())
    return line


# --- a real gateway


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    root = tmp_path_factory.mktemp("pending") / "home"
    shelf = Shelf(Home(root).prepare().shelf)
    digests = {"loans": store(shelf), "matrix": store_graph(shelf, total(), "matrix", "matrix")}
    limits = {"workers": 1, "max_body_bytes": 200 * KIB, "max_pending_bytes": 400 * KIB, "body_timeout_s": 5}
    with gateway(root, plan_of(digests), **limits) as one:
        yield one


def row(number: int) -> dict[str, Any]:
    return CONTRACT.example | {"income": float(number)}


def begun(running: Gateway, number: int, size: int) -> tuple[Line, bytes]:
    """A connection that has sent all but the end of a body of so many bytes, and that end."""
    asked = request("/loans", row(number))
    head, _, body = asked.partition(b"\r\n\r\n")
    body = b" " * (size - len(body)) + body
    head = b"\r\n".join(one for one in head.split(b"\r\n") if not one.lower().startswith(b"content-length"))
    line = Line(running.port)
    line.send(head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:-100])
    return line, body[-100:]


def answered(line: Line, end: bytes) -> Reply:
    line.send(end)
    return line.read()


def fits(running: Gateway) -> bool:
    """Whether three bodies of 120 KiB may wait beside each other."""
    with contextlib.ExitStack() as stack:
        lines = [begun(running, number, 120 * KIB) for number in range(3)]
        for line, _ in lines:
            stack.enter_context(line)
        with contextlib.suppress(OSError, EOFError):
            return all(answered(line, end).status == 200 for line, end in lines)
    return False


def readable(line: Line) -> bool:
    """Whether the gateway has said something."""
    return bool(select.select([line.socket], [], [], 0)[0])


def test_the_body_above_the_budget_is_refused_and_the_others_are_answered(running: Gateway) -> None:
    with contextlib.ExitStack() as stack:
        lines = [begun(running, number, 120 * KIB) for number in range(4)]
        for line, _ in lines:
            stack.enter_context(line)
        until(lambda: any(readable(line) for line, _ in lines), "one of the four is too many")
        (number,) = (number for number, (line, _) in enumerate(lines) if readable(line))
        one_more, _ = lines[number]
        refused = one_more.read()
        assert (refused.status, refused.headers["retry-after"], refused.headers["connection"]) == (503, "1", "close")
        assert refused.json()["code"] == "overloaded"
        assert f"max_pending_bytes={400 * KIB}" in refused.json()["detail"]
        assert one_more.is_closed()
        with Line(running.port) as line:  # what comes in one piece waits for nobody
            small = line.ask(request("/loans", row(50)))[0]
            assert small.json()["probability"] == pytest.approx(expected(row(50)), abs=1e-6)
        for at, (line, end) in enumerate(lines):
            if at != number:
                reply = answered(line, end)
                assert reply.status == 200
                assert reply.json()["probability"] == pytest.approx(expected(row(at)), abs=1e-6)
    until(lambda: fits(running), "all of it is given back")


@pytest.mark.parametrize("way", ["lost", "half-closed", "expired", "broken", "too large"])
def test_bodies_that_do_not_end_give_back_what_they_held(running: Gateway, way: str) -> None:
    with contextlib.ExitStack() as stack:
        lines = [begun(running, number, 120 * KIB)[0] for number in range(3)]
        for line in lines:
            stack.enter_context(line)
        if way == "half-closed":
            for line in lines:
                line.socket.shutdown(1)
                assert line.is_closed()
        elif way == "expired":
            assert [line.read().status for line in lines] == [408] * 3
        elif way == "lost":
            for line in lines:
                line.socket.close()
        else:
            for line in lines:
                line.socket.close()
            head = b"POST /loans HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            chunk = b"%x\r\n%b\r\n" % (60 * KIB, b" " * 60 * KIB)
            until(lambda: fits(running), "there is room for the next")
            for _ in range(12):
                with Line(running.port) as line:
                    line.send(head + chunk * 2 + (b"zz\r\n" if way == "broken" else chunk * 2))
                    assert line.read().status == (400 if way == "broken" else 413)
    until(lambda: fits(running), "all of it is given back")


def test_a_stream_counts_the_line_that_does_not_end(running: Gateway) -> None:
    head = b"POST /loans HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(Line(running.port)) for _ in range(8)]
        for line in lines:
            line.send(head + b"%x\r\n%b\r\n" % (60 * KIB, b" " * 60 * KIB))
        until(lambda: any(readable(one) for one in lines), "one of them is too many")
        refused = [one for one in lines if readable(one)]
        assert {one.read().status for one in refused} == {503}
        assert len(refused) < len(lines)
    until(lambda: fits(running), "all of it is given back")


# --- the same budget over gRPC


def begun_grpc(stack: contextlib.ExitStack, running: Gateway, number: int) -> tuple[Caller, int, bytes]:
    """A stream that has sent all but the end of a message of 120 KiB, and that end."""
    message = grpc_message("matrix", {"rows": np.array([[number, 1.0]], "<f4")}, [])
    message.id = "i" * (120 * KIB)
    data = message.SerializeToString()
    data = struct.pack(">BI", 0, len(data)) + data
    line = stack.enter_context(caller(running.grpc_port))
    stream = line.open("ModelInfer")
    with contextlib.suppress(StreamClosedError):  # refused before all of it has left
        line.send(stream, data[:-100], bare=True)
    return line, stream, data[-100:]


def spoke(line: Caller, stream: int) -> bool:
    """Whether the gateway has ended a stream."""
    while select.select([line.line], [], [], 0)[0] and not line.is_over:
        line.read()
    return line.replies[stream].has_ended


def test_both_edges_share_the_budget(running: Gateway) -> None:
    with contextlib.ExitStack() as stack:
        plain = [begun(running, number, 120 * KIB) for number in range(2)]
        for line, _ in plain:
            stack.enter_context(line)
        streams = [begun_grpc(stack, running, number) for number in range(2)]
        until(
            lambda: any(readable(line) for line, _ in plain) or any(spoke(*one[:2]) for one in streams),
            "one of the four is too many",
        )
        refused = [line.read().status for line, _ in plain if readable(line)]
        refused += [line.replies[stream].status for line, stream, _ in streams if spoke(line, stream)]
        assert refused in ([503], [UNAVAILABLE])
        for number, (line, stream, end) in enumerate(streams):
            if not spoke(line, stream):
                line.send(stream, end, bare=True, end=True)
                answer = infer(line.wait(stream))
                assert np.frombuffer(answer.raw_output_contents[0], "<f4").tolist() == [number + 1.0]
    until(lambda: fits(running), "all of it is given back")


@pytest.mark.parametrize("way", ["refused", "cancelled", "lost", "expired", "whole"])
def test_messages_that_do_not_end_give_back_what_they_held(running: Gateway, way: str) -> None:
    with contextlib.ExitStack() as stack:
        streams = [begun_grpc(stack, running, number) for number in range(3)]
        for line, stream, end in streams:
            if way == "refused":
                line.send(stream, end + b"more", bare=True)
                assert line.wait(stream).status == INVALID_ARGUMENT
            elif way == "cancelled":
                line.h2.reset_stream(stream, 8)
                line.flush()
            elif way == "expired":
                assert line.wait(stream).status == DEADLINE_EXCEEDED
            elif way == "whole":
                line.send(stream, end, bare=True, end=True)
                infer(line.wait(stream))
        if way == "lost":
            stack.close()
        until(lambda: fits(running), "all of it is given back")
