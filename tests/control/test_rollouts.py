"""Rollouts on the database: figures come from real counter slabs, time is given, nothing is pretended."""

import os
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest

from modelyard.contract.counters import SECONDS
from modelyard.contract.errors import Conflict, InvalidInput, NotFound
from modelyard.contract.features import Column
from modelyard.contract.home import Home
from modelyard.contract.plan import GatewayState, WorkerState
from modelyard.control.deployments.reading import read_plan
from modelyard.serve.counters import Counters

Register = Callable[..., int]
POLICY = {
    "steps": [
        {"percent": 10, "min_seconds": 5, "min_calls": 100},
        {"percent": 50, "min_seconds": 5, "min_calls": 100},
        {"percent": 100},
    ]
}


class Traffic:
    """A gateway that counts what a test says, and a clock that goes on by the second."""

    def __init__(self, home: Home) -> None:
        from django.utils import timezone

        self.home = home
        self.now: datetime = timezone.now()
        self.counters = Counters(home.run / "counters", 0)
        self.serve(10**6)

    def begin(self) -> None:
        """The gateway starts: its counters are empty."""
        self.counters.close()
        folder = self.home.run / "counters"
        for path in folder.glob("*"):
            path.unlink()
        self.counters = Counters(folder, 0)

    def serve(self, revision: int, refused: int = 0, reason: str = "") -> None:
        """What its one worker serves."""
        worker = WorkerState(0, os.getpid(), revision, refused, reason)
        state = GatewayState(os.getpid(), "http://127.0.0.1:1", 0.0, (worker,))
        self.home.gateway_state.write_bytes(msgspec.json.encode(state))

    def count(self, version: int, answered: int, errors: int = 0, violations: int = 0, seconds: float = 0.003) -> None:
        """Calls of one version of `scores`."""
        labels, cells = {"endpoint": "scores", "version": str(version)}, self.counters.cells
        bucket = sum(seconds > edge for edge in SECONDS)
        cells[self.counters.counter("modelyard_requests", code="200", **labels)] += answered
        cells[self.counters.counter("modelyard_executions", **labels)] += answered
        cells[self.counters.counter("modelyard_errors", **labels)] += errors
        cells[self.counters.counter("modelyard_violations", **labels)] += violations
        cells[self.counters.histogram("modelyard_request_seconds", **labels) + bucket] += answered

    def pass_(self, seconds: float = 1.0) -> None:
        """Time passes, and the runner looks."""
        from modelyard.control.rollouts.services import advance

        self.now += timedelta(seconds=seconds)
        assert advance(self.now)

    def flow(self, looks: int, champion: dict[str, Any] | None = None, candidate: dict[str, Any] | None = None) -> None:
        """So many seconds of calls, shared as the plan says."""
        for _ in range(looks):
            plan = read_plan(self.home)
            assert plan is not None
            for version, percent in plan.endpoints[0].split.weights.items():
                self.count(version, percent * 4, **((champion if version == 1 else candidate) or {}))
            self.pass_()


@pytest.fixture
def traffic(home: Home, register: Register) -> Iterator[Traffic]:
    """Endpoint `scores` with version 1, and version 2 registered."""
    from modelyard.control.deployments.services import deploy

    register(1)
    deploy("scores", 1, by="li")
    register(2)
    traffic = Traffic(home)
    yield traffic
    traffic.counters.close()


def start(**options: Any) -> Any:
    from modelyard.control.rollouts.services import start_rollout

    return start_rollout("scores", 2, POLICY, by="li", **options)


def weights() -> dict[int, int]:
    from modelyard.control.deployments.promises import weights_of
    from modelyard.control.deployments.services import find_endpoint

    return weights_of(find_endpoint("scores"))


def verbs(rollout: Any) -> list[str]:
    return [event.verb for event in reversed(rollout.events.all())]


