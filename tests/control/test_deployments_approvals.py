"""An endpoint that needs approval: what is asked waits for another principal, and both are on record."""

from typing import Any

import pytest

from modelyard.contract.errors import Conflict, Forbidden, InvalidInput, NotFound, Unauthenticated
from modelyard.contract.features import Column
from modelyard.contract.home import Home
from modelyard.contract.plan import PlannedEndpoint, Shadow, TrafficSplit
from modelyard.control.deployments.reading import read_plan

SPLIT = TrafficSplit({1: 90, 2: 10}, "x-customer")


def planned(home: Home) -> PlannedEndpoint:
    plan = read_plan(home)
    assert plan is not None
    return plan.endpoints[0]


@pytest.fixture
def guarded(home: Home, register) -> Home:
    """`scores` serves version 1 of two, and its changes need approval."""
    from modelyard.control.deployments.services import configure, deploy

    for seed in (1, 2):
        register(seed)
    deploy("scores", 1, by="li")
    configure("scores", "li", needs_approval=True)
    return home


def test_a_change_waits_and_is_done_in_both_names(guarded: Home) -> None:
    from modelyard.control.accounts.models import AuditEvent
    from modelyard.control.deployments.approvals import approve
    from modelyard.control.deployments.models import Change
    from modelyard.control.deployments.services import set_traffic
    from modelyard.control.registry.models import Event

    before = guarded.plan.read_bytes()
    change = set_traffic("scores", SPLIT, by="li")
    assert isinstance(change, Change)
    assert (change.status, change.by, change.verb) == ("waiting", "li", "set_traffic")
    assert change.arguments["split"] == {"weights": {"1": 90, "2": 10}, "sticky_by": "x-customer"}
    assert guarded.plan.read_bytes() == before
    assert not Event.objects.filter(verb="set_traffic").exists()

    approved, row = approve(change.pk, by="wang")
    assert planned(guarded).split.weights == SPLIT.weights
    assert planned(guarded).split.sticky_by == SPLIT.sticky_by
    assert (approved.status, approved.decided_by, approved.revision) == ("approved", "wang", row.revision)
    event = Event.objects.first()
    assert (event.by, event.details["approved_by"], event.revision) == ("li", "wang", row.revision)
    assert list(AuditEvent.objects.values_list("principal", "verb")[:3]) == [
        ("wang", "approve"),
        ("li", "set_traffic"),
        ("li", "ask"),
    ]
    with pytest.raises(Conflict, match=f"change {change.pk} was approved by wang already"):
        approve(change.pk, by="zhao")


@pytest.mark.parametrize("by", ["li", "local:li"])
def test_nobody_approves_what_they_asked_for(guarded: Home, by: str) -> None:
    from modelyard.control.deployments.approvals import approve
    from modelyard.control.deployments.services import deploy

    change = deploy("scores", 2, by=by)
    for name in ("li", "local:li"):
        with pytest.raises(Forbidden, match="another principal approves it"):
            approve(change.pk, by=name)
    assert planned(guarded).split.weights == {1: 100}


def test_the_database_refuses_it_too(guarded: Home) -> None:
    from django.db import IntegrityError
    from django.utils import timezone

    from modelyard.control.deployments.models import Change
    from modelyard.control.deployments.services import deploy

    deploy("scores", 2, by="li")
    with pytest.raises(IntegrityError, match="approved_by_another"):
        Change.objects.update(status="approved", decided_by="li", decided_at=timezone.now())


