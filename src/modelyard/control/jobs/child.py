"""One job in a process of its own: whatever it does to memory or by crashing stays here.

`python -m modelyard.control.jobs.child JOB ATTEMPT`, started by the runner. Standard input is a lifeline: when the
runner dies the pipe closes, and so does this process, so that a job is never done twice at a time.
"""

import os
import sys
import threading
import time
import traceback
from importlib import import_module
from typing import Any

from modelyard.contract.errors import ModelyardError
from modelyard.control.setup import start

REPORT_EVERY_S = 1.0


class JobProgress:
    """What the job says of itself: on the terminal for its log, and in its row."""

    def __init__(self, job: Any) -> None:
        self._job = job
        self._title = ""
        self._told_at = 0.0

    def step(self, title: str, detail: str = "") -> None:
        """A new step begins."""
        self._title = title
        print(f"{title}: {detail}" if detail else title, flush=True)
        self._tell(0.0)

    def tick(self, done: int, total: int) -> None:
        """So much of the step is done; told once a second at most."""
        if time.monotonic() - self._told_at >= REPORT_EVERY_S:
            self._tell(done / total if total else 0.0)

    def _tell(self, share: float) -> None:
        from modelyard.control.jobs.services import report

        self._told_at = time.monotonic()
        report(self._job, self._title, share)


def main(arguments: list[str]) -> int:
    """Do one claimed job; its end is written to its row. 0: succeeded, 1: failed, 2: it is not ours any more."""
    threading.Thread(target=_leave_with_the_runner, daemon=True).start()
    start()
    from modelyard.control.jobs import services

    number, attempt = (int(argument) for argument in arguments)
    job = services.find_job(number)
    if job.attempt != attempt or job.status != job.Status.RUNNING:
        return 2
    try:
        result = _done(job)
    except ModelyardError as error:
        print(f"{error.code}: {error}", flush=True)
        services.fail(job, str(error), retry=error.retryable)
        return 1
    except Exception as error:
        traceback.print_exc()
        services.fail(job, f"{type(error).__name__}; the job's log says more")
        return 1
    return 0 if services.finish(job, result) else 2


def _done(job: Any) -> Any:
    if job.is_task:
        from modelyard.control.jobs.backend import do_task

        return do_task(job)
    module, _, function = job.work.rpartition(".")
    return getattr(import_module(module), function)(progress=JobProgress(job), **job.arguments)


def _leave_with_the_runner() -> None:
    sys.stdin.buffer.read()
    os._exit(3)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
