"""Sharing traffic: slots that hardly move, shadows, leases, changes that a worker refuses, and two at once."""

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelyard.contract.decision import Decision
from modelyard.contract.errors import Conflict, InvalidInput, ModelyardError, NotFound, NotReady
from modelyard.contract.features import Column
from modelyard.contract.home import Home
from modelyard.contract.plan import GatewayState, Lease, PlannedEndpoint, Shadow, TrafficSplit, WorkerState
from modelyard.contract.split import SLOTS, move_slots, widths
from modelyard.control.deployments.reading import read_plan

AGE = Column("age", "number")


def planned(home: Home, name: str = "scores") -> PlannedEndpoint:
    """The endpoint as gateways see it."""
    plan = read_plan(home)
    assert plan is not None
    return next(endpoint for endpoint in plan.endpoints if endpoint.name == name)


@pytest.fixture
def three(home: Home, register) -> Home:
    """Three versions of `scores`, the first of them deployed."""
    from modelyard.control.deployments.services import deploy

    for seed in (1, 2, 3):
        register(seed)
    deploy("scores", 1, by="test")
    return home


# --- slots ------------------------------------------------------------------------------------------------------


shares = st.lists(st.integers(0, SLOTS), min_size=2, max_size=2).map(
    lambda cuts: {1: min(cuts), 2: max(cuts) - min(cuts), 3: SLOTS - max(cuts)}
)


@given(changes=st.lists(shares, min_size=1, max_size=4))
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_sequence_of_changes_keeps_the_slots_and_moves_as_few_as_can_be(
    three: Home, changes: list[dict[int, int]]
) -> None:
    from modelyard.control.deployments.models import Endpoint
    from modelyard.control.deployments.services import set_traffic

    for weights in changes:
        before = Endpoint.objects.get().spans
        row = set_traffic("scores", TrafficSplit(weights), by="test")
        after, held = Endpoint.objects.get().spans, {number: weight for number, weight in weights.items() if weight}
        assert sum(row.deployments.values_list("weight", flat=True)) == SLOTS
        assert widths(after) == held
        lost = sum(max(0, width - held.get(version, 0)) for version, width in widths(before).items())
        assert sum(was != now for was, now in zip(slots_of(before), slots_of(after), strict=True)) == lost
        split = planned(three).split
        assert split.weights == held
        assert split.spans == (tuple(map(tuple, after)) if len(held) > 1 else ())


def slots_of(spans: list[list[int]]) -> list[int]:
    return [version for version, width in spans for _ in range(width)]


def test_an_endpoint_of_an_earlier_release_keeps_its_callers(three: Home) -> None:
    from modelyard.control.deployments.models import Deployment, Endpoint
    from modelyard.control.deployments.services import set_traffic

    set_traffic("scores", TrafficSplit({1: 70, 2: 30}), by="test")
    Endpoint.objects.update(spans=[])  # as its migration leaves it
    set_traffic("scores", TrafficSplit({1: 60, 2: 40}), by="test")
    assert Deployment.objects.count() == 2
    assert planned(three).split.spans == move_slots(move_slots((), {1: 70, 2: 30}), {1: 60, 2: 40})


def test_wrong_splits_are_refused_and_nothing_changes(three: Home) -> None:
    from modelyard.control.deployments.services import set_traffic

    before = three.plan.read_bytes()
    for split, error in [
        ({"weights": {"1": 50, "2": 49}}, InvalidInput),
        ({"weights": {"one": 100}}, InvalidInput),
        ({"weights": {"1": 90, "7": 10}}, NotFound),
    ]:
        with pytest.raises(error):
            set_traffic("scores", split, by="test")
    assert three.plan.read_bytes() == before


def test_what_callers_may_be_told_apart_by(home: Home, register) -> None:
    from modelyard.control.deployments.services import deploy, set_traffic

    for seed in (1, 2):
        register(seed, columns=(AGE, Column("id", "category", "unused"), Column("sex", "category", "sensitive")))
    deploy("scores", 1, by="test")
    for sticky_by in ("X-Customer", "column:age", "column:id"):  # what is dropped is enough to tell callers apart
        set_traffic("scores", TrafficSplit({1: 90, 2: 10}, sticky_by), by="test")
        assert planned(home).split.sticky_by == sticky_by
    for sticky_by, why in [
        ("column:sex", "sensitive"),
        ("column:income", "has no such column; it has: age, id"),
        ("two words", "name of a header"),
        ("x:y", "name of a header"),
        ("x" * 65, "name of a header"),
    ]:
        with pytest.raises(InvalidInput, match=why):
            set_traffic("scores", TrafficSplit({1: 90, 2: 10}, sticky_by), by="test")
    assert planned(home).split.sticky_by == "column:id"


