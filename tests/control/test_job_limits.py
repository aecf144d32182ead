"""Jobs that hold too much, jobs of runners that are gone, and jobs that were asked for by django-tasks' interface."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kit.gateway import until
from modelyard.contract.errors import InvalidInput
from modelyard.contract.home import Home
from modelyard.contract.memory import tree_bytes
from modelyard.control.setup import active_settings

ON_SQLITE = pytest.mark.parametrize("home", ["sqlite"], indirect=True)
KIT = str(Path(__file__).parent.parent)


@pytest.fixture
def with_kit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job's own process finds the kit's tasks."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([KIT, os.environ.get("PYTHONPATH", "")]))


@contextmanager
def runner(**settings: Any) -> Iterator[Any]:
    from modelyard.control.runner import Runner

    working = Runner(msgspec.structs.replace(active_settings(), **settings))
    try:
        yield working
    finally:
        working.give_back()


def ended(working: Any, number: int) -> Callable[[], Any]:
    from modelyard.control.jobs.services import find_job

    def look() -> Any:
        working.turn()
        job = find_job(number)
        return job if job.finished_at else None

    return look


def test_a_task_is_a_job_and_its_result_comes_back(home: Home, with_kit: None) -> None:
    from django_tasks.base import TaskResultStatus
    from django_tasks.exceptions import TaskResultDoesNotExist

    from kit import tasks

    queued = tasks.add.enqueue(2, b=3)
    told = tasks.attempt.enqueue(word="hello")
    assert queued.status == TaskResultStatus.READY
    with runner() as working:
        until(ended(working, int(queued.id)), "the task is done")
        until(ended(working, int(told.id)), "the other one too")
    queued.refresh()
    assert (queued.status, queued.return_value) == (TaskResultStatus.SUCCESSFUL, 5)
    assert tasks.attempt.get_result(told.id).return_value == {"attempt": 1, "word": "hello"}
    with pytest.raises(TaskResultDoesNotExist):
        tasks.add.get_result("999999")


@ON_SQLITE
def test_a_task_that_fails_says_so(home: Home, with_kit: None) -> None:
    from django_tasks.base import TaskResultStatus

    from kit import tasks

    queued = tasks.fail.enqueue()
    from modelyard.control.jobs.models import Job

    Job.objects.update(max_attempts=1)
    with runner() as working:
        until(ended(working, int(queued.id)), "it has failed")
        until(lambda: working.turn() or not working.running, "its process is gone and its last lines are kept")
    assert "on purpose" in Job.objects.get(pk=queued.id).log
    queued.refresh()
    assert queued.status == TaskResultStatus.FAILED
    assert "ValueError" in queued.errors[0].traceback


@ON_SQLITE
def test_a_row_cannot_name_any_function(home: Home) -> None:
    from modelyard.control.jobs.backend import task_named

    for name in ("os.system", "modelyard.control.runner.main", "nothing", "kit.tasks.missing"):
        with pytest.raises(InvalidInput):
            task_named(name)


@ON_SQLITE
@pytest.mark.parametrize("by", ["the job's own", "the home's"])
def test_a_job_that_holds_too_much_is_ended_and_says_how_much(home: Home, with_kit: None, by: str) -> None:
    from kit import tasks
    from modelyard.control.jobs.models import Job

    queued = tasks.grow.enqueue(600)
    limit = 400 << 20
    if by == "the job's own":
        Job.objects.filter(pk=queued.id).update(memory_bytes=limit)
    with runner(job_memory_bytes=0 if by == "the job's own" else limit) as working:
        job: Any = until(ended(working, int(queued.id)), "it is ended", 60)
    assert job.status == Job.Status.FAILED
    assert job.attempt == 1, "trying again would end the same way"
    assert "above its limit of 400 MB" in job.error
    assert job.peak_bytes > limit


def test_what_a_lost_runner_of_this_machine_held_is_due_at_once(home: Home) -> None:
    from modelyard.control.jobs.services import claim, enqueue

    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    work = "modelyard.control.training.work.table_job"
    for who in (f"{socket.gethostname()}:{gone.pid}", f"{socket.gethostname()}:{os.getppid()}", "elsewhere:1"):
        enqueue(work, {"run_id": 1, "by": "test"}, by="test")
        assert claim(who) is not None
    from modelyard.control.jobs.models import Job

    with runner() as working:
        working.do_duties()
    again = claim("next")
    assert again is not None
    assert again.attempt == 2
    assert claim("next") is None, "a runner that lives keeps its job, and so does another machine's"
    assert Job.objects.filter(status=Job.Status.RUNNING).count() == 3


def test_a_tree_of_processes_is_weighed_whole() -> None:
    hold = "held = bytearray(b'x') * (64 << 20)"
    program = f"import subprocess, sys; {hold}; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    child = f"{hold}; print(flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", program, child], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert tree_bytes(process.pid) > 128 << 20
    finally:
        process.communicate(b"\n", timeout=30)
