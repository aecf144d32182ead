"""Stories of a running gateway: what changes under load, what dies, and who notices."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from kit.callers import Callers
from kit.gateway import gateway, plan, publish, until
from kit.lines import Line, request
from kit.versions import CONTRACT, expected, store
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.contract.plan import PlannedKey
from modelyard.secure.keys import digest_of

pytestmark = pytest.mark.journey

BASES = {1: 0.0, 2: 1.5}
ROWS = [CONTRACT.example | {"age": age, "income": income} for age in range(20, 90, 7) for income in (None, 50.0, 900.0)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "home"


def shelf_of(root: Path) -> Shelf:
    return Shelf(Home(root).prepare().shelf)


def is_right(status: int, body: Any, row: dict[str, Any]) -> None:
    assert status == 200, body
    assert body["probability"] == pytest.approx(expected(row, BASES[body["version"]]), abs=1e-6)


def test_version_two_is_deployed_while_sixteen_clients_call_and_nobody_notices(root: Path) -> None:
    digests = {number: store(shelf_of(root), base) for number, base in BASES.items()}
    versions: set[int] = set()

    def check(status: int, body: Any, row: Any) -> None:
        is_right(status, body, row)
        versions.add(body["version"])

    with gateway(root, plan(1, {1: digests[1]})) as running:
        callers = Callers(running.port, "/loans", ROWS, check).start(16)
        until(lambda: callers.answered > 200, "calls before the change")
        running.publish(plan(2, digests))
        before = callers.answered
        until(lambda: callers.answered > before + 200, "calls after the change")
        running.publish(plan(3, {1: digests[1]}))
        running.publish(plan(4, digests))
        callers.stop()
        assert callers.failures == []
        assert versions == {1, 2}
        assert running.post("/loans", CONTRACT.example).json()["version"] == 2


def test_a_worker_killed_with_nine_is_replaced_and_its_cause_is_kept(root: Path) -> None:
    digest = store(shelf_of(root))
    with gateway(root, plan(1, {1: digest})) as running:
        callers = Callers(running.port, "/loans", ROWS, is_right).start(8)
        until(lambda: callers.answered > 100, "calls before the death")
        counted = total(running.get("/metrics").text)
        victim = running.workers()[0]
        os.kill(victim, signal.SIGKILL)
        until(lambda: victim not in running.workers() and 0 not in running.workers(), "a replacement")
        running.wait_for(1)
        before = callers.answered
        until(lambda: callers.answered > before + 200, "calls after the death")
        callers.stop()
        state = running.state()
        assert state is not None
        assert "SIGKILL" in state.restarts[0]
        assert f"pid {victim}" in state.restarts[0]
        assert total(running.get("/metrics").text) > counted
        # Each caller had at most one request in flight on the dead worker; every other caller saw nothing.
        assert len(callers.failures) <= 8
        assert callers.cut == len(callers.failures), callers.failures


def test_a_worker_that_hangs_is_replaced(root: Path) -> None:
    digest = store(shelf_of(root))
    with gateway(root, plan(1, {1: digest})) as running:
        victim = running.workers()[1]
        os.kill(victim, signal.SIGSTOP)
        until(lambda: victim not in running.workers() and 0 not in running.workers(), "a replacement", 30)
        running.wait_for(1)
        assert running.post("/loans", CONTRACT.example).status_code == 200
        state = running.state()
        assert state is not None
        assert "said nothing" in state.restarts[0]


def test_a_revoked_key_is_refused_within_a_second(root: Path) -> None:
    digest = store(shelf_of(root))
    keys = tuple(PlannedKey(name, digest_of(name), name, ("infer",)) for name in ("my_one", "my_two"))
    first = plan(1, {1: digest}, keys=keys, require_keys=True)
    with gateway(root, first) as running, contextlib.ExitStack() as stack:
        # Connections of many, held open, so that both workers are asked and no time goes into connecting.
        lines = [stack.enter_context(Line(running.port)) for _ in range(16)]

        def statuses(key: str) -> set[int]:
            asked = request("/loans", CONTRACT.example, X_API_Key=key)
            return {line.ask(asked)[0].status for line in lines}

        assert statuses("my_one") == statuses("my_two") == {200}
        assert running.post("/loans", CONTRACT.example).status_code == 401
        publish(running.home, plan(2, {1: digest}, keys=keys[1:], require_keys=True))
        revoked = time.monotonic()
        until(lambda: statuses("my_one") == {401}, "every worker refuses the revoked key", 5)
        assert time.monotonic() - revoked < 1.0
        assert statuses("my_two") == {200}


def test_a_plan_that_cannot_be_served_is_refused_with_its_reason_and_the_old_one_serves_on(root: Path) -> None:
    digest = store(shelf_of(root))
    with gateway(root, plan(1, {1: digest})) as running:
        publish(running.home, plan(2, {1: digest, 2: "0" * 64}))

        def reasons() -> list[str]:
            state = running.state()
            return [worker.reason for worker in state.workers if worker.refused == 2] if state else []

        assert "no artifact" in str(until(reasons, "the workers say why"))
        assert running.post("/loans", CONTRACT.example).json()["version"] == 1


def total(metrics: str) -> float:
    return sum(float(line.split()[-1]) for line in metrics.splitlines() if line.startswith("modelyard_requests_total"))