def test_a_sticky_column_is_known_to_all_who_share(home: Home, register) -> None:
    from modelyard.control.deployments.services import deploy, set_traffic

    register(1)
    register(2, columns=(AGE, Column("id", "category", "unused")))
    deploy("scores", 1, by="test")
    with pytest.raises(InvalidInput, match="version 1 of scores has no such column"):
        set_traffic("scores", TrafficSplit({1: 90, 2: 10}, "column:id"), by="test")


# --- breaking changes -------------------------------------------------------------------------------------------


def test_a_forced_change_is_recorded_with_its_reason(home: Home, register) -> None:
    from modelyard.control.accounts.models import AuditEvent
    from modelyard.control.deployments.services import deploy, set_traffic
    from modelyard.control.registry.models import Event

    register(1)
    register(2, columns=(AGE, Column("income", "number")))
    deploy("scores", 1, by="test", force="nothing breaks, nothing is said")
    with pytest.raises(Conflict, match="force it with a reason"):
        set_traffic("scores", TrafficSplit({1: 90, 2: 10}), by="li")
    with pytest.raises(InvalidInput, match="500"):
        set_traffic("scores", TrafficSplit({1: 90, 2: 10}), by="li", force="x" * 501)
    row = set_traffic("scores", TrafficSplit({1: 90, 2: 10}), by="li", force="  all callers\n send it ")
    assert row.revision == read_plan(home).revision
    for details in (Event.objects.first().details, AuditEvent.objects.first().details):
        assert details["forced"] == "all callers send it"
        assert details["breaks"] == ["version 2: it requires column 'income'"]
        assert (details["endpoint"], details["weights"]) == ("scores", {"1": 90, "2": 10})
        assert (details["before"], details["revision"]) == ({"1": 100}, row.revision)
    assert "forced" not in Event.objects.filter(verb="deploy").first().details
    set_traffic("scores", TrafficSplit({1: 10, 2: 90}), by="li")  # who shares already is not judged again


def test_an_optional_column_does_not_stop_a_rollout_at_half_of_the_calls(home: Home, register) -> None:
    from modelyard.control.deployments.services import deploy, set_traffic

    register(1)
    register(2, columns=(AGE, Column("income", "number", default=0.0)))
    deploy("scores", 1, by="test")
    for percent in (1, 10, 50, 60, 100):
        set_traffic("scores", TrafficSplit({1: 100 - percent, 2: percent}), by="test")
    with pytest.raises(Conflict, match="column 'income' is not known"):
        deploy("scores", 1, by="test")


def test_who_serves_damaged_is_replaced_by_force_alone(three: Home) -> None:
    from modelyard.control.deployments.services import deploy
    from modelyard.control.registry.services import find_version

    damaged, better = find_version("scores", 1), find_version("scores", 2)
    (three.shelf / damaged.digest / "model.onnx").write_bytes(b"torn")
    with pytest.raises(Conflict, match="what version 1 promised is not known"):
        deploy("scores", 2, by="test")
    deploy("scores", 2, by="test", force="the disk broke")
    (three.shelf / better.digest / "model.onnx").write_bytes(b"torn")
    with pytest.raises(Conflict, match="cannot be served"):
        deploy("scores", 1, by="test", force="no force makes it whole")


# --- shadow and lease -------------------------------------------------------------------------------------------


def test_a_shadow_is_held_besides_and_never_answers(three: Home) -> None:
    from modelyard.control.deployments.services import deploy, rollback, set_shadow

    set_shadow("scores", Shadow(2, 25), by="test")
    endpoint = planned(three)
    assert endpoint.shadow == Shadow(2, 25)
    assert [held.version for held in endpoint.versions] == [1, 2]
    assert endpoint.split.weights == {1: 100}
    with pytest.raises(Conflict, match="no version that served before"):
        rollback("scores", by="test")  # the shadow never served
    deploy("scores", 3, by="test")
    assert [held.version for held in planned(three).versions] == [1, 2, 3]
    assert planned(three).shadow == Shadow(2, 25)
    stood = set_shadow("scores", None, by="test").revision
    assert set_shadow("scores", None, by="test").revision == stood, "what stands already changes nothing"
    assert planned(three).shadow is None
    assert [held.version for held in planned(three).versions] == [1, 3]


