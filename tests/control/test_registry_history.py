"""The log alone tells what served at any instant: replayed, it equals what the rows and the plan said then."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelyard.contract.errors import Conflict, InvalidInput, NotFound
from modelyard.contract.home import Home
from modelyard.contract.plan import Shadow, TrafficSplit
from modelyard.control.deployments.reading import read_plan

VERSIONS = st.integers(1, 3)
PLACES = st.sampled_from("ab")
SPLITS = st.tuples(VERSIONS, VERSIONS, st.integers(1, 99)).map(
    lambda drawn: {drawn[0]: 100} if drawn[0] == drawn[1] else {drawn[0]: drawn[2], drawn[1]: 100 - drawn[2]}
)
STEPS = st.one_of(
    st.tuples(st.just("deploy"), PLACES, VERSIONS),
    st.tuples(st.just("traffic"), PLACES, SPLITS),
    st.tuples(st.just("shadow"), PLACES, st.none() | VERSIONS),
    st.tuples(st.just("rollback"), PLACES, st.none()),
    st.tuples(st.just("undeploy"), PLACES, st.none()),
)
State = dict[str, tuple[dict[int, int], dict[str, int] | None]]


def act(verb: str, endpoint: str, what: Any, by: str) -> None:
    from modelyard.control.deployments import services

    if verb == "deploy":
        services.deploy("scores", what, endpoint, by=by)
    elif verb == "traffic":
        services.set_traffic(endpoint, TrafficSplit(what), by)
    elif verb == "shadow":
        services.set_shadow(endpoint, None if what is None else Shadow(what, 50), by)
    elif verb == "rollback":
        services.rollback(endpoint, by)
    else:
        services.undeploy(endpoint, by)


def state_of_rows(prefix: str) -> State:
    from modelyard.control.deployments.models import Endpoint

    found: State = {}
    for row in Endpoint.objects.filter(name__startswith=prefix).select_related("shadow"):
        shares = row.deployments.filter(weight__gt=0).values_list("version__number", "weight")
        shadow = {"version": row.shadow.number, "percent": row.shadow_percent} if row.shadow else None
        found[row.name] = (dict(shares), shadow)
    return found


def told(states: Any) -> State:
    return {state.endpoint: (state.weights, state.shadow) for state in states}


def test_replayed_to_any_instant_the_log_equals_what_was_recorded_then(home: Home, register) -> None:
    from modelyard.control.registry import history
    from modelyard.control.registry.models import Event

    for seed in (1, 2, 3):
        register(seed)
    places = itertools.count()
    seen = 0

    @settings(max_examples=7, suppress_health_check=list(HealthCheck))
    @given(st.lists(STEPS, min_size=3, max_size=8))
    def tell(steps: list[tuple[str, str, Any]]) -> None:
        nonlocal seen
        prefix = f"p{next(places)}-"
        recorded: list[tuple[datetime, State]] = [(datetime.now(UTC), {})]
        for number, (verb, place, what) in enumerate([("deploy", "a", 1), ("deploy", "b", 2), *steps]):
            try:
                act(verb, prefix + place, what, by=f"person-{number}")
            except (Conflict, NotFound, InvalidInput):  # nothing to roll back, a shadow that answers already, …
                continue
            now = state_of_rows(prefix)
            recorded.append((datetime.now(UTC), now))
            seen += 1
            for planned in read_plan(home).endpoints:
                if planned.name.startswith(prefix):
                    state = history.served_by_revision(planned.name, read_plan(home).revision)
                    assert state is not None
                    assert state.weights == {n: weight for n, weight in planned.split.weights.items() if weight}
                    assert state.weights == now[planned.name][0]
        for instant, expected in recorded:
            known = history.changes_of_serving().filter(endpoint__startswith=prefix, at__lte=instant).order_by("pk")
            assert told(history.replay(known).values()) == expected
            asked = history.served_at(instant, model="scores")
            assert told(state for state in asked if state.endpoint.startswith(prefix)) == expected
            for place in "ab":
                one = told(history.served_at(instant, endpoint=prefix + place))
                assert one == {name: state for name, state in expected.items() if name == prefix + place}

    tell()
    assert seen > 20
    assert Event.objects.filter(verb="deploy").exists()


def test_the_past_is_told_though_every_row_is_gone(home: Home, register) -> None:
    from modelyard.control.deployments.models import Endpoint
    from modelyard.control.deployments.services import deploy, undeploy
    from modelyard.control.registry import history

    before = datetime.now(UTC)
    register(1)
    register(2)
    deploy("scores", 1, by="li")
    between = datetime.now(UTC)
    deploy("scores", 2, by="wu")
    undeploy("scores", by="wu")
    assert not Endpoint.objects.exists()
    (state,) = history.served_at(between, endpoint="scores")
    assert (state.weights, state.by, state.verb, state.model) == ({1: 100}, "li", "deploy", "scores")
    assert state.since <= between
    assert history.served_at(before, model="scores") == history.served_at(datetime.now(UTC), model="scores") == []
    assert history.whose("scores") == ("scores", None)
    with pytest.raises(NotFound):
        history.whose("nobody")


def test_what_served_is_one_query(home: Home, register) -> None:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    from modelyard.control.deployments.services import deploy
    from modelyard.control.registry import history

    register(1)
    for number in range(4):
        deploy("scores", 1, f"door-{number}", by="li")
    with CaptureQueriesContext(connection) as asked:
        assert len(history.served_at(datetime.now(UTC), model="scores")) == 4
    assert len(asked) == 1


def test_an_endpoint_that_another_model_took_over_is_its_own(home: Home, register) -> None:
    from modelyard.control.deployments.services import deploy, undeploy
    from modelyard.control.registry import history

    register(1)
    register(2, "fraud")
    deploy("scores", endpoint="door", by="li")
    first = datetime.now(UTC)
    undeploy("door", by="li")
    deploy("fraud", endpoint="door", by="wu")
    assert [state.model for state in history.served_at(first, endpoint="door")] == ["scores"]
    now = datetime.now(UTC)
    assert [state.model for state in history.served_at(now, endpoint="door")] == ["fraud"]
    assert history.served_at(now, model="scores") == []
    assert [state.endpoint for state in history.served_at(first, model="scores")] == ["door"]
    assert history.whose("door") == (None, "door")


def test_who_approved_and_why_it_was_forced_stand_in_the_log(home: Home, register) -> None:
    from modelyard.control.deployments.approvals import approve
    from modelyard.control.deployments.services import configure, deploy, set_traffic
    from modelyard.control.registry import history

    for seed in (1, 2):
        register(seed)
    deploy("scores", 1, by="li")
    configure("scores", "li", needs_approval=True)
    waiting = set_traffic("scores", TrafficSplit({1: 90, 2: 10}), by="li")
    (state,) = history.served_at(datetime.now(UTC), endpoint="scores")
    assert state.weights == {1: 100}
    approve(waiting.pk, by="wu")
    (state,) = history.served_at(datetime.now(UTC), endpoint="scores")
    assert (state.weights, state.by, state.approved_by) == ({1: 90, 2: 10}, "li", "wu")
    assert state.revision == read_plan(home).revision


@pytest.mark.parametrize("home", ["sqlite"], indirect=True)
def test_the_log_of_an_adopted_home_begins_with_what_is_served(home: Home, register) -> None:
    from django.db import connections

    from modelyard.control.deployments.adopt import adopt
    from modelyard.control.deployments.services import deploy, set_traffic
    from modelyard.control.registry import history
    from modelyard.control.setup import active_settings, start

    for seed in (1, 2):
        register(seed)
    deploy("scores", 1, by="li")
    set_traffic("scores", TrafficSplit({1: 90, 2: 10}), by="li")
    connections.close_all()
    for path in home.root.glob("control.sqlite3*"):
        path.unlink()
    start(active_settings())
    adopt(by="wu")
    (state,) = history.served_at(datetime.now(UTC), model="scores")
    assert (state.weights, state.by, state.verb) == ({1: 90, 2: 10}, "wu", "adopt")
    assert state.revision == read_plan(home).revision


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC)),
        ("2026-03-01T14:30", datetime(2026, 3, 1, 14, 30, tzinfo=UTC)),
        ("2026-03-01 14:30:05", datetime(2026, 3, 1, 14, 30, 5, tzinfo=UTC)),
        ("2026-03-01T14:30Z", datetime(2026, 3, 1, 14, 30, tzinfo=UTC)),
        ("2026-03-01T14:30+02:00", datetime(2026, 3, 1, 12, 30, tzinfo=UTC)),
    ],
)
def test_a_time_is_as_people_write_it(text: str, meant: datetime) -> None:
    from modelyard.control.registry.history import instant

    assert instant(text) - meant == timedelta(0)


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "12:30"])
def test_what_is_no_time_is_refused(text: str) -> None:
    from modelyard.control.registry.history import instant

    with pytest.raises(InvalidInput, match="ISO 8601"):
        instant(text)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.dictionaries(VERSIONS, st.integers(0, 100), max_size=3)), max_size=20)
)
def test_the_last_word_on_each_endpoint_counts(changes: list[tuple[str, dict[int, int]]]) -> None:
    from modelyard.control.registry.history import replay
    from modelyard.control.registry.models import Event, Model

    events = [
        Event(
            model=Model(name="m"),
            at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second),
            endpoint=endpoint,
            verb="set_traffic",
            by="li",
            details={"endpoint": endpoint, "weights": {str(number): weight for number, weight in weights.items()}},
        )
        for second, (endpoint, weights) in enumerate(changes)
    ]
    expected = {
        endpoint: {number: weight for number, weight in weights.items() if weight} for endpoint, weights in changes
    }
    assert {name: state.weights for name, state in replay(events).items()} == {
        endpoint: weights for endpoint, weights in expected.items() if weights
    }
