"""The verbs that change a run: ask for one, begin, succeed, fail. What it computes is `work.py`'s."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from django.db import transaction
from django.utils import timezone

from modelyard.contract.errors import InvalidInput, NotFound
from modelyard.contract.names import check_name
from modelyard.control.accounts.audit import record
from modelyard.control.jobs.models import Job
from modelyard.control.jobs.services import enqueue
from modelyard.control.registry.models import Version
from modelyard.control.setup import active_home
from modelyard.control.training.models import Run
from modelyard.train.recipe import Recipe

TABLES = "tables"  # the folder of the home that the management API may train from; no path leads out of it
LOG_CHARACTERS = 20_000


@transaction.atomic
def request_run(
    *,
    by: str,
    blueprint: str = "",
    name: str = "",
    table: str = "",
    target: str = "",
    positive: str | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> Run:
    """Queue a training: of a blueprint, or of a file in the home's folder `tables`."""
    if bool(blueprint) == bool(table):
        raise InvalidInput("give either a blueprint, or a table with its target and a name for the model")
    if blueprint:
        run = Run.objects.create(model=check_name("blueprint", blueprint), source=blueprint, created_by=by)
        job = enqueue(
            "modelyard.control.training.work.blueprint_job", {"name": blueprint, "run_id": run.pk, "by": by}, by=by
        )
    else:
        table_named(table)
        if not target:
            raise InvalidInput("target names the column to predict")
        run = Run.objects.create(
            model=check_name("model", name),
            source=table,
            target=target,
            positive=positive or "",
            recipe=dict(recipe or {}),
            created_by=by,
        )
        recipe_of(run.recipe)
        job = enqueue("modelyard.control.training.work.table_job", {"run_id": run.pk, "by": by}, by=by)
    run.job = job
    run.save(update_fields=["job"])
    record(by, "request_run", run.model, {"run": run.pk, "source": run.source})
    return run


def table_named(name: str) -> Path:
    """The file of that name in the home's `tables`. Raises InvalidInput for a path, NotFound if it is not there."""
    if not name or Path(name).name != name or name.startswith("."):
        raise InvalidInput("table is the plain name of a file in the home's folder `tables`")
    path = active_home().root / TABLES / name
    if not path.is_file() or path.is_symlink():
        raise NotFound(f"there is no table {name!r} in the home's folder `{TABLES}`")
    return path


def recipe_of(values: Mapping[str, Any]) -> Recipe:
    """The recipe that these values make with the defaults. Raises InvalidInput that names the wrong one."""
    try:
        return msgspec.convert(dict(values), Recipe)
    except (msgspec.ValidationError, ValueError) as error:
        raise InvalidInput(f"recipe: {error}") from None


@transaction.atomic
def begin_run(
    *,
    by: str,
    model: str,
    source: str,
    data_digest: str = "",
    target: str = "",
    positive: str = "",
    recipe: Mapping[str, Any] | None = None,
    recipe_digest: str = "",
    run_id: int | None = None,
) -> Run:
    """The run that starts now: a queued one that was asked for, or a new one."""
    run = find_run(run_id) if run_id is not None else Run(created_by=by)
    run.model, run.source, run.data_digest, run.target, run.positive = model, source, data_digest, target, positive
    run.recipe, run.recipe_digest = dict(recipe or {}), recipe_digest
    run.status, run.started_at, run.finished_at, run.error = Run.Status.RUNNING, timezone.now(), None, ""
    run.save()
    return run


@transaction.atomic
def end_run(
    run: Run, log: str, *, version: Version | None = None, metrics: Mapping[str, float] | None = None, error: str = ""
) -> Run:
    """The run has ended: with a version, or with what went wrong."""
    run.status = Run.Status.FAILED if error else Run.Status.SUCCEEDED
    run.version, run.metrics, run.error = version, dict(metrics or {}), error[:2000]
    run.log, run.finished_at = log[-LOG_CHARACTERS:], timezone.now()
    run.save()
    record(
        run.created_by,
        "train",
        run.model,
        {"run": run.pk, "status": run.status, "version": version.number if version else None},
    )
    return run


def close_lost_runs() -> int:
    """End the runs whose jobs ended without a word: cancelled, or killed too often; how many there were."""
    ended = [Job.Status.FAILED, Job.Status.CANCELLED]
    lost = Run.objects.filter(status__in=[Run.Status.QUEUED, Run.Status.RUNNING], job__status__in=ended)
    return lost.update(status=Run.Status.FAILED, error="its job ended first", finished_at=timezone.now())


def find_run(run_id: int) -> Run:
    """The run of that number. Raises NotFound."""
    run = Run.objects.select_related("version__model").filter(pk=run_id).first()
    if run is None:
        raise NotFound(f"there is no run {run_id}")
    return run


def trained_before(model: str, data_digest: str, recipe_digest: str) -> Version | None:
    """The version that the same data, target and recipe gave already, while it is ready."""
    run = (
        Run.objects.filter(
            model=model,
            data_digest=data_digest,
            recipe_digest=recipe_digest,
            status=Run.Status.SUCCEEDED,
            version__status=Version.Status.READY,
        )
        .select_related("version__model")
        .first()
    )
    return run.version if run else None
