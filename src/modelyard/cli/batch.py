"""The verb `batch`: a whole table through a version, as a job that goes on after it was killed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelyard.cli.context import Context
from modelyard.cli.exits import Exit
from modelyard.contract.errors import ModelFailed
from modelyard.contract.home import Home

if TYPE_CHECKING:
    from modelyard.cli.progress import ShownProgress

LOOK_S = 0.3
ALIVE_S = 5.0  # a runner that lives touches the beat every second


def add(verbs: Any) -> None:
    """The words of this verb."""
    batch = verbs.add_parser("batch", help="predict a whole table as a job: resumable, chunk by chunk")
    batch.add_argument("name", metavar="NAME[:VERSION]", help="an endpoint; or a model, and a version or alias of it")
    batch.add_argument("--data", required=True, type=Path, metavar="FILE", help=".csv, .csv.gz, .jsonl or .parquet")
    batch.add_argument("--output", required=True, type=Path, metavar="FILE", help=".csv or .parquet")
    batch.add_argument("--rejects", type=Path, metavar="FILE", help="refused rows with reasons (OUTPUT.rejected.csv)")
    batch.add_argument("--chunk-rows", type=int, metavar="N", help="rows that are kept together (10,000)")
    batch.add_argument("--reasons", choices=("all", "none"), help="for every row, or none (those of the declined)")
    batch.add_argument("--here", action="store_true", help="in this process, though a runner is there")
    batch.add_argument("--no-wait", action="store_true", help="queue it and return")
    batch.add_argument("--json", action="store_true", help="one JSON document on stdout")
    batch.set_defaults(run=run_batch)


def run_batch(context: Context) -> int:
    """0 if every row was answered, 3 if some were refused."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.cli.progress import ShownProgress
    from modelyard.control.batch import services

    args = context.args
    name, _, version = args.name.partition(":")
    given = {"chunk_rows": args.chunk_rows} if args.chunk_rows is not None else {}
    arguments = services.arguments_of(
        name, version or None, source=args.data, output=args.output, rejects=args.rejects, reasons=args.reasons,
        language=context.console.language, **given,
    )  # fmt: skip
    with ShownProgress(context.console) as progress:
        if args.here or not runner_lives(context.home):
            from modelyard.control.batch.work import batch_job

            result = batch_job(progress, **arguments)
        else:
            job = services.request_batch(arguments, context.by)
            if args.no_wait:
                return _queued(context, job.pk)
            result = _followed(context, job.pk, progress)
    return _tell(context, result)


def runner_lives(home: Home) -> bool:
    """Whether somebody takes jobs in this home."""
    try:
        return time.time() - home.control_beat.stat().st_mtime < ALIVE_S
    except FileNotFoundError:
        return False


def _followed(context: Context, number: int, progress: ShownProgress) -> dict[str, Any]:
    """The job's result. Ctrl-C leaves it running. Raises ModelFailed with its error."""
    from modelyard.control.jobs.services import find_job

    try:
        while True:
            job = find_job(number)
            if job.step:
                progress.step(job.step)
                progress.tick(round(job.progress * 1000), 1000)
            if job.status == job.Status.SUCCEEDED:
                found: dict[str, Any] = job.result
                return found
            if job.status in (job.Status.FAILED, job.Status.CANCELLED):
                raise ModelFailed(f"job {number} has {job.status}: {job.error or 'no reason was given'}")
            time.sleep(LOOK_S)
    except KeyboardInterrupt:
        context.console.note("job_goes_on", job=number)
        raise


def _queued(context: Context, number: int) -> int:
    if context.wants_json:
        context.console.json({"job": number})
    else:
        context.console.say("job_queued", job=number)
    return Exit.OK


def _tell(context: Context, result: dict[str, Any]) -> int:
    if context.wants_json:
        context.console.json(result)
    else:
        context.console.say("predicted", count=f"{result['answered']:,}", file=result["output"])
        if result["refused"]:
            context.console.note("rows_refused", style="yellow", count=f"{result['refused']:,}", file=result["rejects"])
    return Exit.PARTLY_REFUSED if result["refused"] else Exit.OK
