"""The verbs that change the registry: a version comes, a name moves."""

import hashlib

import msgspec
from django.db import transaction
from django.db.models import Max

from modelyard.artifacts.manifest import Manifest
from modelyard.contract.errors import Conflict, NotFound
from modelyard.contract.names import check_name
from modelyard.control.accounts.audit import record
from modelyard.control.deployments.publish import request_publication
from modelyard.control.registry.listing import list_names, refuse_if_forgotten
from modelyard.control.registry.models import Alias, Event, Model, Version

CHAMPION = "champion"


@transaction.atomic
def register_version(manifest: Manifest, digest: str, by: str, note: str = "", number: int | None = None) -> Version:
    """The next version of `manifest.model`; the same artifact again gives the version that it already is.

    `number` is for rebuilding a registry, where numbers are known. Raises Conflict if it is taken.
    """
    name = check_name("model", manifest.model)
    if number is None:
        refuse_if_forgotten()
    model = _locked(name, create=True)
    if same := model.versions.filter(digest=digest).first():
        return same
    if number is None:
        number = (model.versions.aggregate(last=Max("number"))["last"] or 0) + 1
    elif model.versions.filter(number=number).exists():
        raise Conflict(f"{name} has a version {number} already, and it is another artifact")
    version = model.versions.create(
        number=number,
        digest=digest,
        task=manifest.task,
        framework=manifest.framework,
        metrics=manifest.metrics,
        parity=msgspec.to_builtins(manifest.parity),
        lineage=msgspec.to_builtins(manifest.lineage),
        contract_digest=hashlib.sha256(msgspec.json.encode(manifest.contract)).hexdigest(),
        note=note,
        created_by=by,
    )
    Event.objects.create(model=model, by=by, verb="register", version=number, details={"digest": digest, "note": note})
    record(by, "register_version", f"{name}:{number}", {"digest": digest})
    transaction.on_commit(list_names)
    return version


@transaction.atomic
def set_alias(model_name: str, alias: str, version: int | str, by: str) -> Alias:
    """Point an alias at a version (a number or another alias); where it pointed before is kept as an event."""
    check_name("alias", alias)
    model = _locked(model_name)
    target = find_version(model_name, version)
    row = model.aliases.select_related("version").filter(name=alias).first()
    if row is not None and row.version_id == target.pk:
        return row
    before = row.version.number if row else None
    row, _ = Alias.objects.update_or_create(model=model, name=alias, defaults={"version": target})
    _note(model, by, "set_alias", target.number, {"alias": alias, "before": before})
    return row


@transaction.atomic
def remove_alias(model_name: str, alias: str, by: str) -> None:
    """Take an alias away; the version stays. Raises NotFound."""
    model = _locked(model_name)
    row = model.aliases.select_related("version").filter(name=alias).first()
    if row is None:
        raise NotFound(f"{model_name} has no alias {alias!r}")
    before = row.version.number
    row.delete()
    _note(model, by, "remove_alias", None, {"alias": alias, "before": before})


def find_version(model_name: str, which: int | str | None = None) -> Version:
    """A version by number or alias; by default the champion, or the newest ready one. Raises NotFound."""
    model = _known(model_name)
    ready = Version.objects.select_related("model").filter(model=model)
    if which is None:
        found = ready.filter(aliases__name=CHAMPION).first() or (
            ready.filter(status=Version.Status.READY).order_by("-number").first()
        )
    elif isinstance(which, int) or which.isdecimal():
        found = ready.filter(number=int(which)).first()
    else:
        found = ready.filter(aliases__name=which).first()
    if found is None:
        raise NotFound(
            f"{model_name} has no version {which!r}" if which is not None else f"{model_name} has no version yet"
        )
    return found


def newest_version(model_name: str) -> Version:
    """The newest version that is ready. Raises NotFound."""
    found = _known(model_name).versions.filter(status=Version.Status.READY).order_by("-number").first()
    if found is None:
        raise NotFound(f"{model_name} has no version yet")
    return found


def _known(name: str) -> Model:
    model = Model.objects.filter(name=name).first()
    if model is None:
        refuse_if_forgotten()
        raise NotFound(f"there is no model {name!r}; `modelyard models list` shows what there is")
    return model


def _locked(name: str, create: bool = False) -> Model:
    if create:
        Model.objects.get_or_create(name=name)
    model = Model.objects.select_for_update().filter(name=name).first()
    if model is None:
        raise NotFound(f"there is no model {name!r}; `modelyard models list` shows what there is")
    return model


def _note(model: Model, by: str, verb: str, version: int | None, details: dict[str, object]) -> None:
    Event.objects.create(model=model, by=by, verb=verb, version=version, details=details)
    record(by, verb, f"{model.name}:{details['alias']}", {"version": version, **details})
    transaction.on_commit(list_names)
    if model.endpoints.exists():
        request_publication()  # gateways answer to aliases as well