def test_a_good_version_gets_all_calls_step_by_step(traffic: Traffic) -> None:
    from modelyard.control.registry.services import find_version

    rollout = start()
    planned = read_plan(traffic.home).endpoints[0]
    assert planned.split.weights == {1: 90, 2: 10}
    assert (planned.lease.seconds, planned.lease.fallback) == (30.0, 1)
    shares = []
    for _ in range(14):
        traffic.flow(1)
        shares.append(weights().get(2))
    assert sorted(set(shares)) == [10, 50, 100]
    assert shares == sorted(shares)
    rollout.refresh_from_db()
    assert (rollout.state, rollout.reason) == ("finished", "")
    planned = read_plan(traffic.home).endpoints[0]
    assert (planned.split.weights, planned.lease) == ({2: 100}, None)
    assert find_version("scores", "champion").number == 2
    assert verbs(rollout) == ["start", "advance", "finished"]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [({"errors": 4}, "errors"), ({"violations": 6}, "violations"), ({"seconds": 0.012}, "latency")],
)
def test_a_version_that_is_worse_is_rolled_back_with_the_reason(traffic: Traffic, fault: dict, kind: str) -> None:
    from modelyard.control.registry.models import Event

    rollout = start()
    traffic.flow(12, candidate=fault)
    rollout.refresh_from_db()
    assert rollout.state == "rolled_back"
    assert rollout.reason.startswith(kind)
    assert rollout.finding["kind"] == kind
    assert rollout.finding["evidence"] >= rollout.finding["limit"] == 60
    assert weights() == {1: 100}
    assert read_plan(traffic.home).endpoints[0].lease is None
    event = Event.objects.filter(verb="rollout_rolled_back").get()
    assert (event.version, event.by, event.details["reason"]) == (2, f"rollout:{rollout.pk}", rollout.reason)
    assert event.details["finding"] == rollout.finding
    change = Event.objects.filter(verb="set_traffic").first()
    assert (change.by, change.details["weights"]) == (f"rollout:{rollout.pk}", {"1": 100})


def test_a_person_who_changes_the_traffic_ends_it_and_keeps_what_was_chosen(traffic: Traffic) -> None:
    from modelyard.contract.plan import TrafficSplit
    from modelyard.control.deployments.services import set_traffic

    rollout = start()
    traffic.flow(2)
    set_traffic("scores", TrafficSplit({1: 70, 2: 30}), "wang")
    traffic.flow(2)
    rollout.refresh_from_db()
    assert (rollout.state, "somebody else" in rollout.reason) == ("aborted", True)
    assert weights() == {1: 70, 2: 30}
    assert read_plan(traffic.home).endpoints[0].lease is None
    with pytest.raises(Conflict, match="has no champion"):
        start()


@pytest.mark.parametrize("verb", ["deploy", "rollback", "undeploy"])
def test_every_verb_of_a_person_ends_it(traffic: Traffic, verb: str) -> None:
    from modelyard.control.deployments import services

    rollout = start()
    traffic.flow(1)
    acts = {
        "deploy": lambda: services.deploy("scores", 2, by="wang"),
        "rollback": lambda: services.rollback("scores", "wang"),
        "undeploy": lambda: services.undeploy("scores", "wang"),
    }
    acts[verb]()
    traffic.pass_()
    rollout.refresh_from_db()
    assert rollout.state == "aborted"
    assert verbs(rollout) == ["start", "aborted"]


def test_pausing_stops_the_steps_and_not_the_guards(traffic: Traffic) -> None:
    from modelyard.control.rollouts.services import pause, resume

    rollout = start()
    pause(rollout.pk, "li", "lunch")
    traffic.flow(8)
    rollout.refresh_from_db()
    assert (rollout.state, rollout.reason, weights()) == ("paused", "lunch", {1: 90, 2: 10})
    resume(rollout.pk, "li")
    traffic.flow(4)
    assert weights() == {1: 90, 2: 10}, "the time of the pause does not count"
    traffic.flow(2)
    assert weights() == {1: 50, 2: 50}
    pause(rollout.pk, "li")
    traffic.flow(4, candidate={"errors": 60})
    rollout.refresh_from_db()
    assert (rollout.state, weights()) == ("rolled_back", {1: 100})
    with pytest.raises(Conflict, match="rolled_back already"):
        resume(rollout.pk, "li")


def test_aborting_gives_the_champion_all_calls_again(traffic: Traffic) -> None:
    from modelyard.control.rollouts.services import abort

    rollout = start()
    traffic.flow(2)
    abort(rollout.pk, "wang", "not today")
    rollout.refresh_from_db()
    assert (rollout.state, rollout.reason, weights()) == ("aborted", "not today", {1: 100})
    assert read_plan(traffic.home).endpoints[0].lease is None
    start()  # another one may begin


def test_silence_beyond_the_lease_is_said_and_counts_for_no_step(traffic: Traffic) -> None:
    rollout = start()
    traffic.flow(2)
    traffic.count(2, 1000, errors=1000)  # nobody looked: the share was the champion's by then
    traffic.pass_(31.0)
    rollout.refresh_from_db()
    assert verbs(rollout) == ["start", "silence"]
    assert rollout.events.first().details == {"seconds": 31.0}
    assert rollout.progress["seconds"] == pytest.approx(2.0, abs=0.5)  # the first look came a moment early
    traffic.flow(2)
    rollout.refresh_from_db()
    assert rollout.state == "running"
    assert rollout.progress["seconds"] == pytest.approx(4.0, abs=0.5)


