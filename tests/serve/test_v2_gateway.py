"""V2 against a real gateway: bodies and statuses, extensions, and that no caller ever sees another's data."""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.gateway import Gateway, endpoint, gateway
from kit.lines import Line, Reply, request
from kit.tensor_versions import store_identity
from kit.versions import CONTRACT, expected, store
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.contract.plan import ServingPlan

pytestmark = pytest.mark.xdist_group("v2_gateway")

LENGTH = "Inference_Header_Content_Length"
NEIGHBOURS = 64
ROUNDS = 12


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    root = tmp_path_factory.mktemp("v2") / "home"
    shelf = Shelf(Home(root).prepare().shelf)
    endpoints = (
        endpoint("loans", store(shelf), store(shelf, base=0.5)),
        endpoint("same", store_identity(shelf, ("FP32",), (-1, 4))),
        endpoint("texts", store_identity(shelf, ("BYTES",), (-1,), name="texts")),
    )
    with gateway(root, ServingPlan(1, 0.0, endpoints), max_inflated_bytes=100_000, max_rows=500) as one:
        yield one


@pytest.fixture
def line(running: Gateway) -> Iterator[Line]:
    with Line(running.port) as one:
        yield one


def ask(line: Line, path: str, body: Any = b"", method: str = "POST", **headers: str) -> Reply:
    return line.ask(request(path, body, method, **headers))[0]


def test_only_what_may_explain_says_where(line: Line) -> None:
    told = {name: ask(line, f"/{name}", method="GET").json()["calls"] for name in ("loans", "same")}
    assert told["loans"].keys() - told["same"].keys() == {"explain"}


def fp32(values: list[list[float]], **more: Any) -> dict[str, Any]:
    flat = [value for row in values for value in row]
    return {"inputs": [{"name": "in_FP32", "shape": [len(values), 4], "datatype": "FP32", "data": flat}]} | more


def table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    kinds = {"age": "INT64", "income": "FP64", "home": "BYTES", "job": "BYTES", "guarantor": "BOOL"}
    return {
        "inputs": [
            {"name": name, "shape": [len(rows)], "datatype": kind, "data": [row[name] for row in rows]}
            for name, kind in kinds.items()
        ]
    }


# --- statuses and bodies


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True, "live": True}),
        ("/v2/models/loans/ready", {"name": "loans", "ready": True}),
        ("/v2/models/loans/versions/1/ready", {"name": "loans", "ready": True}),
        ("/v2/models/loans/versions/champion/ready", {"name": "loans", "ready": True}),
        ("/v2/models/loans/versions/champion/ready/", {"name": "loans", "ready": True}),
        ("/v2/models", {"models": ["loans", "same", "texts"]}),
    ],
)
def test_what_is_ready_says_so(line: Line, path: str, body: dict[str, Any]) -> None:
    reply = ask(line, path, method="GET")
    assert (reply.status, reply.json()) == (200, body)


@pytest.mark.parametrize(
    ("path", "method", "status", "says"),
    [
        ("/v2/models/nope", "GET", 404, "Request for unknown model: 'nope' is not found"),
        ("/v2/models/nope/ready", "GET", 404, "Request for unknown model: 'nope' is not found"),
        ("/v2/models/nope/config", "GET", 404, "Request for unknown model: 'nope' is not found"),
        ("/v2/models/nope/stats", "GET", 404, "Request for unknown model: 'nope' is not found"),
        ("/v2/models/nope/infer", "POST", 404, "Request for unknown model: 'nope' is not found"),
        ("/v2/models/loans/versions/9/ready", "GET", 404, "'loans' version '9' is not found"),
        ("/v2/models/loans/versions/best/infer", "POST", 404, "'loans' version 'best' is not found"),
        ("/v2/models/loans/infer", "GET", 405, "POST"),
        ("/v2/models/stats", "POST", 405, "GET"),
        ("/v2/repository/index", "GET", 405, "POST"),
        ("/v2/models/loans/trace/setting", "GET", 404, "no such path"),
    ],
)
def test_what_is_not_there_is_said_in_the_protocols_words(
    line: Line, path: str, method: str, status: int, says: str
) -> None:
    reply = ask(line, path, method=method)
    assert reply.status == status
    assert says in reply.json()["error"]


def test_before_any_plan_nothing_is_ready(tmp_path: Path) -> None:
    with gateway(tmp_path / "home") as empty, Line(empty.port) as line:
        for path in ("/v2/health/ready", "/v2/models/loans/ready", "/v2/models/loans"):
            reply = ask(line, path, method="GET")
            assert (reply.status, reply.headers["retry-after"]) == (503, "1"), path
        assert ask(line, "/v2/health/live", method="GET").json() == {"live": True}


