"""The runner: takes jobs from the queue, does each in a process of its own, and looks after the plan meanwhile.

`python -m modelyard.control.runner`. SIGTERM or SIGINT ends it cleanly: it gives back what it has not finished.
"""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from types import FrameType

from modelyard.contract.errors import ModelyardError, NotFound
from modelyard.contract.home import Home
from modelyard.contract.memory import machine_bytes, tree_bytes
from modelyard.contract.settings import Settings, load_settings
from modelyard.control.setup import environment_of, start

log = logging.getLogger("modelyard.control.runner")

POLL_S = 1.0
HEARTBEAT_S = 10.0
DUTIES_S = 30.0
WEIGH_S = 1.0  # between two looks at how much memory a job holds
GRACE_S = 5.0  # between asking a job to end and ending it
SLOTS = 1  # jobs at a time: training uses all cores itself


@dataclass
class Running:
    """One job under way."""

    job: object
    process: subprocess.Popen
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=200))
    reader: threading.Thread | None = None
    started_at: float = field(default_factory=time.monotonic)
    beaten_at: float = field(default_factory=time.monotonic)
    weighed_at: float = 0.0
    logged: int = 0
    heard: int = 0


class Runner:
    """Claims jobs, watches their processes, renews their leases."""

    def __init__(self, settings: Settings, slots: int = SLOTS) -> None:
        self.settings = settings
        self.slots = slots
        self.name = f"{socket.gethostname()}:{os.getpid()}"[-100:]
        self.stopping = threading.Event()
        self.running: list[Running] = []
        self._duties_at = 0.0

    def run(self) -> None:
        """Work until told to stop."""
        away = False
        while not self.stopping.is_set():
            try:
                busy = self.turn()
                if away:
                    log.info("the database answers again")
                away = False
            except Exception as error:  # the database may be away for a while; the runner outlives it
                from django.db import Error, connection

                if not isinstance(error, Error):
                    raise
                if not away:  # said once, not each second
                    log.warning("the database does not answer: %s; jobs wait for it", type(error).__name__)
                connection.close()
                away, busy = True, False
            self.stopping.wait(0.1 if busy else POLL_S)
        self.give_back()

    def turn(self) -> bool:
        """One look at everything; True if something moved."""
        from modelyard.control.jobs import services

        start(self.settings)  # a database that was restored or lost meanwhile is another one
        if time.monotonic() - self._duties_at >= DUTIES_S or not self._duties_at:
            self._duties_at = time.monotonic()
            self.do_duties()
        self.guard_rollouts()
        moved = any([self._watch(entry) for entry in list(self.running)])
        while len(self.running) < self.slots and (job := services.claim(self.name)) is not None:
            self.running.append(self._launch(job))
            moved = True
        return moved

    def guard_rollouts(self) -> None:
        """Look after the rollouts, and show that somebody does: without it gateways take the canaries' calls away."""
        from modelyard.control.rollouts.services import advance

        if advance():
            Home(self.settings.root).control_beat.touch(mode=0o600)

    def do_duties(self) -> None:
        """What comes round again: a plan that was not published, jobs that nobody asks about any more."""
        from modelyard.control.deployments.publish import publish_if_needed
        from modelyard.control.jobs.services import give_up_leases, prune
        from modelyard.control.registry.listing import list_names_again
        from modelyard.control.training.services import close_lost_runs

        try:
            if (revision := publish_if_needed()) is not None:
                log.info("published the plan again, revision %s", revision)
            list_names_again()
        except (ModelyardError, OSError) as error:
            log.error("the plan stays as it is: %s", error)
        close_lost_runs()
        prune()
        if lost := give_up_leases(self._runners_gone()):
            log.info("%s jobs of runners that are gone are due again", lost)

    def _runners_gone(self) -> set[str]:
        """Who held jobs on this machine and is no more; whoever had our name had it before us."""
        from modelyard.control.deployments.wait import is_alive
        from modelyard.control.jobs.services import runners

        gone = {self.name} if not self.running else set()
        for name in runners() - {self.name}:
            host, _, pid = name.rpartition(":")
            if host == self.name.rpartition(":")[0] and pid.isdecimal() and not is_alive(int(pid)):
                gone.add(name)
        return gone

    def give_back(self) -> None:
        """End what runs and put it back into the queue."""
        from modelyard.control.jobs.services import release

        for entry in list(self.running):
            _end_group(entry.process)
            self._forget(entry)
            release(entry.job)

    def _launch(self, job) -> Running:
        process = subprocess.Popen(
            [sys.executable, "-m", "modelyard.control.jobs.child", str(job.pk), str(job.attempt)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment_of(self.settings),
            start_new_session=True,
        )
        entry = Running(job, process)
        entry.reader = threading.Thread(target=_listen, args=(entry,), daemon=True)
        entry.reader.start()
        log.info("job %s: %s, attempt %s", job.pk, job.work, job.attempt)
        return entry

    def _watch(self, entry: Running) -> bool:
        from modelyard.control.jobs import services

        status = entry.process.poll()
        if status is not None:
            self._close(entry, status)
            return True
        now = time.monotonic()
        if now - entry.started_at > entry.job.timeout_s:
            _end_group(entry.process)
            self._forget(entry)
            services.fail(entry.job, f"not done within {entry.job.timeout_s} s", retry=False)
            return True
        if self._is_too_large(entry, now):
            return True
        if entry.heard != entry.logged:
            self._keep_log(entry)
        if self._must_stop(entry, now):
            _end_group(entry.process)
            self._forget(entry)
            services.stopped(entry.job)  # changes nothing if it has become somebody else's
            return True
        return False

    def _is_too_large(self, entry: Running, now: float) -> bool:
        """Whether the job was ended because of the memory that it and its processes hold."""
        from modelyard.control.jobs import services

        if now - entry.weighed_at < WEIGH_S:
            return False
        entry.weighed_at = now
        held, most = tree_bytes(entry.process.pid), self._memory_limit(entry.job)
        services.note_memory(entry.job, held)
        if held <= most:
            return False
        _end_group(entry.process)
        self._forget(entry)
        services.fail(entry.job, f"it held {held >> 20} MB of memory, above its limit of {most >> 20} MB", retry=False)
        return True

    def _memory_limit(self, job: object) -> int:
        return job.memory_bytes or self.settings.job_memory_bytes or machine_bytes() * 3 // 4

    def _must_stop(self, entry: Running, now: float) -> bool:
        from modelyard.control.jobs import services

        try:
            if services.find_job(entry.job.pk).cancel_asked:
                return True
        except NotFound:  # the database that knew it is gone
            return True
        if now - entry.beaten_at < HEARTBEAT_S:
            return False
        entry.beaten_at = now
        return not services.heartbeat(entry.job)

    def _close(self, entry: Running, status: int) -> None:
        from modelyard.control.jobs import services

        self._forget(entry)
        if status < 0:  # the child could not say so itself
            cause = signal.Signals(-status).name
            hint = "; the system may have run out of memory" if cause == "SIGKILL" else ""
            services.fail(entry.job, f"its process was ended by {cause}{hint}")
        elif status not in (0, 1, 2):
            services.fail(entry.job, f"its process ended with status {status}; the job's log says more")
        log.info("job %s ended with status %s", entry.job.pk, status)

    def _forget(self, entry: Running) -> None:
        self.running.remove(entry)
        entry.process.stdin.close()
        entry.reader.join(GRACE_S)
        self._keep_log(entry)

    def _keep_log(self, entry: Running) -> None:
        from modelyard.control.jobs.services import keep_log

        entry.logged = entry.heard
        keep_log(entry.job, list(entry.lines))


def _listen(entry: Running) -> None:
    with entry.process.stdout as stream:
        for line in iter(lambda: stream.readline(4096), b""):
            entry.lines.append(line.decode("utf-8", "replace").rstrip())
            entry.heard += 1


def _end_group(process: subprocess.Popen) -> None:
    """End a job and whatever it started: first asked, then made."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
            if sign is signal.SIGTERM:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # children that outlived their parent
            return


def main() -> int:
    """Run until SIGTERM or SIGINT; a database that it may not or cannot work on is said in one line, with status 2."""
    try:
        work(Runner(start(load_settings()[0])))
    except ModelyardError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def work(runner: Runner) -> None:
    """Take jobs until a signal says otherwise."""

    def stop(number: int, frame: FrameType | None) -> None:
        runner.stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    log.info("runner %s takes jobs", runner.name)
    runner.run()


if __name__ == "__main__":
    sys.exit(main())