def test_counters_that_begin_anew_are_never_counted_as_less(traffic: Traffic) -> None:
    rollout = start()
    traffic.flow(3)
    traffic.begin()
    traffic.count(1, 5)
    traffic.pass_()
    rollout.refresh_from_db()
    assert verbs(rollout) == ["start", "counters_began_anew"]
    before = rollout.progress["total"]
    traffic.flow(1)
    rollout.refresh_from_db()
    assert rollout.progress["total"]["champion"]["answered"] == before["champion"]["answered"] + 360


def test_a_share_that_no_gateway_serves_yet_is_not_watched(traffic: Traffic) -> None:
    rollout = start()
    rollout.refresh_from_db()
    traffic.serve(rollout.revision - 1)
    traffic.flow(8)
    rollout.refresh_from_db()
    assert rollout.progress.get("seconds", 0.0) == 0.0
    traffic.serve(rollout.revision - 1, rollout.revision, "no memory for version 2")
    traffic.pass_()
    rollout.refresh_from_db()
    assert (rollout.state, weights()) == ("rolled_back", {1: 100})
    assert "no memory for version 2" in rollout.reason


def test_without_a_gateway_nothing_moves_and_it_says_so(traffic: Traffic) -> None:
    from modelyard.control.rollouts.watch import warnings_of

    rollout = start()
    traffic.home.gateway_state.unlink()
    traffic.flow(8)
    rollout.refresh_from_db()
    assert (rollout.state, weights()) == ("running", {1: 90, 2: 10})
    said = warnings_of(traffic.home, rollout.lease_seconds, traffic.now)
    assert [what in line for what, line in zip(("no gateway", "no runner"), said, strict=True)] == [True, True]


def test_one_rollout_of_an_endpoint_at_a_time(traffic: Traffic) -> None:
    from django.db import IntegrityError, transaction

    from modelyard.control.rollouts.models import Rollout

    rollout = start()
    with pytest.raises(Conflict, match="has no champion"):
        start()
    row = Rollout.objects.values().get(pk=rollout.pk)
    with pytest.raises(IntegrityError), transaction.atomic():
        Rollout.objects.create(**(row | {"id": None}))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"version": 1}, Conflict, "all its calls already"),
        ({"version": 7}, NotFound, "no version"),
        ({"version": 3}, Conflict, "not ready"),
        ({"version": 4}, Conflict, "would break"),
        ({"endpoint": "nobody"}, NotFound, "no endpoint"),
        ({"lease_seconds": 0.5}, InvalidInput, "a lease lasts"),
        ({"policy": {"steps": [{"percent": 10}]}}, InvalidInput, "steps rise"),
    ],
)
def test_what_cannot_be_rolled_out_is_refused(
    traffic: Traffic, register: Register, change: dict[str, Any], error: type[Exception], says: str
) -> None:
    from modelyard.control.registry.models import Version
    from modelyard.control.rollouts.models import Rollout
    from modelyard.control.rollouts.services import start_rollout

    Version.objects.filter(number=register(3)).update(status="failed", note="parity")
    register(4, columns=(Column("age", "number"), Column("income", "number")))
    asked = {"endpoint": "scores", "version": 2, "policy": POLICY} | change
    with pytest.raises(error, match=says):
        start_rollout(**asked, by="li")
    assert not Rollout.objects.exists()
    assert weights() == {1: 100}


def test_who_breaks_callers_gives_a_reason(traffic: Traffic, register: Register) -> None:
    from modelyard.control.registry.models import Event
    from modelyard.control.rollouts.services import start_rollout

    register(3, columns=(Column("age", "number"), Column("income", "number")))
    start_rollout("scores", 3, POLICY, by="li", force="callers send income since May")
    assert weights() == {1: 90, 3: 10}
    assert Event.objects.filter(verb="set_traffic").first().details["forced"] == "callers send income since May"


def test_what_is_approved_is_the_whole_rollout(traffic: Traffic) -> None:
    from modelyard.control.deployments.approvals import approve
    from modelyard.control.deployments.models import Change
    from modelyard.control.deployments.services import configure
    from modelyard.control.registry.models import Event
    from modelyard.control.rollouts.models import Rollout

    configure("scores", "li", needs_approval=True)
    change = start()
    assert isinstance(change, Change)
    assert (change.verb, Rollout.objects.count(), weights()) == ("start_rollout", 0, {1: 100})
    approve(change.pk, "wang")
    rollout = Rollout.objects.get()
    assert (rollout.by, rollout.approved_by, weights()) == ("li", "wang", {1: 90, 2: 10})
    traffic.flow(14)
    rollout.refresh_from_db()
    assert (rollout.state, weights()) == ("finished", {2: 100})
    shares = Event.objects.filter(verb="set_traffic", by=f"rollout:{rollout.pk}")
    assert [event.details["approved_by"] for event in shares] == ["wang"] * 3
    assert Change.objects.count() == 1


