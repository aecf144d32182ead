"""The gRPC edge as a part of the whole: one gateway with REST, its end, its restarts, TLS."""

from __future__ import annotations

import os
import signal
import ssl
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.certificates import certificate
from kit.gateway import Gateway, gateway, until
from kit.graphs import slow, store_graph, total
from kit.grpc import Caller, caller, infer
from kit.tensor_versions import store_identity
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.contract.plan import PlannedEndpoint, PlannedKey, PlannedVersion, ServingPlan, TrafficSplit
from modelyard.secure.keys import digest_of
from modelyard.serve.counters import exposition
from modelyard.serve.grpc_messages import message_class

pytestmark = pytest.mark.xdist_group("grpc_gateway")

REQUEST = message_class("inference.ModelInferRequest")
HEALTH_REQUEST, HEALTH = (message_class(f"grpc.health.v1.HealthCheck{kind}") for kind in ("Request", "Response"))
WATCH = "/grpc.health.v1.Health/Watch"
SERVING, NOT_SERVING, UNAVAILABLE = 1, 2, 14


def plan(revision: int, keys: tuple[PlannedKey, ...] = (), **digests: str) -> ServingPlan:
    endpoints = tuple(
        PlannedEndpoint(name, name, (PlannedVersion(1, digest),), TrafficSplit({1: 100}))
        for name, digest in digests.items()
    )
    return ServingPlan(revision, 0.0, endpoints, keys, bool(keys))


def home_with(root: Path, *, is_slow: bool = False) -> dict[str, str]:
    shelf = Shelf(Home(root).prepare().shelf)
    digests = {"sums": store_graph(shelf, total(), "sums", "matrix")}
    if is_slow:
        digests["slow"] = store_graph(shelf, slow(rounds=40), "slow", "matrix")
    return digests


def ask(model: str, *rows: list[float], id: str = "") -> Any:
    data = np.array(rows or [[1, 2]], dtype="<f4")
    tensor = {"name": "rows", "datatype": "FP32", "shape": list(data.shape)}
    return REQUEST(model_name=model, id=id, inputs=[tensor], raw_input_contents=[data.tobytes()])


def counted(running: Gateway, name: str) -> float:
    lines = exposition(running.home.run / "counters").decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_what_arrives_in_one_turn_is_one_batch_and_everybody_gets_his_own(tmp_path: Path) -> None:
    with gateway(tmp_path, plan(1, **home_with(tmp_path)), workers=1) as running, caller(running.grpc_port) as line:
        for _ in range(2):
            infer(line.call("ModelInfer", ask("sums")))
        until(lambda: counted(running, "modelyard_requests") == 2, "calls are counted just after their answers")
        batches = counted(running, "modelyard_batches")
        numbers = []
        for at in range(60):
            numbers.append(line.open("ModelInfer", sends=False))
            line.put(numbers[-1], ask("sums", [at, 1], [at, 2]))
        line.flush()
        answers = [infer(line.wait(number)) for number in numbers]
        said = [np.frombuffer(one.raw_output_contents[0], "<f4").tolist() for one in answers]
        assert said == [[at + 1, at + 2] for at in range(60)]
        until(lambda: counted(running, "modelyard_requests") == 62, "every one of the sixty is counted")
        assert counted(running, "modelyard_batches") - batches < 30


def test_stopping_finishes_calls_and_tells_those_who_would_wait_for_ever(tmp_path: Path) -> None:
    digests = home_with(tmp_path, is_slow=True)
    with gateway(tmp_path, plan(1, **digests), workers=1) as running:
        with caller(running.grpc_port) as line:
            watch = line.open(WATCH)
            line.send(watch, HEALTH_REQUEST(), end=True)
            line.wait(watch, 1)
            stream = line.open("ModelStreamInfer")
            line.send(stream, ask("sums"))
            line.wait(stream, 1)
            line.send(stream, ask("slow", [3, 4], id="last"))
            call = line.open("ModelInfer")
            line.send(call, ask("slow", [1, 2]), end=True)
            assert line.call("ServerLive").status == 0  # so the others have arrived
            running.process.send_signal(signal.SIGTERM)
            answer = infer(line.wait(call))
            assert np.frombuffer(answer.raw_output_contents[0], "<f4") == pytest.approx([3.0])
            line.wait(watch)
            line.wait(stream)
            statuses = [HEALTH.FromString(message).status for message in line.replies[watch].messages()]
            assert statuses == [SERVING, NOT_SERVING]
            assert line.replies[watch].status == UNAVAILABLE
            assert line.replies[stream].status == UNAVAILABLE
            assert len(line.replies[stream].messages()) == 2
        assert running.process.wait(15) == 0


def test_a_stop_does_not_wait_for_idle_connections(tmp_path: Path) -> None:
    with gateway(tmp_path, plan(1, **home_with(tmp_path))) as running:
        idle = [Caller(running.grpc_port) for _ in range(5)]
        for line in idle:
            assert line.call("ServerLive").status == 0
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(8) == 0  # drain_s is 20
        for line in idle:
            line.close()


