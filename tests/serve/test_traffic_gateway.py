"""Splits, leases and shadows on a real gateway: every edge, dialect and worker agrees on who answers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from kit.gateway import Gateway, gateway, publish, until
from kit.graphs import store_graph, total
from kit.grpc import caller, infer
from kit.lines import Line, request
from kit.versions import CONTRACT, expected, store
from modelyard.artifacts.store import Shelf
from modelyard.contract.features import Column
from modelyard.contract.home import Home
from modelyard.contract.plan import Lease, PlannedEndpoint, PlannedVersion, ServingPlan, Shadow, TrafficSplit
from modelyard.contract.split import Spans, move_slots
from modelyard.contract.telemetry import Disagreement, Prediction, frames
from modelyard.serve.grpc_messages import message_class
from modelyard.serve.routing import slot_of

pytestmark = pytest.mark.xdist_group("traffic_gateway")

REQUEST = message_class("inference.ModelInferRequest")
BASES = {1: 0.0, 2: 1.5, 3: -1.0}
WITH_ID = msgspec.structs.replace(CONTRACT, columns=(*CONTRACT.columns, Column("customer", "number", role="unused")))
SPANS = move_slots(move_slots((), {1: 70, 2: 30}), {1: 40, 2: 30, 3: 30})
CUSTOMERS = [*range(6), 2**53 + 1, 0.25]
KINDS = {"age": "INT64", "income": "FP64", "home": "BYTES", "job": "BYTES", "guarantor": "BOOL"}
TYPES = {"INT64": np.int64, "FP64": np.float64, "BOOL": np.bool_}


def planned(
    name: str, digests: Mapping[int, str], split: TrafficSplit, shadow: Shadow | None = None, lease: Lease | None = None
) -> PlannedEndpoint:
    versions = tuple(PlannedVersion(number, digest) for number, digest in digests.items())
    return PlannedEndpoint(name, name, versions, split, {"canary": 2}, shadow=shadow, lease=lease)


def sticky(by: str, spans: Spans = SPANS) -> TrafficSplit:
    return TrafficSplit({1: 40, 2: 30, 3: 30}, by, spans)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    root = tmp_path_factory.mktemp("traffic") / "home"
    shelf = Shelf(Home(root).prepare().shelf)
    digests = {number: store(shelf, base, WITH_ID) for number, base in BASES.items()}
    endpoints = (
        planned("loans", digests, sticky("column:customer")),
        planned("ages", digests, sticky("column:age")),
        planned("tenants", digests, sticky("Tenant")),
    )
    plan = ServingPlan(1, 0.0, endpoints, default_endpoint="loans")
    with gateway(root, plan, bulk_bytes=3_000) as one:
        yield one


def owner(value: Any, endpoint: str) -> int:
    """The version that the plan gives this caller's slot to."""
    owners = [version for version, width in SPANS for _ in range(width)]
    return owners[slot_of(str(value).encode(), endpoint)]


def v2(row: Mapping[str, Any], count: int = 1) -> bytes:
    kinds = KINDS | (
        {"customer": "FP64" if isinstance(row["customer"], float) else "INT64"} if "customer" in row else {}
    )
    tensors = [
        {"name": name, "shape": [count], "datatype": kind, "data": [row[name]] * count} for name, kind in kinds.items()
    ]
    return json.dumps({"inputs": tensors}).encode()


def grpc_request(name: str, row: Mapping[str, Any], count: int = 1) -> Any:
    kinds = KINDS | (
        {"customer": "FP64" if isinstance(row["customer"], float) else "INT64"} if "customer" in row else {}
    )
    message = REQUEST(model_name=name)
    for column, kind in kinds.items():
        message.inputs.add(name=column, datatype=kind, shape=[count])
        if kind == "BYTES":
            text = row[column].encode()
            raw = (len(text).to_bytes(4, "little") + text) * count
        else:
            raw = np.array([row[column]] * count, TYPES[kind]).tobytes()
        message.raw_input_contents.append(raw)
    return message


def table_of(row: Mapping[str, Any]) -> str:
    texts = (str(value).lower() if isinstance(value, bool) else str(value) for value in row.values())
    return f"{','.join(row)}\n{','.join(texts)}\n"


