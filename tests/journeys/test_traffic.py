"""Splits, stickiness and shadows changed five times a second under sixteen callers on both edges: nobody notices."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import numpy as np
import pytest

from kit.gateway import gateway, until
from kit.grpc import caller, infer
from kit.lines import Line, request
from kit.model_workers import KIT_PATH, store_class
from kit.product import Product
from kit.versions import CONTRACT, expected
from modelyard.artifacts.store import Shelf
from modelyard.contract.features import Column
from modelyard.contract.home import Home
from modelyard.contract.plan import PlannedEndpoint, PlannedVersion, ServingPlan, Shadow, SignedPlan, TrafficSplit
from modelyard.contract.split import move_slots
from modelyard.serve.grpc_messages import message_class
from modelyard.serve.routing import slot_of

pytestmark = [pytest.mark.journey, pytest.mark.timeout(240)]

REQUEST = message_class("inference.ModelInferRequest")
CONTRACT_WITH_ID = msgspec.structs.replace(
    CONTRACT, columns=(*CONTRACT.columns, Column("customer", "integer", role="unused"))
)
BASES = {1: 0.0, 2: 1.5, 3: -1.0, 4: 0.7}
SPLITS: list[dict[int, int]] = [
    {1: 100},
    {1: 90, 2: 10},
    {1: 50, 2: 50},
    {1: 40, 2: 30, 3: 30},
    {2: 20, 3: 80},
    {3: 100},
]
CALLERS, CHANGES, EVERY_S = 16, 40, 0.2
CUSTOMERS = range(64)

PREPARE = """
import json, sys
from pathlib import Path
from modelyard.control.setup import start
settings = start()
from django.contrib.auth import get_user_model
from kit.versions import store
from modelyard.artifacts.store import Shelf
from modelyard.contract.features import Contract
from modelyard.control.accounts.services import create_token, ensure_admin
from modelyard.control.registry.services import register_version
import msgspec
shelf = Shelf(Path(settings.home) / "shelf")
contract = msgspec.json.decode(sys.argv[1], type=Contract)
for base in json.loads(sys.argv[2]):
    digest = store(shelf, base, contract)
    register_version(shelf.open(digest).manifest, digest, "test")
