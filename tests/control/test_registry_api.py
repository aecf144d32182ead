"""The registry and its past over HTTP: every verb, every narrowing, and a permission of its own for traces."""

import json

import numpy as np
import pytest

from modelyard.artifacts.manifest import Manifest
from modelyard.contract.features import Column, Contract
from modelyard.contract.home import Home
from modelyard.contract.signature import Signature, TensorSpec
from modelyard.contract.telemetry import Prediction, frame
from modelyard.secure.request_ids import request_ids

HOST = {"host": "localhost:8080"}
COLUMNS = (Column("age", "number"), Column("phone", "number", pii="personal"))


class Caller:
    """Somebody signed in, with a browser that speaks JSON."""

    def __init__(self, name: str, **more: bool) -> None:
        from django.contrib.auth import get_user_model
        from django.test import Client

        self.user = get_user_model().objects.create_user(name, password="a long enough password", **more)
        self._client = Client(headers=HOST)
        self._client.force_login(self.user)

    def grant(self, *names: str) -> None:
        from django.contrib.auth.models import Permission

        for name in names:
            app, _, codename = name.partition(".")
            self.user.user_permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))

    def ask(self, method: str, path: str, body: object = None, status: int = 200):
        text = "" if body is None else json.dumps(body)
        answer = self._client.generic(method, f"/api/v1/{path}", text, "application/json")
        assert answer.status_code == status, answer.content
        return answer.json() if answer.content else None


@pytest.fixture
def admin(home: Home) -> Caller:
    return Caller("boss", is_superuser=True, is_staff=True)


def test_models_and_versions_are_described_and_tagged(admin: Caller, register) -> None:
    register(1)
    register(2)
    shown = admin.ask("PATCH", "models/scores", {"description": "who pays back", "tags": {"team": "risk"}})
    assert (shown["description"], shown["tags"], shown["versions"]) == ("who pays back", {"team": "risk"}, [2, 1])
    shown = admin.ask("PATCH", "models/scores/versions/2", {"note": "bolder", "tags": {"stage": "trial"}})
    assert (shown["note"], shown["tags"]) == ("bolder", {"stage": "trial"})
    assert admin.ask("PATCH", "models/scores", {"tags": {"team": None}})["tags"] == {}
    assert admin.ask("GET", "models/scores")["description"] == "who pays back"  # what is left out stays
    assert [row["version"] for row in admin.ask("GET", "models/scores/versions?tag=stage%3Dtrial")["results"]] == [2]
    assert admin.ask("GET", "models?tag=team%3Drisk")["count"] == 0
    admin.ask("PATCH", "models/scores", {"description": "other", "tags": {"two words": "x"}}, 422)
    assert admin.ask("GET", "models/scores")["description"] == "who pays back"  # all of it, or nothing
    admin.ask("GET", "models?tag=team", status=422)
    admin.ask("PATCH", "models/nobody", {"description": "x"}, 404)


def test_one_version_is_shown_whole(admin: Caller, home: Home, register) -> None:
    import shutil

    register(1, columns=COLUMNS)
    whole = admin.ask("GET", "models/scores/versions/champion")
    assert (whole["version"], whole["trusted"], whole["size_bytes"], whole["problem"]) == (1, False, 7, "")
    assert [column["name"] for column in whole["manifest"]["contract"]["columns"]] == ["age", "phone"]
    assert whole["manifest"]["signature"]["outputs"][0]["name"] == "probability"
    assert whole["card"] is None
    shutil.rmtree(home.shelf / whole["digest"])
    whole = admin.ask("GET", "models/scores/versions/1")
    assert (whole["manifest"], whole["version"]) == (None, 1)
    assert "no artifact" in whole["problem"]


def test_a_card_is_shown_only_as_it_was_stored(admin: Caller, home: Home) -> None:
    from modelyard.control.registry.services import find_version
    from modelyard.control.registry.work import register_packaged

    signature = Signature((), (TensorSpec("probability", "FP32", (-1,)),))
    packaged = Manifest(
        "scores", "binary", "logistic", "onnx", "2026-01-01T00:00:00Z", {}, signature, Contract(COLUMNS)
    )
    register_packaged(packaged, {"model.onnx": b"graph", "card.md": b"# Scores\n"})
    digest = find_version("scores", 1).digest
    assert admin.ask("GET", "models/scores/versions/1")["card"] == "# Scores\n"
    (home.shelf / digest / "card.md").write_text("# Forged\n")
    assert admin.ask("GET", "models/scores/versions/1")["card"] is None