def test_a_version_is_chosen_by_number_and_alias(line: Line) -> None:
    rows = table([CONTRACT.example])
    for pin, version, base in (("1", "1", 0.0), ("2", "2", 0.5), ("champion", "2", 0.5)):
        said = ask(line, f"/v2/models/loans/versions/{pin}/infer/", rows).json()
        assert said["model_version"] == version
        assert said["outputs"][0]["data"] == pytest.approx([expected(CONTRACT.example, base)])


def test_everything_listed_works(line: Line) -> None:
    extensions = ask(line, "/v2", method="GET").json()["extensions"]
    calls = {
        "binary_tensor_data": ("/v2/models/same/infer", fp32([[0] * 4], parameters={"binary_data_output": True})),
        "classification": (
            "/v2/models/same/infer",
            fp32([[0] * 4], outputs=[{"name": "out_FP32", "parameters": {"classification": 1}}]),
        ),
        "model_configuration": ("/v2/models/same/config", None),
        "model_repository": ("/v2/repository/index", {}),
        "model_repository(unload_dependents)": ("/v2/repository/index", {}),
        "parameters": ("/v2/models/same/infer", fp32([[0] * 4], parameters={"mine": 1})),
        "schedule_policy": ("/v2/models/same/infer", fp32([[0] * 4], parameters={"priority": 1, "timeout": 10**7})),
        "statistics": ("/v2/models/stats", None),
    }
    assert set(extensions) == set(calls)
    for path, body in calls.values():
        assert ask(line, path, b"" if body is None else body, "GET" if body is None else "POST").status == 200


# --- extensions


def test_statistics_count_what_was_asked(running: Gateway) -> None:
    def stats(line: Line) -> dict[str, Any]:
        found: dict[str, Any] = ask(line, "/v2/models/texts/stats", method="GET").json()["model_stats"][0]
        return found

    sent = {"inputs": [{"name": "in_BYTES", "shape": [3], "datatype": "BYTES", "data": ["a", "b", "c"]}]}
    with Line(running.port) as one, Line(running.port) as other:
        before = stats(one)
        for _ in range(5):
            for line in (one, other):
                assert ask(line, "/v2/models/texts/infer", sent).status == 200
        wrong = {"inputs": [{"name": "in_BYTES", "shape": [3], "datatype": "BYTES", "data": ["a"]}]}
        assert ask(one, "/v2/models/texts/infer", wrong).status == 400
        after = stats(other)
        everything = ask(one, "/v2/models/stats", method="GET").json()["model_stats"]
    assert after["inference_count"] - before["inference_count"] == 30
    assert 1 <= after["execution_count"] - before["execution_count"] <= 10
    spent, was = after["inference_stats"], before["inference_stats"]
    assert spent["success"]["count"] - was["success"]["count"] == 10
    assert spent["fail"]["count"] - was["fail"]["count"] == 1
    assert spent["fail"]["ns"] > was["fail"]["ns"]
    stages = ("queue", "compute_input", "compute_infer", "compute_output")
    assert all(spent[stage]["ns"] > was[stage]["ns"] for stage in stages)
    assert sum(spent[stage]["ns"] for stage in stages) <= 1.5 * spent["success"]["ns"]
    assert [(row["name"], row["version"]) for row in everything] == [
        ("loans", "1"), ("loans", "2"), ("same", "1"), ("texts", "1"),
    ]  # fmt: skip


def test_a_config_says_how_much_fits_in_a_call(line: Line) -> None:
    config = ask(line, "/v2/models/same/versions/1/config", method="GET").json()
    assert config["max_batch_size"] == 500
    assert config["input"] == [{"name": "in_FP32", "data_type": "TYPE_FP32", "dims": [4]}]


def test_a_timeout_that_has_passed_is_told(line: Line) -> None:
    reply = ask(line, "/v2/models/same/infer", fp32([[0] * 4], parameters={"timeout": 1}))
    assert (reply.status, reply.json()["code"]) == (504, "deadline_exceeded")


