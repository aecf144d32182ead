"""Versions that load when they are called: within their budget, once for all callers, and never while they answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from kit.gateway import Gateway, gateway, publish, until
from kit.graphs import heavy, slow, store_graph
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.contract.plan import PlannedEndpoint, PlannedVersion, ServingPlan, TrafficSplit
from modelyard.serve.counters import exposition

pytestmark = pytest.mark.xdist_group("lazy")

MB = 2**20
MODELS = 8
EACH_MB = 8


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(Home(tmp_path).prepare().shelf)


def heavies(shelf: Shelf, count: int = MODELS) -> dict[str, str]:
    return {f"m{at}": store_graph(shelf, heavy(float(at), EACH_MB), f"m{at}", "matrix") for at in range(count)}


def planned(revision: int, digests: dict[str, str], pinned: tuple[str, ...] = ()) -> ServingPlan:
    endpoints = tuple(
        PlannedEndpoint(name, name, (PlannedVersion(1, digest),), TrafficSplit({1: 100}), is_pinned=name in pinned)
        for name, digest in digests.items()
    )
    return ServingPlan(revision, 0.0, endpoints)


def counted(running: Gateway, name: str) -> float:
    lines = exposition(running.home.run / "counters").decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def ask(running: Gateway, name: str, x: float = 1.0) -> tuple[int, object]:
    answer = running.post(f"/v1/models/{name}:predict", {"instances": [{"x": x, "y": 2.0}]})
    return answer.status_code, answer.json()


def total(said: tuple[int, object]) -> float:
    status, body = said
    assert status == 200, body
    (prediction,) = body["predictions"]  # type: ignore[index]
    return float(prediction["total"] if isinstance(prediction, dict) else prediction)


def test_a_few_of_many_are_in_memory_and_all_of_them_answer(tmp_path: Path, shelf: Shelf) -> None:
    digests = heavies(shelf)
    budget = 5 * EACH_MB * MB
    with gateway(tmp_path, planned(1, digests), workers=1, resident_bytes=budget) as running:
        assert counted(running, "modelyard_version_loads_total") == 0, "nothing is loaded that nobody called"
        calls = [at for at in range(MODELS) for _ in range(6)]
        random.Random(7).shuffle(calls)
        with ThreadPoolExecutor(6) as callers:
            said = list(callers.map(lambda at: total(ask(running, f"m{at}", 4.0)), calls))
        assert said == [6.0 + at for at in calls]
        assert counted(running, "modelyard_version_loads_total") >= MODELS
        assert counted(running, "modelyard_version_evictions_total") > 0
        assert 0 < counted(running, "modelyard_resident_bytes") <= budget
        assert 1 <= counted(running, "modelyard_resident_versions") <= 4  # what loads takes more than its files


def test_without_a_budget_everything_planned_is_in_memory(tmp_path: Path, shelf: Shelf) -> None:
    with gateway(tmp_path, planned(1, heavies(shelf, 2)), workers=1) as running:
        assert running.log.read_text().count('"event": "loaded"') == 2


def test_many_first_calls_load_a_version_once(tmp_path: Path, shelf: Shelf) -> None:
    with gateway(tmp_path, planned(1, heavies(shelf, 1)), workers=1, resident_bytes=100 * MB) as running:
        with ThreadPoolExecutor(24) as callers:
            said = list(callers.map(lambda x: total(ask(running, "m0", float(x))), range(24)))
        assert said == [x + 2.0 for x in range(24)]
        assert counted(running, "modelyard_version_loads_total") == 1


def test_what_is_pinned_stays(tmp_path: Path, shelf: Shelf) -> None:
    digests = heavies(shelf, 5)
    settings = {"workers": 1, "resident_bytes": 4 * EACH_MB * MB}
    with gateway(tmp_path, planned(1, digests, ("m0",)), **settings) as running:
        assert counted(running, "modelyard_version_loads_total") == 1, "a pinned version is there before its first call"
        for at in (1, 2, 3, 4, 1, 2, 3, 4):
            assert total(ask(running, f"m{at}")) == 3.0 + at
        before = counted(running, "modelyard_version_loads_total")
        assert total(ask(running, "m0")) == 3.0
        assert counted(running, "modelyard_version_loads_total") == before
        running.publish(planned(2, digests, ("m4",)))
        until(lambda: total(ask(running, "m4")) == 7.0, "a version that becomes pinned answers on")


def test_a_new_version_must_load_before_it_is_deployed(tmp_path: Path, shelf: Shelf) -> None:
    digests = heavies(shelf, 2)
    with gateway(tmp_path, planned(1, {"m0": digests["m0"]}), workers=1, resident_bytes=100 * MB) as running:
        (shelf.folder / digests["m1"] / "model.onnx").write_bytes(b"damaged")
        publish(running.home, planned(2, digests))
        until(_refuses(running, 2), "the plan with the damaged version is refused")
        assert total(ask(running, "m0")) == 3.0


def test_a_version_that_cannot_be_loaded_says_so_and_the_others_answer(tmp_path: Path, shelf: Shelf) -> None:
    digests = heavies(shelf, 2)
    (shelf.folder / digests["m1"] / "model.onnx").write_bytes(b"damaged")
    with gateway(tmp_path, planned(1, digests), workers=1, resident_bytes=100 * MB) as running:
        for _ in range(2):
            status, body = ask(running, "m1")
            assert status == 503
            assert "model.onnx was changed" in msgspec.json.encode(body).decode()
        assert total(ask(running, "m0")) == 3.0
        assert running.log.read_text().count("version not loaded") == 1, "it is not tried again at once"


def test_who_answers_is_not_evicted(tmp_path: Path, shelf: Shelf) -> None:
    digests = heavies(shelf, 2) | {"slow": store_graph(shelf, slow(rounds=30), "slow", "matrix")}
    with gateway(tmp_path, planned(1, digests), workers=1, resident_bytes=EACH_MB * MB) as running:
        with ThreadPoolExecutor(12) as callers:
            said = [
                callers.submit(ask, running, name, float(x))
                for x in range(5)
                for name in ("slow", "m0", "m1")
            ]  # fmt: skip
            answers = [total(answer.result()) for answer in said]
        assert answers == [x + 2.0 + add for x in range(5) for add in (0.0, 0.0, 1.0)]
        assert counted(running, "modelyard_version_evictions_total") > 0


def test_whoever_waits_too_long_for_a_load_is_told(tmp_path: Path, shelf: Shelf) -> None:
    digests = {"slow": store_graph(shelf, slow(rounds=200), "slow", "matrix")}
    with gateway(tmp_path, planned(1, digests), workers=1, resident_bytes=100 * MB) as running:
        answer = running.post(
            "/v1/models/slow:predict", {"instances": [{"x": 1.0, "y": 2.0}]}, headers={"X-Timeout-Ms": "1"}
        )
        assert answer.status_code == 504
        assert "loading" in answer.text


def _refuses(running: Gateway, revision: int) -> Callable[[], bool]:
    def refuses() -> bool:
        state = running.state()
        return state is not None and all(worker.refused == revision for worker in state.workers)

    return refuses
