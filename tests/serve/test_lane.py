"""The lane: what would hold the loop up is computed beside it, in turns, in parts, and answered once."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modelyard.contract.errors import DeadlineExceeded, ModelFailed, ModelyardError, Overloaded
from modelyard.contract.tensor import Inputs, Tensors, joined
from modelyard.serve.call import Batch, Call
from modelyard.serve.counters import Counters
from modelyard.serve.replica import Replica

SLOW = {1: 0.01, 8: 0.01}  # seconds by batch size: never inline, 16 rows in 20 ms


class Doubling:
    """A version that doubles numbers when the test lets it, and fails on negative ones."""

    is_table = False
    decision = None
    encoder: Any = None

    def __init__(self, *, independent_rows: bool = True) -> None:
        self.manifest: Any = SimpleNamespace(independent_rows=independent_rows)
        self.batches: list[list[float]] = []
        self.may_run = threading.Semaphore(0)

    def predict(self, inputs: Inputs) -> Tensors:
        assert isinstance(inputs, dict)
        assert self.may_run.acquire(timeout=20)
        values = inputs["x"]
        self.batches.append(values.tolist())
        if (values < 0).any():
            raise RuntimeError("negative")
        return {"y": values * 2}

    def predict_joined(self, parts: Any) -> Tensors:
        return self.predict(joined(parts))

    def explain(self, matrix: Any) -> None:
        return None

    def close(self) -> None:
        """Nothing to free."""


class Asker:
    """Whoever calls, and what it heard."""

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.is_gone = False
        self.heard: list[object] = []

    def refuse(self, error: ModelyardError) -> None:
        self.heard.append(type(error))

    def respond(self, *_: object) -> None:
        raise AssertionError("not asked here")


class Yard:
    """A replica with callers."""

    def __init__(self, version: Doubling, folder: Path, max_queued_rows: int = 1000) -> None:
        self.version = version
        self.counters = Counters(folder, 0)
        loop = asyncio.get_running_loop()
        self.replica = Replica(version, SLOW, 0.0, loop, self.counters, max_queued_rows, "doubling")
        self.telemetry = SimpleNamespace(note=lambda *_: None, failed=lambda *_: None)

    def __enter__(self) -> Yard:
        return self

    def __exit__(self, *_: object) -> None:
        self.let(1000)
        self.replica.close()
        self.counters.close()

    def ask(self, *values: float, owner: str = "a", seconds: float = 20.0, priority: int = 5) -> Asker:
        asker = Asker()

        def say(call: Call, batch: Batch, start: int) -> None:
            asker.heard.append(batch.outputs["y"][start : start + call.rows].tolist())

        now = time.monotonic_ns()
        principal: Any = SimpleNamespace(name=owner)
        telemetry: Any = self.telemetry
        call = Call(asker, principal, say, telemetry, now, now + int(seconds * 1e9))
        call.deployment = SimpleNamespace(cutoff=None, endpoint="doubling")  # type: ignore[assignment]
        call.inputs, call.rows, call.priority = {"x": np.array(values)}, len(values), priority
        self.replica.submit(call)
        return asker

    def let(self, batches: int) -> None:
        """Let the model run so often."""
        for _ in range(batches):
            self.version.may_run.release()

    async def settled(self) -> None:
        """Until nothing waits or runs."""
        async with asyncio.timeout(20):
            while not self.replica.is_idle:
                await asyncio.sleep(0.005)


def test_what_waits_while_a_batch_runs_is_the_next_batch(tmp_path: Path) -> None:
    async def story() -> None:
        with Yard(Doubling(), tmp_path) as yard:
            first = yard.ask(1.0)
            await asyncio.sleep(0.02)  # the lane has taken it; whether it has or not, the answers are the same
            others = [yard.ask(float(value)) for value in (2, 3, 4)]
            yard.let(4)
            await yard.settled()
            assert first.heard == [[2.0]]
            assert [other.heard for other in others] == [[[4.0]], [[6.0]], [[8.0]]]
            assert len(yard.version.batches) <= 2

    asyncio.run(story())


def test_a_large_call_comes_in_parts_and_a_small_one_gets_in_between(tmp_path: Path) -> None:
    async def story() -> None:
        with Yard(Doubling(), tmp_path) as yard:
            large = yard.ask(*map(float, range(100)), owner="bulk")
            small = yard.ask(7.0, owner="one")
            yard.let(3)
            async with asyncio.timeout(20):
                while not small.heard:
                    await asyncio.sleep(0.005)
            assert large.heard == [], "the small call did not wait for the large one"
            yard.let(100)
            await yard.settled()
            assert small.heard == [[14.0]]
            assert large.heard == [[2.0 * value for value in range(100)]]
            assert max(map(len, yard.version.batches)) <= yard.replica.lane.max_rows

    asyncio.run(story())


def test_one_callers_bad_row_fails_no_other(tmp_path: Path) -> None:
    async def story() -> None:
        with Yard(Doubling(), tmp_path) as yard:
            askers = [yard.ask(value) for value in (1.0, -1.0, 3.0)]
            yard.let(10)
            await yard.settled()
            assert [asker.heard for asker in askers] == [[[2.0]], [ModelFailed], [[6.0]]]

    asyncio.run(story())


def test_rows_that_depend_on_their_neighbours_are_never_joined_nor_split(tmp_path: Path) -> None:
    async def story() -> None:
        with Yard(Doubling(independent_rows=False), tmp_path) as yard:
            many = [float(value) for value in range(50)]
            askers = [yard.ask(1.0), yard.ask(*many), yard.ask(2.0)]
            yard.let(3)
            await yard.settled()
            assert yard.version.batches == [[1.0], many, [2.0]]
            assert [len(asker.heard) for asker in askers] == [1, 1, 1]

    asyncio.run(story())


def test_a_deadline_is_told_while_a_batch_runs_and_late_work_is_not_computed(tmp_path: Path) -> None:
    async def story() -> None:
        with Yard(Doubling(), tmp_path) as yard:
            running = yard.ask(1.0, seconds=0.2)
            await asyncio.sleep(0.02)
            waiting = yard.ask(2.0, seconds=0.2)
            async with asyncio.timeout(5):
                while not (running.heard and waiting.heard):
                    await asyncio.sleep(0.01)
            assert running.heard == waiting.heard == [DeadlineExceeded]
            yard.let(1)
            await yard.settled()
            assert yard.version.batches in ([[1.0]], [])
            assert running.heard == [DeadlineExceeded], "an answer that comes later is not given"

    asyncio.run(story())


def test_a_caller_who_left_is_dropped_with_all_his_parts(tmp_path: Path) -> None:
    async def story() -> None:
        with Yard(Doubling(), tmp_path) as yard:
            left = yard.ask(*map(float, range(200)))
            left.is_gone = True
            stays = yard.ask(5.0, owner="other")
            yard.let(20)
            await yard.settled()
            assert stays.heard == [[10.0]]
            assert left.heard == []
            assert sum(map(len, yard.version.batches)) <= 200 // 2
            assert yard.replica.queued_rows == 0

    asyncio.run(story())


def test_the_queue_is_bounded_in_rows(tmp_path: Path) -> None:
    async def story() -> None:
        with Yard(Doubling(), tmp_path, max_queued_rows=10) as yard:
            yard.ask(*map(float, range(8)))
            with pytest.raises(Overloaded, match="max_queued_rows=10"):
                yard.ask(1.0, 2.0, 3.0)
            yard.let(5)
            await yard.settled()

    asyncio.run(story())


def test_an_urgent_call_goes_before_its_owners_others(tmp_path: Path) -> None:
    async def story() -> None:
        with Yard(Doubling(), tmp_path) as yard:
            yard.ask(*map(float, range(16)))  # fills the lane's first batch
            usual = [yard.ask(*[float(value)] * 16) for value in range(100, 103)]
            urgent = yard.ask(*[1.0] * 16, priority=1)
            yard.let(1)
            yard.let(10)
            await yard.settled()
            order = [batch[0] for batch in yard.version.batches]
            assert order.index(1.0) < order.index(101.0)
            assert all(asker.heard for asker in (*usual, urgent))

    asyncio.run(story())
