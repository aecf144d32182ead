"""Who answers: shares as planned, callers that stay where they are, and pins that hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.gateway import plan
from kit.in_process import Said
from kit.versions import store
from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import InvalidInput, NotFound, NotReady
from modelyard.contract.plan import TrafficSplit
from modelyard.contract.split import Spans, move_slots
from modelyard.runtimes.version import LoadedVersion
from modelyard.serve.counters import Counters
from modelyard.serve.routing import Deployment, Route, Routes, slot_of
from modelyard.serve.sticky import in_rows


class Answering:
    """What a deployment needs to know of its replica here: the version that it holds."""

    def __init__(self, loaded: LoadedVersion) -> None:
        self.loaded = loaded


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Answering:
    shelf = Shelf(tmp_path_factory.mktemp("shelf"))
    return Answering(LoadedVersion(shelf.open(store(shelf))))


@pytest.fixture(scope="module")
def counters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counters]:
    made = Counters(tmp_path_factory.mktemp("counters"), 0)
    yield made
    made.close()


def route(
    answering: Answering, counters: Counters, weights: dict[int, int], sticky_by: str | None = None, spans: Spans = ()
) -> Route:
    """The endpoint `loans` with these shares."""
    wanted = plan(1, dict.fromkeys(weights, "0" * 64), split=TrafficSplit(weights, sticky_by, spans))
    (endpoint,) = wanted.endpoints
    return Route(endpoint, {number: Deployment(endpoint, number, answering, counters) for number in weights})  # type: ignore[arg-type]


def version_for(route: Route, headers: dict[bytes, bytes] | None = None, body: bytes = b"") -> int:
    """Who answers this call."""
    return route.choose(Said(body, headers), in_rows).version


def called(value: str) -> dict[bytes, bytes]:
    return {b"x-customer": value.encode()}


VALUES = st.lists(st.text("abcdefgh0123", min_size=1, max_size=8), min_size=1, max_size=30, unique=True)


@st.composite
def shares(draw: st.DrawFn) -> dict[int, int]:
    """Percents of up to five versions."""
    cuts = sorted(draw(st.lists(st.integers(0, 100), max_size=4)))
    edges = [0, *cuts, 100]
    return {number + 1: high - low for number, (low, high) in enumerate(pairwise(edges))}


@given(VALUES, st.integers(0, 100))
def test_a_caller_stays_with_one_version(
    answering: Answering, counters: Counters, values: list[str], share: int
) -> None:
    sticky = route(answering, counters, {1: 100 - share, 2: share}, "X-Customer")
    again = route(answering, counters, {1: 100 - share, 2: share}, "X-Customer")
    for value in values:
        version = version_for(sticky, called(value))
        assert version_for(sticky, called(value)) == version
        assert version_for(again, called(value)) == version, "on every worker, after every restart"


@given(VALUES, st.lists(shares(), min_size=1, max_size=6))
def test_over_many_plans_only_callers_whose_slot_changed_hands_move(
    answering: Answering, counters: Counters, values: list[str], plans: list[dict[int, int]]
) -> None:
    held = {number for weights in plans for number in weights}
    spans = move_slots((), plans[0])
    before: dict[str, int] = {}
    for weights in plans:
        owned = [version for version, width in spans for _ in range(width)]
        spans = move_slots(spans, weights)
        owns = [version for version, width in spans for _ in range(width)]
        sticky = route(answering, counters, dict.fromkeys(held, 0) | weights, "x-customer", spans)
        for value in values:
            version = version_for(sticky, called(value))
            slot = slot_of(value.encode(), "loans")
            assert version == owns[slot]
            assert value not in before or version == before[value] or owned[slot] != owns[slot]
            before[value] = version


@given(VALUES, st.integers(0, 100), st.integers(0, 100), st.booleans())
def test_raising_a_canarys_share_only_moves_callers_to_it(
    answering: Answering, counters: Counters, values: list[str], one: int, other: int, has_spans: bool
) -> None:
    low, high = sorted((one, other))
    first = move_slots((), {1: 100 - low, 2: low})
    then = move_slots(first, {1: 100 - high, 2: high})
    before = route(answering, counters, {1: 100 - low, 2: low}, "x-customer", first if has_spans else ())
    after = route(answering, counters, {1: 100 - high, 2: high}, "x-customer", then if has_spans else ())
    for value in values:
        if version_for(before, called(value)) == 2:
            assert version_for(after, called(value)) == 2


@pytest.mark.parametrize("sticky_by", [None, "x-customer", "column:id"])
@pytest.mark.parametrize("weights", [{1: 90, 2: 10}, {1: 50, 2: 30, 3: 20}, {1: 99, 2: 1}, {1: 0, 2: 100}, {7: 100}])
def test_shares_are_kept(
    answering: Answering, counters: Counters, weights: dict[int, int], sticky_by: str | None
) -> None:
    shared = route(answering, counters, weights, sticky_by)
    calls = 20_000
    seen = Counter(
        version_for(shared, called(str(number)), b'{"id": "%d"}' % number if sticky_by else b"")
        for number in range(calls)
    )
    for version, weight in weights.items():
        expected, deviation = calls * weight / 100, (calls * weight / 100 * (1 - weight / 100)) ** 0.5
        assert abs(seen[version] - expected) <= 5 * deviation
    assert set(seen) == {version for version, weight in weights.items() if weight}


def test_a_caller_without_the_value_is_shared_by_chance(answering: Answering, counters: Counters) -> None:
    sticky = route(answering, counters, {1: 50, 2: 50}, "x-customer")
    assert {version_for(sticky, {}) for _ in range(200)} == {1, 2}
    assert {version_for(sticky, {b"x-customer": b""}) for _ in range(200)} == {1, 2}
    column = route(answering, counters, {1: 50, 2: 50}, "column:id")
    assert {version_for(column, called("x"), b'{"age": 3}') for _ in range(200)} == {1, 2}


def test_a_column_is_no_header_and_a_header_no_column(answering: Answering, counters: Counters) -> None:
    by_column = route(answering, counters, {1: 50, 2: 50}, "column:id")
    assert {version_for(by_column, {b"column:id": b"a", b"id": b"a"}, b"{}") for _ in range(200)} == {1, 2}
    by_header = route(answering, counters, {1: 50, 2: 50}, "id")
    assert {version_for(by_header, {}, b'{"id": "a"}') for _ in range(200)} == {1, 2}
    assert {version_for(by_column, {}, b'{"id": "a"}') for _ in range(200)} == {version_for(by_header, {b"id": b"a"})}


def test_another_endpoints_callers_fall_otherwise() -> None:
    values = [str(number).encode() for number in range(1000)]
    same = sum(slot_of(value, "loans") == slot_of(value, "cards") for value in values)
    assert same < 40, "of a thousand, ten by chance"


def test_a_slot_is_the_same_for_ever() -> None:
    """Another release may answer otherwise only if every sticky caller of every split may move."""
    assert [slot_of(value, "loans") for value in (b"a", b"17", b"x" * 1000)] == [63, 17, 28]


@pytest.mark.parametrize(("pin", "version"), [("1", 1), ("2", 2), ("champion", 2), ("01", 1)])
def test_a_pin_holds_whatever_the_split(answering: Answering, counters: Counters, pin: str, version: int) -> None:
    assert route(answering, counters, {1: 100, 2: 0}).pinned(pin).version == version


@pytest.mark.parametrize("pin", ["3", "0", "-1", "1.0", "challenger", "", "9" * 400, "²", "é"])
def test_an_unknown_pin_is_not_found(answering: Answering, counters: Counters, pin: str) -> None:
    with pytest.raises(NotFound) as refusal:
        route(answering, counters, {1: 100, 2: 0}).pinned(pin)
    assert len(str(refusal.value)) < 200


def test_the_main_deployment_has_the_largest_share(answering: Answering, counters: Counters) -> None:
    assert route(answering, counters, {1: 60, 2: 40}).main.version == 1
    assert route(answering, counters, {1: 40, 2: 60}).main.version == 2


def test_the_plans_cut_off_overrides_the_artifacts(answering: Answering, counters: Counters) -> None:
    for cutoff, counts in ((None, 0.3), (0.7, 0.7)):
        (endpoint,) = plan(1, {1: "0" * 64}, cutoff=cutoff).endpoints
        assert Deployment(endpoint, 1, answering, counters).cutoff == counts  # type: ignore[arg-type]


def test_a_cut_off_for_a_version_without_decision_is_refused(answering: Answering, counters: Counters) -> None:
    class Undecided:
        decision = None

    (endpoint,) = plan(1, {1: "0" * 64}, cutoff=0.5).endpoints
    with pytest.raises(InvalidInput, match="cutoff"):
        Deployment(endpoint, 1, Answering(Undecided()), counters)  # type: ignore[arg-type]


def test_an_unknown_endpoint_is_not_found_and_without_a_plan_nothing_is_ready(
    answering: Answering, counters: Counters
) -> None:
    one = route(answering, counters, {1: 100})
    routes = Routes(plan(1, {1: "0" * 64}), {"loans": one})
    assert routes.endpoint("loans") is one
    assert routes.names == ["loans"]
    with pytest.raises(NotFound):
        routes.endpoint("loan")
    with pytest.raises(NotReady):
        Routes(None, {}).endpoint("loans")