def test_a_shadow_that_comes_to_answer_is_none_any_more(three: Home) -> None:
    from modelyard.control.deployments.services import set_shadow, set_traffic

    set_shadow("scores", {"version": 2}, by="test")
    set_traffic("scores", TrafficSplit({1: 90, 2: 10}), by="test")
    assert planned(three).shadow is None
    with pytest.raises(Conflict, match="answers calls of 'scores' itself"):
        set_shadow("scores", Shadow(2), by="test")
    for shadow in ({"version": 3, "percent": 0}, {"version": "three"}, {}):
        with pytest.raises(InvalidInput, match="1 to 100 percent"):
            set_shadow("scores", shadow, by="test")
    with pytest.raises(NotFound):
        set_shadow("scores", Shadow(9), by="test")


def test_a_shadow_must_take_the_calls_and_may_answer_otherwise(home: Home, register) -> None:
    from modelyard.control.deployments.services import deploy, set_shadow

    register(1)
    register(2, columns=(AGE, Column("income", "number")))
    number = register_decided("scores", 3)
    deploy("scores", 1, by="test")
    with pytest.raises(Conflict, match="would refuse what callers of 'scores' send: it requires column 'income'"):
        set_shadow("scores", Shadow(2), by="test")
    set_shadow("scores", Shadow(number), by="test")
    with pytest.raises(Conflict, match="it answers with a decision"):
        deploy("scores", number, by="test")


def register_decided(name: str, seed: int) -> int:
    """A version with a decision, and so a cut-off that may be moved."""
    from modelyard.artifacts.manifest import Lineage, Manifest
    from modelyard.contract.features import Contract
    from modelyard.contract.signature import Signature, TensorSpec
    from modelyard.control.registry.work import register_packaged

    manifest = Manifest(
        model=name,
        task="binary",
        framework="logistic",
        runtime="onnx",
        created_at="2026-01-01T00:00:00+00:00",
        files={},
        signature=Signature((TensorSpec("age", "FP64", (-1,)),), (TensorSpec("probability", "FP32", (-1,)),)),
        contract=Contract((AGE,)),
        decision=Decision(0.5, "decline", "approve"),
        lineage=Lineage(seed=seed),
    )
    return register_packaged(manifest, {"model.onnx": b"graph %d" % seed})[1]


def test_a_cutoff_is_moved_only_where_there_is_one(home: Home, register) -> None:
    from modelyard.control.deployments.services import configure, deploy, set_shadow

    plain = register(1)
    first, second = register_decided("scores", 2), register_decided("scores", 3)
    deploy("scores", plain, by="test")
    with pytest.raises(Conflict, match="has no decision"):
        configure("scores", by="test", cutoff=0.3)
    deploy("scores", first, by="test", force="decisions from today on")
    deploy("scores", second, by="test")
    configure("scores", by="test", cutoff=0.3)
    assert planned(home).cutoff == 0.3
    with pytest.raises(Conflict, match="take the cut-off away first"):
        deploy("scores", plain, by="test", force="back")
    with pytest.raises(Conflict, match="take the cut-off away first"):
        set_shadow("scores", Shadow(plain), by="test")


def test_a_lease_outlives_its_holders_changes_and_nobody_elses(three: Home) -> None:
    from modelyard.control.deployments.services import set_lease, set_traffic

    set_traffic("scores", TrafficSplit({1: 99, 2: 1}), by="rollout:1")
    set_lease("scores", 30.0, by="rollout:1")
    assert planned(three).lease == Lease(30.0, 1)
    set_traffic("scores", TrafficSplit({1: 10, 2: 90}), by="rollout:1")
    set_lease("scores", 20.0, by="rollout:1")  # taken again: who falls back stays the champion
    assert planned(three).lease == Lease(20.0, 1)
    set_traffic("scores", TrafficSplit({2: 100}), by="rollout:1")
    assert planned(three).lease == Lease(20.0, 1)
    assert [held.version for held in planned(three).versions] == [1, 2]
    set_traffic("scores", TrafficSplit({1: 50, 2: 50}), by="li")
    assert planned(three).lease is None


def test_a_rollback_under_a_lease_goes_to_its_fallback(three: Home) -> None:
    from modelyard.control.deployments.services import deploy, rollback, set_lease, set_traffic

    set_traffic("scores", TrafficSplit({1: 99, 2: 1}), by="rollout:1")
    set_lease("scores", 30.0, by="rollout:1")
    set_traffic("scores", TrafficSplit({1: 10, 2: 90}), by="rollout:1")
    rollback("scores", by="li")
    assert planned(three).split.weights == {1: 100}
    assert planned(three).lease is None
    set_traffic("scores", TrafficSplit({2: 100}), by="rollout:2")
    set_lease("scores", 30.0, by="rollout:2", fallback=1)
    deploy("scores", 2, by="li")  # whoever wants it for good says so
    assert planned(three).lease is None


