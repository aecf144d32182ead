"""Who answers: shares as planned, callers that stay where they are, and pins that hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.gateway import plan
from kit.versions import store
from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import InvalidInput, NotFound, NotReady
from modelyard.contract.plan import TrafficSplit
from modelyard.runtimes.version import LoadedVersion
from modelyard.serve.counters import Counters
from modelyard.serve.routing import Deployment, Route, Routes


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


def route(answering: Answering, counters: Counters, weights: dict[int, int], sticky_by: str | None = None) -> Route:
    """The endpoint `loans` with these shares."""
    wanted = plan(1, dict.fromkeys(weights, "0" * 64), split=TrafficSplit(weights, sticky_by))
    (endpoint,) = wanted.endpoints
    return Route(endpoint, {number: Deployment(endpoint, number, answering, counters) for number in weights})  # type: ignore[arg-type]


def called(value: str) -> dict[bytes, bytes]:
    return {b"x-customer": value.encode()}


VALUES = st.lists(st.text("abcdefgh0123", min_size=1, max_size=8), min_size=1, max_size=30, unique=True)


@given(VALUES, st.integers(0, 100))
def test_a_caller_stays_with_one_version(
    answering: Answering, counters: Counters, values: list[str], share: int
) -> None:
    sticky = route(answering, counters, {1: 100 - share, 2: share}, "X-Customer")
    again = route(answering, counters, {1: 100 - share, 2: share}, "X-Customer")
    for value in values:
        version = sticky.choose(called(value)).version
        assert sticky.choose(called(value)).version == version
        assert again.choose(called(value)).version == version, "on every worker, after every restart"


@given(VALUES, st.integers(0, 100), st.integers(0, 100))
def test_raising_a_canarys_share_only_moves_callers_to_it(
    answering: Answering, counters: Counters, values: list[str], one: int, other: int
) -> None:
    low, high = sorted((one, other))
    before = route(answering, counters, {1: 100 - low, 2: low}, "x-customer")
    after = route(answering, counters, {1: 100 - high, 2: high}, "x-customer")
    for value in values:
        if before.choose(called(value)).version == 2:
            assert after.choose(called(value)).version == 2


@pytest.mark.parametrize("sticky_by", [None, "x-customer"])
@pytest.mark.parametrize("weights", [{1: 90, 2: 10}, {1: 50, 2: 30, 3: 20}, {1: 99, 2: 1}, {1: 0, 2: 100}, {7: 100}])
def test_shares_are_kept(
    answering: Answering, counters: Counters, weights: dict[int, int], sticky_by: str | None
) -> None:
    shared = route(answering, counters, weights, sticky_by)
    calls = 20_000
    seen = Counter(shared.choose(called(str(number))).version for number in range(calls))
    for version, weight in weights.items():
        expected, deviation = calls * weight / 100, (calls * weight / 100 * (1 - weight / 100)) ** 0.5
        assert abs(seen[version] - expected) <= 5 * deviation
    assert set(seen) == {version for version, weight in weights.items() if weight}


def test_a_caller_without_the_header_is_shared_by_chance(answering: Answering, counters: Counters) -> None:
    sticky = route(answering, counters, {1: 50, 2: 50}, "x-customer")
    assert {sticky.choose({}).version for _ in range(200)} == {1, 2}
    assert {sticky.choose({b"x-customer": b""}).version for _ in range(200)} == {1, 2}


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
