"""A version that is slow to load holds up neither a revoked key nor its own deployment."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from kit.gateway import gateway, plan, publish, until
from kit.graphs import slow, store_graph
from kit.versions import CONTRACT, store
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.contract.plan import PlannedEndpoint, PlannedKey, PlannedVersion, ServingPlan, TrafficSplit
from modelyard.runtimes.version import WARM_S, LoadedVersion
from modelyard.secure.keys import digest_of

pytestmark = pytest.mark.xdist_group("loading")


def test_a_key_is_revoked_while_a_slow_version_still_loads(tmp_path: Path) -> None:
    shelf = Shelf(Home(tmp_path / "home").prepare().shelf)
    quick, heavy = store(shelf), store_graph(shelf, slow(30, 1024), "heavy")
    key = PlannedKey("k", digest_of("my_key"), "caller", ("infer",))

    def with_heavy(revision: int, keys: tuple[PlannedKey, ...]) -> ServingPlan:
        both = plan(revision, {1: quick}, keys=keys, require_keys=True)
        more = PlannedEndpoint("heavy", "heavy", (PlannedVersion(1, heavy),), TrafficSplit({1: 100}))
        return msgspec.structs.replace(both, endpoints=(*both.endpoints, more))

    with gateway(tmp_path / "home", plan(1, {1: quick}, require_keys=True), workers=1) as running:

        def status() -> int:
            return running.post("/loans", CONTRACT.example, headers={"X-API-Key": "my_key"}).status_code

        publish(running.home, with_heavy(2, (key,)))
        until(lambda: status() == 200, "the new plan's key counts before its versions are loaded")
        publish(running.home, with_heavy(3, ()))
        until(lambda: status() == 401, "the revoked key is refused")
        state = running.state()
        assert state is not None
        assert [worker.revision for worker in state.workers] == [1], "nothing newer was served yet"
        running.wait_for(3)
        assert status() == 401


def test_measuring_a_slow_version_ends_when_its_time_is_spent(tmp_path: Path) -> None:
    loaded = LoadedVersion(Shelf(tmp_path).open(store_graph(Shelf(tmp_path), slow(30, 1024), "heavy")))
    curve = loaded.warm()
    assert min(curve) == 1
    assert max(curve) < 256, f"stopped after {WARM_S:g} s"
    loaded.close()