def test_the_way_back_of_a_lease_is_not_judged(home: Home, register) -> None:
    from modelyard.control.deployments.services import deploy, set_lease, set_traffic

    register(1)
    register(2, columns=(AGE, Column("income", "number", default=0.0)))
    deploy("scores", 1, by="test")
    set_lease("scores", 30.0, by="rollout:1")
    set_traffic("scores", TrafficSplit({2: 100}), by="rollout:1")
    set_traffic("scores", TrafficSplit({1: 100}), by="rollout:1")
    assert planned(home).split.weights == {1: 100}


def test_wrong_leases_are_refused(three: Home) -> None:
    from modelyard.control.deployments.services import set_lease

    with pytest.raises(InvalidInput, match="some seconds"):
        set_lease("scores", 0.0, by="test")
    with pytest.raises(Conflict, match="does not hold version 3"):
        set_lease("scores", 5.0, by="test", fallback=3)


def test_the_database_refuses_half_a_shadow_and_half_a_lease(three: Home) -> None:
    from django.db import IntegrityError

    from modelyard.control.deployments.models import Endpoint

    with pytest.raises(IntegrityError, match="shadow_has_a_percent"):
        Endpoint.objects.update(shadow_percent=10)
    with pytest.raises(IntegrityError, match="lease_has_a_fallback"):
        Endpoint.objects.update(lease_seconds=10)


# --- what a worker refuses --------------------------------------------------------------------------------------


def write_state(home: Home, *workers: WorkerState) -> None:
    state = GatewayState(os.getpid(), "http://127.0.0.1:8000", time.time(), workers)
    home.gateway_state.write_bytes(msgspec.json.encode(state))


def test_a_refused_split_is_put_back_to_the_last_slot(three: Home) -> None:
    from modelyard.control.accounts.models import AuditEvent
    from modelyard.control.deployments.served import set_traffic_and_wait
    from modelyard.control.deployments.services import set_shadow, set_traffic

    set_traffic("scores", TrafficSplit({1: 60, 2: 40}, "x-customer"), by="test")
    set_traffic("scores", TrafficSplit({1: 80, 2: 20}, "x-customer"), by="test")
    set_shadow("scores", Shadow(3), by="test")
    before = planned(three)
    write_state(three, WorkerState(0, 1, revision=1, refused=99, reason="no memory"))
    with pytest.raises(NotReady, match="no memory; the versions that served before still do"):
        set_traffic_and_wait("scores", TrafficSplit({1: 50, 3: 50}), by="test")
    assert planned(three) == before
    event = AuditEvent.objects.first()
    assert (event.verb, event.details["reason"]) == ("put_back", "worker 0 cannot serve revision 5: no memory")


def test_a_refused_shadow_is_put_back(three: Home) -> None:
    from modelyard.control.deployments.served import set_shadow_and_wait

    before = planned(three)
    write_state(three, WorkerState(0, 1, revision=1, refused=99, reason="no memory"))
    with pytest.raises(NotReady, match="no memory"):
        set_shadow_and_wait("scores", Shadow(2), by="test")
    assert planned(three) == before