# --- compressed and digested


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_bodies_may_be_compressed_both_ways(line: Line, coding: str, pack: Any) -> None:
    values = [[float(row), 1, 2, 3] for row in range(200)]
    body = pack(json.dumps(fp32(values)).encode())
    reply = ask(line, "/v2/models/same/infer", body, Content_Encoding=coding, Accept_Encoding=coding)
    assert (reply.status, reply.headers["content-encoding"], reply.headers["vary"]) == (200, coding, "accept-encoding")
    said = json.loads(zlib.decompress(reply.body, 47))
    assert said["outputs"][0]["data"] == [value for row in values for value in row]
    head = json.dumps(
        {
            "inputs": [
                {"name": "in_FP32", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    tail = np.arange(4, dtype=np.float32).tobytes()
    headers = {LENGTH: str(len(head)), "Content_Encoding": coding}
    assert ask(line, "/v2/models/same/infer", pack(head + tail), **headers).body.endswith(tail)


@pytest.mark.parametrize(
    ("body", "coding", "status", "says"),
    [
        (gzip.compress(bytes(200_000), mtime=0), "gzip", 413, "max_inflated_bytes=100000"),
        (gzip.compress(b"{}", mtime=0)[:-3], "gzip", 400, "cut off"),
        (gzip.compress(b"{}", mtime=0) + b"more", "gzip", 400, "Content-Encoding"),
        (b"{}", "gzip", 400, "Content-Encoding"),
        (b"{}", "br", 415, "gzip, deflate or identity"),
    ],
    ids=["a bomb", "cut off", "goes on", "not compressed", "another coding"],
)
def test_what_cannot_be_inflated_is_refused(line: Line, body: bytes, coding: str, status: int, says: str) -> None:
    reply = ask(line, "/v2/models/same/infer", body, Content_Encoding=coding)
    assert (reply.status, says in reply.json()["error"]) == (status, True), reply


def digest(body: bytes) -> str:
    return f"sha-256=:{b64encode(sha256(body).digest()).decode()}:"


def test_a_digest_is_verified_and_returned(line: Line) -> None:
    body = json.dumps(fp32([[1, 2, 3, 4]])).encode()
    reply = ask(line, "/v2/models/same/infer", body, Content_Digest=digest(body), Want_Content_Digest="sha-256=5")
    assert (reply.status, reply.headers["content-digest"]) == (200, digest(reply.body))
    reply = ask(line, "/v2/models/same/infer", body + b" ", Content_Digest=digest(body))
    assert (reply.status, "Content-Digest" in reply.json()["error"]) == (400, True)
    assert "content-digest" not in reply.headers


# --- nobody sees another's data


def neighbour(running: Gateway, number: int, wrong: list[bytes], faults: list[str], barrier: threading.Barrier) -> None:
    """One caller of many: right requests whose answers must be its own, among wrong ones that must be refused."""
    mine = [number + position * 1000 + 0.8125 for position in range(4)]
    tail = np.array(mine, dtype=np.float32).tobytes()
    described = {"name": "in_FP32", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
    head = json.dumps({"inputs": [described], "parameters": {"binary_data_output": True}}).encode()
    with Line(running.port) as line:
        barrier.wait(30)
        for turn in range(ROUNDS):
            replies = line.ask(
                request("/v2/models/same/infer", fp32([mine])),
                wrong[(number + turn) % len(wrong)],
                request("/v2/models/same/infer", head + tail, **{LENGTH: str(len(head))}),
            )
            if [reply.status for reply in replies] != [200, 400, 200]:
                faults.append(f"statuses {[reply.status for reply in replies]}")
            elif replies[0].json()["outputs"][0]["data"] != mine or not replies[2].body.endswith(tail):
                faults.append(f"caller {number} got another's numbers")
            elif b".8125" in replies[1].body:
                faults.append("a refusal holds numbers")


def liars() -> list[bytes]:
    """Requests whose shape says more elements than they send: a rival filled the rest from its batch's memory."""
    requests = []
    for rows, sent in ((1000, 1), (2, 1), (1, 0), (64, 63)):
        numbers = np.full(sent * 4, 7.0, dtype=np.float32)
        tensor = {"name": "in_FP32", "shape": [rows, 4], "datatype": "FP32"}
        requests.append(request("/v2/models/same/infer", {"inputs": [tensor | {"data": numbers.tolist()}]}))
        for said in {numbers.nbytes, rows * 16}:
            head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": said}}]}).encode()
            requests.append(request("/v2/models/same/infer", head + numbers.tobytes(), **{LENGTH: str(len(head))}))
    narrow = {"name": "in_FP32", "shape": [1, 2], "datatype": "FP32", "data": [7, 7]}
    return [*requests, request("/v2/models/same/infer", {"inputs": [narrow]})]


def test_a_shape_that_promises_more_than_was_sent_shows_nobody_elses_data(running: Gateway) -> None:
    faults: list[str] = []
    barrier = threading.Barrier(NEIGHBOURS)
    wrong = liars()
    threads = [
        threading.Thread(target=neighbour, args=(running, number, wrong, faults, barrier), daemon=True)
        for number in range(NEIGHBOURS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not faults, faults[:5]
    stats = running.get("/v2/models/same/stats").json()["model_stats"][0]
    assert stats["execution_count"] < stats["inference_count"]  # neighbours did share batches
    assert stats["inference_stats"]["fail"]["count"] >= NEIGHBOURS * ROUNDS


def test_a_table_over_v2_is_the_table(line: Line) -> None:
    rows = [CONTRACT.example | {"age": age, "income": None if age % 7 == 0 else age * 10.0} for age in range(18, 101)]
    said = ask(line, "/v2/models/loans/versions/1/infer", table(rows)).json()
    assert said["outputs"][0]["data"] == pytest.approx([expected(row) for row in rows], abs=1e-6)
