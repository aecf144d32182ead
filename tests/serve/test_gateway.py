"""The gateway's promises, kept by real processes: right answers however calls mix, every door as documented."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from kit.gateway import Gateway, gateway, plan, publish, until
from kit.graphs import fragile, store_graph, total
from kit.lines import Line, Reply, request
from kit.versions import CONTRACT, expected, store
from modelyard.artifacts.store import Shelf
from modelyard.contract.encoding import Encoder
from modelyard.contract.home import Home
from modelyard.contract.plan import PlannedEndpoint, PlannedKey, PlannedVersion, ServingPlan, TrafficSplit
from modelyard.contract.telemetry import Feedback, Prediction, Record, frames
from modelyard.secure.keys import digest_of
from modelyard.serve.v2_metadata import EXTENSIONS

pytestmark = pytest.mark.xdist_group("gateway")

BASES = {1: 0.0, 2: 1.0}  # version -> what its model adds to the log-odds
KEYS = {
    "anna": ("infer", "explain", "feedback"),
    "bo": ("infer:loans", "feedback:loans"),
    "labels": ("feedback:any",),
    "probe": ("metrics",),
}
EXAMPLE = CONTRACT.example


class House:
    """The running gateway and the plan that it serves."""

    def __init__(self, running: Gateway, digests: dict[str, str]) -> None:
        self.running, self.digests = running, digests
        self.revision = 1
        self.differs = False  # from the plan that the module starts with

    @property
    def port(self) -> int:
        return self.running.port

    def serve(self, **loans: Any) -> None:
        """Publish a plan in which the endpoint `loans` differs so."""
        self.revision += 1
        self.differs = bool(loans)
        self.running.publish(wanted(self.revision, self.digests, **loans))

    def ask(self, path: str, body: object = b"", method: str = "POST", **headers: str) -> Reply:
        with Line(self.port) as line:
            line.send(request(path, body, method, Connection="close", **headers))
            return line.read(is_head=method == "HEAD")


def wanted(revision: int, digests: dict[str, str], **loans: Any) -> ServingPlan:
    """Three endpoints: `loans` with two versions, `sums` without a decision, `fragile` that fails on x >= 50."""
    keys = tuple(PlannedKey(name, digest_of(f"my_{name}"), name, scopes) for name, scopes in KEYS.items())
    keys += (
        PlannedKey("few", digest_of("my_few"), "few", ("infer",), rows_per_second=0.001, burst_rows=5),
        PlannedKey("gone", digest_of("my_gone"), "gone", ("infer",), expires_at=time.time() - 60),
    )
    (endpoint,) = plan(
        revision, {1: digests["1"], 2: digests["2"]}, **({"split": TrafficSplit({1: 100, 2: 0})} | loans)
    ).endpoints
    others = tuple(
        PlannedEndpoint(name, name, (PlannedVersion(1, digests[name]),), TrafficSplit({1: 100}))
        for name in ("sums", "fragile", "matrix")
    )
    return ServingPlan(revision, time.time(), (endpoint, *others), keys)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    root = tmp_path_factory.mktemp("gateway") / "home"
    home = Home(root).prepare()
    # What an earlier start of the machine may have left: arrival times far ahead of this machine's clock.
    (home.run / "rates.table").write_bytes(struct.pack("<q", 2**62) * 8192)
    shelf = Shelf(home.shelf)
    digests = {str(version): store(shelf, base) for version, base in BASES.items()}
    digests |= {
        "sums": store_graph(shelf, total(), "sums"),
        "fragile": store_graph(shelf, fragile(), "fragile"),
        "matrix": store_graph(shelf, total(), "matrix", "matrix"),
    }
    allowed = {"cors_origins": "https://a.example", "allowed_hosts": "models.example", "max_rows": 300}
    with gateway(root, wanted(1, digests), **allowed) as running:
        yield House(running, digests)


@pytest.fixture(autouse=True)
def _each_test_starts_from_the_same_plan(house: House) -> Iterator[None]:
    yield
    if house.differs:
        house.serve()


def a_row(chance: random.Random) -> dict[str, Any]:
    """An applicant that differs from every other."""
    return {
        "age": chance.randint(18, 100),
        "income": chance.choice([None, round(chance.uniform(0, 900), 4)]),
        "home": chance.choice([None, "owner", "rent", "other"]),
        "job": chance.choice(["fixed", "freelance", "unheard of"]),
        "guarantor": chance.random() < 0.5,
    }


def v2(rows: list[dict[str, Any]], **more: object) -> dict[str, Any]:
    """The same rows as tensors, one for each column."""
    types = {"age": "INT64", "income": "FP64", "home": "BYTES", "job": "BYTES", "guarantor": "BOOL"}
    inputs = [
        {"name": name, "datatype": kind, "shape": [len(rows)], "data": [row[name] for row in rows]}
        for name, kind in types.items()
    ]
    return {"inputs": inputs} | more


def outputs(reply: Reply) -> dict[str, Any]:
    assert reply.status == 200, reply.body
    return {tensor["name"]: tensor["data"] for tensor in reply.json()["outputs"]}


# --- right answers


Check = Callable[[Reply], None]


def a_call(chance: random.Random) -> tuple[bytes, Check]:
    """Any request, and what must be true of its answer."""
    kind = chance.choice(("one", "one", "one", "many", "v2", "pinned", "explain", "wrong"))
    rows = [a_row(chance) for _ in range(1 if kind in ("one", "pinned", "wrong") else chance.randint(1, 40))]
    base = BASES[2] if kind == "pinned" else BASES[1]
    right = [expected(row, base) for row in rows]
    if kind == "wrong":
        rows[0]["age"] = 7

        def is_refused(reply: Reply) -> None:
            assert reply.status == 422, reply.body
            assert reply.json()["violations"][0]["column"] == "age"

        return request("/loans", rows[0]), is_refused
    if kind == "v2":
        mark = str(chance.random())

        def is_tensors(reply: Reply) -> None:
            assert reply.json()["id"] == mark
            assert outputs(reply)["probability"] == pytest.approx(right, abs=1e-6)

        return request("/v2/models/loans/infer", v2(rows, id=mark)), is_tensors
    if kind in ("one", "pinned"):

        def is_one(reply: Reply) -> None:
            assert reply.status == 200, reply.body
            assert reply.json()["probability"] == pytest.approx(right[0], abs=1e-6)
            assert reply.json()["version"] == (2 if kind == "pinned" else 1)

        return request("/loans/versions/2" if kind == "pinned" else "/loans", rows[0]), is_one
    part = "explanations" if kind == "explain" else "predictions"

    def is_list(reply: Reply) -> None:
        assert reply.status == 200, reply.body
        assert [one["probability"] for one in reply.json()[part]] == pytest.approx(right, abs=1e-6)

    return request("/loans/explain" if kind == "explain" else "/loans", rows), is_list


@pytest.mark.parametrize("seed", range(2))
def test_batched_answers_are_the_unbatched_ones_whoever_else_calls(house: House, seed: int) -> None:
    failures: list[str] = []

    def caller(number: int) -> None:
        chance = random.Random(1000 * seed + number)
        try:
            with Line(house.port) as line:
                for _ in range(10):
                    calls = [a_call(chance) for _ in range(chance.randint(1, 8))]
                    for (_, check), reply in zip(calls, line.ask(*(sent for sent, _ in calls)), strict=True):
                        check(reply)
        except Exception as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


def test_calls_that_come_together_are_one_batch(house: House) -> None:
    before = metrics(house)
    with Line(house.port) as line:
        assert [reply.status for reply in line.ask(*[request("/loans", EXAMPLE)] * 8)] == [200] * 8
    after = metrics(house)
    calls = after["modelyard_batch_rows_count", (("model", "loans"),)] - before.get(
        ("modelyard_batch_rows_count", (("model", "loans"),)), 0
    )
    assert calls < 8


def test_one_bad_row_fails_its_own_caller_only(house: House) -> None:
    answers: list[tuple[int, Reply]] = []
    values = [(number * 7) % 49 if number % 5 else 99 for number in range(64)]  # x >= 50 makes the model itself fail
    with Line(house.port) as one, Line(house.port) as other:
        for line, mine in ((one, values[:32]), (other, values[32:])):
            for start in range(0, 32, 8):
                sent = mine[start : start + 8]
                answers += zip(sent, line.ask(*[request("/fragile", {"x": x, "y": 0}) for x in sent]), strict=True)
    for x, reply in answers:
        if x == 99:
            assert (reply.status, reply.json()["code"]) == (500, "model_failed")
        else:
            assert reply.status == 200, reply.body
            assert reply.json()["value"] == x
    labels = (("model", "fragile"), ("reason", "retry"))
    assert metrics(house)["modelyard_batches_total", labels] >= 64


def test_a_version_without_decision_answers_its_outputs(house: House) -> None:
    one = house.ask("/sums", {"x": 1.5, "y": 2}).json()
    assert (one["total"], one["version"]) == (3.5, 1)
    many = house.ask("/sums", [{"x": 1, "y": 2}, {"x": 3, "y": 4}]).json()
    assert many["predictions"] == [{"total": 3.0}, {"total": 7.0}]
    refused = house.ask("/sums/explain", {"x": 1, "y": 2})
    assert (refused.status, refused.json()["code"]) == (404, "not_found")


def test_explanations_sum_to_the_log_odds_and_reasons_follow_them(house: House) -> None:
    row = {"age": 20, "income": None, "home": "other", "job": "freelance", "guarantor": False}
    parts = house.ask("/loans/explain", row).json()
    assert 1 / (1 + np.exp(-(parts["base"] + sum(parts["contributions"].values())))) == pytest.approx(
        expected(row), abs=1e-6
    )
    said = house.ask("/loans?reasons=all", row).json()
    ranked = sorted(parts["contributions"].items(), key=lambda part: -part[1])
    assert [reason["column"] for reason in said["reasons"]] == [name for name, worth in ranked if worth > 0][:4]


@pytest.mark.parametrize(
    ("path", "language", "text"),
    [
        ("/loans?reasons=all", None, "home: this value raises the probability"),
        ("/loans?reasons=all", "zh-CN,zh;q=0.9,en;q=0.8", "home：该取值提高了概率"),
        ("/loans?reasons=all", "en-GB", "home: this value raises the probability"),
        ("/loans?reasons=all&lang=zh", None, "home：该取值提高了概率"),
        ("/loans?reasons=all&lang=en", "zh", "home: this value raises the probability"),
    ],
)
def test_reasons_speak_the_callers_language(house: House, path: str, language: str | None, text: str) -> None:
    headers = {} if language is None else {"Accept_Language": language}
    row = {"age": 18, "income": 100, "home": "other", "job": "fixed", "guarantor": False}
    assert [reason["text"] for reason in house.ask(path, row, **headers).json()["reasons"]] == [text]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", [True, False]),
        ("?reasons=auto", [True, False]),
        ("?reasons=all", [True, True]),
        ("?reasons=none", [False] * 2),
    ],
)
def test_reasons_are_for_who_is_declined_unless_asked(house: House, query: str, said: list[bool]) -> None:
    declined = EXAMPLE | {"age": 18, "income": None, "home": "other"}
    approved = EXAMPLE | {"age": 90, "income": 900, "home": "rent"}
    for rows in ([declined, approved], [declined], [approved]):
        answers = house.ask(f"/loans{query}", rows).json()["predictions"]
        for row, answer in zip(rows, answers, strict=True):
            assert answer["decision"] == ("decline" if row is declined else "approve")
            assert bool(answer.get("reasons")) is said[row is approved]


@pytest.mark.parametrize("path", ["/loans?reason=all", "/loans?reasons=every", "/loans?lang=fr", "/loans?" + "a&" * 20])
def test_a_query_that_is_not_known_is_refused(house: House, path: str) -> None:
    assert house.ask(path, EXAMPLE).status == 422


# --- traffic


def test_shares_pins_and_aliases(house: House) -> None:
    house.serve(split=TrafficSplit({1: 70, 2: 30}))
    seen: Counter[int] = Counter()
    with Line(house.port) as line:
        for _ in range(50):
            for reply in line.ask(*[request("/loans", EXAMPLE)] * 8):
                answer = reply.json()
                seen[answer["version"]] += 1
                assert answer["probability"] == pytest.approx(expected(EXAMPLE, BASES[answer["version"]]), abs=1e-6)
    assert abs(seen[2] - 120) <= 5 * (400 * 0.3 * 0.7) ** 0.5
    for path, version in (
        ("/loans/versions/1", 1),
        ("/loans/versions/2", 2),
        ("/loans/versions/champion", 2),
        ("/loans/versions/1/", 1),
    ):
        assert {house.ask(path, EXAMPLE).json()["version"] for _ in range(5)} == {version}
    for pin, version in (("1", "1"), ("champion", "2")):
        assert house.ask(f"/v2/models/loans/versions/{pin}/infer", v2([EXAMPLE])).json()["model_version"] == version
        assert house.ask(f"/v2/models/loans/versions/{pin}", method="GET").status == 200
    for path in ("/loans/versions/3", "/loans/versions/challenger", "/v2/models/loans/versions/3/infer", "/other"):
        refused = house.ask(path, EXAMPLE)
        assert (refused.status, refused.json()["code"]) == (404, "not_found")


def test_a_header_keeps_a_caller_with_one_version(house: House) -> None:
    house.serve(split=TrafficSplit({1: 50, 2: 50}, "X-Customer"))
    versions = {}
    for name in map(str, range(30)):
        answers = {house.ask("/loans", EXAMPLE, X_Customer=name).json()["version"] for _ in range(3)}
        assert len(answers) == 1
        versions[name] = answers.pop()
    assert set(versions.values()) == {1, 2}
    house.serve(split=TrafficSplit({1: 20, 2: 80}, "X-Customer"))
    for name, version in versions.items():
        if version == 2:
            assert house.ask("/loans", EXAMPLE, X_Customer=name).json()["version"] == 2


def test_the_plan_overrides_cut_off_and_rows(house: House) -> None:
    chance = expected(EXAMPLE)
    house.serve(cutoff=chance - 0.01, max_rows=3)
    assert house.ask("/loans", EXAMPLE).json()["decision"] == "decline"
    assert house.ask("/loans", method="GET").json()["answer"]["cutoff"] == pytest.approx(chance - 0.01)
    assert outputs(house.ask("/v2/models/loans/infer", v2([EXAMPLE])))["decision"] == ["decline"]
    assert house.ask("/loans", [EXAMPLE] * 3).status == 200
    for path, body in (("/loans", [EXAMPLE] * 4), ("/v2/models/loans/infer", v2([EXAMPLE] * 4))):
        refused = house.ask(path, body)
        assert refused.status == 413
        assert b"max_rows=3" in refused.body
    house.serve(cutoff=chance + 0.01)
    assert house.ask("/loans", EXAMPLE).json()["decision"] == "approve"
    assert house.ask("/loans", [EXAMPLE] * 300).status == 200
    refused = house.ask("/loans", [EXAMPLE] * 301)  # the setting's own limit
    assert refused.status == 413
    assert b"max_rows=300" in refused.body


# --- doors


def test_browsers_may_call_from_allowed_origins_only(house: House) -> None:
    asked = house.ask("/loans", method="OPTIONS", Origin="https://a.example", Access_Control_Request_Method="POST")
    assert asked.status in (200, 204)
    assert asked.headers["access-control-allow-origin"] == "https://a.example"
    assert "POST" in asked.headers["access-control-allow-methods"]
    assert "authorization" in asked.headers["access-control-allow-headers"]
    for sent, status in ((EXAMPLE, 200), ({}, 422)):  # a page may read refusals too
        reply = house.ask("/loans", sent, Origin="https://a.example")
        assert (reply.status, reply.headers["access-control-allow-origin"]) == (status, "https://a.example")
        assert reply.headers["vary"] == "origin"
    for method in ("OPTIONS", "POST", "GET"):
        refused = house.ask("/loans", EXAMPLE, method, Origin="https://b.example")
        assert refused.status == 403
        assert "access-control-allow-origin" not in refused.headers
    assert "access-control-allow-origin" not in house.ask("/loans", EXAMPLE).headers
    assert house.ask("/loans", method="OPTIONS").status == 405


@pytest.mark.parametrize(("host", "status"), [("models.example", 200), ("models.example:80", 200), ("b.example", 403)])
def test_hosts_are_those_that_are_set(house: House, host: str, status: int) -> None:
    assert house.ask("/loans", EXAMPLE, Host=host).status == status


@pytest.mark.parametrize("path", ["/", "/loans", "/metrics", "/v2", "/v2/models/loans", "/healthz", "/readyz"])
def test_head_is_get_without_the_body(house: House, path: str) -> None:
    with Line(house.port) as line:
        line.send(request(path, method="GET"))
        whole = line.read()
        line.send(request(path, method="HEAD"))
        head = line.read(is_head=True)
        assert (head.status, head.headers["content-type"]) == (200, whole.headers["content-type"])
        assert int(head.headers["content-length"]) > 0
        assert line.ask(request("/loans", EXAMPLE))[0].status == 200, "no byte of a body was in between"


@pytest.mark.parametrize(
    ("key", "path", "status"),
    [
        ("my_anna", "/loans", 200),
        ("my_bo", "/loans", 200),
        ("my_bo", "/sums", 403),
        ("my_bo", "/loans/explain", 403),
        ("my_labels", "/loans", 403),
        ("my_probe", "/loans", 403),
        ("my_gone", "/loans", 401),
        ("my_nobody", "/loans", 401),
    ],
)
def test_keys_and_scopes(house: House, key: str, path: str, status: int) -> None:
    body = {"x": 1, "y": 1} if path == "/sums" else EXAMPLE
    for headers in ({"X_API_Key": key}, {"Authorization": f"Bearer {key}"}):
        assert house.ask(path, body, **headers).status == status


def test_metrics_ask_for_their_scope(house: House) -> None:
    assert house.ask("/metrics", method="GET", X_API_Key="my_probe").status == 200
    assert house.ask("/metrics", method="GET", X_API_Key="my_anna").status == 403


def test_a_quota_is_shared_by_all_workers_and_says_when_to_come_back(house: House) -> None:
    replies = [house.ask("/loans", EXAMPLE, X_API_Key="my_few") for _ in range(12)]  # on connections of their own
    assert sum(reply.status == 200 for reply in replies) == 5
    refused = next(reply for reply in replies if reply.status == 429)
    assert refused.json()["code"] == "quota_exceeded"
    assert int(refused.headers["retry-after"]) >= 1
    assert "rows_per_second=0.001" in refused.json()["detail"]


# --- the protocol


def test_v2_describes_itself(house: House) -> None:
    assert house.ask("/v2", method="GET").json()["extensions"] == EXTENSIONS
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/loans/ready", "/v2/models/loans/versions/2/ready"):
        assert house.ask(path, method="GET").status == 200
    about = house.ask("/v2/models/loans", method="GET").json()
    assert about["versions"] == ["1", "2"]
    assert [(tensor["name"], tensor["datatype"]) for tensor in about["inputs"]] == [
        ("age", "INT64"), ("income", "FP64"), ("home", "BYTES"), ("job", "BYTES"), ("guarantor", "BOOL"),
    ]  # fmt: skip
    assert [tensor["name"] for tensor in about["outputs"]] == ["probability", "score", "decision"]


def test_v2_json_flat_nested_and_with_nulls(house: House) -> None:
    rows = [a_row(random.Random(number)) for number in range(5)]
    flat = v2(rows, id="mine")
    nested = v2(rows)
    for tensor in nested["inputs"]:
        tensor["shape"], tensor["data"] = [len(rows), 1], [[value] for value in tensor["data"]]
    right = [expected(row) for row in rows]
    for body in (flat, nested):
        assert outputs(house.ask("/v2/models/loans/infer", body))["probability"] == pytest.approx(right, abs=1e-6)
    reply = house.ask("/v2/models/loans/infer", flat).json()
    assert reply["id"] == "mine"
    assert reply["model_name"] == "loans"
    assert reply["model_version"] == "1"
    assert len(reply["parameters"]["request_id"]) == 32
    assert "id" not in house.ask("/v2/models/loans/infer", nested).json()
    native = house.ask("/loans", rows).json()["predictions"]
    assert outputs(house.ask("/v2/models/loans/infer", flat))["score"] == [one["score"] for one in native]
    assert outputs(house.ask("/v2/models/loans/infer", flat))["decision"] == [one["decision"] for one in native]


def test_v2_defaults_stand_in_and_requested_outputs_alone_come_back(house: House) -> None:
    body = v2([EXAMPLE, EXAMPLE])
    body["inputs"] = [tensor for tensor in body["inputs"] if tensor["name"] != "guarantor"]  # it has a default
    body["outputs"] = [{"name": "decision"}, {"name": "probability"}]
    reply = house.ask("/v2/models/loans/infer", body).json()
    assert [tensor["name"] for tensor in reply["outputs"]] == ["decision", "probability"]
    assert reply["outputs"][1]["data"] == pytest.approx([expected(EXAMPLE)] * 2, abs=1e-6)
    for wrong in ([{"name": "nothing"}], [{"name": "score"}, {"name": "score"}]):
        refused = house.ask("/v2/models/loans/infer", body | {"outputs": wrong})
        assert (refused.status, refused.json()["code"]) == (400, "invalid_input")


def in_binary(rows: list[dict[str, Any]], **more: object) -> tuple[bytes, int]:
    """The rows as the binary tensor extension has them, laid out by hand: JSON, then each tensor's bytes."""
    packs: dict[str, tuple[str, Callable[[list[Any]], bytes]]] = {
        "age": ("INT64", lambda values: struct.pack(f"<{len(values)}q", *values)),
        "income": ("FP32", lambda values: struct.pack(f"<{len(values)}f", *values)),
        "home": ("BYTES", strings),
        "job": ("BYTES", strings),
        "guarantor": ("BOOL", lambda values: bytes(map(int, values))),
    }
    inputs, tail = [], b""
    for name, (kind, pack) in packs.items():
        data = pack([row[name] for row in rows])
        size = {"binary_data_size": len(data)}
        inputs.append({"name": name, "datatype": kind, "shape": [len(rows)], "parameters": size})
        tail += data
    head = json.dumps({"inputs": inputs} | more).encode()
    return head + tail, len(head)


