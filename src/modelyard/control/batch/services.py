"""The verb of batches: ask for one. What it computes is `work.py`'s; how it goes is its job's."""

from pathlib import Path
from typing import Any

from django.db import transaction

from modelyard.contract.errors import Conflict, InvalidInput, NotFound
from modelyard.control.accounts.audit import record
from modelyard.control.deployments.models import Endpoint
from modelyard.control.jobs.models import Job
from modelyard.control.jobs.services import enqueue
from modelyard.control.registry.models import Version
from modelyard.control.registry.services import find_version
from modelyard.control.setup import active_home
from modelyard.control.training.services import TABLES, table_named

WORK = "modelyard.control.batch.work.batch_job"
CHUNK_ROWS = 10_000
MAX_CHUNK_ROWS = 1_000_000
TIMEOUT_S = 24 * 3600


def arguments_of(
    name: str, version: int | str | None = None, *, source: Path, output: Path, rejects: Path | None = None,
    chunk_rows: int = CHUNK_ROWS, reasons: str | None = None, language: str = "en",
) -> dict[str, Any]:  # fmt: skip
    """What the job is called with. The version is settled here: a deployment meanwhile does not mix two in one table.

    name: an endpoint, whose main version and cut-off count; or a model, by default its champion.
    Raises NotFound, Conflict, InvalidInput.
    """
    if not 1 <= chunk_rows <= MAX_CHUNK_ROWS:
        raise InvalidInput(f"chunk_rows lies between 1 and {MAX_CHUNK_ROWS:,}")
    if reasons not in (None, "all", "none"):
        raise InvalidInput("reasons is 'all', 'none', or left out for those of the declined")
    endpoint = Endpoint.objects.filter(name=name).first() if version is None else None
    found, cutoff = _served(endpoint) if endpoint is not None else (find_version(name, version), None)
    if found.status != Version.Status.READY:
        raise Conflict(f"{found.model.name} version {found.number} is not ready: {found.note or 'it failed'}")
    return {
        "digest": found.digest, "version": found.number, "source": str(source.absolute()),
        "output": str(output.absolute()),
        "rejects": str((rejects or output.with_suffix(".rejected.csv")).absolute()), "chunk_rows": chunk_rows,
        "cutoff": cutoff, "reasons": reasons, "language": language,
    }  # fmt: skip


@transaction.atomic
def request_batch(arguments: dict[str, Any], by: str) -> Job:
    """Queue a batch; the runner does it, and goes on with it if it is killed."""
    job = enqueue(WORK, arguments, by=by, timeout_s=TIMEOUT_S, max_attempts=5)
    record(by, "request_batch", f"job {job.pk}", {"digest": arguments["digest"], "version": arguments["version"]})
    return job


def files_in_home(table: str, output: str) -> tuple[Path, Path]:
    """A table that is there and one that is to be, both in the home's folder `tables`: no path leads out of it."""
    if not output or Path(output).name != output or output.startswith("."):
        raise InvalidInput("output is the plain name of a file in the home's folder `tables`")
    target = active_home().root / TABLES / output
    if target.exists():
        raise Conflict(f"there is a table {output!r} already; choose another name")
    return table_named(table), target


def _served(endpoint: Endpoint) -> tuple[Version, float | None]:
    main = endpoint.deployments.select_related("version__model").order_by("-weight", "-version__number").first()
    if main is None:
        raise NotFound(f"endpoint {endpoint.name!r} holds no version")
    return main.version, endpoint.cutoff
