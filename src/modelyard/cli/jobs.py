"""Verbs of queued work: `jobs list|show|logs|cancel`."""

from __future__ import annotations

from typing import Any

from modelyard.cli.context import Context
from modelyard.cli.exits import Exit

SHOWN = 50


def add(verbs: Any) -> None:
    """The words of these verbs."""
    jobs = verbs.add_parser("jobs", help="queued work: training, batches, conversions").add_subparsers(
        metavar="VERB", required=True
    )
    listing = jobs.add_parser("list", help="jobs, newest first")
    listing.add_argument("--status", choices=("queued", "running", "succeeded", "failed", "cancelled"))
    listing.add_argument("--limit", type=int, default=SHOWN, metavar="N", help=f"at most so many ({SHOWN})")
    listing.add_argument("--json", action="store_true", help="one JSON document")
    listing.set_defaults(run=run_list)
    for name, run, text in (
        ("show", run_show, "one job: how far it is, how it ended"),
        ("logs", run_logs, "the last lines of what a job said"),
        ("cancel", run_cancel, "end a job before its time"),
    ):
        verb = jobs.add_parser(name, help=text)
        verb.add_argument("job", type=int, metavar="JOB", help="its number")
        if name != "logs":
            verb.add_argument("--json", action="store_true", help="one JSON document")
        verb.set_defaults(run=run)


def run_list(context: Context) -> int:
    """One line for each."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.jobs.models import Job

    found = Job.objects.all()
    if context.args.status:
        found = found.filter(status=context.args.status)
    rows = list(found[: max(1, context.args.limit)])
    if context.wants_json:
        context.console.json([_described(job) for job in rows])
    elif not rows:
        context.console.note("no_jobs")
    else:
        text = context.console.text
        context.console.table(
            [text(heading) for heading in ("job", "work", "status", "step", "attempt", "created", "by")],
            [
                (
                    job.pk,
                    _short(job.work),
                    text(f"state_{job.status}"),
                    _step(job),
                    f"{job.attempt}/{job.max_attempts}",
                    job.created_at.strftime("%Y-%m-%d %H:%M"),
                    job.created_by,
                )
                for job in rows
            ],
        )
    return Exit.OK


def run_show(context: Context) -> int:
    """Everything but its log."""
    return _show(context, _found(context))


def run_logs(context: Context) -> int:
    """Its last lines, as it printed them."""
    context.console.line(_found(context).log)
    return Exit.OK


def run_cancel(context: Context) -> int:
    """A waiting job at once; a running one as soon as its runner hears of it."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.jobs.services import cancel

    job = cancel(context.args.job, context.by)
    if context.wants_json:
        context.console.json(_described(job))
    else:
        context.console.say("job_cancelling" if job.status == job.Status.RUNNING else "job_cancelled_now", job=job.pk)
    return Exit.OK


def _found(context: Context) -> Any:
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.jobs.services import find_job

    return find_job(context.args.job)


def _show(context: Context, job: Any) -> int:
    said = _described(job)
    if context.wants_json:
        context.console.json(said)
        return Exit.OK
    text = context.console.text
    rows = [(name, value) for name, value in said.items() if value not in (None, "", 0, {}, False)]
    context.console.table([text("field"), text("value")], rows)
    return Exit.OK


def _described(job: Any) -> dict[str, Any]:
    return {
        "job": job.pk,
        "work": job.work,
        "status": job.status,
        "step": job.step,
        "progress": round(job.progress, 3),
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "cancel_asked": job.cancel_asked,
        "peak_bytes": job.peak_bytes,
        "runner": job.runner,
        "result": job.result,
        "error": job.error,
        "created_by": job.created_by,
        **{name: _at(getattr(job, name)) for name in ("created_at", "run_after", "started_at", "finished_at")},
    }


def _at(moment: Any) -> str | None:
    return moment.isoformat(timespec="seconds") if moment else None


def _short(work: str) -> str:
    """`training.table_job` for `modelyard.control.training.work.table_job`."""
    return work.removeprefix("modelyard.control.").replace(".work.", ".")


def _step(job: Any) -> str:
    return f"{job.step} {job.progress:.0%}" if job.status == job.Status.RUNNING and job.step else ""
