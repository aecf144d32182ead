"""The verbs that move a job: enqueue, claim, heartbeat, finish, fail, release, cancel, prune.

A claim is a lease: whoever holds it says so again before it runs out, or somebody else takes the job. `attempt` fences:
a runner that was thought dead and comes back finds its number gone and changes nothing.
"""

import re
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from modelyard.contract.errors import Conflict, InvalidInput, NotFound, Overloaded
from modelyard.control.accounts.audit import record
from modelyard.control.jobs.models import Job

LEASE_S = 60.0
MAX_QUEUED = 1_000
KEPT = 1_000  # finished jobs that are remembered
LOG_LINES = 200
LOG_CHARACTERS = 20_000
BACK_OFF_S = 5.0
MAX_BACK_OFF_S = 600.0
_WORK = re.compile(r"modelyard\.control\.[a-z_]+\.work\.[a-z][a-z_]*")


@transaction.atomic
def enqueue(
    work: str, arguments: Mapping[str, Any], *, by: str, max_attempts: int = 3, timeout_s: int = 3600,
    memory_bytes: int = 0, run_after: datetime | None = None, is_task: bool = False,
) -> Job:  # fmt: skip
    """Queue a function of some app's `work.py`, or a task of django-tasks, whose arguments are its own.

    Raises Overloaded when a thousand jobs wait already.
    """
    if not is_task and not _WORK.fullmatch(work):
        raise InvalidInput("a job's work is a function in modelyard.control.APP.work")
    if max_attempts < 1 or timeout_s < 1 or memory_bytes < 0:
        raise InvalidInput("max_attempts and timeout_s are at least 1, memory_bytes at least 0")
    if Job.objects.filter(status=Job.Status.QUEUED).count() >= MAX_QUEUED:
        raise Overloaded(f"{MAX_QUEUED} jobs wait already; try again when some are done")
    job = Job.objects.create(
        work=work,
        arguments=dict(arguments),
        is_task=is_task,
        max_attempts=max_attempts,
        timeout_s=timeout_s,
        memory_bytes=memory_bytes,
        run_after=run_after or timezone.now(),
        created_by=by,
    )
    record(by, "enqueue", f"job {job.pk}", {"work": work})
    return job


def claim(runner: str, now: datetime | None = None, lease_s: float = LEASE_S) -> Job | None:
    """The next job to do, now leased to `runner`; None if nothing is due. Never gives one job to two runners."""
    now = now or timezone.now()
    if not _due(now).exists():  # a plain read: an idle runner never takes the write lock
        return None
    with transaction.atomic():
        for job in _due(now).order_by("run_after", "pk")[:10]:
            # The condition is what counts: of two that read the same row only one changes it.
            mine = Job.objects.filter(pk=job.pk, status=job.status, attempt=job.attempt)
            if job.status == Job.Status.RUNNING and (job.cancel_asked or job.attempt >= job.max_attempts):
                end = Job.Status.CANCELLED if job.cancel_asked else Job.Status.FAILED
                mine.update(status=end, finished_at=now, lease_until=None, error="its runner was lost", runner="")
                continue
            taken = mine.update(
                status=Job.Status.RUNNING,
                attempt=job.attempt + 1,
                runner=runner,
                lease_until=now + timedelta(seconds=lease_s),
                started_at=now,
                step="",
                progress=0.0,
                error="",
            )
            if taken:
                return Job.objects.get(pk=job.pk)
    return None


def heartbeat(job: Job, now: datetime | None = None, lease_s: float = LEASE_S) -> bool:
    """Hold the lease a little longer. False: the job was cancelled or is somebody else's; stop it."""
    until = (now or timezone.now()) + timedelta(seconds=lease_s)
    return bool(_held(job).filter(cancel_asked=False).update(lease_until=until))


def note_memory(job: Job, peak_bytes: int) -> None:
    """The most that the job's processes were seen to hold."""
    _held(job).filter(peak_bytes__lt=peak_bytes).update(peak_bytes=peak_bytes)


def give_up_leases(runners: Collection[str]) -> int:
    """Jobs of runners that are known to be gone are due at once, before their leases run out; how many there were."""
    lost = Job.objects.filter(status=Job.Status.RUNNING, runner__in=runners)
    return lost.update(lease_until=timezone.now())