def chunk_of(line: Line) -> bytes:
    """The answer of one line, which comes as a chunk."""
    while b"}" not in line._unread:
        line._more()
    return line._unread.split(b"\r\n")[1]


def rest_versions(running: Gateway, name: str, row: dict[str, Any], **headers: str) -> dict[str, int]:
    """Who answers this row, by dialect, each on a connection of its own."""
    many = [row] * 40
    asked = {
        "native": ("/" + name, json.dumps(row), {}),
        "list": ("/" + name, json.dumps([row, row | {"age": 19}]), {}),
        "bulk": ("/" + name, json.dumps(many), {}),
        "lines": ("/" + name, json.dumps(row) + "\n", {"Content_Type": "application/x-ndjson"}),
        "v1": (f"/v1/models/{name}:predict", json.dumps({"instances": [row]}), {}),
        "v1 columns": (
            f"/v1/models/{name}:predict",
            json.dumps({"inputs": {key: [one] for key, one in row.items()}}),
            {},
        ),
        "v2": (f"/v2/models/{name}/infer", v2(row), {}),
        "v2 bulk": (f"/v2/models/{name}/infer", v2(row, 200), {}),
        "mlflow": ("/invocations", json.dumps({"dataframe_records": [row]}), {}),
        "csv": ("/invocations", table_of(row), {"Content_Type": "text/csv"}),
    }
    found = {}
    for dialect, (path, body, more) in asked.items():
        if path == "/invocations" and name != "loans":
            continue
        with Line(running.port) as line:
            line.send(request(path, body.encode() if isinstance(body, str) else body, **headers, **more))
            reply = line.read()
            said = json.loads(reply.body or chunk_of(line))
        assert reply.status == 200, (dialect, said)
        found[dialect] = int(said.get("version", said.get("model_version", 0)))
    return found


def grpc_versions(running: Gateway, name: str, row: dict[str, Any], **metadata: str) -> dict[str, int]:
    found = {}
    for dialect, count in {"grpc": 1, "grpc bulk": 200}.items():
        with caller(running.grpc_port, **metadata) as one:
            found[dialect] = int(infer(one.call("ModelInfer", grpc_request(name, row, count))).model_version)
    return found


@pytest.mark.parametrize("customer", CUSTOMERS)
def test_a_column_that_is_no_feature_decides_in_every_dialect_and_edge(running: Gateway, customer: float) -> None:
    row = CONTRACT.example | {"customer": customer}
    versions = rest_versions(running, "loans", row) | grpc_versions(running, "loans", row)
    assert versions == dict.fromkeys(versions, owner(customer, "loans"))


@pytest.mark.parametrize("age", [18, 25, 47, 99])
def test_a_column_that_is_a_feature_decides_too(running: Gateway, age: int) -> None:
    row = CONTRACT.example | {"age": age}
    versions = rest_versions(running, "ages", row) | grpc_versions(running, "ages", row)
    with Line(running.port) as line:
        values = [age, 120.5, "rent", "fixed", False]
        (reply,) = line.ask(request("/v1/models/ages:predict", {"instances": [values]}))
    versions["v1 list"] = int(json.loads(reply.body)["model_version"])
    assert versions == dict.fromkeys(versions, owner(age, "ages"))


@pytest.mark.parametrize("tenant", ["one", "two", "three", "7", "a b;c"])
def test_a_header_decides_and_in_grpc_it_is_metadata(running: Gateway, tenant: str) -> None:
    row = CONTRACT.example
    versions = rest_versions(running, "tenants", row, Tenant=tenant)
    versions |= grpc_versions(running, "tenants", row, tenant=tenant)
    assert versions == dict.fromkeys(versions, owner(tenant, "tenants"))


def test_without_the_value_all_versions_answer(running: Gateway) -> None:
    with Line(running.port) as line:
        for path in ("/tenants", "/loans"):
            versions = {json.loads(line.ask(request(path, CONTRACT.example))[0].body)["version"] for _ in range(120)}
            assert versions == {1, 2, 3}


