"""Clients of gRPC that are not ours: tritonclient (sync, callbacks, aio, streams), gRPC's own, and h2load."""

from __future__ import annotations

import json
import re
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.apart import ROOT, python_of
from kit.gateway import Gateway, gateway, until
from kit.graphs import store_graph, total
from kit.versions import CONTRACT, expected, store
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.contract.plan import PlannedEndpoint, PlannedKey, PlannedVersion, ServingPlan, TrafficSplit
from modelyard.secure.keys import digest_of
from modelyard.serve.counters import exposition
from modelyard.serve.grpc_messages import message_class

pytestmark = [pytest.mark.thirdparty, pytest.mark.xdist_group("grpc_clients")]

KEY = "my_key_of_grpc_clients"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    root = tmp_path_factory.mktemp("grpc_clients") / "home"
    shelf = Shelf(Home(root).prepare().shelf)
    digests = {"loans": store(shelf), "sums": store_graph(shelf, total(), "sums", "matrix")}
    endpoints = tuple(
        PlannedEndpoint(
            name, name, (PlannedVersion(1, digest),), TrafficSplit({1: 100}), {"champion": 1}, max_rows=200_000
        )
        for name, digest in digests.items()
    )
    key = PlannedKey("k1", digest_of(KEY), "tester", ("infer",))
    with gateway(root, ServingPlan(1, 0.0, endpoints, (key,), require_keys=True), max_queued_rows=300_000) as one:
        yield one


@pytest.fixture(scope="module")
def said(running: Gateway) -> dict[str, Any]:
    """What every client in the locked environment saw."""
    session = Path(__file__).with_name("grpc_session.py")
    command = [python_of("tritonclient"), str(session), f"127.0.0.1:{running.grpc_port}", KEY]
    run = subprocess.run([*command, json.dumps(CONTRACT.example)], capture_output=True, text=True, timeout=110)
    assert run.returncode == 0, run.stderr[-3000:]
    answers: dict[str, Any] = json.loads(run.stdout)
    return answers


def test_tritonclient_asks_everything(said: dict[str, Any]) -> None:
    assert (said["live"], said["ready"], said["model_ready"], said["unknown_ready"]) == (True, True, True, False)
    assert said["server"]["name"] == "modelyard"
    assert [one["name"] for one in said["model"]["outputs"]] == ["probability", "score", "decision"]
    assert said["config"]["input"][0]["data_type"] == "TYPE_FP32"
    assert said["index"] == [["loans", "READY"], ["sums", "READY"]]
    assert said["stats"] == ["sums", True]


def test_tritonclient_infers(said: dict[str, Any]) -> None:
    probabilities, decisions = said["loans"]
    assert probabilities == pytest.approx([expected(CONTRACT.example)] * 3, rel=1e-6)
    assert decisions == ["approve"] * 3
    assert said["id"] == "42"
    assert said["chosen"] == [["score"], "1"]
    assert said["gzip"] == said["deflate"] == [500, 3.0]
    assert said["large"]
    assert said["callbacks"] == [at + 1.0 for at in range(20)]


def test_tritonclient_hears_why_not(said: dict[str, Any]) -> None:
    assert said["late"][0] == "StatusCode.DEADLINE_EXCEEDED"
    assert said["unknown"] == ["StatusCode.NOT_FOUND", "Request for unknown model: 'nobody' is not found"]
    assert said["missing"][0] == "StatusCode.INVALID_ARGUMENT"
    assert "age" in said["missing"][1]
    assert said["no_key"][0] == "StatusCode.UNAUTHENTICATED"
    assert said["no_shared_memory"][0] == "StatusCode.UNIMPLEMENTED"


def test_tritonclient_streams_in_order_and_past_errors(said: dict[str, Any]) -> None:
    wanted: list[Any] = [[str(at), at + 1.0, True] for at in range(50)]
    wanted[25] = "Request for unknown model: 'nobody' is not found"
    assert said["stream"] == wanted


def test_tritonclient_asks_much_at_once(said: dict[str, Any]) -> None:
    assert said["aio"] == [at + 1.0 for at in range(300)]
    assert said["aio_stream"] == [at + 2.0 for at in range(20)]
    assert said["aio_live"]
    assert said["wrong"] == []


def test_health_and_reflection_by_grpcs_own_clients(said: dict[str, Any]) -> None:
    assert said["health"] == [1, 1, ["StatusCode.NOT_FOUND", said["health"][2][1]]]
    assert {"grpc.health.v1.Health", "inference.GRPCInferenceService"} <= set(said["services"])
    assert {"ModelInfer", "ModelStreamInfer", "RepositoryModelUnload"} <= set(said["methods"])


def test_our_description_of_the_protocol_is_tritons(said: dict[str, Any]) -> None:
    assert said["differences"] == []


@pytest.mark.parametrize(("connections", "streams"), [(1, 1), (16, 1), (4, 32)])
def test_h2load_drives_the_edge(running: Gateway, tmp_path: Path, connections: int, streams: int) -> None:
    subprocess.run([ROOT / "scripts/apt", "nghttp2-client"], check=True, timeout=300)
    data = np.array([[1, 2]], dtype="<f4").tobytes()
    request = message_class("inference.ModelInferRequest")(
        model_name="sums", inputs=[{"name": "rows", "datatype": "FP32", "shape": [1, 2]}], raw_input_contents=[data]
    ).SerializeToString()
    body = tmp_path / "request"
    body.write_bytes(struct.pack(">BI", 0, len(request)) + request)
    headers = ["content-type: application/grpc", "te: trailers", f"x-api-key: {KEY}"]
    command = ["h2load", "-n", "3000", "-c", str(connections), "-m", str(streams), "-d", str(body)]
    for header in headers:
        command += ["-H", header]
    before = answered(running)
    url = f"http://127.0.0.1:{running.grpc_port}/inference.GRPCInferenceService/ModelInfer"
    run = subprocess.run([*command, url], capture_output=True, text=True, timeout=60)
    assert re.search(r"3000 succeeded, 0 failed, 0 errored, 0 timeout", run.stdout), run.stdout + run.stderr
    until(lambda: answered(running) == before + 3000, "the model answered all: h2load does not look at grpc-status")


def answered(running: Gateway) -> int:
    """How many calls the model of sums has answered, over all workers."""
    lines = exposition(running.home.run / "counters").decode().splitlines()
    mine = [one for one in lines if one.startswith("modelyard_requests_total{") and "sums" in one]
    return int(sum(float(one.rpartition(" ")[2]) for one in mine))