def runners() -> set[str]:
    """Who holds jobs, by the names that they claimed with."""
    return set(Job.objects.filter(status=Job.Status.RUNNING).values_list("runner", flat=True))


def report(job: Job, step: str, progress: float) -> None:
    """Say how far the job is."""
    _held(job).update(step=_storable(step)[:200], progress=min(max(progress, 0.0), 1.0))


def keep_log(job: Job, lines: list[str]) -> None:
    """Keep the last lines of what the job said, its very last ones too, which arrive after its end."""
    Job.objects.filter(pk=job.pk, attempt=job.attempt).update(
        log=_storable("\n".join(lines[-LOG_LINES:]))[-LOG_CHARACTERS:]
    )


def finish(job: Job, result: Any, now: datetime | None = None) -> bool:
    """The job is done. False if it was somebody else's by then."""
    changes = {"status": Job.Status.SUCCEEDED, "result": result, "progress": 1.0}
    return _end(job, changes, now)


def fail(job: Job, error: str, *, retry: bool = True, now: datetime | None = None) -> bool:
    """The job failed: it waits for another attempt, later each time, unless that is useless or there were enough."""
    now = now or timezone.now()
    if retry and job.attempt < job.max_attempts:
        pause = min(BACK_OFF_S * 2 ** (job.attempt - 1), MAX_BACK_OFF_S)
        return bool(
            _held(job).update(
                status=Job.Status.QUEUED,
                run_after=now + timedelta(seconds=pause),
                lease_until=None,
                runner="",
                error=_storable(error)[:2000],
            )
        )
    return _end(job, {"status": Job.Status.FAILED, "error": _storable(error)[:2000]}, now)


def release(job: Job) -> bool:
    """Give the job back untouched: the runner stops, and it was not the job's fault."""
    # `attempt` stays, because it fences off this claim; one more is allowed instead.
    return bool(
        _held(job).update(
            status=Job.Status.QUEUED,
            max_attempts=min(job.max_attempts + 1, 100),
            run_after=timezone.now(),
            lease_until=None,
            runner="",
            step="",
            progress=0.0,
        )
    )


@transaction.atomic
def cancel(job_id: int, by: str) -> Job:
    """A waiting job is cancelled at once, a running one as soon as its runner hears of it. Conflict if it has ended."""
    job = find_job(job_id, lock=True)
    if job.status == Job.Status.QUEUED:
        job.status, job.finished_at = Job.Status.CANCELLED, timezone.now()
    elif job.status != Job.Status.RUNNING:
        raise Conflict(f"job {job_id} has {job.status} already")
    job.cancel_asked = True
    job.save(update_fields=["status", "finished_at", "cancel_asked"])
    record(by, "cancel", f"job {job_id}")
    return job


def stopped(job: Job) -> bool:
    """The runner has ended a job that was to be cancelled."""
    return _end(job, {"status": Job.Status.CANCELLED}, None)


def find_job(job_id: int, lock: bool = False) -> Job:
    """The job of that number. Raises NotFound."""
    rows = Job.objects.select_for_update() if lock else Job.objects
    job = rows.filter(pk=job_id).first()
    if job is None:
        raise NotFound(f"there is no job {job_id}")
    return job


def prune() -> int:
    """Forget the oldest finished jobs beyond the thousand that are kept; how many went."""
    ended = Job.objects.filter(status__in=[Job.Status.SUCCEEDED, Job.Status.FAILED, Job.Status.CANCELLED])
    oldest = ended.order_by("-pk").values_list("pk", flat=True)[KEPT : KEPT + 1].first()
    return ended.filter(pk__lte=oldest).delete()[0] if oldest is not None else 0


def _storable(text: str) -> str:
    """What a job said, without the one sign that PostgreSQL cannot keep."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _due(now: datetime) -> QuerySet[Job]:
    waiting = Q(status=Job.Status.QUEUED, run_after__lte=now)
    lost = Q(status=Job.Status.RUNNING, lease_until__lt=now)
    return Job.objects.filter(waiting | lost)


def _held(job: Job) -> QuerySet[Job]:
    return Job.objects.filter(pk=job.pk, attempt=job.attempt, status=Job.Status.RUNNING)


def _end(job: Job, changes: dict[str, Any], now: datetime | None) -> bool:
    ended = {"finished_at": now or timezone.now(), "lease_until": None, "runner": ""}
    return bool(_held(job).update(**changes, **ended))