def test_what_cannot_be_done_is_refused_when_it_is_asked(guarded: Home, register) -> None:
    from modelyard.control.deployments.models import Change
    from modelyard.control.deployments.services import deploy, set_shadow, set_traffic

    register(3, columns=(Column("age", "number"), Column("income", "number")))
    for ask, error in [
        (lambda: set_traffic("scores", TrafficSplit({1: 90, 7: 10}), by="li"), NotFound),
        (lambda: set_shadow("scores", Shadow(1), by="li"), Conflict),
        (lambda: deploy("scores", 3, by="li"), Conflict),
    ]:
        with pytest.raises(error):
            ask()
    assert not Change.objects.exists()
    change = deploy("scores", 3, by="li", force="they send it")
    from modelyard.control.deployments.approvals import approve
    from modelyard.control.registry.models import Event

    approve(change.pk, by="wang")
    details = Event.objects.filter(verb="deploy").first().details
    assert (details["forced"], details["approved_by"]) == ("they send it", "wang")


def test_the_newest_version_is_settled_when_it_is_asked(guarded: Home, register) -> None:
    from modelyard.control.deployments.approvals import approve
    from modelyard.control.deployments.services import deploy

    change = deploy("scores", by="li")
    register(3)
    approve(change.pk, by="wang")
    assert planned(guarded).split.weights == {2: 100}


def test_a_change_of_the_endpoint_makes_what_waits_stale(guarded: Home) -> None:
    from modelyard.control.deployments.approvals import approve, find_change
    from modelyard.control.deployments.services import deploy, set_traffic

    first, second = set_traffic("scores", SPLIT, by="li"), deploy("scores", 2, by="zhao")
    approve(first.pk, by="wang")
    with pytest.raises(Conflict, match="was changed after change"):
        approve(second.pk, by="wang")
    stale = find_change(second.pk)
    assert (stale.status, stale.decided_by) == ("stale", "wang")
    assert planned(guarded).split.weights == SPLIT.weights


def test_a_key_or_another_endpoint_makes_nothing_stale(guarded: Home) -> None:
    from modelyard.control.accounts.services import create_key
    from modelyard.control.deployments.approvals import approve
    from modelyard.control.deployments.services import deploy, set_traffic

    change = set_traffic("scores", SPLIT, by="li")
    create_key("somebody", ["infer"], by="li")
    deploy("scores", 2, endpoint="other", by="li")
    approve(change.pk, by="wang")
    assert read_plan(guarded).endpoints[1].split.weights == SPLIT.weights


def test_what_can_no_longer_be_done_stays_waiting(guarded: Home) -> None:
    from modelyard.control.deployments.approvals import approve, find_change
    from modelyard.control.deployments.services import deploy
    from modelyard.control.registry.services import find_version

    change = deploy("scores", 2, by="li")
    (guarded.shelf / find_version("scores", 2).digest / "model.onnx").write_bytes(b"torn")
    with pytest.raises(Conflict, match="cannot be served"):
        approve(change.pk, by="wang")
    assert find_change(change.pk).status == "waiting"
    assert planned(guarded).split.weights == {1: 100}