def strings(values: list[str]) -> bytes:
    return b"".join(struct.pack("<I", len(value.encode())) + value.encode() for value in values)


BINARY_ROWS = [
    {"age": 35, "income": 120.5, "home": "rent", "job": "fixed", "guarantor": False},
    {"age": 61, "income": 0.25, "home": "owner", "job": "né partout 金", "guarantor": True},
    {"age": 18, "income": 999.0, "home": "other", "job": "freelance", "guarantor": True},
]


def test_v2_binary_in_and_out(house: House) -> None:
    body, length = in_binary(BINARY_ROWS, id="b", parameters={"binary_data_output": True})
    reply = house.ask("/v2/models/loans/infer", body, Inference_Header_Content_Length=str(length))
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"] == "application/octet-stream"
    cut = int(reply.headers["inference-header-content-length"])
    head, tail = json.loads(reply.body[:cut]), reply.body[cut:]
    assert head["id"] == "b"
    found: dict[str, bytes] = {}
    for tensor in head["outputs"]:
        assert "data" not in tensor
        assert tensor["shape"] == [3]
        size = tensor["parameters"]["binary_data_size"]
        found[tensor["name"]], tail = tail[:size], tail[size:]
    assert tail == b""
    chances = struct.unpack("<3f", found["probability"])
    assert chances == pytest.approx([expected(row) for row in BINARY_ROWS], abs=1e-6)
    assert len(struct.unpack("<3q", found["score"])) == 3
    assert found["decision"] == strings(["decline" if chance >= 0.3 else "approve" for chance in chances])


