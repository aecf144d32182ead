"""Model workers behind a real gateway: killed, stopped and leaking while callers call, loaded and unloaded."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pytest

from kit.applicants import CODES, WHOLE, fitted
from kit.callers import Callers
from kit.gateway import Gateway, gateway, plan, until
from kit.model_workers import KIT_PATH, store_class
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.contract.plan import ModelWorkerState
from modelyard.optimise.register import package_model

pytestmark = [pytest.mark.journey, pytest.mark.timeout(180)]

INFER = "/v2/models/loans/infer"


def request(*rows: list[float]) -> dict[str, Any]:
    values = [number for row in rows for number in row]
    return {"inputs": [{"name": "x", "shape": [len(rows), 3], "datatype": "FP32", "data": values}]}


ROWS = [request([number, 1, 2]) for number in range(1, 50)]


class Checked:
    """Every answer is right or a 503; a 503 is counted."""

    def __init__(self) -> None:
        self.lost = 0

    def __call__(self, status: int, body: Any, sent: Any) -> None:
        if status == 503:
            self.lost += 1
            return
        assert status == 200, body
        total = next(output["data"] for output in body["outputs"] if output["name"] == "total")
        assert total == [sum(sent["inputs"][0]["data"])]


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setenv("PYTHONPATH", KIT_PATH)
    home = Home(tmp_path / "home").prepare()
    digest = store_class(Shelf(home.shelf), "kit.own_models:Sums")
    limits = {"model_timeout_s": 3, "model_memory_bytes": 500 << 20}
    with gateway(tmp_path / "home", plan(1, {1: digest}), **limits) as found:
        yield found


def models(running: Gateway) -> tuple[ModelWorkerState, ...]:
    state = running.state()
    assert state is not None
    return state.models


def lost_calls(running: Gateway) -> float:
    """As the metrics count them."""
    name = 'modelyard_dropped_calls_total{model="loans",reason="worker_lost"}'
    lines = [line for line in running.get("/metrics").text.splitlines() if line.startswith(name)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def ended_by_kill(running: Gateway) -> None:
    os.kill(models(running)[0].pid, signal.SIGKILL)


def ended_by_hanging(running: Gateway) -> None:
    os.kill(models(running)[0].pid, signal.SIGSTOP)


def ended_by_leaking(running: Gateway) -> None:
    leaks = [running.post(INFER, request([-3, 0, 0])).status_code for _ in range(8)]  # 200 MB each
    assert 503 in leaks or any(model.restarts for model in models(running))


@pytest.mark.parametrize("end", [ended_by_kill, ended_by_hanging, ended_by_leaking])
def test_a_worker_that_dies_under_load_is_replaced(running: Gateway, end: Callable[[Gateway], None]) -> None:
    assert [model.state for model in models(running)] == ["ready", "ready"]
    before = {model.pid for model in models(running)}
    check = Checked()
    callers = Callers(running.port, INFER, ROWS, check).start(6)
    until(lambda: callers.answered > 100, "calls are answered")
    end(running)
    until(lambda: sum(model.restarts for model in models(running)) >= 1, "it is replaced", 40)
    until(lambda: {model.state for model in models(running)} == {"ready"}, "its replacement is ready", 40)
    answered = callers.answered
    until(lambda: callers.answered > answered + 200, "calls are answered again")
    callers.stop()
    assert callers.failures == []
    # What a process held is at most one call of each caller, and nothing of the other process was lost.
    assert check.lost <= 6 * sum(model.restarts for model in models(running))
    assert lost_calls(running) >= check.lost
    assert before - {model.pid for model in models(running)}
    if end is ended_by_leaking:
        assert any("model_memory_bytes allows 500 MB" in model.last_death for model in models(running))


def resident(running: Gateway) -> int:
    """Bytes of all processes of the gateway together."""
    pids = [running.process.pid, *running.workers(), *(model.pid for model in models(running) if model.pid)]
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.timeout(400)
def test_unloading_gives_the_memory_back_twenty_times(running: Gateway) -> None:
    sums = models(running)[0].digest
    large = store_class(running.shelf, "kit.own_models:Large")
    until(lambda: all(model.rss_bytes for model in models(running)), "memory is measured")
    before = resident(running)
    for revision in range(2, 42, 2):
        running.publish(plan(revision, {1: sums, 2: large}))
        held = {model.pid for model in models(running) if model.digest == large}
        assert held
        assert resident(running) > before + (200 << 20)
        assert running.post("/v2/models/loans/versions/2/infer", {
            "inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]
        }).status_code == 200  # fmt: skip
        running.publish(plan(revision + 1, {1: sums}))
        until(lambda: {model.digest for model in models(running)} == {sums}, "it is unloaded")
        assert [pid for pid in held if Path(f"/proc/{pid}").exists()] == []
    assert resident(running) <= before * 1.05, "as it was before the first of twenty loads"


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_serving(running: Gateway) -> None:
    sums = models(running)[0].digest
    broken = store_class(running.shelf, "kit.own_models:Unready", {"weights.bin": b"1"})
    with pytest.raises(AssertionError, match="could not load: RuntimeError: the weights are not there"):
        running.publish(plan(2, {1: sums, 2: broken}))
    check = Checked()
    callers = Callers(running.port, INFER, ROWS, check).start(2)
    until(lambda: callers.answered > 100, "the old version answers")
    callers.stop()
    assert (callers.failures, check.lost) == ([], 0)
    until(lambda: {model.digest for model in models(running)} == {sums}, "it is not tried for ever", 30)


def test_a_gateway_worker_that_dies_finds_its_models_where_they_were(running: Gateway) -> None:
    before = {model.pid for model in models(running)}
    os.kill(running.workers()[0], signal.SIGKILL)
    until(lambda: (state := running.state()) and state.restarts, "it was replaced")
    running.wait_for(1)
    assert {model.pid for model in models(running)} == before
    assert running.post(INFER, ROWS[0]).status_code == 200


def test_a_table_s_version_is_served_by_its_own_framework(tmp_path: Path) -> None:
    model = fitted(lgb.LGBMClassifier(n_estimators=20, verbosity=-1, n_jobs=1), WHOLE, CODES)
    home = Home(tmp_path / "home").prepare()
    digest = Shelf(home.shelf).put(*package_model(model, WHOLE, "loans", runtime="native"))
    with gateway(tmp_path / "home", plan(1, {1: digest}), model_workers=1) as running:
        rows = WHOLE.head(20).to_dict("records")
        answer = running.post("/loans", rows)
        assert answer.status_code == 200, answer.text
        found = [one["probability"] for one in answer.json()["predictions"]]
        np.testing.assert_allclose(found, model.predict_proba(WHOLE.head(20))[:, 1], atol=1e-6)
        explained = running.post("/loans/explain", rows[0])
        assert explained.status_code == 200
        assert len(models(running)) == 1
        for pid in running.workers():  # the framework is in the model worker, and nowhere else
            maps = Path(f"/proc/{pid}/maps").read_text()
            assert not any(name in maps for name in ("lightgbm", "pandas", "sklearn"))
        assert "lightgbm" in Path(f"/proc/{models(running)[0].pid}/maps").read_text()


def test_nothing_is_left_when_the_gateway_ends(running: Gateway) -> None:
    pids = [model.pid for model in models(running)]
    assert len(pids) == 2
    running.stop()
    end = time.monotonic() + 5
    while time.monotonic() < end and any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.02)
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
    assert list((running.home.run / "models").glob("*.sock")) == []