def test_versions_are_found_by_what_they_learned_from(admin: Caller, register) -> None:
    from modelyard.control.registry.services import find_version

    register(1)
    register(2)
    digest = find_version("scores", 2).digest
    assert [row["version"] for row in admin.ask("GET", f"versions?digest={digest}")["results"]] == [2]
    assert admin.ask("GET", f"versions?data_digest={'d' * 64}")["count"] == 0
    assert admin.ask("GET", "versions")["count"] == 2


def test_two_versions_are_compared(admin: Caller, register) -> None:
    register(1)
    register(2, columns=COLUMNS)
    found = admin.ask("GET", "models/scores/compare?a=champion&b=2")
    assert (found["a"]["version"], found["b"]["version"], found["contract"]["added"]) == (1, 2, ["phone"])
    assert found["metrics"][0]["difference"] == 0
    admin.ask("GET", "models/scores/compare?a=1", status=422)
    admin.ask("GET", "models/scores/compare?a=1&b=9", status=404)


def test_what_served_when_is_answered(admin: Caller, register) -> None:
    from django.utils import timezone

    from modelyard.control.deployments.services import deploy, undeploy

    register(1)
    deploy("scores", by="li")
    then = timezone.now().isoformat().replace("+00:00", "Z")
    undeploy("scores", by="wu")
    (state,) = admin.ask("GET", f"models/scores/served?at={then}")
    assert (state["endpoint"], state["weights"], state["by"]) == ("scores", {"1": 100}, "li")
    assert admin.ask("GET", f"endpoints/scores/served?at={then}") == [state]
    assert admin.ask("GET", "models/scores/served") == []
    verbs = [event["verb"] for event in admin.ask("GET", "models/scores/events?endpoint=scores")["results"]]
    assert verbs == ["undeploy", "deploy"]
    assert admin.ask("GET", "models/scores/events?verb=register")["count"] == 1
    admin.ask("GET", "models/scores/served?at=yesterday", status=422)
    admin.ask("GET", "models/nobody/events", status=404)


@pytest.fixture
def answered(home: Home, register) -> Prediction:
    from modelyard.control.deployments.services import deploy

    register(1, columns=COLUMNS)
    deploy("scores", by="li")
    made = request_ids(home.keys).new("anonymous", "scores")
    inputs = np.array([[35.0, np.nan]], "<f4").tobytes()
    record = Prediction(made, 10**18, "scores", 1, 99, "anonymous", 1, inputs, b"", 10**6, "order/7")
    (home.records / f"worker-0-{10**18:020d}.records").write_bytes(frame(record))
    return record


def test_a_trace_and_its_inputs_are_two_permissions(answered: Prediction, home: Home) -> None:
    from modelyard.control.accounts.models import AuditEvent

    clerk = Caller("clerk")
    path = f"trace/{answered.request_id}"
    clerk.ask("GET", path, status=403)
    clerk.grant("registry.trace_request")
    (one,) = clerk.ask("GET", path)["requests"]
    assert (one["version"], one["put_there"]["by"], one["seen"]) == (1, "li", None)
    assert not AuditEvent.objects.filter(verb="trace_inputs").exists()
    clerk.ask("GET", f"{path}?inputs=1", status=403)
    clerk.grant("registry.trace_inputs")
    (one,) = clerk.ask("GET", f"{path}?inputs=true")["requests"]
    assert (one["seen"]["rows"], one["seen"]["withheld"]) == ([{"age": 35.0}], ["phone"])
    looked = AuditEvent.objects.get(verb="trace_inputs")
    assert (looked.principal, looked.object) == ("clerk", answered.request_id)


def test_ids_that_callers_gave_and_ids_that_nobody_gave(answered: Prediction, admin: Caller) -> None:
    assert admin.ask("GET", "trace/order/7")["requests"][0]["request_id"] == answered.request_id
    assert admin.ask("GET", f"trace/{'0' * 32}", status=404)["code"] == "not_found"