def test_an_endpoint_that_comes_to_need_approval_ends_a_rollout_that_has_none(traffic: Traffic) -> None:
    from modelyard.control.deployments.models import Change
    from modelyard.control.deployments.services import configure

    rollout = start()
    configure("scores", "wang", needs_approval=True)
    traffic.pass_()
    rollout.refresh_from_db()
    assert (rollout.state, "need approval" in rollout.reason) == ("aborted", True)
    assert weights() == {1: 100}, "nobody wanted the share that it had"
    assert not Change.objects.exists()


def test_a_failing_publication_is_told_and_the_beat_stops(traffic: Traffic, monkeypatch: pytest.MonkeyPatch) -> None:
    """The share would go on unwatched: without the beat gateways end it."""
    from modelyard.contract.errors import Internal
    from modelyard.control.rollouts import services

    start()
    monkeypatch.setattr(services, "counted", lambda *_: (_ for _ in ()).throw(Internal("no")))
    assert services.advance(traffic.now) is False


def test_the_runner_shows_that_it_lives(traffic: Traffic) -> None:
    from modelyard.contract.settings import load_settings
    from modelyard.control.runner import Runner

    start()
    assert not traffic.home.control_beat.exists()
    Runner(load_settings()[0]).guard_rollouts()
    assert traffic.home.control_beat.exists()


@pytest.fixture
def browser(traffic: Traffic) -> Any:
    """The administrator, signed in."""
    from django.contrib.auth import get_user_model
    from django.test import Client

    from modelyard.control.accounts.services import ensure_admin

    ensure_admin()
    client = Client(headers={"host": "localhost:8080"})
    client.force_login(get_user_model().objects.get())
    return client


def test_the_management_api_does_the_same(traffic: Traffic, browser: Any) -> None:
    def post(path: str, **body: Any) -> Any:
        return browser.post(f"/api/v1/rollouts{path}", body, content_type="application/json")

    assert post("", endpoint="scores", version="9").status_code == 404
    assert post("", endpoint="scores", version="2", steps=[{"percent": 10}]).status_code == 422
    assert post("", endpoint="scores", version="2", guards=[{"kind": "mood", "margin": 0.1}]).status_code == 422
    made = post("", endpoint="scores", version="2", **POLICY)
    assert made.status_code == 201
    rollout = made.json()
    assert (rollout["candidate"], rollout["watched"]["percent"], rollout["by"]) == (2, 10, "admin")
    traffic.flow(2)
    shown = browser.get(f"/api/v1/rollouts/{rollout['id']}").json()
    assert shown["watched"]["calls"] == 80
    assert [finding["kind"] for finding in shown["watched"]["findings"]] == ["errors", "latency", "violations"]
    assert post(f"/{rollout['id']}/pause", reason="lunch").json()["state"] == "paused"
    assert post(f"/{rollout['id']}/resume").json()["state"] == "running"
    assert post(f"/{rollout['id']}/abort").json()["state"] == "aborted"
    assert post(f"/{rollout['id']}/abort").status_code == 409
    events = browser.get(f"/api/v1/rollouts/{rollout['id']}/events").json()["results"]
    assert [event["verb"] for event in events] == ["aborted", "resume", "pause", "start"]
    assert browser.get("/api/v1/rollouts").json()["count"] == 1
    assert browser.get("/api/v1/rollouts/77").status_code == 404


def test_a_start_over_http_waits_for_approval_where_it_must(traffic: Traffic, browser: Any) -> None:
    from modelyard.control.deployments.services import configure

    configure("scores", "li", needs_approval=True)
    body = {"endpoint": "scores", "version": "2", **POLICY}
    asked = browser.post("/api/v1/rollouts", body, content_type="application/json")
    assert (asked.status_code, asked.json()["verb"]) == (202, "start_rollout")
    assert asked.json()["arguments"]["version"] == 2


def test_the_admin_shows_it_and_ends_it(traffic: Traffic, browser: Any) -> None:
    rollout = start()
    assert b"running" in browser.get("/admin/rollouts/rollout/").content
    assert browser.get(f"/admin/rollouts/rollout/{rollout.pk}/change/").status_code == 200
    chosen = {"action": "abort", "_selected_action": [rollout.pk]}
    assert browser.post("/admin/rollouts/rollout/", chosen).status_code == 302
    rollout.refresh_from_db()
    assert (rollout.state, rollout.reason) == ("aborted", "aborted by admin")


def test_what_happened_is_neither_changed_nor_removed(traffic: Traffic) -> None:
    from django.db import DatabaseError, connection, transaction

    from modelyard.control.rollouts.models import RolloutEvent

    start()
    with pytest.raises(Conflict):
        RolloutEvent.objects.all().delete()
    for statement in ("DELETE FROM rollouts_rolloutevent", "UPDATE rollouts_rolloutevent SET verb = 'x'"):
        with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement)
