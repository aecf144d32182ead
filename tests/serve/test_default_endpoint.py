"""What names no endpoint goes to the default one, under that endpoint's own rules."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from kit.gateway import Gateway, gateway, plan
from kit.versions import CONTRACT, expected, store
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.contract.plan import PlannedKey
from modelyard.secure.keys import digest_of

pytestmark = pytest.mark.xdist_group("default-endpoint")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    root = tmp_path_factory.mktemp("default") / "home"
    digest = store(Shelf(Home(root).prepare().shelf))
    keys = tuple(
        PlannedKey(name, digest_of(name), name, (scope,))
        for name, scope in (("my_all", "infer"), ("my_loans", "infer:loans"), ("my_other", "infer:other"))
    )
    with gateway(root, plan(1, {1: digest}, keys=keys)) as one:
        yield one


def test_without_a_default_the_setting_is_named_and_with_one_it_answers(running: Gateway) -> None:
    refused = running.post("/", CONTRACT.example)
    assert refused.status_code == 404
    assert "default_endpoint" in refused.json()["detail"]
    digest = running.shelf.digests()[0]
    keys = plan(1, {1: digest}).keys
    running.publish(msgspec.structs.replace(plan(2, {1: digest}, keys=keys), default_endpoint="loans"))
    assert running.post("/", CONTRACT.example).json()["model"] == "loans"
    assert "reasons" in running.post("/?reasons=all", CONTRACT.example).json()


@pytest.mark.parametrize(("key", "status"), [("my_all", 200), ("my_loans", 200), ("my_other", 403)])
def test_the_key_needs_the_default_endpoints_scope(running: Gateway, key: str, status: int) -> None:
    digest = running.shelf.digests()[0]
    scopes = {"my_all": "infer", "my_loans": "infer:loans", "my_other": "infer:other"}
    keys = tuple(PlannedKey(name, digest_of(name), name, (scope,)) for name, scope in scopes.items())
    state = running.state()
    assert state is not None
    revision = state.workers[0].revision + 1
    running.publish(msgspec.structs.replace(plan(revision, {1: digest}, keys=keys), default_endpoint="loans"))
    assert running.post("/", CONTRACT.example, headers={"X-API-Key": key}).status_code == status


def test_feedback_is_counted(running: Gateway) -> None:
    asked = running.post("/loans", CONTRACT.example).json()["request_id"]
    assert running.post("/loans/feedback", {"request_id": asked, "truth": "good"}).status_code == 202
    assert "modelyard_feedback_total 1.0" in running.get("/metrics").text


def test_v2_drops_tensors_of_columns_that_no_model_sees(running: Gateway) -> None:
    kinds = {"integer": "INT64", "number": "FP64", "category": "BYTES", "boolean": "BOOL"}
    columns = {column.name: column for column in CONTRACT.columns}
    row = CONTRACT.example | {"sex": "f"}
    inputs = [
        {"name": name, "shape": [1], "datatype": kinds[columns[name].kind], "data": [value]}
        for name, value in row.items()
    ]
    answer = running.post("/v2/models/loans/infer", {"inputs": inputs})
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0]["data"] == [pytest.approx(expected(CONTRACT.example), abs=1e-6)]
    only = running.post("/v2/models/loans/infer", {"inputs": [one for one in inputs if one["name"] == "sex"]})
    assert only.status_code == 400