def test_a_killed_worker_is_replaced_on_the_same_port(tmp_path: Path) -> None:
    with gateway(tmp_path, plan(1, **home_with(tmp_path)), workers=1) as running:
        port, before = running.grpc_port, running.workers()
        os.kill(before[0], signal.SIGKILL)
        until(lambda: (now := running.workers()) and now != before and now[0], "another worker runs")
        with caller(port) as line:  # waited in the socket's backlog meanwhile
            infer(line.call("ModelInfer", ask("sums")))


def test_calls_go_on_while_a_version_is_deployed(tmp_path: Path) -> None:
    digests = home_with(tmp_path)
    other = store_identity(Shelf(Home(tmp_path).shelf), ("FP32",), (-1, 4))
    failed: list[Any] = []
    stopping = threading.Event()

    def call_on(port: int) -> None:
        with caller(port) as line:
            at = 0
            while not stopping.is_set():
                at += 1
                reply = line.call("ModelInfer", ask("sums", [at, 1]))
                if reply.status or np.frombuffer(infer(reply).raw_output_contents[0], "<f4")[0] != at + 1:
                    failed.append((reply.status, reply.text))

    with gateway(tmp_path, plan(1, **digests)) as running:
        threads = [threading.Thread(target=call_on, args=(running.grpc_port,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for revision in range(2, 6):
            running.publish(plan(revision, **digests, **({"other": other} if revision % 2 else {})))
        stopping.set()
        for thread in threads:
            thread.join(20)
    assert failed == []


def test_a_cut_connection_in_the_middle_of_streams_harms_nobody(tmp_path: Path) -> None:
    digests = home_with(tmp_path, is_slow=True)
    with gateway(tmp_path, plan(1, **digests), workers=1) as running:
        for _ in range(5):
            line = Caller(running.grpc_port)
            for _ in range(10):
                number = line.open("ModelInfer")
                line.send(number, ask("slow"), end=True)
            stream = line.open("ModelStreamInfer")
            line.send(stream, ask("slow"))
            line.close()
        with caller(running.grpc_port) as line:
            infer(line.call("ModelInfer", ask("sums")))
        until(lambda: counted(running, "modelyard_dropped_calls_total{") > 0, "calls of callers who left are dropped")


def test_a_reader_of_nothing_cannot_make_a_stream_pile_up(tmp_path: Path) -> None:
    """Answers that are not read hold their stream's further requests back: the peer gets no window."""
    shelf = Shelf(Home(tmp_path).prepare().shelf)
    digest = store_identity(shelf, ("FP32",), (-1, 1000))
    data = np.zeros((100, 1000), dtype="<f4")
    tensor = {"name": "in_FP32", "datatype": "FP32", "shape": [100, 1000]}
    request = REQUEST(model_name="same", inputs=[tensor], raw_input_contents=[data.tobytes()]).SerializeToString()
    with gateway(tmp_path, plan(1, same=digest), workers=1, write_timeout_s=2) as running:
        with caller(running.grpc_port) as line:
            assert sent_without_reading(line, request, most=100) < 20  # max_outstanding is 8, and a little on its way
        with caller(running.grpc_port) as line:
            assert line.call("ServerLive").status == 0


def sent_without_reading(line: Caller, request: bytes, most: int) -> int:
    """How many requests a stream takes whose answers get no window."""
    number = line.open("ModelStreamInfer")
    line.line.settimeout(0.5)
    for sent in range(most):
        whole = struct.pack(">BI", 0, len(request)) + request
        for at in range(0, len(whole), 16_384):
            part = whole[at : at + 16_384]
            while line.h2.local_flow_control_window(number) < len(part):
                try:
                    line.read(acknowledges=False)
                except TimeoutError:
                    return sent
            if line.replies[number].has_ended:  # write_timeout_s has passed
                return sent
            line.h2.send_data(number, part)
            line.flush()
    return most


def test_tls_speaks_http2(tmp_path: Path) -> None:
    root = tmp_path / "home"
    made = certificate(tmp_path)
    keys = (PlannedKey("k", digest_of("my_key"), "anna", ("infer",)),)
    settings = {"tls_certificate": made[0], "tls_key": made[1], "workers": 1}
    with gateway(root, plan(1, keys, **home_with(root)), **settings) as running:
        state = running.state()
        assert state is not None
        assert state.grpc_url.startswith("grpcs://")
        trust = ssl.create_default_context(cafile=made[0])
        trust.check_hostname = False
        trust.set_alpn_protocols(["h2"])
        line = Caller(running.grpc_port, {"x-api-key": "my_key"}, trust)
        assert isinstance(line.line, ssl.SSLSocket)
        assert line.line.selected_alpn_protocol() == "h2"
        infer(line.call("ModelInfer", ask("sums")))
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(10) == 0
        line.close()
