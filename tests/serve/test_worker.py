"""A model worker's process: how it lives, what it may take, how it dies, and what is left: nothing but a report."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from kit.gateway import until
from kit.model_workers import KIT_PATH, ModelWorkers, model_workers, store_class
from modelyard.contract import memory
from modelyard.contract.errors import ModelyardError, NotReady
from modelyard.contract.settings import cores
from modelyard.serve import model_processes
from modelyard.serve.model_processes import KEPT_LINES, LINGER_S, PostMortem
from modelyard.serve.seats import models_folder


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelWorkers]:
    monkeypatch.setenv("MODELYARD_DATABASE_URL", "postgres://user:secret@host/name")
    with model_workers(tmp_path / "h", model_memory_bytes=400 << 20) as running:
        yield running


def x(*values: float) -> Any:
    return {"x": np.array(values, dtype=np.float32)}


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def post_mortem(workers: ModelWorkers) -> PostMortem:
    (path,) = models_folder(workers.home).glob("*.json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return msgspec.json.decode(path.read_bytes(), type=PostMortem)


def test_how_it_lives(workers: ModelWorkers) -> None:
    version = workers.open(store_class(workers.shelf, "kit.own_models:Habits"))
    says = json.loads(version.predict(x(1))["says"][0])
    assert says["session"]  # signals of a terminal do not reach it
    assert says["core"] == [0, 0]
    assert says["umask"] == 0o077
    assert says["threads"] == str(cores())
    assert says["settings"] == []  # they may hold secrets
    assert says["one_thread"]  # as `setup`
    assert says["heavy"] == []
    kinds = [entry.partition(" ")[2].partition(":")[0] for entry in says["descriptors"]]
    assert sorted(set(kinds) - {"pipe", "socket", "anon_inode"}) == ["/dev/null", "/memfd"]
    assert kinds.count("socket") == 5  # parent, listener, this caller, and the pair that a signal wakes
    version.close()


def test_a_death_leaves_a_report_and_no_child(workers: ModelWorkers) -> None:
    version = workers.open(store_class(workers.shelf, "kit.own_models:Habits"))
    with pytest.raises(NotReady):
        version.predict(x(-1))
    until(lambda: workers.state().restarts == 1, "it was replaced")
    report = post_mortem(workers)
    assert (report.status, report.signal, report.killed_by_memory) == (7, "", False)
    assert report.cause == "ended with status 7"
    assert list(report.lines) == [f"line {number}" for number in range(500 - KEPT_LINES, 500)]
    assert workers.state().last_death.endswith(f"pid {report.pid} ended with status 7")
    children = subprocess.run(["pgrep", "-g", str(report.pid)], capture_output=True, text=True, check=False)
    assert [pid for pid in children.stdout.split() if is_alive(int(pid))] == []
    version.close()


def test_the_last_words_of_a_crash_are_kept(workers: ModelWorkers) -> None:
    version = workers.open(store_class(workers.shelf, "kit.own_models:Sums"))
    with pytest.raises(NotReady):
        version.predict({"x": np.array([[-5, 0, 0]], dtype=np.float32)})
    report = until(lambda: list(models_folder(workers.home).glob("*.json")) and post_mortem(workers), "a report")
    assert isinstance(report, PostMortem)
    assert report.signal == "SIGABRT"
    assert "the last words" in report.lines
    assert any("own_models.py" in line for line in report.lines)  # where it happened
    version.close()


def test_who_takes_too_much_memory_is_ended_and_replaced(workers: ModelWorkers) -> None:
    version = workers.open(store_class(workers.shelf, "kit.own_models:Sums"))
    leak = {"x": np.array([[-3, 0, 0]], dtype=np.float32)}  # 200 MB with each call
    with pytest.raises(NotReady):
        until(lambda: version.predict(leak) is None, "never")
    report = until(lambda: list(models_folder(workers.home).glob("*.json")) and post_mortem(workers), "a report")
    assert isinstance(report, PostMortem)
    assert report.killed_by_memory
    assert "model_memory_bytes allows 400 MB" in report.cause
    assert version.predict({"x": np.ones((1, 3), dtype=np.float32)})["total"].tolist() == [3.0]
    version.close()


def test_the_kernel_s_own_kills_are_known_as_far_as_can_be(
    workers: ModelWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = workers.open(store_class(workers.shelf, "kit.own_models:Sums"))
    monkeypatch.setattr(model_processes, "oom_kills", lambda: memory.oom_kills() + 1)
    os.kill(workers.pid(), signal.SIGKILL)
    report = until(lambda: list(models_folder(workers.home).glob("*.json")) and post_mortem(workers), "a report")
    assert isinstance(report, PostMortem)
    assert report.killed_by_memory
    assert report.cause == "was killed by SIGKILL while the kernel was out of memory"
    version.close()


def test_what_nobody_wants_is_unloaded_and_gives_its_memory_back(workers: ModelWorkers) -> None:
    version = workers.open(store_class(workers.shelf, "kit.own_models:Large"))
    pid = workers.pid()
    until(lambda: workers.state().rss_bytes > 200 << 20, "its weights are resident")
    version.close()
    assert is_alive(pid)
    workers.wanted.clear()
    until(lambda: not is_alive(pid), "it is gone", LINGER_S + 10)
    until(lambda: workers.states() == (), "nothing is left of it")
    assert list(models_folder(workers.home).iterdir()) == []  # neither a socket nor a post-mortem: it did not die


def test_who_dies_again_and_again_rests_longer_and_longer(workers: ModelWorkers) -> None:
    version = workers.open(store_class(workers.shelf, "kit.own_models:Sums"))
    refused = ""
    for _ in range(8):
        try:
            version.predict({"x": np.array([[-1, 0, 0]], dtype=np.float32)})
        except NotReady as error:
            if "no process holds own" in (refused := str(error)):
                break
    assert refused.endswith("it is being started again")  # at once, by the parent: none runs
    with pytest.raises(NotReady, match="its process was killed by SIGKILL"):  # who deploys is told why
        version.connect(1.0)
    assert workers.state().restarts >= 3
    version.close()


def test_threads_are_as_many_as_are_set(tmp_path: Path) -> None:
    with model_workers(tmp_path / "h", threads=7) as workers:
        version = workers.open(store_class(workers.shelf, "kit.own_models:Habits"))
        assert json.loads(version.predict(x(1))["says"][0])["threads"] == "7"
        version.close()


@pytest.mark.parametrize("setting", [1, 2])
def test_a_version_has_as_many_processes_as_are_set(tmp_path: Path, setting: int) -> None:
    with model_workers(tmp_path / "h", model_workers=setting) as workers:
        digest = store_class(workers.shelf, "kit.own_models:Sums")
        versions = [workers.open(digest, worker) for worker in range(2)]
        row = {"x": np.ones((1, 3), dtype=np.float32)}
        pids = {int(version.predict(row)["pid"][0]) for version in versions}
        assert len(pids) == len(workers.states()) == setting
        for version in versions:
            version.close()


PARENT = """
import sys, time
from pathlib import Path
from kit.model_workers import ModelWorkers
workers = ModelWorkers(Path(sys.argv[1]))
version = workers.open(sys.argv[2])
print(workers.pid(), flush=True)
time.sleep(60)
"""


def test_nothing_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    with model_workers(tmp_path / "h") as workers:
        digest = store_class(workers.shelf, "kit.own_models:Sums")
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "h"), digest], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": KIT_PATH},
    )  # fmt: skip
    assert parent.stdout is not None
    pid = int(next(line for line in parent.stdout if line.strip().isdecimal()))
    assert is_alive(pid)
    parent.kill()
    parent.wait(10)
    parent.stdout.close()
    until(lambda: not is_alive(pid), "the model worker is gone", 5)


def test_a_process_without_its_artifact_says_so(workers: ModelWorkers) -> None:
    digest = store_class(workers.shelf, "kit.own_models:Sums")
    (workers.home.shelf / digest / "manifest.json").write_text("{}")
    workers.wanted.add(digest)
    until(lambda: list(models_folder(workers.home).glob("*.json")), "a report")
    assert "the manifest was changed after it was stored" in post_mortem(workers).cause


def test_a_process_that_cannot_be_started_is_tried_again(
    workers: ModelWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = store_class(workers.shelf, "kit.own_models:Sums")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "no more processes")

    with monkeypatch.context() as patch:
        patch.setattr(model_processes.subprocess, "Popen", full)
        with pytest.raises(NotReady, match="could not be started: no more processes"):
            workers.open(digest)
    descriptors = len(os.listdir("/proc/self/fd"))
    until(lambda: workers.state().state == "ready", "it is there after all")
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 4  # what failed left nothing open
    workers.open(digest).close()


def test_what_is_not_on_the_shelf_is_not_started(workers: ModelWorkers) -> None:
    with pytest.raises(ModelyardError, match="no artifact"):
        workers.open("0" * 64)
    assert workers.states() == ()


def test_a_home_may_lie_deeper_than_a_socket_address_is_long(tmp_path: Path) -> None:
    with model_workers(tmp_path / ("deep" * 20) / ("er" * 40)) as workers:
        version = workers.open(store_class(workers.shelf, "kit.own_models:Sums"))
        assert version.predict({"x": np.ones((1, 3), dtype=np.float32)})["total"].tolist() == [3.0]
        version.close()


def test_a_supervisor_ends_what_it_started_also_what_is_stopped(tmp_path: Path) -> None:
    with model_workers(tmp_path / "h") as workers:
        workers.open(store_class(workers.shelf, "kit.own_models:Sums")).close()
        pid = workers.pid()
        os.kill(pid, signal.SIGSTOP)
    assert not is_alive(pid)
