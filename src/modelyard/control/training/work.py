"""What a training does, from a table to a registered version. Runs in a job, or in the command that asked for it."""

import hashlib
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from modelyard.artifacts.store import Artifact, Shelf
from modelyard.blueprints.catalogue import blueprint as blueprint_named
from modelyard.contract.errors import InvalidInput, ModelyardError
from modelyard.control.registry.code_revision import with_code_revision
from modelyard.control.registry.models import Alias, Version
from modelyard.control.registry.services import CHAMPION, register_version, set_alias
from modelyard.control.setup import active_home
from modelyard.control.training import services
from modelyard.data.sources import digest_of, read_source
from modelyard.train.progress import Progress, Silent
from modelyard.train.recipe import Recipe
from modelyard.train.run import Trained, train

CHALLENGER = "challenger"  # the newest version that is not the champion


class Diary:
    """Passes progress on to whoever listens, and keeps the steps for the run's log."""

    def __init__(self, listener: Progress) -> None:
        self._listener = listener
        self.text = ""

    def step(self, title: str, detail: str = "") -> None:
        """A new step begins."""
        self.text += f"{title}: {detail}\n" if detail else f"{title}\n"
        self._listener.step(title, detail)

    def tick(self, done: int, total: int) -> None:
        """So much of the step is done."""
        self._listener.tick(done, total)


def run_training(
    table: Any,
    *,
    name: str,
    target: str,
    positive: str | None = None,
    recipe: Recipe | None = None,
    progress: Progress | None = None,
    by: str = "local",
    run_id: int | None = None,
    **known: Any,
) -> tuple[Version, Trained]:
    """Train on a file or a data frame (polars, pandas), put the result on the shelf and register it.

    A model's first version becomes its `champion`; later ones its `challenger`, until somebody decides. `known` is
    what `train` takes besides: contract, decision, columns, source, about. The run is recorded, failed ones too.
    """
    recipe = recipe or Recipe()
    frame, data_digest = _read(table)
    label = known.pop("source", "") or ("data frame" if not isinstance(table, (str, Path)) else Path(table).name)
    run = services.begin_run(
        by=by,
        model=name,
        source=label,
        data_digest=data_digest,
        target=target,
        positive=positive or "",
        recipe=msgspec.to_builtins(recipe),
        recipe_digest=_digest_of(name, target, positive, recipe, known),
        run_id=run_id,
    )
    diary = Diary(progress or Silent())
    try:
        trained = train(
            frame,
            recipe,
            name=name,
            target=target,
            positive=positive,
            source=label,
            data_digest=data_digest,
            progress=diary,
            **known,
        )
        trained = msgspec.structs.replace(trained, manifest=with_code_revision(trained.manifest))
        version = _register(trained, by)
    except BaseException as error:
        said = str(error) if isinstance(error, ModelyardError) else type(error).__name__
        services.end_run(run, diary.text, error=said)
        raise
    diary.step("registered", f"{name} version {version.number}")
    services.end_run(run, diary.text, version=version, metrics=trained.manifest.metrics)
    return version, trained


def run_blueprint(
    name: str, progress: Progress | None = None, by: str = "local", run_id: int | None = None
) -> tuple[Version, Artifact]:
    """The version that a blueprint gives: trained now, or found if the same data and recipe were trained before."""
    progress = progress or Silent()
    blueprint = blueprint_named(name)
    known = {"decision": blueprint.decision, "columns": blueprint.columns, "about": blueprint.about}
    shelf = Shelf(active_home().shelf)
    with as_file(files(blueprint.package) / blueprint.resource) as path:
        digest = digest_of(path)
        same = _digest_of(name, blueprint.target, blueprint.positive, blueprint.recipe, known)
        if (version := services.trained_before(name, digest, same)) and version.digest in shelf.digests():
            progress.step("already trained", f"{name} version {version.number}, same data and recipe")
            if run_id is not None:
                run = services.begin_run(by=by, model=name, source=name, data_digest=digest, run_id=run_id)
                services.end_run(run, "already trained\n", version=version, metrics=version.metrics)
            return version, shelf.open(version.digest)
        version, _ = run_training(
            path,
            name=name,
            target=blueprint.target,
            positive=blueprint.positive,
            recipe=blueprint.recipe,
            progress=progress,
            by=by,
            run_id=run_id,
            **known,
        )
    return version, shelf.open(version.digest)


def blueprint_job(progress: Progress, name: str, run_id: int, by: str) -> dict[str, Any]:
    """A job: train a blueprint."""
    return _result(run_blueprint(name, progress, by, run_id)[0])


def table_job(progress: Progress, run_id: int, by: str) -> dict[str, Any]:
    """A job: train on a table of the home, as its run says."""
    run = services.find_run(run_id)
    version, _ = run_training(
        services.table_named(run.source),
        name=run.model,
        target=run.target,
        positive=run.positive or None,
        recipe=services.recipe_of(run.recipe),
        progress=progress,
        by=by,
        run_id=run_id,
    )
    return _result(version)


def _register(trained: Trained, by: str) -> Version:
    digest = Shelf(active_home().shelf).put(trained.manifest, trained.files)
    version = register_version(trained.manifest, digest, by)
    champion = Alias.objects.filter(model=version.model, name=CHAMPION).first()
    if champion is None:
        set_alias(version.model.name, CHAMPION, version.number, by)
    elif champion.version_id != version.pk:
        set_alias(version.model.name, CHALLENGER, version.number, by)
    return version


def _read(table: Any) -> tuple[pl.DataFrame, str]:
    """The frame and its digest. What is neither a file nor a polars frame is taken for a pandas one."""
    if isinstance(table, (str, Path)):
        source = read_source(table)
        return source.table, source.digest
    if not isinstance(table, pl.DataFrame):
        try:
            table = pl.from_pandas(table)
        except TypeError:
            raise InvalidInput("a table is a file, or a polars or pandas data frame") from None
    return table, hashlib.sha256(table.write_csv().encode()).hexdigest()


def _digest_of(name: str, target: str, positive: str | None, recipe: Recipe, known: dict[str, Any]) -> str:
    """Of everything besides the data that decides what a training gives."""
    return hashlib.sha256(msgspec.json.encode([name, target, positive, recipe, known], order="sorted")).hexdigest()


def _result(version: Version) -> dict[str, Any]:
    return {"model": version.model.name, "version": version.number, "metrics": version.metrics}
