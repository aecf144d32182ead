"""Every limit and switch of a gateway does what it says: each test fails when its setting does nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from kit.certificates import certificate as made_certificate
from kit.gateway import Gateway, gateway, plan, until
from kit.graphs import slow, store_graph
from kit.lines import Line, Reply, request
from kit.versions import CONTRACT, store
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.contract.plan import PlannedEndpoint, PlannedKey, PlannedVersion, ServingPlan, TrafficSplit
from modelyard.contract.telemetry import frames
from modelyard.secure.keys import digest_of

pytestmark = pytest.mark.xdist_group("gateway-limits")

EXAMPLE = CONTRACT.example


def home_with_loans(root: Path) -> tuple[Path, str]:
    home = Home(root).prepare()
    return root, store(Shelf(home.shelf))


def ask(running: Gateway, path: str, body: object = b"", method: str = "POST", **headers: str) -> Reply:
    with Line(running.port) as line:
        return line.ask(request(path, body, method, **headers))[0]


# --- a gateway whose limits are all tight


@pytest.fixture(scope="module")
def tight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    root, digest = home_with_loans(tmp_path_factory.mktemp("tight") / "home")
    limits = {
        "workers": 1, "max_body_bytes": 60_000, "max_header_bytes": 600, "max_headers": 6, "max_rows": 200,
        "max_connections": 6, "header_timeout_s": 0.4, "body_timeout_s": 0.6, "idle_timeout_s": 0.8,
        "write_timeout_s": 0.2, "record_bytes": 100_000, "log_level": "error",
    }  # fmt: skip
    with gateway(root, plan(1, {1: digest}), **limits) as running:
        yield running


def test_workers(tight: Gateway) -> None:
    assert len(tight.workers()) == 1


def test_log_level(tight: Gateway) -> None:
    assert tight.log.read_text() == ""


@pytest.mark.parametrize("chunked", [False, True])
def test_max_body_bytes(tight: Gateway, chunked: bool) -> None:
    fits, above = b" " * 59_000, b" " * 61_000
    for padding, status in ((fits, 200), (above, 413)):
        body = padding + b'{"age":35,"income":1,"home":null,"job":"fixed"}'
        with Line(tight.port) as line:
            if chunked:
                head = b"POST /loans HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
                line.send(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
            else:
                line.send(request("/loans", body))
            reply = line.read()
        assert reply.status == status
        assert (b"max_body_bytes=60000" in reply.body) is (status == 413)


def test_max_header_bytes(tight: Gateway) -> None:
    assert ask(tight, "/loans", EXAMPLE, X_Padding="x" * 300).status == 200
    refused = ask(tight, "/loans", EXAMPLE, X_Padding="x" * 700)
    assert refused.status == 431
    assert b"max_header_bytes=600" in refused.body


def test_max_headers(tight: Gateway) -> None:
    few = {f"X_{number}": "" for number in range(4)}
    assert ask(tight, "/loans", EXAMPLE, **few).status == 200
    refused = ask(tight, "/loans", EXAMPLE, **few, X_4="")
    assert refused.status == 431
    assert b"max_headers=6" in refused.body


def test_limits_count_each_pipelined_request_alone(tight: Gateway) -> None:
    """Many small requests at once are many bytes, but none of them is large."""
    body = b" " * 20_000 + b'{"age":35,"income":1,"home":null,"job":"fixed"}'
    sent = request("/loans", body) * 40 + request("/loans", EXAMPLE) * 200
    with Line(tight.port) as line:
        reader = threading.Thread(target=lambda: replies.extend(line.read().status for _ in range(240)))
        replies: list[int] = []
        reader.start()
        line.send(sent)
        reader.join(20)
    assert replies == [200] * 240


def test_max_rows(tight: Gateway) -> None:
    assert ask(tight, "/loans", [EXAMPLE] * 200).status == 200
    refused = ask(tight, "/loans", [EXAMPLE] * 201)
    assert refused.status == 413
    assert b"max_rows=200" in refused.body


def test_max_connections(tight: Gateway) -> None:
    lines = [Line(tight.port) for _ in range(6)]
    try:
        for line in lines:
            assert line.ask(request("/loans", EXAMPLE))[0].status == 200
        with Line(tight.port) as one_more:
            refused = one_more.read()
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
            assert b"max_connections" in refused.body
            assert one_more.is_closed()
        assert lines[0].ask(request("/loans", EXAMPLE))[0].status == 200
    finally:
        for line in lines:
            line.socket.close()
    until(lambda: ask(tight, "/loans", EXAMPLE).status == 200, "there is room again")


@pytest.mark.parametrize(
    ("sent", "answer", "seconds"),
    [
        (b"POST /loans HTTP/1.1\r\nHost: loc", b"header_timeout_s", 0.4),
        (b"POST /loans HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{", b"body_timeout_s", 0.6),
        (b"", None, 0.8),  # idle_timeout_s: closed without a word
    ],
)
def test_a_slow_caller_is_sent_away(tight: Gateway, sent: bytes, answer: bytes | None, seconds: float) -> None:
    begun = time.monotonic()
    with Line(tight.port) as line:
        line.send(sent)
        if answer is not None:
            reply = line.read()
            assert reply.status == 408
            assert answer in reply.body
        assert line.is_closed()
    assert seconds <= time.monotonic() - begun < seconds + 3


def test_an_idle_connection_is_closed_after_its_last_answer(tight: Gateway) -> None:
    with Line(tight.port) as line:
        assert line.ask(request("/loans", EXAMPLE))[0].status == 200
        assert line.is_closed()


def test_write_timeout_s(tight: Gateway) -> None:
    """A reader that does not read loses its connection; nobody else does."""
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.settimeout(10)
    line.connect(("127.0.0.1", tight.port))
    asked = request("/loans?reasons=all", [EXAMPLE] * 200)
    with line, pytest.raises((BrokenPipeError, ConnectionResetError)):
        line.sendall(asked * 2_000)  # until both sides' buffers are full; then the gateway reads no more either
    assert ask(tight, "/loans", EXAMPLE).status == 200


def test_record_bytes(tight: Gateway) -> None:
    folder = tight.home.records
    made: list[str] = []

    def kept() -> list[str]:
        return [record.request_id for path in sorted(folder.glob("*")) for record in frames(path.read_bytes())]

    for _ in range(8):
        for _ in range(5):  # 5 kB each
            made.append(ask(tight, "/loans", [EXAMPLE] * 200).json()["request_id"])
        until(lambda: kept()[-1:] == made[-1:], "the last record is on disk")
        assert sum(path.stat().st_size for path in folder.glob("*")) <= 100_000 + 30_000  # above it, one flush at most
    mine = [request_id for request_id in kept() if request_id in made]
    assert 5 <= len(mine) < len(made), "the oldest went, not everything"
    assert mine == made[-len(mine) :]


# --- a gateway whose model takes long


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    root = tmp_path_factory.mktemp("busy") / "home"
    limits = {"workers": 1, "max_outstanding": 2, "max_queued_rows": 4, "deadline_s": 0.25}
    with gateway(root, slow_plan(root), **limits) as running:
        yield running


def slow_plan(root: Path, *, joins: bool = True, rounds: int = 6) -> ServingPlan:
    digest = store_graph(Shelf(Home(root).prepare().shelf), slow(rounds), "slow", joins=joins)
    versions = (PlannedVersion(1, digest),)
    return ServingPlan(1, time.time(), (PlannedEndpoint("slow", "slow", versions, TrafficSplit({1: 100})),))


def at_once(running: Gateway, lines: int, each: int, rows: int = 1) -> list[Reply]:
    """All answers to `each` pipelined requests on each of so many connections."""
    replies: list[Reply] = []

    def caller(number: int) -> None:
        with Line(running.port) as line:
            sent = [{"x": number, "y": at} for at in range(rows)]
            for reply in line.ask(*[request("/slow", sent)] * each):
                if reply.status == 200:
                    totals = [one["total"] for one in reply.json()["predictions"]]
                    assert totals == [float(number + at) for at in range(rows)]
                replies.append(reply)

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(lines)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(replies) == lines * each
    return replies


def test_max_outstanding(busy: Gateway) -> None:
    """One connection holds two calls at most in the queue of four rows, so none of its eight finds it full."""
    assert [reply.status for reply in at_once(busy, 1, 8, rows=2)] == [200] * 8


def test_max_queued_rows(busy: Gateway) -> None:
    replies = at_once(busy, 12, 2)
    seen = Counter(reply.status for reply in replies)
    assert seen[200] >= 4
    assert seen[503] >= 1
    for reply in replies:
        if reply.status == 503:
            assert b"max_queued_rows=4" in reply.body
            assert (reply.json()["code"], reply.headers["retry-after"]) == ("overloaded", "1")
    too_many = ask(busy, "/slow", [{"x": 1, "y": 1}] * 5)  # could never be queued: trying again would not help
    assert too_many.status == 413
    assert b"max_queued_rows=4" in too_many.body


def test_deadline_s(tmp_path: Path) -> None:
    """What waits beyond its deadline is dropped and said so; what does not is answered."""
    one_by_one = slow_plan(tmp_path / "home", joins=False)  # 96 calls of 20 ms; together they would take no longer
    with gateway(tmp_path / "home", one_by_one, workers=1, deadline_s=0.5) as running:
        replies = at_once(running, 24, 4)
        seen = Counter(reply.status for reply in replies)
        assert set(seen) == {200, 504}
        assert min(seen.values()) >= 1
        late = next(reply for reply in replies if reply.status == 504)
        assert late.json()["code"] == "deadline_exceeded"
        text = ask(running, "/metrics", method="GET").body.decode()
        (line,) = [line for line in text.splitlines() if 'reason="deadline"' in line and line.startswith("modelyard")]
        dropped = [reply for reply in replies if reply.status == 504 and b"it was not computed" in reply.body]
        assert float(line.rpartition(" ")[2]) == len(dropped) >= 1


def test_a_late_call_gives_its_room_back_before_its_answer_lets_the_next_one_in(tmp_path: Path) -> None:
    """Two calls of two rows fit the queue of four, and no third comes before one of them is answered."""
    longer = slow_plan(tmp_path / "home", joins=False, rounds=120)  # than a deadline and a look at it together
    limits = {"workers": 1, "max_outstanding": 2, "max_queued_rows": 4, "deadline_s": 0.05}
    with gateway(tmp_path / "home", longer, **limits) as running:
        seen = Counter(reply.status for reply in at_once(running, 1, 12, rows=2))
        assert set(seen) <= {200, 504}
        assert seen[504] >= 2


# --- starting and stopping


def test_sigterm_answers_what_is_in_flight(tmp_path: Path) -> None:
    with (
        contextlib.ExitStack() as stack,
        gateway(tmp_path / "home", slow_plan(tmp_path / "home"), workers=2) as running,
    ):
        lines = [stack.enter_context(Line(running.port)) for _ in range(10)]
        for number, line in enumerate(lines):
            line.send(request("/slow", {"x": number, "y": 1}) * 3)
            assert line.read().status == 200  # the first of three: the others are under way
        running.process.send_signal(signal.SIGTERM)
        for number, line in enumerate(lines):
            replies = [line.read(), line.read()]
            assert [reply.status for reply in replies] == [200, 200]
            assert [reply.json()["total"] for reply in replies] == [number + 1.0] * 2
            assert line.is_closed()
        running.stop()
        assert running.state() is None, "a stopped gateway says nothing of itself"


def test_drain_s(tmp_path: Path) -> None:
    """A caller that does not come to an end holds a stopping gateway for drain_s, not longer."""
    root, digest = home_with_loans(tmp_path / "home")
    with gateway(root, plan(1, {1: digest}), drain_s=0.5, workers=1) as running, Line(running.port) as line:
        assert line.ask(request("/loans", EXAMPLE))[0].status == 200
        line.send(b"POST /loans HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
        line.send(b" ")
        time_of_stop = time.monotonic()
        running.stop()
        assert time.monotonic() - time_of_stop < 8  # body_timeout_s is 30, and 20 the default of drain_s


def started(root: Path, **settings: object) -> subprocess.CompletedProcess[str]:
    """A gateway that is expected to refuse to start."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("MODELYARD_")}
    environment |= {f"MODELYARD_{name.upper()}": str(value) for name, value in settings.items()}
    environment["MODELYARD_HOME"] = str(root)
    return subprocess.run(
        [sys.executable, "-m", "modelyard.serve.fleet"], env=environment, capture_output=True, text=True, timeout=30
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3"])
def test_a_public_address_without_keys_is_refused(tmp_path: Path, host: str) -> None:
    refused = started(tmp_path, host=host, gateway_port=0)
    assert refused.returncode == 1
    assert "require_keys" in refused.stderr
    assert repr(host) in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_taken_port_is_refused_by_its_number(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = started(tmp_path, gateway_port=port)
    assert refused.returncode == 1
    assert f"127.0.0.1:{port}" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("setting", "text"), [("max_row", "3"), ("max_rows", "0"), ("deadline_s", "soon"), ("tls_key", "key.pem")]
)
def test_a_setting_that_cannot_be_is_refused_by_name(tmp_path: Path, setting: str, text: str) -> None:
    refused = started(tmp_path, **{setting: text})
    assert refused.returncode == 1
    assert setting in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return made_certificate(tmp_path_factory.mktemp("tls"))


def test_tls_on_a_public_address_with_keys(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    root, digest = home_with_loans(tmp_path / "home")
    keys = (PlannedKey("k", digest_of("my_key"), "anna", ("infer",)),)
    tls = {"tls_certificate": certificate[0], "tls_key": certificate[1]}
    shown = {"host": "0.0.0.0", "require_keys": True, "workers": 1}
    with gateway(root, plan(1, {1: digest}, keys=keys), **shown, **tls) as running:
        assert running.url.startswith("https://")
        url = f"https://127.0.0.1:{running.port}"
        trust = ssl.create_default_context(cafile=certificate[0])
        with httpx.Client(verify=trust, timeout=20) as client:
            assert client.post(f"{url}/loans", json=EXAMPLE).status_code == 401
            good = {"Authorization": "Bearer my_key"}
            assert client.post(f"{url}/loans", json=EXAMPLE, headers=good).status_code == 200
            assert client.get(f"{url}/healthz").status_code == 200, "probes need no key"
        with Line(running.port) as plain:
            plain.send(request("/loans", EXAMPLE))
            assert plain.is_closed()
