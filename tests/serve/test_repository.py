"""Unloading and loading planned versions: one file, many workers, no change lost and none half seen."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kit.race import race
from modelyard.contract.errors import DeadlineExceeded, InvalidInput, ModelyardError, NotReady, Overloaded, Undecodable
from modelyard.serve import repository
from modelyard.serve.repository import Evicted


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "evicted.json"


def test_nothing_is_evicted_at_first(path: Path) -> None:
    evicted = Evicted(path)
    assert not evicted.changed()
    assert not evicted.is_evicted("loans", 1)
    assert (evicted.revision, evicted.state_of("loans", 1)) == (0, "READY")
    assert not path.exists()


def test_a_version_goes_and_comes_back_through_four_states(path: Path) -> None:
    evicted = Evicted(path)
    assert evicted.evict("loans", [1, 2]) == 1
    assert evicted.changed()
    assert not evicted.changed()
    assert evicted.state_of("loans", 1) == "UNLOADING"
    assert evicted.is_evicted("loans", 1)
    evicted.settle(evicted.wanted)
    assert evicted.state_of("loans", 1) == "UNAVAILABLE"
    assert evicted.restore("loans", [1]) == 2
    assert evicted.changed()
    assert evicted.state_of("loans", 1) == "LOADING"
    assert evicted.is_evicted("loans", 1)  # until it is there again
    evicted.settle(evicted.wanted)
    assert evicted.state_of("loans", 1) == "READY"
    assert not evicted.is_evicted("loans", 1)
    assert evicted.is_evicted("loans", 2)
    assert not evicted.is_evicted("cards", 2)


def test_workers_follow_each_other_and_a_new_one_starts_as_the_file_says(path: Path) -> None:
    one, other = Evicted(path), Evicted(path)
    one.evict("loans", [1])
    other.evict("cards", [7])
    for evicted in (one, other, Evicted(path)):
        evicted.changed()
        assert evicted.wanted == {("loans", 1), ("cards", 7)}
        assert evicted.revision == 2


def test_what_changes_nothing_has_no_revision(path: Path) -> None:
    evicted = Evicted(path)
    assert evicted.restore("loans", [1]) == 0
    assert evicted.evict("loans", [1]) == evicted.evict("loans", [1]) == 1


PREPARE = """
import os
from pathlib import Path
from modelyard.contract.errors import Overloaded
from modelyard.serve.repository import Evicted

evicted = Evicted(Path(sys.argv[1]))

def evict(number):
    while True:
        try:
            return evicted.evict(f"e{os.getpid()}", [number])
        except Overloaded:  # as told: try again
            pass
"""


def test_changes_at_once_are_all_kept(path: Path) -> None:
    assert race(PREPARE, "print(evict(1) < [evict(n) for n in range(2, 26)][-1])", str(path)) == ["True"] * 4
    evicted = Evicted(path)
    assert len(evicted.wanted) == evicted.revision == 100
    assert [name.name for name in path.parent.iterdir() if name.suffix not in (".json", ".lock")] == []


def test_a_file_that_cannot_be_read_changes_nothing(path: Path) -> None:
    evicted = Evicted(path)
    evicted.evict("loans", [1])
    evicted.changed()
    path.write_text("{")
    assert not evicted.changed()
    assert evicted.is_evicted("loans", 1)
    assert evicted.evict("loans", [2]) == 2  # and the next change writes it anew
    assert Evicted(path).wanted == {("loans", 1), ("loans", 2)}


def test_a_stuck_change_is_told_in_time(path: Path) -> None:
    evicted = Evicted(path)
    evicted.evict("loans", [1])
    with open(path.with_suffix(".lock"), "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Overloaded, match="try again"):
            evicted.restore("loans", [1])
    assert evicted.restore("loans", [1]) == 2


def test_the_file_is_its_owners_alone(path: Path) -> None:
    Evicted(path).evict("loans", [1])
    assert os.stat(path).st_mode & 0o077 == 0
    assert os.stat(path.with_suffix(".lock")).st_mode & 0o077 == 0


def routes() -> Any:
    planned = {"loans": {1: None, 2: None}, "cards": {5: None}}
    return SimpleNamespace(
        names=sorted(planned), endpoint=lambda name: SimpleNamespace(name=name, deployments=planned[name])
    )


def test_the_index_tells_every_planned_version(path: Path) -> None:
    evicted = Evicted(path)
    evicted.evict("loans", [1])
    evicted.changed()
    evicted.settle(evicted.wanted)
    rows = json.loads(repository.index(routes(), evicted, ready_only=False))
    assert rows == [
        {"name": "cards", "version": "5", "state": "READY", "reason": ""},
        {"name": "loans", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"},
        {"name": "loans", "version": "2", "state": "READY", "reason": ""},
    ]
    ready = json.loads(repository.index(routes(), evicted, ready_only=True))
    assert [row["version"] for row in ready] == ["5", "2"]


@pytest.mark.parametrize("body", [b"", b"{}", b'{"parameters":{}}'])
def test_bodies_may_be_empty(body: bytes) -> None:
    repository.check_load(body)
    repository.check_unload(body)


def test_an_index_may_ask_for_the_ready_ones() -> None:
    assert repository.wants_ready_only(b'{"ready":true}')
    assert not repository.wants_ready_only(b"")
    with pytest.raises(Undecodable, match="ready"):
        repository.wants_ready_only(b'{"ready":1}')


@pytest.mark.parametrize("name", ["config", "file:1/model.onnx", "anything"])
def test_load_takes_no_other_model_than_the_plans(name: str) -> None:
    with pytest.raises(InvalidInput, match=name):
        repository.check_load(json.dumps({"parameters": {name: "e30="}}).encode())


def test_unload_takes_dependents_for_what_they_are() -> None:
    repository.check_unload(b'{"parameters":{"unload_dependents":true}}')
    for body in (b'{"parameters":{"unload_dependents":1}}', b'{"parameters":{"config":"{}"}}'):
        with pytest.raises(InvalidInput):
            repository.check_unload(body)


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"parameter":{}}', b'{"parameters":{"a":{}}}', b"\xff", b"[" * 99999])
def test_other_bodies_are_refused(body: bytes) -> None:
    for check in (repository.check_load, repository.check_unload):
        with pytest.raises(Undecodable):
            check(body)


def test_a_change_is_answered_when_every_worker_follows(tmp_path: Path) -> None:
    state = tmp_path / "gateway.json"
    told: list[ModelyardError | None] = []

    def write(*revisions: int) -> None:
        state.write_text(json.dumps({"pid": 1, "workers": [{"worker": 0, "repository": r} for r in revisions]}))

    async def ask(seconds: float, *later: int) -> None:
        write(3, 2)
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def tell(error: ModelyardError | None) -> None:
            told.append(error)
            done.set()

        repository.when_followed(state, 3, tell, loop, seconds)
        assert not told
        if later:
            write(*later)
        await asyncio.wait_for(done.wait(), 10)

    asyncio.run(ask(10.0, 3, 4))
    assert told == [None]
    told.clear()
    asyncio.run(ask(0.1))
    assert isinstance(told[0], DeadlineExceeded)
    state.unlink()
    assert not repository.follows(state, 0)


def test_a_call_of_what_is_unloaded_learns_how_to_load_it() -> None:
    error = repository.not_ready("loans", 3)
    assert isinstance(error, NotReady)
    assert "'loans' version 3 is not at ready state" in str(error)
    assert "/v2/repository/models/loans/load" in str(error)
