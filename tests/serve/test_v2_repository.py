"""Unloading and loading under load: nobody else notices, and what was unloaded stays so until it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kit.callers import Callers
from kit.gateway import Gateway, gateway
from kit.lines import Line, Reply, request
from kit.tensor_versions import store_identity
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.contract.plan import PlannedEndpoint, PlannedKey, PlannedVersion, ServingPlan, TrafficSplit
from modelyard.secure.keys import digest_of

pytestmark = pytest.mark.xdist_group("v2_repository")

KEY = "my_key_that_may_unload"
ROWS = [
    {"inputs": [{"name": "in_FP32", "shape": [1, 3], "datatype": "FP32", "data": [float(number), 1.5, 2.5]}]}
    for number in range(50)
]


def planned(revision: int, shelf: Shelf, away_versions: int = 1) -> ServingPlan:
    """Two endpoints on one artifact, so that the one's unloading must not touch the other."""
    shared, newer = store_identity(shelf, ("FP32",)), store_identity(shelf, ("FP32", "INT64"))
    away = tuple(PlannedVersion(number, digest) for number, digest in ((1, shared), (2, newer))[:away_versions])
    endpoints = (
        PlannedEndpoint("away", "same", away, TrafficSplit({away_versions: 100}), {}),
        PlannedEndpoint("here", "same", (PlannedVersion(1, shared),), TrafficSplit({1: 100}), {}),
    )
    return ServingPlan(
        revision, 0.0, endpoints, (PlannedKey("k1", digest_of(KEY), "operator", ("infer", "repository")),)
    )


def ask(running: Gateway, path: str, body: object = b"", method: str = "POST", key: str | None = None) -> Reply:
    """One call on a connection of its own, so that any worker may answer."""
    with Line(running.port, timeout_s=40.0) as line:
        return line.ask(request(path, body, method, **({"X_API_Key": key} if key else {})))[0]


def change(running: Gateway, verb: str, name: str = "away") -> Any:
    reply = ask(running, f"/v2/repository/models/{name}/{verb}", key=KEY)
    assert reply.status == 200, reply.body
    return reply.json()


def state(running: Gateway, name: str = "away") -> list[str]:
    rows = ask(running, "/v2/repository/index", {}).json()
    return [row["state"] for row in rows if row["name"] == name]


def right(allowed: tuple[int, ...]) -> Any:
    def check(status: int, said: Any, sent: Any) -> None:
        assert status in allowed, said
        if status == 200:
            assert said["outputs"][0]["data"] == sent["inputs"][0]["data"]
        else:
            assert said["code"] == "not_ready"
            assert "not at ready state" in said["error"]

    return check


def test_a_version_comes_and_goes_and_nobody_else_notices(tmp_path: Path) -> None:
    root = tmp_path / "home"
    shelf = Shelf(Home(root).prepare().shelf)
    with gateway(root, planned(1, shelf)) as running:
        here = Callers(running.port, "/v2/models/here/infer", ROWS, right((200,))).start(2)
        away = Callers(running.port, "/v2/models/away/infer", ROWS, right((200, 503))).start(1)
        for _ in range(2):
            assert change(running, "unload") == {"name": "away", "unload": True, "versions": ["1"]}
            for _ in range(4):  # whichever worker answers
                reply = ask(running, "/v2/models/away/infer", ROWS[0])
                assert (reply.status, reply.headers["retry-after"]) == (503, "1")
                assert ask(running, "/v2/models/away/ready", method="GET").status == 503
            assert ask(running, "/v2/models/away", method="GET").status == 200  # what it is can still be asked
            assert state(running) == ["UNAVAILABLE"]
            assert change(running, "load") == {"name": "away", "load": True, "versions": ["1"]}
            for _ in range(4):
                assert ask(running, "/v2/models/away/infer", ROWS[0]).status == 200
            assert state(running) == ["READY"]
        for callers in (here, away):
            callers.stop()
            assert not callers.failures, callers.failures[:3]
        assert here.answered > 50
        change(running, "unload")
        assert change(running, "unload")["unload"]  # asking again changes nothing
        running.publish(planned(2, shelf, away_versions=2))
        assert state(running) == ["UNAVAILABLE", "READY"]  # a new version is not what was unloaded
        assert ask(running, "/v2/models/away/infer", ROWS[0]).status == 400  # it wants two inputs
        assert ask(running, "/v2/models/away/versions/1/infer", ROWS[0]).status == 503
    with gateway(root) as again:
        again.wait_for(2)
        assert state(again) == ["UNAVAILABLE", "READY"]
        change(again, "load")
        assert ask(again, "/v2/models/away/versions/1/infer", ROWS[0]).status == 200


@pytest.mark.parametrize(
    ("path", "body", "key", "status"),
    [
        ("/v2/repository/models/away/load", {}, None, 403),
        ("/v2/repository/models/away/unload", {}, None, 403),
        ("/v2/repository/models/nobody/load", {}, KEY, 404),
        ("/v2/repository/models/away/load", {"parameters": {"config": "{}"}}, KEY, 400),
        ("/v2/repository/models/away/load", {"parameters": {"file:1/model.onnx": "AAAA"}}, KEY, 400),
        ("/v2/repository/models/away/unload", {"parameters": {"unload_dependents": "yes"}}, KEY, 400),
        ("/v2/repository/index", {"ready": "yes"}, KEY, 400),
    ],
)
def test_what_may_not_be_changed(serving: Gateway, path: str, body: Any, key: str | None, status: int) -> None:
    reply = ask(serving, path, body, key=key)
    assert reply.status == status, reply.body
    assert state(serving) == ["READY"]


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("repository") / "home"
    with gateway(root, planned(1, Shelf(Home(root).prepare().shelf))) as running:
        yield running