def test_the_answer_says_which_version_and_the_record_under_which_plan(running: Gateway) -> None:
    reply = running.post("/loans", CONTRACT.example | {"customer": 4}).json()
    version = owner(4, "loans")
    assert reply["version"] == version
    assert reply["probability"] == pytest.approx(expected(CONTRACT.example, BASES[version]), abs=1e-6)

    def recorded() -> list[Prediction]:
        found = (frames(path.read_bytes()) for path in running.home.records.glob("*.records"))
        return [one for segment in found for one in segment if one.request_id == reply["request_id"]]  # type: ignore[misc]

    (record,) = until(recorded, "the record is written")  # type: ignore[misc]
    assert (record.version, record.revision) == (version, 1)


# --- leases


def metric(running: Gateway, start: str) -> list[float]:
    lines = running.get("/metrics").text.splitlines()
    return [float(line.rpartition(" ")[2]) for line in lines if line.startswith(start)]


def versions_of(running: Gateway, path: str = "/loans") -> dict[int, set[int]]:
    """Customer -> who answered it, on two connections each."""
    found: dict[int, set[int]] = {}
    for customer in range(20):
        for _ in range(2):
            with Line(running.port) as line:
                (reply,) = line.ask(request(path, CONTRACT.example, X_Customer=str(customer)))
            assert reply.status == 200, reply.body
            found.setdefault(customer, set()).add(json.loads(reply.body)["version"])
    return found


def test_a_canary_whose_control_falls_silent_gives_its_share_back_until_it_speaks_again(tmp_path: Path) -> None:
    root = tmp_path / "home"
    home = Home(root).prepare()
    digests = {number: store(Shelf(home.shelf), BASES[number]) for number in (1, 2)}
    split = TrafficSplit({1: 50, 2: 50}, "x-customer", ((2, 50), (1, 50)))
    first = ServingPlan(1, 0.0, (planned("loans", digests, split, lease=Lease(3.0, 1)),))

    def speak() -> None:
        home.control_beat.touch()

    def lapsed() -> set[tuple[str, ...]]:
        state = running.state()
        return {worker.lapsed for worker in state.workers} if state else set()

    with gateway(root, first) as running:
        until(lambda: lapsed() == {("loans",)}, "without a sign of life no worker lets the canary answer")
        assert versions_of(running) == {customer: {1} for customer in range(20)}

        until(lambda: (speak(), lapsed() == {()})[1], "control speaks: the split holds")
        shared = versions_of(running)
        speak()
        assert all(len(versions) == 1 for versions in shared.values())
        assert {version for versions in shared.values() for version in versions} == {1, 2}
        assert metric(running, 'modelyard_lease_lapsed{endpoint="loans"}') == [0.0]

        until(lambda: lapsed() == {("loans",)}, "control is silent beyond the lease")
        assert versions_of(running) == {customer: {1} for customer in range(20)}, "sticky callers, too"
        assert metric(running, 'modelyard_lease_lapsed{endpoint="loans"}') == [1.0]
        assert versions_of(running, "/loans/versions/2") == {customer: {2} for customer in range(20)}
        assert versions_of(running, "/loans/versions/canary")[0] == {2}
        assert "lease lapsed" in running.log.read_text()

        # A plan that comes meanwhile changes nothing; one without a lease needs no sign of life.
        running.publish(msgspec.structs.replace(first, revision=2))
        assert versions_of(running) == {customer: {1} for customer in range(20)}
        running.publish(ServingPlan(3, 0.0, (planned("loans", digests, split),)))
        assert versions_of(running) == shared
        assert lapsed() == {()}

        running.publish(msgspec.structs.replace(first, revision=4))
        until(lambda: lapsed() == {("loans",)}, "the lease is back, and has lapsed")
        os.utime(home.control_beat) if home.control_beat.exists() else speak()
        until(lambda: (speak(), lapsed() == {()})[1], "control is back")
        assert versions_of(running) == shared, "every caller is where it was"


# --- shadows


def test_a_shadows_version_stays_in_memory_where_others_load_when_called(tmp_path: Path) -> None:
    root = tmp_path / "home"
    shelf = Shelf(Home(root).prepare().shelf)
    digests = {number: store(shelf, BASES[number]) for number in (1, 2)}
    endpoint = planned("loans", digests, TrafficSplit({1: 100}), Shadow(2))
    with gateway(root, ServingPlan(1, 0.0, (endpoint,)), resident_bytes=1) as running, Line(running.port) as line:

        def compared() -> float:
            assert line.ask(request("/loans", CONTRACT.example))[0].status == 200
            return sum(metric(running, "modelyard_shadow_compared_total"))

        until(compared, "a copy is compared")


