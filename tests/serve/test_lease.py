"""When control falls silent a canary's share goes back, and comes again with control; clocks that jump do no harm."""

from __future__ import annotations

import math
import os
from pathlib import Path

import msgspec
import pytest

from modelyard.contract.plan import Lease, PlannedEndpoint, PlannedVersion, ServingPlan, TrafficSplit
from modelyard.serve.lease import LOOK_S, Beat, Leases, fallen_back, lapsed_at


class Clocks:
    """The wall's and the monotonic one, moved by hand."""

    def __init__(self) -> None:
        self.wall, self.steady = 1_000_000.0, 50.0

    def pass_s(self, seconds: float) -> None:
        """Time passes."""
        self.wall += seconds
        self.steady += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.beat"


@pytest.fixture
def beat(path: Path, clocks: Clocks) -> Beat:
    return Beat(path, lambda: clocks.wall, lambda: clocks.steady)


def touch(path: Path, at: float) -> None:
    path.touch()
    os.utime(path, (at, at))


def endpoint(name: str = "loans", lease: Lease | None = None) -> PlannedEndpoint:
    versions = tuple(PlannedVersion(number, str(number) * 64) for number in (1, 2))
    split = TrafficSplit({1: 90, 2: 10}, "x-customer")
    return PlannedEndpoint(name, name, versions, split, {"canary": 2}, lease=lease)


def planned(*endpoints: PlannedEndpoint) -> ServingPlan:
    return ServingPlan(1, 0.0, endpoints)


def test_silence_counts_from_the_last_touch(path: Path, beat: Beat, clocks: Clocks) -> None:
    assert beat.silence_s() == math.inf, "it never spoke"
    touch(path, clocks.wall - 3)
    assert beat.silence_s() == pytest.approx(3)
    clocks.pass_s(4)
    assert beat.silence_s() == pytest.approx(7)
    touch(path, clocks.wall)
    assert beat.silence_s() == pytest.approx(0)
    path.unlink()
    assert beat.silence_s() == math.inf


def test_a_touch_that_lies_ahead_is_a_sign_of_life_for_a_while_and_not_for_ever(
    path: Path, beat: Beat, clocks: Clocks
) -> None:
    touch(path, clocks.wall + 3600)
    assert beat.silence_s() == pytest.approx(0)
    clocks.pass_s(20)
    assert beat.silence_s() == pytest.approx(20)


def test_a_clock_that_is_set_back_does_not_prolong_a_lease(path: Path, beat: Beat, clocks: Clocks) -> None:
    touch(path, clocks.wall)
    beat.silence_s()
    clocks.wall -= 3600
    clocks.pass_s(9)
    assert beat.silence_s() == pytest.approx(9)


def test_a_clock_that_is_set_forward_ends_a_lease_until_the_next_touch(path: Path, beat: Beat, clocks: Clocks) -> None:
    touch(path, clocks.wall)
    beat.silence_s()
    clocks.wall += 3600
    assert beat.silence_s() == pytest.approx(3600)
    touch(path, clocks.wall)
    assert beat.silence_s() == pytest.approx(0)


def test_each_endpoint_has_a_lease_of_its_own() -> None:
    plan = planned(endpoint("none"), endpoint("short", Lease(5, 1)), endpoint("long", Lease(30, 1)))
    assert lapsed_at(plan, 5.0) == frozenset()
    assert lapsed_at(plan, 5.1) == {"short"}
    assert lapsed_at(plan, math.inf) == {"short", "long"}


def test_a_worker_looks_once_a_second_and_only_if_there_is_a_lease(path: Path, beat: Beat, clocks: Clocks) -> None:
    leases, plan = Leases(beat), planned(endpoint(lease=Lease(5, 1)))
    touch(path, clocks.wall)
    assert leases.follow(plan) == frozenset()
    assert not leases.look(plan, clocks.steady)
    clocks.pass_s(10)
    assert leases.look(plan, clocks.steady), "it has lapsed"
    assert leases.lapsed == {"loans"}
    touch(path, clocks.wall)
    assert not leases.look(plan, clocks.steady + LOOK_S / 2), "not looked at yet"
    assert leases.look(plan, clocks.steady + LOOK_S)
    assert leases.lapsed == frozenset()
    clocks.pass_s(10)
    assert not leases.look(planned(endpoint()), clocks.steady + LOOK_S)
    assert not leases.look(None, clocks.steady + 10 * LOOK_S), "nothing is served yet"


def test_a_new_plan_is_judged_at_once(path: Path, beat: Beat, clocks: Clocks) -> None:
    leases = Leases(beat)
    assert leases.follow(planned(endpoint(lease=Lease(5, 1)))) == {"loans"}, "control never spoke"
    assert leases.follow(planned(endpoint())) == frozenset()


def test_the_fallback_has_all_calls_and_everything_else_stays() -> None:
    before = endpoint(lease=Lease(5, 1))
    after = fallen_back(before)
    assert after.split == TrafficSplit({1: 100})
    assert msgspec.structs.replace(after, split=before.split) == before
    assert fallen_back(endpoint()) == endpoint()