ensure_admin()
print(create_token(get_user_model().objects.get(username="admin"))[1])
"""


class Answer(NamedTuple):
    """One call: when it was asked and answered (seconds since 1970), whose it was, and what came back."""

    asked: float
    answered: float
    customer: int
    age: int
    version: int
    probability: float


class Callers:
    """Threads that call without pause on one connection each, half of them over gRPC."""

    def __init__(self, port: int, grpc_port: int) -> None:
        self._ports = port, grpc_port
        self._stop = threading.Event()
        self.answers: list[Answer] = []
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(CALLERS)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a caller hangs"

    def _call(self, number: int) -> None:
        ask = self._over_grpc if number % 2 else self._over_rest
        try:
            ask(random.Random(number))
        except Exception as error:
            self.failures.append(f"{type(error).__name__}: {error}")

    def _over_rest(self, chance: random.Random) -> None:
        with Line(self._ports[0]) as line:
            for row, customer in self._rows(chance):
                sent = request("/loans", row | {"customer": customer}, X_Customer=str(customer))
                asked = time.time()
                (reply,) = line.ask(sent)
                assert reply.status == 200, reply.body
                said = reply.json()
                self._keep(asked, customer, row["age"], said["version"], said["probability"])

    def _over_grpc(self, chance: random.Random) -> None:
        with caller(self._ports[1]) as line:
            for row, customer in self._rows(chance):
                asked = time.time()
                reply = line.call("ModelInfer", message_of(row, customer), {"x-customer": str(customer)})
                said = infer(reply)
                at = [output.name for output in said.outputs].index("probability")
                probability = float(np.frombuffer(said.raw_output_contents[at], "<f4")[0])
                self._keep(asked, customer, row["age"], int(said.model_version), probability)

    def _rows(self, chance: random.Random) -> Iterator[tuple[dict[str, Any], int]]:
        while not self._stop.is_set():
            yield CONTRACT.example | {"age": chance.randrange(18, 100)}, chance.choice(CUSTOMERS)

    def _keep(self, asked: float, customer: int, age: int, version: int, probability: float) -> None:
        self.answers.append(Answer(asked, time.time(), customer, age, version, probability))


def message_of(row: dict[str, Any], customer: int) -> Any:
    message = REQUEST(model_name="loans")
    kinds = {
        "age": "INT64",
        "income": "FP64",
        "home": "BYTES",
        "job": "BYTES",
        "guarantor": "BOOL",
        "customer": "INT64",
    }
    fields = {"INT64": "int64_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents", "BOOL": "bool_contents"}
    for name, kind in kinds.items():
        value = customer if name == "customer" else row[name]
        tensor = message.inputs.add(name=name, datatype=kind, shape=[1])
        getattr(tensor.contents, fields[kind]).append(value.encode() if kind == "BYTES" else value)
    return message


class Change(NamedTuple):
    """One plan: from when to when it may have been served by any worker."""

    since: float
    until: float
    split: TrafficSplit


class Operator:
    """Changes traffic by the management API, and remembers which plans were in force when."""

    def __init__(self, product: Product, token: str) -> None:
        self._home = Home(product.root)
        self._url, self._headers = f"{product.control_url}/api/v1", {"Authorization": f"Bearer {token}"}
        self.changes: list[Change] = []

    def change(self, method: str, path: str, body: dict[str, Any] | None = None) -> None:
        """One change, which every worker serves when this returns."""
        since = time.time()
        reply = httpx.request(method, self._url + path, json=body, headers=self._headers, timeout=60)
        assert reply.status_code == 200, reply.text
        assert reply.json().get("served", True) is True, reply.text
        now = time.time()
        if self.changes:
            self.changes[-1] = self.changes[-1]._replace(until=now)
        (endpoint,) = self.plan().endpoints
        self.changes.append(Change(since, float("inf"), endpoint.split))

    def plan(self) -> ServingPlan:
        """The published one."""
        signed = msgspec.json.decode(self._home.plan.read_bytes(), type=SignedPlan)
        return msgspec.json.decode(signed.plan, type=ServingPlan)


def may_answer(split: TrafficSplit, customer: int) -> set[int]:
    """Who may answer this customer under a split."""
    if split.sticky_by is None:
        return {version for version, weight in split.weights.items() if weight}
    return {owners_of(split)[slot_of(str(customer).encode(), "loans")]}


def owners_of(split: TrafficSplit) -> list[int]:
    """Who has which slot."""
    return [version for version, width in split.spans or move_slots((), split.weights) for _ in range(width)]


def prepared(product: Product) -> str:
    """Four registered versions; a token of the administrator."""
    contract = msgspec.json.encode(CONTRACT_WITH_ID).decode()
    done = subprocess.run(
        [sys.executable, "-c", PREPARE, contract, json.dumps(list(BASES.values()))],
        env=product.environment | {"PYTHONPATH": KIT_PATH},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    product.run("deploy", "loans", "--version", "1")
    return done.stdout.split()[-1]


def test_traffic_is_changed_five_times_a_second_and_nobody_notices(tmp_path: Path) -> None:
    product, chance = Product(tmp_path / "home"), random.Random(4)
    product.run("init")
    token = prepared(product)
    with product.up():
        operator = Operator(product, token)
        operator.change("PUT", "/endpoints/loans/traffic", {"weights": {"1": 60, "2": 40}, "sticky_by": "x-customer"})
        state = msgspec.json.decode(Home(product.root).gateway_state.read_bytes())
        grpc_port = int(state["grpc_url"].rpartition(":")[2])
        with Callers(product.gateway_port, grpc_port) as callers:
            until(lambda: len(callers.answers) > 200 or callers.failures, "calls before the changes")
            for number in range(CHANGES):
                due = time.monotonic() + EVERY_S
                if number % 5 == 4:
                    percent = chance.choice((1, 50, 100))
                    operator.change("PUT", "/endpoints/loans/shadow", {"version": 4, "percent": percent})
                elif number % 10 == 8:
                    operator.change("DELETE", "/endpoints/loans/shadow")
                else:
                    sticky_by = chance.choice(("x-customer", "column:customer", None))
                    weights = {str(version): percent for version, percent in chance.choice(SPLITS).items()}
                    operator.change("PUT", "/endpoints/loans/traffic", {"weights": weights, "sticky_by": sticky_by})
                while (left := due - time.monotonic()) > 0:
                    threading.Event().wait(left)
            before = len(callers.answers)
            until(lambda: len(callers.answers) > before + 200 or callers.failures, "calls after the changes")
        metrics = httpx.get(f"{product.url}/metrics", timeout=20).text
    assert callers.failures == []
    for answer in callers.answers:
        row = CONTRACT.example | {"age": answer.age}
        assert answer.probability == pytest.approx(expected(row, BASES[answer.version]), abs=1e-6)
    for answer in callers.answers:
        in_force = [one for one in operator.changes if one.since <= answer.answered and answer.asked <= one.until]
        allowed = set().union(*(may_answer(one.split, answer.customer) for one in in_force))
        assert answer.version in allowed, (answer, in_force)
    settled = operator.changes[-1]
    final = Counter(
        answer.version for answer in callers.answers if answer.asked > settled.since + 5 and settled.split.sticky_by
    )
    assert set(final) <= set(owners_of(settled.split))
    assert {answer.version for answer in callers.answers} == {1, 2, 3}, "version 4 is a shadow: it never answers"
    assert "modelyard_shadow_compared_total" in metrics


def test_a_split_moves_only_callers_whose_slot_changed_hands(tmp_path: Path) -> None:
    """As control publishes it: from plan to plan, over five changes."""
    product = Product(tmp_path / "home")
    product.run("init")
    token = prepared(product)
    with product.up():
        operator = Operator(product, token)
        before: dict[int, int] = {}
        owners: list[int] = []
        for weights in ({1: 100}, {1: 90, 2: 10}, {1: 80, 2: 20}, {1: 60, 2: 20, 3: 20}, {1: 20, 2: 60, 3: 20}):
            body = {"weights": {str(version): percent for version, percent in weights.items()}}
            operator.change("PUT", "/endpoints/loans/traffic", body | {"sticky_by": "x-customer"})
            owned, owners = owners, owners_of(operator.plan().endpoints[0].split)
            now: dict[int, int] = {}
            with Line(product.gateway_port) as line:
                for customer in range(150):
                    (reply,) = line.ask(request("/loans", CONTRACT.example, X_Customer=str(customer)))
                    now[customer] = reply.json()["version"]
            for customer, version in now.items():
                slot = slot_of(str(customer).encode(), "loans")
                assert version == owners[slot]
                if before and before[customer] != version:
                    assert owned[slot] != owners[slot]
                    assert owned.count(before[customer]) > owners.count(before[customer]), "only who must give gives"
            before = now


# --- shadows in processes of their own


ROW = [1.0, 2.0, 3.0]


def question(*row: float) -> bytes:
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": list(row)}
    return request("/v2/models/sums/infer", {"inputs": [tensor]})


def shadow_counts(text: str) -> Counter[str]:
    """By kind, and failures by reason."""
    found: Counter[str] = Counter()
    for line in text.splitlines():
        if line.startswith("modelyard_shadow_") and "_total" in line:
            name, _, value = line.rpartition(" ")
            kind = name.removeprefix("modelyard_shadow_").partition("_total")[0]
            reason = name.partition('reason="')[2].partition('"')[0]
            found[f"{kind} {reason}".strip()] += int(float(value))
    return found


@pytest.mark.parametrize("first", [-1.0, -2.0, -4.0, -6.0], ids=["killed", "slow", "raises", "hangs"])
def test_a_shadow_whose_process_dies_hangs_or_raises_changes_nothing_for_callers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: float
) -> None:
    monkeypatch.setenv("PYTHONPATH", KIT_PATH)
    root = tmp_path / "home"
    shelf = Shelf(Home(root).prepare().shelf)
    versions = tuple(
        PlannedVersion(number, store_class(shelf, f"kit.own_models:{name}"))
        for number, name in ((1, "Calm"), (2, "Sums"))
    )
    endpoint = PlannedEndpoint("sums", "sums", versions, TrafficSplit({1: 100}), shadow=Shadow(2))
    with gateway(root, ServingPlan(1, 0.0, (endpoint,)), model_timeout_s=2, max_shadow_rows=20) as running:
        with Line(running.port) as line:

            def ask(row: list[float]) -> None:
                (reply,) = line.ask(question(*row))
                assert reply.status == 200, reply.body
                outputs = {output["name"]: output["data"] for output in reply.json()["outputs"]}
                assert outputs["total"] == [sum(row)]

            ask(ROW)
            until(lambda: shadow_counts(running.get("/metrics").text)["compared"] == 1, "a copy is compared")
            ask([first, 2.0, 3.0])
            failed = "failed model_failed" if first == -4.0 else "failed not_ready"
            for number in itertools.count():  # meanwhile, callers call
                ask([float(number % 50), 2.0, 3.0])
                if number % 20 == 0 and shadow_counts(running.get("/metrics").text)[failed]:
                    break
                assert number < 200_000, "the failure is never counted"

        compared = shadow_counts(running.get("/metrics").text)["compared"]

        def compares_again() -> bool:
            with Line(running.port) as line:
                (reply,) = line.ask(question(*ROW))
            assert reply.status == 200, reply.body
            return shadow_counts(running.get("/metrics").text)["compared"] > compared

        until(compares_again, "a new process goes on")
        state = running.state()
        assert state is not None
        assert state.restarts == ()
        answering = [model for model in state.models if model.digest == versions[0].digest]
        assert [model.restarts for model in answering] == [0] * len(answering)
