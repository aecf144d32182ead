"""Crowds, slow callers and large ones: others are answered meanwhile, and memory stays within bounds.

How fast others are answered is for `make soak` to say; here it counts that they are, rightly and in order.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import resource
import select
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from kit.every_kind import grpc_message, plan_of
from kit.gateway import Gateway, gateway, until
from kit.graphs import store_graph, total
from kit.grpc import Caller, caller, infer
from kit.lines import Line, Reply, request
from kit.tensor_versions import store_identity
from kit.versions import CONTRACT, expected, store
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home

pytestmark = [pytest.mark.hostile]

IDLE = 10_000
IDLE_BYTES = 12 * 1024  # of memory that an idle connection may cost, HTTP or HTTP/2, the kernel's buffers left out
SPARE_FILES = 500
MIB = 1 << 20
ROW = dict(CONTRACT.example)


def home_with(root: Path) -> dict[str, str]:
    shelf = Shelf(Home(root).prepare().shelf)
    return {
        "loans": store(shelf),
        "same": store_identity(shelf, ("FP32",), (-1, 256)),
        "matrix": store_graph(shelf, total(), "matrix", "matrix"),
    }


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    root = tmp_path_factory.mktemp("pressure") / "home"
    limits = {"write_timeout_s": 3, "max_outstanding": 4, "max_inflated_bytes": 4 * MIB, "body_timeout_s": 2}
    with gateway(root, plan_of(home_with(root)), workers=1, **limits) as one:
        one.post("/loans", [ROW] * 3000)  # large: from here on there is a bulk worker too
        yield one
        assert '"fault"' not in one.log.read_text()
        state = one.state()
        assert state is not None
        assert state.restarts == ()


def rss(running: Gateway) -> int:
    """Resident bytes of all workers together."""
    return sum(
        int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() for pid in running.workers()
    )


def check_row(reply: Reply) -> None:
    assert reply.status == 200, reply.body[:300]
    assert reply.json()["probability"] == pytest.approx(expected(ROW), abs=1e-6)


# --- a crowd of idle connections


@pytest.fixture
def many_files() -> Iterator[int]:
    """How many connections this process may open: as many as wanted, or the machine's own limit less some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = IDLE + SPARE_FILES
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))
    yield min(IDLE, max(soft, limit) - SPARE_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("edge", ["http", "grpc"])
def test_ten_thousand_idle_connections_cost_little_and_others_are_answered(
    tmp_path: Path, many_files: int, edge: str
) -> None:
    assert many_files == IDLE, "this machine allows too few open files: raise its hard limit of RLIMIT_NOFILE"
    root = tmp_path / "home"
    with gateway(root, plan_of(home_with(root)), workers=2, idle_timeout_s=120) as running:
        port = running.port if edge == "http" else running.grpc_port
        for _ in range(20):
            with Line(running.port) as line:
                check_row(line.ask(request("/loans", ROW))[0])
        before = rss(running)
        hello = b"" if edge == "http" else b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
        crowd = []
        try:
            for _ in range(many_files):
                one = socket.create_connection(("127.0.0.1", port), timeout=20)
                crowd.append(one)
                if hello:
                    one.sendall(hello)
            with Line(running.port) as line, caller(running.grpc_port) as other:
                for _ in range(50):
                    check_row(line.ask(request("/loans", ROW))[0])
                    sums = infer(other.call("ModelInfer", grpc_message("matrix", {"rows": np.ones((1, 2), "<f4")}, [])))
                    assert np.frombuffer(sums.raw_output_contents[0], "<f4") == 2.0
                until(lambda: connections(line) >= many_files, f"{many_files} connections are held")
                grown = (rss(running) - before) / many_files
                print(f"an idle connection of {edge} costs {grown / 1024:.1f} KiB of the workers' memory")
                assert grown < IDLE_BYTES
        finally:
            for one in crowd:
                one.close()
        with Line(running.port) as line:
            until(lambda: connections(line) < 100, "the gateway let go of the crowd")
            check_row(line.ask(request("/loans", ROW))[0])


def connections(line: Line) -> int:
    (reply,) = line.ask(request("/metrics", method="GET"))
    found = [text for text in reply.body.decode().splitlines() if text.startswith("modelyard_connections ")]
    return int(float(found[0].split()[1])) if found else -1


# --- slow callers


def never_reads(port: int, asks: bytes, seconds: float = 30.0) -> int:
    """Send the same request until the gateway takes no more, or hangs up; how many bytes it took."""
    sent = 0
    with socket.create_connection(("127.0.0.1", port), timeout=2) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        end = time.monotonic() + seconds
        with contextlib.suppress(TimeoutError, BrokenPipeError, ConnectionResetError):
            while time.monotonic() < end:
                sent += line.send(asks)
        until(lambda: is_over(line), "the gateway lets go of who does not read", 15)
    return sent


def is_over(line: socket.socket) -> bool:
    """Whether the gateway has hung up on a line whose answers nobody reads."""
    try:
        line.send(b"\r\n")
    except (BrokenPipeError, ConnectionResetError):
        return True
    except TimeoutError:
        return False
    return False


def large_answer() -> bytes:
    """A request of 40 KiB, and an answer as long."""
    values = np.ones((40, 256), "<f4")
    tensor = {"name": "in_FP32", "shape": [40, 256], "datatype": "FP32"}
    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": values.nbytes}}]}).encode()
    return request("/v2/models/same/infer", head + values.tobytes(), Inference_Header_Content_Length=str(len(head)))


def test_who_does_not_read_costs_bounded_memory_and_is_sent_away(running: Gateway) -> None:
    before = rss(running)
    asks = large_answer()
    readers = [threading.Thread(target=never_reads, args=(running.port, asks), daemon=True) for _ in range(12)]
    for one in readers:
        one.start()
    most = 0
    with Line(running.port) as line:
        while any(one.is_alive() for one in readers):
            check_row(line.ask(request("/loans", ROW))[0])
            most = max(most, rss(running) - before)
            time.sleep(0.02)
    print(f"12 callers who read nothing cost at most {most / MIB:.1f} MiB")
    # each: what the socket gave at once, max_outstanding answers, and what was read ahead of them
    assert most < 12 * 6 * MIB


@pytest.mark.parametrize("path", ["/docs/page.js", "/openapi.json"])
def test_short_requests_for_long_answers_are_not_answered_ahead_of_their_reader(running: Gateway, path: str) -> None:
    """Thousands of requests fit what is read at once; only as many are answered as the caller reads."""
    asks = request(path, method="GET")
    assert len(running.get(path).content) > 100 * len(asks)
    before = rss(running)
    with socket.create_connection(("127.0.0.1", running.port), timeout=2) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with contextlib.suppress(TimeoutError, BrokenPipeError, ConnectionResetError):
            line.sendall(asks * 6000)
        with Line(running.port) as other:
            check_row(other.ask(request("/loans", ROW))[0])
        most = rss(running) - before
    print(f"{path}: {most / MIB:.1f} MiB for who asks and does not read")
    assert most < 16 * MIB


def test_what_waits_behind_outstanding_requests_is_answered_in_order_however_much_it_is(running: Gateway) -> None:
    """Requests that are answered at once, held behind some that are not: each answer lets the next one in."""
    rows = [request("/loans", ROW)] * 6
    probes = [request("/healthz", method="GET")] * 1500
    with Line(running.port, 10) as line:
        replies = line.ask(*rows, *probes, *rows)
    assert [reply.status for reply in replies] == [200] * 1512
    assert [b"probability" in reply.body for reply in replies] == [True] * 6 + [False] * 1500 + [True] * 6


def test_a_trickle_of_bodies_holds_nobody_up(running: Gateway) -> None:
    lines = [socket.create_connection(("127.0.0.1", running.port), timeout=10) for _ in range(200)]
    body = json.dumps(ROW).encode()
    try:
        for one in lines:
            one.sendall(b"POST /loans HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body))
        with Line(running.port) as line:
            for at in range(12):  # the attack itself: each keeps below every idle limit
                for one in lines:
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                        one.send(body[at : at + 1])
                check_row(line.ask(request("/loans", ROW))[0])
                time.sleep(0.25)
        answers = [until(lambda one=one: one.recv(100), "the gateway says so") for one in lines]  # type: ignore[misc]
        assert {answer[:12] for answer in answers} == {b"HTTP/1.1 408"}  # type: ignore[index]
    finally:
        for one in lines:
            one.close()


def test_a_stream_of_rows_whose_answers_nobody_reads_is_not_read_to_its_end(running: Gateway) -> None:
    before = rss(running)
    row = json.dumps(ROW).encode() + b"\n"
    chunk = row * 500
    head = b"POST /loans HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
    sent = 0
    with socket.create_connection(("127.0.0.1", running.port), timeout=1) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        try:
            while sent < 64 * MIB:
                sent += line.send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        except (TimeoutError, BrokenPipeError, ConnectionResetError):
            pass
        most = rss(running) - before
    print(f"the gateway took {sent / MIB:.1f} MiB of a stream whose answers were not read, for {most / MIB:.1f} MiB")
    assert sent < 32 * MIB
    assert most < 24 * MIB
    with Line(running.port) as line:
        check_row(line.ask(request("/loans", ROW))[0])


def test_bodies_that_do_not_end_cost_no_more_than_their_budget(tmp_path: Path) -> None:
    """Each within every limit of its own; together they would hold five times what the worker may."""
    body, budget = 7 * MIB, 16 * MIB
    head = b"POST /loans HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (body + 1)
    limits = {"workers": 1, "max_pending_bytes": budget}
    with gateway(tmp_path / "home", plan_of(home_with(tmp_path / "home")), **limits) as one:
        before = rss(one)
        with contextlib.ExitStack() as stack:
            lines = [stack.enter_context(Line(one.port)) for _ in range(12)]
            for line in lines:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    line.send(head + bytes(body))
            with Line(one.port) as line:
                check_row(line.ask(request("/loans", ROW))[0])
            until(lambda: sum(has_spoken(line) for line in lines) >= 10, "all but two of them are refused")
            assert sum(has_spoken(line) for line in lines) == 10
            most = rss(one) - before
        with Line(one.port) as line:
            assert line.ask(request("/loans", [ROW] * 3000))[0].status == 200  # in several pieces: there is room again
    print(f"12 bodies of 7 MiB that did not end cost {most / MIB:.1f} MiB")
    assert most < budget + 16 * MIB


def has_spoken(line: Line) -> bool:
    """Whether the gateway has answered, or hung up."""
    return bool(select.select([line.socket], [], [], 0)[0])


# --- bodies that grow


PACKED = {
    "gzip": (gzip.compress(bytes(100 * MIB)), "gzip", 413),
    "deflate": (zlib.compress(bytes(100 * MIB)), "deflate", 413),
    "a bomb in a bomb": (gzip.compress(gzip.compress(bytes(100 * MIB))), "gzip", 400),
    "a bomb in a bomb, and it is said": (gzip.compress(gzip.compress(bytes(100 * MIB))), "gzip, gzip", 415),
    "a hundred thousand empty members": (gzip.compress(b"") * 100_000, "gzip", 400),
    "bombs one behind the other": (gzip.compress(bytes(3 * MIB)) * 40, "gzip", 413),
}


@pytest.mark.parametrize("path", ["/loans", "/v2/models/same/infer", "/v1/models/loans:predict", "/invocations"])
@pytest.mark.parametrize("name", PACKED)
def test_a_bomb_is_refused_before_it_grows(running: Gateway, path: str, name: str) -> None:
    body, coding, status = PACKED[name]
    before = rss(running)
    with Line(running.port) as line:
        head = {"Content_Encoding": coding, "Content_Type": "application/json"}
        (reply,) = line.ask(request(path, body, **head))
        assert reply.status == status, reply.body[:200]
    with Line(running.port) as line:
        check_row(line.ask(request("/loans", ROW))[0])
    assert rss(running) - before < 32 * MIB


# --- large callers beside small ones


def test_rows_by_the_ten_thousand_in_a_loop_leave_small_callers_their_own_answers(running: Gateway) -> None:
    stop = threading.Event()
    faults: list[str] = []
    done = {"large": 0, "small": 0}
    lock = threading.Lock()
    sent = [{**ROW, "income": float(number)} for number in range(10_000)]
    right = [expected(row) for row in sent]
    x = np.arange(20_000, dtype="<f4").reshape(10_000, 2)

    def loop(name: str, turn: Callable[[], None]) -> None:
        try:
            while not stop.is_set():
                turn()
                with lock:
                    done[name] += 1
        except Exception as error:
            faults.append(f"{name}: {type(error).__name__}: {error}")

    def large_json() -> None:
        with Line(running.port) as line:
            (reply,) = line.ask(request("/loans?reasons=none", sent))
            assert reply.status == 200, reply.body[:200]
            assert [row["probability"] for row in reply.json()["predictions"]] == pytest.approx(right, abs=1e-6)

    def large_grpc() -> None:
        with caller(running.grpc_port) as line:
            answer = infer(line.call("ModelInfer", grpc_message("matrix", {"rows": x}, [])))
            assert answer.raw_output_contents[0] == x.sum(axis=1).tobytes()

    def small(number: int) -> Callable[[], None]:
        line, other, at = open_lines.enter_context(Line(running.port)), Caller(running.grpc_port), itertools.count()
        open_lines.callback(other.close)

        def turn() -> None:
            incomes = [float(number * 1000 + next(at) % 900) for _ in range(3)]
            replies = line.ask(*(request("/loans", {**ROW, "income": income}) for income in incomes))
            for reply, income in zip(replies, incomes, strict=True):
                wanted = expected({**ROW, "income": income})
                assert reply.json()["probability"] == pytest.approx(wanted, abs=1e-6)
            rows = np.array([[number, incomes[0]]], "<f4")
            answer = infer(other.call("ModelInfer", grpc_message("matrix", {"rows": rows}, [])))
            assert answer.raw_output_contents[0] == rows.sum(axis=1).tobytes()

        return turn

    with contextlib.ExitStack() as open_lines:
        turns = [("large", large_json), ("large", large_grpc), *(("small", small(number)) for number in range(8))]
        threads = [threading.Thread(target=loop, args=turn, daemon=True) for turn in turns]
        for one in threads:
            one.start()
        until(lambda: faults or (done["large"] >= 20 and done["small"] >= 500), f"all are answered: {done}", 60)
        stop.set()
        for one in threads:
            one.join(30)
            assert not one.is_alive(), "a caller hangs"
    assert not faults, faults[:3]
    print(f"answered beside each other: {done}")