def test_somebody_elses_later_change_is_not_put_back(three: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelyard.control.deployments import served
    from modelyard.control.deployments.services import deploy
    from modelyard.control.deployments.wait import Refused

    def refuse(*_: Any) -> None:
        deploy("scores", 3, by="li")
        raise Refused("worker 0 cannot serve it")

    monkeypatch.setattr(served, "wait_until_served", refuse)
    with pytest.raises(NotReady, match=r"worker 0 cannot serve it$"):
        served.set_traffic_and_wait("scores", TrafficSplit({1: 50, 2: 50}), by="wang")
    assert planned(three).split.weights == {3: 100}


def test_who_waits_is_told_when_it_is_served(three: Home) -> None:
    from modelyard.control.deployments.served import rollback_and_wait, set_traffic_and_wait

    write_state(three, WorkerState(0, 1, revision=99), WorkerState(1, 2, revision=99))
    outcome = set_traffic_and_wait("scores", TrafficSplit({1: 90, 2: 10}), by="test")
    assert outcome.state is not None
    assert outcome.endpoint.revision == read_plan(three).revision
    write_state(three, WorkerState(0, 1, revision=1))
    with pytest.raises(NotReady, match="not every worker serves revision"):
        rollback_and_wait("scores", by="test", wait_s=0.05)
    assert planned(three).split.weights == {1: 100}  # late is not refused: it stands


# --- two at once ------------------------------------------------------------------------------------------------


def at_once(*acts: Callable[[], Any]) -> list[Any]:
    """Each in a thread with a connection of its own, begun together; what each gave or raised."""
    from django.db import connections

    ready, found = threading.Barrier(len(acts)), [None] * len(acts)

    def run(index: int) -> None:
        ready.wait()
        try:
            found[index] = acts[index]()
        except ModelyardError as error:
            found[index] = error
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_of_two_who_change_the_same_split_one_is_told(three: Home) -> None:
    from modelyard.control.deployments.models import Endpoint
    from modelyard.control.deployments.services import find_endpoint, set_traffic
    from modelyard.control.registry.models import Event

    for turn in range(4):
        seen = find_endpoint("scores").revision
        wanted = [{1: 90 - turn, 2: 10 + turn}, {1: 80 - turn, 3: 20 + turn}]
        found = at_once(
            *(
                lambda by=by, to=to, seen=seen: set_traffic("scores", TrafficSplit(to), by, expected=seen)
                for by, to in zip(("li", "wang"), wanted, strict=True)
            )
        )
        lost = [error for error in found if isinstance(error, Conflict)]
        (won,) = [row for row in found if isinstance(row, Endpoint)]
        assert len(lost) == 1
        assert f"at revision {won.revision}, not {seen}" in str(lost[0])
        winner = found.index(won)
        assert planned(three).split.weights == wanted[winner]
        assert Event.objects.first().by == ("li", "wang")[winner]
    assert Event.objects.filter(verb="set_traffic").count() == 4


def test_changes_that_expect_nothing_follow_one_another_and_none_is_lost(three: Home) -> None:
    from modelyard.control.deployments.models import Endpoint
    from modelyard.control.deployments.services import set_traffic
    from modelyard.control.registry.models import Event

    wanted = [{1: 90, 2: 10}, {1: 60, 3: 40}, {2: 50, 3: 50}, {1: 100}]
    at_once(*(lambda weights=weights: set_traffic("scores", TrafficSplit(weights), "li") for weights in wanted))
    events = list(Event.objects.filter(verb="set_traffic").order_by("pk"))
    assert sorted(str(event.details["weights"]) for event in events) == sorted(
        str({str(number): weight for number, weight in weights.items()}) for weights in wanted
    )
    assert [event.details["before"] for event in events] == [
        {"1": 100},
        *[event.details["weights"] for event in events[:-1]],
    ]
    last = events[-1].details
    assert {str(number): weight for number, weight in planned(three).split.weights.items()} == last["weights"]
    row = Endpoint.objects.get()
    assert row.revision == last["revision"]
    assert sum(row.deployments.values_list("weight", flat=True)) == 100


def test_two_first_deployments_make_one_endpoint(home: Home, register) -> None:
    from modelyard.control.deployments.models import Endpoint
    from modelyard.control.deployments.services import deploy

    for seed in (1, 2):
        register(seed)
    at_once(lambda: deploy("scores", 1, by="li"), lambda: deploy("scores", 2, by="wang"))
    assert Endpoint.objects.count() == 1
    assert sum(planned(home).split.weights.values()) == 100


def test_every_verb_may_say_what_it_expects(three: Home) -> None:
    from modelyard.control.deployments import services

    for verb, more in [
        ("set_shadow", {"shadow": Shadow(2)}),
        ("set_traffic", {"split": TrafficSplit({1: 50, 2: 50})}),
        ("rollback", {}),
        ("configure", {}),
        ("deploy", {"model": "scores", "version": 3}),
        ("undeploy", {}),
    ]:
        seen = services.find_endpoint("scores").revision
        with pytest.raises(Conflict, match="was changed meanwhile"):
            getattr(services, verb)(endpoint="scores", by="li", expected=seen + 1, **more)
        getattr(services, verb)(endpoint="scores", by="li", expected=seen, **more)


def test_an_endpoint_is_pinned_until_it_is_not(home: Home, register: Callable[..., int]) -> None:
    from modelyard.control.deployments.services import configure, deploy

    register()
    deploy("scores", by="test")
    for is_pinned in (True, False):
        configure("scores", "test", is_pinned=is_pinned)
        plan = read_plan(home)
        assert plan is not None
        assert plan.endpoints[0].is_pinned is is_pinned