def test_only_so_many_wait(guarded: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelyard.control.deployments import approvals
    from modelyard.control.deployments.services import deploy

    monkeypatch.setattr(approvals, "MAX_WAITING", 2)
    first, _ = deploy("scores", 2, by="li"), deploy("scores", 2, by="li")
    with pytest.raises(Conflict, match="2 changes of endpoint 'scores' wait already"):
        deploy("scores", 2, by="li")
    approvals.reject(first.pk, by="wang")
    deploy("scores", 2, by="li")


def test_rejecting_and_withdrawing(guarded: Home) -> None:
    from modelyard.control.deployments.approvals import approve, find_change, reject, withdraw
    from modelyard.control.deployments.services import deploy

    one, two, three = (deploy("scores", 2, by="li") for _ in range(3))
    reject(one.pk, by="wang", reason="not before Monday")
    assert (find_change(one.pk).status, find_change(one.pk).reason) == ("rejected", "not before Monday")
    with pytest.raises(Forbidden, match="withdrawn by who asked"):
        withdraw(two.pk, by="wang")
    withdraw(two.pk, by="li")
    reject(three.pk, by="local:li")
    assert {find_change(two.pk).status, find_change(three.pk).status} == {"withdrawn"}
    for change in (one, two, three):
        with pytest.raises(Conflict, match="already"):
            approve(change.pk, by="wang")
    with pytest.raises(NotFound):
        approve(99, by="wang")


def test_every_verb_waits_and_ending_it_does_too(guarded: Home) -> None:
    from modelyard.control.deployments import services
    from modelyard.control.deployments.approvals import VERBS, approve
    from modelyard.control.deployments.models import Change, Endpoint

    asked = {
        "deploy": lambda: services.deploy("scores", 2, by="li"),
        "set_traffic": lambda: services.set_traffic("scores", SPLIT, by="li"),
        "set_shadow": lambda: services.set_shadow("scores", Shadow(2, 5), by="li"),
        "set_lease": lambda: services.set_lease("scores", 5.0, by="li"),
        "configure": lambda: services.configure("scores", "li", max_rows=5, needs_approval=True),
        "rollback": lambda: services.rollback("scores", by="li"),
        "undeploy": lambda: services.undeploy("scores", by="li"),
    }
    assert {verb for verb, path in VERBS.items() if ".deployments." in path} == set(asked)
    for verb in ("set_shadow", "configure", "set_traffic", "set_lease", "rollback", "deploy", "undeploy"):
        change = asked[verb]()
        assert isinstance(change, Change), verb
        approve(change.pk, by="wang")
    assert not Endpoint.objects.exists()
    assert read_plan(guarded).endpoints == ()
    services.deploy("scores", 1, by="li")
    services.configure("scores", "li", needs_approval=True)
    off = services.configure("scores", "li", needs_approval=False)
    assert isinstance(off, Change)
    assert Endpoint.objects.get().needs_approval
    approve(off.pk, by="wang")
    assert not Endpoint.objects.get().needs_approval
    assert isinstance(services.set_traffic("scores", SPLIT, by="li"), Endpoint)


def test_an_approval_that_was_given_elsewhere_is_on_record(guarded: Home) -> None:
    from modelyard.control.deployments.services import set_lease, set_traffic
    from modelyard.control.registry.models import Event

    set_traffic("scores", SPLIT, by="rollout:1", approved_by="wang")
    set_lease("scores", 5.0, by="rollout:1", approved_by="wang")
    assert planned(guarded).split.weights == SPLIT.weights
    assert {event.details["approved_by"] for event in Event.objects.filter(by="rollout:1")} == {"wang"}


def test_an_approved_change_that_a_worker_refuses_is_put_back(guarded: Home) -> None:
    import os
    import time

    import msgspec

    from modelyard.contract.errors import NotReady
    from modelyard.contract.plan import GatewayState, WorkerState
    from modelyard.control.deployments.approvals import find_change
    from modelyard.control.deployments.models import Endpoint
    from modelyard.control.deployments.served import approve_and_wait, deploy_and_wait

    outcome = deploy_and_wait("scores", 2, by="li")
    assert outcome.waits
    worker = WorkerState(0, 1, revision=1, refused=99, reason="no memory")
    state = GatewayState(os.getpid(), "http://127.0.0.1:8000", time.time(), (worker,))
    guarded.gateway_state.write_bytes(msgspec.json.encode(state))
    with pytest.raises(NotReady, match="no memory; the versions that served before still do"):
        approve_and_wait(outcome.change.pk, by="wang")
    assert planned(guarded).split.weights == {1: 100}
    assert Endpoint.objects.get().needs_approval
    assert find_change(outcome.change.pk).status == "approved"


# --- over HTTP --------------------------------------------------------------------------------------------------


@pytest.fixture
def desk(guarded: Home):
    """Signed-in users by name, each with the permissions that they are given."""
    from django.contrib.auth import get_user_model
    from django.contrib.auth.models import Permission
    from django.test import Client

    def sign_in(name: str, *permissions: str) -> Client:
        user = get_user_model().objects.create_user(name, password="a long enough password")
        wanted = Permission.objects.filter(content_type__app_label="deployments", codename__in=permissions)
        user.user_permissions.set(wanted)
        client = Client(headers={"host": "localhost:8080"})
        client.force_login(user)
        return client

    return sign_in


def send(client: Any, method: str, path: str, body: Any = None, **headers: str) -> Any:
    import json

    data = "" if body is None else json.dumps(body)
    return client.generic(method, f"/api/v1/{path}", data, "application/json", headers=headers)


def test_asking_and_approving_over_http(guarded: Home, desk) -> None:
    asker = desk("li", "change_deployment", "change_endpoint", "view_change", "approve_change", "delete_endpoint")
    boss, clerk = desk("wang", "approve_change"), desk("zhao", "change_deployment")
    asked = send(asker, "PUT", "endpoints/scores/traffic", {"weights": {"1": 90, "2": 10}})
    assert asked.status_code == 202
    number = asked.json()["id"]
    assert asked.json()["status"] == "waiting"
    assert send(clerk, "POST", f"changes/{number}/approve").status_code == 403
    refused = send(asker, "POST", f"changes/{number}/approve")
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert "another principal" in refused.json()["detail"]
    assert send(asker, "GET", "changes?status=waiting").json()["count"] == 1
    approved = send(boss, "POST", f"changes/{number}/approve", {"wait_s": 0})
    assert approved.json()["decided_by"] == "wang"
    assert planned(guarded).split.weights == {1: 90, 2: 10}
    assert send(boss, "POST", f"changes/{number}/approve").status_code == 409
    assert send(asker, "GET", f"changes/{number}").json()["revision"] == read_plan(guarded).revision
    assert send(asker, "GET", "changes/99").status_code == 404

    for method, path, body in [
        ("PUT", "endpoints/scores", {}),
        ("PUT", "endpoints/scores/shadow", {"version": 2}),
        ("DELETE", "endpoints/scores", None),
        ("POST", "endpoints/scores/rollback", {}),
    ]:
        status = 202 if path != "endpoints/scores/shadow" else 409  # version 2 answers calls itself
        assert send(asker, method, path, body).status_code == status, path
    waiting = [change["id"] for change in send(asker, "GET", "changes?status=waiting").json()["results"]]
    said = send(boss, "POST", f"changes/{waiting[0]}/reject", {"reason": "no"}).json()
    assert (said["status"], said["reason"]) == ("rejected", "no")
    assert send(clerk, "DELETE", f"changes/{waiting[1]}").status_code == 403
    assert send(asker, "DELETE", f"changes/{waiting[1]}").json()["status"] == "withdrawn"
    assert send(asker, "GET", "changes?endpoint=nothing").json()["count"] == 0


def test_two_people_over_http_collide(home: Home, register, desk) -> None:
    from modelyard.control.deployments.approvals import approve
    from modelyard.control.deployments.services import configure

    approve(configure("scores", "li", needs_approval=False).pk, by="wang")
    one, two = desk("li", "change_deployment", "view_endpoint"), desk("wang", "change_deployment", "view_endpoint")
    tag = send(one, "GET", "endpoints/scores").headers["ETag"]
    assert send(two, "GET", "endpoints/scores").headers["ETag"] == tag
    body = {"weights": {"1": 90, "2": 10}}
    done = send(one, "PUT", "endpoints/scores/traffic", body, **{"If-Match": tag})
    assert done.status_code == 200
    assert done.headers["ETag"] == f'"{done.json()["revision"]}"' != tag
    lost = send(two, "PUT", "endpoints/scores/traffic", {"weights": {"1": 100}}, **{"If-Match": tag})
    assert (lost.status_code, lost.json()["code"]) == (409, "conflict")
    lost = send(two, "PUT", "endpoints/scores/traffic", {**body, "expected_revision": int(tag.strip('"'))})
    assert lost.status_code == 409
    assert planned(home).split.weights == {1: 90, 2: 10}
    for wrong in ("yesterday", 'W/"1"', '"-1"'):
        assert send(two, "PUT", "endpoints/scores/traffic", body, **{"If-Match": wrong}).status_code == 422
    for fine in (done.headers["ETag"], "*"):
        again = send(two, "PUT", "endpoints/scores/traffic", body, **{"If-Match": fine})
        assert again.status_code == 200, again.content


def test_what_an_endpoint_says_of_itself_over_http(guarded: Home, desk) -> None:
    from modelyard.control.deployments.approvals import approve
    from modelyard.control.deployments.services import configure, set_lease, set_shadow

    approve(configure("scores", "li", needs_approval=False).pk, by="wang")
    reader = desk("li", "view_endpoint", "change_deployment")
    set_shadow("scores", Shadow(2, 5), by="li")
    set_lease("scores", 30.0, by="rollout:1")
    said = send(reader, "GET", "endpoints/scores").json()
    assert said["shadow"] == {"version": 2, "percent": 5}
    assert said["lease"] == {"seconds": 30.0, "fallback": 1, "by": "rollout:1"}
    assert (said["needs_approval"], said["spans"]) == (False, [[1, 100]])
    ended = send(reader, "DELETE", "endpoints/scores/shadow").json()
    assert (ended["shadow"], ended["served"]) == (None, False)
    shared = send(reader, "PUT", "endpoints/scores/traffic", {"weights": {"1": 75, "2": 25}, "sticky_by": "column:age"})
    assert shared.json()["spans"] == [[1, 75], [2, 25]]
    wrong = send(reader, "PUT", "endpoints/scores/traffic", {"weights": {"1": 75, "2": 25}, "sticky_by": "column:no"})
    assert wrong.status_code == 422
    assert "has no such column" in wrong.json()["detail"]


def test_force_over_http(guarded: Home, register, desk) -> None:
    from modelyard.control.deployments.approvals import approve
    from modelyard.control.deployments.services import configure

    approve(configure("scores", "li", needs_approval=False).pk, by="wang")
    number = register(3, columns=(Column("age", "number"), Column("income", "number")))
    person = desk("li", "add_deployment")
    refused = send(person, "POST", "deployments", {"model": "scores", "version": str(number)})
    assert refused.status_code == 409
    assert "requires column 'income'" in refused.json()["detail"]
    body = {"model": "scores", "version": str(number), "force": "they send it", "wait_s": 0}
    assert send(person, "POST", "deployments", body).json()["endpoint"]["weights"]["3"] == 100


# --- proving who one is -----------------------------------------------------------------------------------------


def test_who_approves_at_the_command_line_proves_it(guarded: Home, desk) -> None:
    from django.contrib.auth import get_user_model

    from modelyard.control.accounts.proof import prove
    from modelyard.control.accounts.services import create_token

    desk("wang", "approve_change")
    desk("zhao")
    users = get_user_model().objects
    permission = "deployments.approve_change"
    assert prove("wang", permission, password="a long enough password").get_username() == "wang"
    _, token = create_token(users.get(username="wang"))
    assert prove("wang", permission, token=token).get_username() == "wang"
    for name, given, error in [
        ("wang", {"password": "a guess"}, Unauthenticated),
        ("wang", {"token": "a guess"}, Unauthenticated),
        ("nobody", {"password": "a long enough password"}, Unauthenticated),
        ("zhao", {"password": "a long enough password"}, Forbidden),
        ("zhao", {"token": token}, Forbidden),
    ]:
        with pytest.raises(error):
            prove(name, permission, **given)
    users.filter(username="wang").update(is_active=False)
    with pytest.raises(Unauthenticated):
        prove("wang", permission, token=token)


def test_a_reason_is_a_sentence() -> None:
    from modelyard.control.deployments.promises import check_reason

    assert check_reason("") == ""
    assert check_reason(" a\tb ") == "a b"
    with pytest.raises(InvalidInput):
        check_reason("   ")
