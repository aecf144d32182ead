"""Settings of large bodies, threads, ports and model processes: each does what it says, and is seen to."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx
import pytest

from kit.gateway import Gateway, gateway, plan, until
from kit.grpc import caller
from kit.lines import Line, request
from kit.model_workers import KIT_PATH, store_class
from kit.product import free_ports
from kit.versions import CONTRACT, store
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home

ROW = dict(CONTRACT.example)


def loans(root: Path) -> dict[int, str]:
    return {1: store(Shelf(Home(root).prepare().shelf))}


def processes(running: Gateway) -> int:
    state = running.state()
    assert state is not None
    return len(state.workers)


def test_bulk_bytes(tmp_path: Path) -> None:
    """Above it a body is the bulk worker's, and a line of a stream is too long."""
    with gateway(tmp_path, plan(1, loans(tmp_path)), workers=1, bulk_bytes=150) as running:
        small, large = json.dumps(ROW).encode(), json.dumps([ROW, ROW]).encode()
        assert len(small) < 150 < len(large)
        with Line(running.port) as line:
            assert [reply.status for reply in line.ask(request("/loans", small))] == [200]
            assert processes(running) == 1
            assert [reply.status for reply in line.ask(request("/loans", large))] == [200]
            until(lambda: processes(running) == 2, "a bulk worker is started")
        lines = small + b"\n" + b" " * 150 + small + b"\n"
        answers = running_stream(running, lines)
        assert "decision" in answers[0]
        assert (answers[1]["status"], answers[1]["code"]) == (413, "too_large")


def running_stream(running: Gateway, lines: bytes) -> list[dict[str, object]]:
    headers = {"content-type": "application/x-ndjson"}
    reply = httpx.post(f"{running.url}/loans", content=lines, headers=headers, timeout=30)
    return [json.loads(line) for line in reply.text.splitlines()]


@pytest.mark.parametrize("threads", [1, 3])
def test_threads(tmp_path: Path, threads: int) -> None:
    """Each gateway worker's numeric libraries are told how many."""
    with gateway(tmp_path, plan(1, loans(tmp_path)), workers=1, threads=threads) as running:
        (pid,) = running.workers()
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        assert b"OMP_NUM_THREADS=%d" % threads in environment


def test_grpc_port(tmp_path: Path) -> None:
    """gRPC is spoken where it is said, and nowhere else."""
    (port,) = free_ports(1)
    with gateway(tmp_path, plan(1, loans(tmp_path)), grpc_port=port) as running:
        assert running.grpc_port == port
        with caller(port) as line:
            assert line.call("ServerLive").status == 0


def test_model_timeout_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that takes longer is given up with its process, long before the caller's own deadline."""
    monkeypatch.setenv("PYTHONPATH", KIT_PATH)
    digest = store_class(Shelf(Home(tmp_path).prepare().shelf), "kit.own_models:Sums")
    with gateway(tmp_path, plan(1, {1: digest}), workers=1, model_timeout_s=1) as running:
        began = time.monotonic()
        sleeps = {"x": [-2, 0, 0]}  # sleeps for a minute
        reply = running.post("/loans", sleeps)
        assert (reply.status_code, reply.json()["code"]) == (503, "not_ready")
        assert time.monotonic() - began < 10
        until(lambda: running.post("/loans", {"x": [1, 2, 3]}).status_code == 200, "its replacement answers")