def test_v2_binary_in_json_out_and_the_other_way_round(house: House) -> None:
    right = [expected(row) for row in BINARY_ROWS]
    body, length = in_binary(BINARY_ROWS)
    reply = house.ask("/v2/models/loans/infer", body, Inference_Header_Content_Length=str(length))
    assert outputs(reply)["probability"] == pytest.approx(right, abs=1e-6)
    asked = [{"name": "probability", "parameters": {"binary_data": True}}, {"name": "score"}]
    reply = house.ask("/v2/models/loans/infer", v2(BINARY_ROWS, outputs=asked))
    cut = int(reply.headers["inference-header-content-length"])
    head = json.loads(reply.body[:cut])
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 12}
    assert struct.unpack("<3f", reply.body[cut:]) == pytest.approx(right, abs=1e-6)
    assert len(head["outputs"][1]["data"]) == 3


def test_v2_a_matrix_and_raw_bytes_for_a_version_brought_as_such(house: House) -> None:
    for shape, data, right in (([2, 2], [1, 2, 3, 4.5], [3, 7.5]), ([2, 2], [[1, 2], [3, 4.5]], [3, 7.5])):
        tensor = {"name": "rows", "datatype": "FP32", "shape": shape, "data": data}
        assert outputs(house.ask("/v2/models/matrix/infer", {"inputs": [tensor]}))["total"] == right
    raw = struct.pack("<6f", 1, 2, 3, 4, 5, 6.5)
    reply = house.ask("/v2/models/matrix/infer", raw, Inference_Header_Content_Length="0")
    cut = int(reply.headers["inference-header-content-length"])
    assert struct.unpack("<3f", reply.body[cut:]) == (3, 7, 11.5)
    wrong = {"name": "rows", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
    assert house.ask("/v2/models/matrix/infer", {"inputs": [wrong]}).status == 400


# --- what it tells of itself


def metrics(house: House) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample, whichever worker answers."""
    text = house.ask("/metrics", method="GET").body.decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


ANSWERED = ("modelyard_requests_total", (("code", "200"), ("endpoint", "loans"), ("version", "1")))
ROWS = ("modelyard_rows_total", (("endpoint", "loans"), ("version", "1")))
REFUSED = ("modelyard_refusals_total", (("code", "invalid_input"), ("status", "422")))


def test_metrics_count_all_workers_and_a_killed_one_lowers_nothing(house: House) -> None:
    before = metrics(house)
    for number in range(40):  # connections of their own: both workers answer some
        assert house.ask("/loans", [EXAMPLE] * 3 if number % 2 else EXAMPLE).status == 200
        assert house.ask("/loans", {}).status == 422
    after = metrics(house)
    assert after[ANSWERED] - before.get(ANSWERED, 0) == 40
    assert after[ROWS] - before.get(ROWS, 0) == 80
    assert after[REFUSED] - before.get(REFUSED, 0) == 40
    seconds = ("modelyard_request_seconds_count", (("endpoint", "loans"), ("version", "1")))
    assert after[seconds] == after[ANSWERED]
    assert after["modelyard_plan_revision", ()] == house.revision
    victim = house.running.workers()[0]
    os.kill(victim, signal.SIGKILL)
    last = after

    def is_replaced() -> bool:
        nonlocal last
        try:
            now = metrics(house)
        except OSError:
            return False  # a connection that the killed worker had taken
        assert all(now[key] >= last[key] for key in last if key[0].endswith(("_total", "_count", "_sum")))
        last = now
        state = house.running.state()
        return (
            state is not None
            and victim not in house.running.workers()
            and all(worker.revision == house.revision for worker in state.workers)
        )

    until(is_replaced, "another worker serves in place of the killed one")
    for _ in range(20):
        assert house.ask("/loans", EXAMPLE).status == 200
    assert metrics(house)[ANSWERED] - after[ANSWERED] == 20
    state = house.running.state()
    assert state is not None
    assert any(f"pid {victim}" in death and "SIGKILL" in death for death in state.restarts)


def on_disk(home: Home) -> list[Record]:
    """Every record that has been written so far."""
    return [record for path in sorted(home.records.glob("*.records")) for record in frames(path.read_bytes())]


def test_a_record_is_what_the_model_saw_and_never_the_body(house: House) -> None:
    row = {"age": 77, "income": 4321.5, "home": "rent", "job": "Trapezkünstlerin", "sex": "geheim-7f3"}
    reply = house.ask("/loans", [EXAMPLE, row], X_API_Key="my_anna", X_Request_Id="their-own-id")
    made = reply.json()["request_id"]

    def mine() -> list[Prediction]:
        return [one for one in on_disk(house.running.home) if isinstance(one, Prediction) and one.request_id == made]

    (record,) = until(mine, "the record is on disk")  # type: ignore[misc]
    assert (record.endpoint, record.version, record.revision) == ("loans", 1, house.revision)
    assert (record.principal, record.rows, record.caller_id) == ("anna", 2, "their-own-id")
    seen = np.frombuffer(record.inputs, dtype="<f4").reshape(2, -1)
    np.testing.assert_array_equal(seen, Encoder(CONTRACT).encode_rows([EXAMPLE, row]))
    chances = np.frombuffer(record.outputs, dtype="<f4")
    np.testing.assert_allclose(chances, [expected(EXAMPLE), expected(row)], atol=1e-6)
    assert abs(record.time_ns / 1e9 - time.time()) < 30
    assert 0 < record.duration_ns < 10e9
    home = house.running.home
    written = b"".join(path.read_bytes() for path in home.records.glob("*"))
    logged = house.running.log.read_bytes()
    for secret in ("Trapezkünstlerin", "geheim-7f3", "my_anna"):
        assert secret.encode() not in written
        assert secret.encode() not in logged
    assert all(path.stat().st_mode & 0o077 == 0 for path in home.records.glob("*"))


@pytest.mark.parametrize(
    ("asker", "teller", "status"),
    [
        ("anna", "anna", 202),
        ("anna", "bo", 403),
        ("bo", "bo", 202),
        ("bo", "anna", 403),
        ("anna", "labels", 202),  # may speak of every call
        ("anna", None, 403),
        (None, None, 202),
        (None, "anna", 403),
        ("anna", "probe", 403),
    ],
)
def test_feedback_comes_from_who_asked(house: House, asker: str | None, teller: str | None, status: int) -> None:
    def key(name: str | None) -> dict[str, str]:
        return {} if name is None else {"X_API_Key": f"my_{name}"}

    made = house.ask("/loans", EXAMPLE, **key(asker)).json()["request_id"]
    truth = {"request_id": made, "truth": "bad"}
    reply = house.ask("/loans/feedback", truth, **key(teller))
    assert reply.status == status, reply.body
    found = until_written(house, made) if status == 202 else []
    assert [(one.truth, one.principal, one.row) for one in found] == ([("bad", teller or "anonymous", 0)] * len(found))
    assert bool(found) is (status == 202)
    if status == 202:
        assert house.ask("/loans/feedback", [truth, truth | {"row": 1}], **key(teller)).json() == {"accepted": 2}


def until_written(house: House, made: str) -> list[Feedback]:
    def mine() -> list[Feedback]:
        return [one for one in on_disk(house.running.home) if isinstance(one, Feedback) and one.request_id == made]

    return until(mine, "the feedback is on disk")  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("truth", "status"),
    [
        ({"request_id": "0" * 32, "truth": "bad"}, 403),
        ({"request_id": "", "truth": "bad"}, 403),
        ({"request_id": "é" * 40, "truth": "bad"}, 403),
        ({"request_id": "MINE", "truth": "worse"}, 422),
        ({"request_id": "MINE", "truth": "bad", "row": -1}, 422),
        ({"request_id": "MINE"}, 422),
        ({"truth": "bad"}, 422),
        ({"request_id": "MINE", "truth": "bad", "more": 1}, 422),
        ([], 422),
        (b"{", 400),
    ],
)
def test_feedback_that_cannot_be(house: House, truth: Any, status: int) -> None:
    made = house.ask("/loans", EXAMPLE).json()["request_id"]
    body = truth if isinstance(truth, bytes) else json.dumps(truth).replace("MINE", made).encode()
    assert house.ask("/loans/feedback", body).status == status


def test_a_request_id_is_proof_at_every_worker(house: House) -> None:
    made = [house.ask("/loans", EXAMPLE).json()["request_id"] for _ in range(12)]
    assert {house.ask("/loans/feedback", {"request_id": one, "truth": "good"}).status for one in made} == {202}
    other = house.ask("/sums", {"x": 1, "y": 2}).json()["request_id"]
    assert house.ask("/loans/feedback", {"request_id": other, "truth": "good"}).status == 403


# --- plans while it runs


def test_a_graph_that_cannot_be_loaded_is_refused_and_later_plans_still_count(house: House) -> None:
    shelf = Shelf(house.running.home.shelf)
    artifact = shelf.open(house.digests["1"])
    broken = shelf.put(msgspec.structs.replace(artifact.manifest, model="broken"), {"model.onnx": b"no graph"})
    house.revision += 1
    refused = house.revision
    publish(house.running.home, wanted(refused, house.digests | {"2": broken}))

    def is_refused() -> bool:
        state = house.running.state()
        return state is not None and all(worker.refused == refused and worker.reason for worker in state.workers)

    until(is_refused, "every worker says why it cannot serve the plan")
    assert house.ask("/loans", EXAMPLE).status == 200
    assert house.ask("/loans/versions/2", EXAMPLE).json()["probability"] == pytest.approx(
        expected(EXAMPLE, BASES[2]), abs=1e-6
    )
    house.serve()
    assert house.ask("/loans", EXAMPLE).status == 200
    state = house.running.state()
    assert state is not None
    assert [worker.revision for worker in state.workers] == [house.revision] * 2


def test_the_settings_of_this_gateway_are_seen(house: House) -> None:
    assert len(set(house.running.workers())) == 2
    assert "worker started" in house.running.log.read_text()
    assert house.running.home.gateway_state.stat().st_mode & 0o077 == 0
    with socket.create_connection(("127.0.0.1", house.port)):
        assert httpx.get(house.running.url, timeout=10).json()["name"] == "modelyard"


def test_the_example_of_every_endpoint_works_as_posted(house: House) -> None:
    for endpoint in house.ask("/", method="GET").json()["endpoints"]:
        about = house.ask(endpoint["url"], method="GET").json()
        assert house.ask(endpoint["url"], about["example"]).status == 200