def test_a_refused_plan_changes_no_shadow(tmp_path: Path) -> None:
    root = tmp_path / "home"
    home = Home(root).prepare()
    shelf = Shelf(home.shelf)
    digests = {number: store(shelf, BASES[number]) for number in (1, 2)}
    endpoint = planned("loans", digests, TrafficSplit({1: 100}), Shadow(2))
    unfit = PlannedEndpoint(
        "sums", "sums", (PlannedVersion(1, store_graph(shelf, total(), "sums", "matrix")),), TrafficSplit({1: 100}),
        cutoff=0.5,
    )  # fmt: skip
    with gateway(root, ServingPlan(1, 0.0, (endpoint,))) as running, Line(running.port) as line:
        publish(home, ServingPlan(2, 0.0, (planned("loans", digests, TrafficSplit({1: 100})), unfit)))

        def refusals() -> list[str]:
            state = running.state()
            return [worker.reason for worker in state.workers if worker.refused == 2] if state else []

        assert "cutoff" in str(until(lambda: len(refusals()) == 2 and refusals(), "both workers refuse the plan"))

        def compared() -> float:
            assert line.ask(request("/loans", CONTRACT.example))[0].status == 200
            return sum(metric(running, "modelyard_shadow_compared_total"))

        until(compared, "a copy is compared")


def test_a_shadow_on_a_gateway_is_seen_in_metrics_and_records_and_in_no_answer(tmp_path: Path) -> None:
    root = tmp_path / "home"
    home = Home(root).prepare()
    digests = {number: store(Shelf(home.shelf), BASES[number]) for number in (1, 2)}
    rows = [CONTRACT.example | {"age": age} for age in range(18, 98, 2)]
    name = 'modelyard_shadow_{}{{endpoint="loans",version="2"}}'
    plain = ServingPlan(1, 0.0, (planned("loans", digests, TrafficSplit({1: 100})),))

    def answers(line: Line) -> list[dict[str, Any]]:
        found = []
        for row in rows:
            for path, body in (("/loans", row), ("/v2/models/loans/infer", v2(row)), ("/loans", [row] * 60)):
                (reply,) = line.ask(request(path, body))
                assert reply.status == 200, reply.body
                said = reply.json()
                said.pop("request_id", None)
                said.pop("parameters", None)
                found.append(said)
        return found

    with gateway(root, plain, bulk_bytes=4_000) as running:
        with Line(running.port) as line:
            before = answers(line)
            running.publish(ServingPlan(2, 0.0, (planned("loans", digests, TrafficSplit({1: 100}), Shadow(2)),)))
            assert answers(line) == before, "bit for bit"
        calls = 3 * len(rows)

        def seen() -> float:
            return sum(sum(metric(running, name.format(f"{kind}_total"))) for kind in ("compared", "dropped"))

        until(lambda: seen() == calls, "every copy is done with")
        differing = [row for row in rows if (expected(row) >= 0.3) != (expected(row, BASES[2]) >= 0.3)]
        (compared,), (others,) = (metric(running, name.format(kind + "_total")) for kind in ("compared", "differing"))
        assert compared > 0
        assert compared == calls or others <= 3 * len(differing), "some may be dropped on a busy machine"
        assert compared < calls or others == 3 * len(differing)
        largest = max(expected(row, BASES[2]) - expected(row) for row in rows)
        assert metric(running, name.format("difference"))[0] <= largest + 1e-5
        requests = metric(running, 'modelyard_requests_total{code="200",endpoint="loans",version="2"}')
        assert requests in ([], [0.0])

        def disagreements() -> list[Disagreement]:
            found = (frames(path.read_bytes()) for path in home.records.glob("*.records"))
            return [one for segment in found for one in segment if isinstance(one, Disagreement)]

        found = until(disagreements, "disagreements are recorded") if others else []
        for one in found:  # type: ignore[attr-defined]
            assert (one.version, one.shadow, one.revision) == (1, 2, 2)
        publish(home, ServingPlan(3, 0.0, (planned("loans", digests, TrafficSplit({2: 100})),)))
        running.wait_for(3)
        assert running.post("/loans", rows[0]).json()["version"] == 2
