"""Jobs: claimed once, reclaimed when a runner is lost, retried later, ended cleanly. Time is given, not waited for."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest

from modelyard.contract.errors import Conflict, InvalidInput, Overloaded
from modelyard.contract.home import Home
from modelyard.control.setup import active_settings, environment_of

WORK = "modelyard.control.training.work.table_job"


@pytest.fixture
def queue(home: Home):
    """The verbs of jobs."""
    from modelyard.control.jobs import services

    return services


def add(queue, **options):
    return queue.enqueue(WORK, {"run_id": 99, "by": "test"}, by="test", **options)


def later(seconds: float):
    from django.utils import timezone

    return timezone.now() + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "work", ["os.system", "modelyard.control.work.f", "modelyard.serve.main.main", f"{WORK}.x", ""]
)
def test_only_work_is_done(queue, work: str) -> None:
    with pytest.raises(InvalidInput):
        queue.enqueue(work, {}, by="test")


def test_many_runners_never_share_a_job(queue) -> None:
    from django.db import connections

    wanted = {add(queue).pk for _ in range(24)}
    claimed: list[int] = []

    def run(name: str) -> None:
        while (job := queue.claim(name)) is not None:
            claimed.append(job.pk)
        connections.close_all()

    threads = [threading.Thread(target=run, args=(f"runner {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(wanted)


def test_a_lost_runners_job_goes_to_another_and_the_lost_one_changes_nothing(queue) -> None:
    add(queue)
    first = queue.claim("a")
    assert queue.claim("b") is None
    second = queue.claim("b", now=later(queue.LEASE_S + 1))
    assert (second.pk, second.attempt, second.runner) == (first.pk, 2, "b")
    assert not queue.heartbeat(first)
    assert not queue.finish(first, "late")
    assert not queue.fail(first, "late")
    queue.keep_log(first, ["late"])
    assert queue.finish(second, {"version": 1})
    ended = queue.find_job(first.pk)
    assert (ended.status, ended.result, ended.log) == ("succeeded", {"version": 1}, "")


def test_a_heartbeat_keeps_the_lease(queue) -> None:
    add(queue)
    job = queue.claim("a")
    assert queue.heartbeat(job, now=later(50))
    assert queue.claim("b", now=later(queue.LEASE_S + 1)) is None


def test_a_job_that_loses_every_runner_fails(queue) -> None:
    add(queue, max_attempts=2)
    queue.claim("a")
    queue.claim("b", now=later(100))
    assert queue.claim("c", now=later(200)) is None
    job = queue.find_job(1)
    assert (job.status, job.error) == ("failed", "its runner was lost")


def test_retries_wait_longer_each_time(queue) -> None:
    add(queue, max_attempts=3)
    pauses = []
    for _ in range(2):
        job = queue.claim("a", now=later(10_000))
        at = later(0)
        queue.fail(job, "no luck", now=at)
        pauses.append((queue.find_job(job.pk).run_after - at).total_seconds())
        assert queue.claim("a", now=at) is None
    assert pauses == [5.0, 10.0]
    queue.fail(queue.claim("a", now=later(10_000)), "no luck")
    assert queue.find_job(job.pk).status == "failed"


def test_what_cannot_succeed_is_not_tried_again(queue) -> None:
    add(queue)
    queue.fail(queue.claim("a"), "wrong input", retry=False)
    assert queue.find_job(1).status == "failed"


def test_cancelling(queue) -> None:
    waiting, running = add(queue), add(queue)
    queue.cancel(waiting.pk, by="test")
    assert queue.find_job(waiting.pk).status == "cancelled"
    job = queue.claim("a")
    assert job.pk == running.pk
    queue.cancel(running.pk, by="test")
    assert not queue.heartbeat(job)
    queue.stopped(job)
    assert queue.find_job(job.pk).status == "cancelled"
    with pytest.raises(Conflict, match="cancelled already"):
        queue.cancel(job.pk, by="test")


def test_the_queue_is_bounded(queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "MAX_QUEUED", 2)
    add(queue)
    add(queue)
    with pytest.raises(Overloaded, match="wait already"):
        add(queue)
    monkeypatch.setattr(queue, "KEPT", 1)
    for _ in range(2):
        queue.finish(queue.claim("a"), None)
    assert queue.prune() == 1


def test_a_log_keeps_its_last_lines(queue) -> None:
    add(queue)
    job = queue.claim("a")
    queue.keep_log(job, [f"line {number}" for number in range(1_000)])
    assert queue.find_job(job.pk).log.splitlines() == [f"line {number}" for number in range(800, 1_000)]


@pytest.fixture
def runner(home: Home) -> Iterator:
    """A runner whose turns the test takes."""
    from modelyard.control.runner import Runner

    runner = Runner(active_settings())
    yield runner
    runner.give_back()


def test_a_job_runs_in_a_process_of_its_own_and_says_why_it_failed(queue, runner) -> None:
    job = add(queue)
    runner.turn()
    assert runner.running[0].process.pid != os.getpid()
    runner.running[0].process.wait(60)
    runner.turn()
    job = queue.find_job(job.pk)
    assert (job.status, job.error, job.attempt) == ("failed", "there is no run 99", 1)
    assert "not_found: there is no run 99" in job.log


def test_a_killed_job_is_tried_again(queue, runner) -> None:
    job = add(queue)
    runner.turn()
    process = runner.running[0].process
    os.kill(process.pid, signal.SIGKILL)
    process.wait(60)
    runner.turn()
    job = queue.find_job(job.pk)
    assert (job.status, job.attempt) == ("queued", 1)
    assert "SIGKILL" in job.error


def test_a_job_ends_with_its_runner(queue, runner) -> None:
    add(queue)
    runner.turn()
    entry = runner.running[0]
    entry.process.stdin.close()  # as the kernel does when a runner dies
    assert entry.process.wait(60) == 3


def test_a_running_job_is_cancelled(queue, runner) -> None:
    job = add(queue)
    runner.turn()
    queue.cancel(job.pk, by="test")
    process = runner.running[0].process
    runner.turn()
    assert process.poll() is not None
    assert queue.find_job(job.pk).status == "cancelled"


def test_a_job_that_takes_too_long_is_ended(queue, runner) -> None:
    job = add(queue, timeout_s=1)
    runner.turn()
    runner.running[0].started_at -= 2
    runner.turn()
    job = queue.find_job(job.pk)
    assert (job.status, job.error) == ("failed", "not done within 1 s")


def test_a_stopping_runner_gives_its_job_back(queue, runner) -> None:
    job = add(queue, max_attempts=1)
    runner.turn()
    runner.give_back()
    job = queue.find_job(job.pk)
    assert (job.status, job.runner) == ("queued", "")
    assert queue.claim("another").pk == job.pk


def test_the_runner_ends_on_sigterm(queue) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "modelyard.control.runner"],
        env=environment_of(active_settings()),
        stderr=subprocess.PIPE,
        text=True,
    )
    line = process.stderr.readline()
    assert "takes jobs" in line
    process.terminate()
    assert process.wait(30) == 0
    process.stderr.close()


def test_the_runner_repairs_the_plan(home: Home, register, runner) -> None:
    from modelyard.control.deployments.services import deploy

    register()
    deploy("scores", by="test")
    home.plan.unlink()
    runner.do_duties()
    assert home.plan.exists()


@pytest.mark.parametrize("home", ["sqlite"], indirect=True)  # a file that is removed
def test_the_runner_notices_that_the_database_is_another_one(home: Home, register, runner) -> None:
    from modelyard.control.deployments.services import deploy

    register()
    deploy("scores", by="test")
    before, names = home.plan.read_bytes(), home.names.read_bytes()
    runner.turn()
    for path in home.root.glob("control.sqlite3*"):
        path.unlink()
    runner._duties_at = 0.0
    runner.turn()
    assert home.database.exists()
    assert (home.plan.read_bytes(), home.names.read_bytes()) == (before, names)  # a fresh one undeploys nothing
