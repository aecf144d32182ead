"""The verbs that change the registry: a version comes, a name moves, a tag is set; and the log of what happened."""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
from django.db import transaction
from django.db.models import Max

from modelyard.artifacts.manifest import Manifest
from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import Conflict, InvalidInput, NotFound
from modelyard.contract.names import check_name
from modelyard.control.accounts.audit import record
from modelyard.control.deployments.publish import request_publication
from modelyard.control.registry.listing import list_names, refuse_if_forgotten
from modelyard.control.registry.models import Alias, Event, Model, Tag, Version
from modelyard.control.setup import active_home

CHAMPION = "champion"
MAX_TAGS = 50  # of one model, and of one version
MAX_TAG_CHARACTERS = 200  # of a tag's value
MAX_TEXT_CHARACTERS = 4_000  # of a description or a note


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
        return _back(same, by)
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
        data_digest=manifest.lineage.data_digest[:64],
        code_revision=manifest.lineage.code_revision[:80],
        size_bytes=_size(manifest, digest),
        trusted=manifest.trusted,
        note=note,
        created_by=by,
    )
    note_event(model, by, "register", number, {"digest": digest, "note": note})
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
    _note_alias(model, by, "set_alias", target.number, {"alias": alias, "before": before})
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
    _note_alias(model, by, "remove_alias", None, {"alias": alias, "before": before})


@transaction.atomic
def set_tags(
    model_name: str, changes: Mapping[str, str | None], by: str, which: int | str | None = None
) -> dict[str, str]:
    """Set tags of a model, or of one version of it; None takes one away. All tags come back, by key.

    Raises NotFound, also for a tag that is to go and is not there; InvalidInput for a key that is no name, a value
    that is empty, long or holds control characters, and too many tags. Nothing is changed then.
    """
    model = _locked(model_name)
    version = None if which is None else find_version(model_name, which)
    held = {tag.key: tag.value for tag in model.tags.filter(version=version)}
    wanted = {check_name("tag", key): value for key, value in changes.items()}
    if absent := sorted(key for key, value in wanted.items() if value is None and key not in held):
        raise NotFound(f"{version or model} has no tag {', '.join(absent)}")
    given = {key: _checked_value(key, value) for key, value in wanted.items() if value is not None}
    new = {key: value for key, value in given.items() if held.get(key) != value}
    gone = sorted(key for key, value in wanted.items() if value is None)
    after = {key: value for key, value in (held | new).items() if key not in gone}
    if len(after) > MAX_TAGS:
        raise InvalidInput(f"a model and a version have at most {MAX_TAGS} tags each; take some away first")
    if new or gone:
        model.tags.filter(version=version, key__in=[*new, *gone]).delete()
        Tag.objects.bulk_create(Tag(model=model, version=version, key=key, value=value) for key, value in new.items())
        number = version.number if version else None
        note_event(model, by, "tag", number, {"set": new, "removed": gone})
        record(by, "tag", str(version or model), {"set": new, "removed": gone})
    return dict(sorted(after.items()))


@transaction.atomic
def describe(model_name: str, text: str, by: str, which: int | str | None = None) -> Model | Version:
    """Set the description of a model, or the note of one version; what it said before stays in the log."""
    text = text.strip()
    if len(text) > MAX_TEXT_CHARACTERS:
        raise InvalidInput(f"a description has at most {MAX_TEXT_CHARACTERS} characters, and this has {len(text)}")
    model = _locked(model_name)
    row = model if which is None else find_version(model_name, which)
    field = "description" if which is None else "note"
    if getattr(row, field) != text:
        setattr(row, field, text)
        row.save(update_fields=[field])
        note_event(model, by, "describe", getattr(row, "number", None), {"text": text})
        record(by, "describe", str(row))
    return row


def note_event(
    model: Model, by: str, verb: str, version: int | None = None, details: Mapping[str, Any] | None = None
) -> Event:
    """Write down what happened to a model, in the transaction of the change itself.

    What changes what an endpoint serves says in `details` how the endpoint stands afterwards, whole, so that the past
    can be told from one event: `endpoint`, `revision` (of the plan that will say so), `weights` (percent per version
    number; empty: the endpoint is gone), `shadow` (`{"version", "percent"}`; left out: none); and, where there are any,
    `approved_by` and `forced` (the reason).
    """
    said = dict(details or {})
    return Event.objects.create(
        model=model,
        by=by,
        verb=verb,
        version=version,
        details=said,
        endpoint=said.get("endpoint"),
        revision=said.get("revision"),
    )


def find_version(model_name: str, which: int | str | None = None) -> Version:
    """A version by number or alias; by default the champion, or the newest ready one. Raises NotFound."""
    model = find_model(model_name)
    ready = Version.objects.select_related("model").filter(model=model)
    if which is None:
        found = ready.filter(aliases__name=CHAMPION).first() or (
            ready.filter(status=Version.Status.READY).order_by("-number").first()
        )
    elif isinstance(which, int) or which.isdecimal():
        found = ready.filter(number=int(which)).first()
    else:
        found = ready.filter(aliases__name=which).first()
    if found is not None and found.status == Version.Status.REMOVED:
        raise NotFound(f"{found} was removed by garbage collection; `modelyard history {model_name}` still tells of it")
    if found is None:
        raise NotFound(
            f"{model_name} has no version {which!r}" if which is not None else f"{model_name} has no version yet"
        )
    return found


def newest_version(model_name: str) -> Version:
    """The newest version that is ready. Raises NotFound."""
    found = find_model(model_name).versions.filter(status=Version.Status.READY).order_by("-number").first()
    if found is None:
        raise NotFound(f"{model_name} has no version yet")
    return found


def find_model(name: str) -> Model:
    """The model of that name. Raises NotFound."""
    model = Model.objects.filter(name=name).first()
    if model is None:
        refuse_if_forgotten()
        raise NotFound(f"there is no model {name!r}; `modelyard models list` shows what there is")
    return model


def _locked(name: str, create: bool = False) -> Model:
    if create:
        Model.objects.get_or_create(name=name)
    model = Model.objects.select_for_update(no_key=True).filter(name=name).first()
    if model is None:
        raise NotFound(f"there is no model {name!r}; `modelyard models list` shows what there is")
    return model


def _back(version: Version, by: str) -> Version:
    """The version that an artifact is already; one that was removed is ready again, now that its artifact is back."""
    if version.status == Version.Status.REMOVED:
        if not (active_home().shelf / version.digest).exists():
            raise Conflict(f"{version} is being removed just now; register it again")
        version.status = Version.Status.READY
        version.save(update_fields=["status"])
        note_event(version.model, by, "return", version.number, {"digest": version.digest})
        transaction.on_commit(list_names)
    return version


def _size(manifest: Manifest, digest: str) -> int | None:
    """Bytes of the artifact's files. A manifest that was just written by hand does not list them; the shelf's does."""
    try:
        files = manifest.files or Shelf(active_home().shelf).describe(digest).manifest.files
    except NotFound:
        return None
    return sum(entry.size for entry in files.values())


def _checked_value(key: str, value: str) -> str:
    value = value.strip()
    if not value or len(value) > MAX_TAG_CHARACTERS or not value.isprintable():
        raise InvalidInput(f"the value of tag {key!r} has 1 to {MAX_TAG_CHARACTERS} printable characters")
    return value


def _note_alias(model: Model, by: str, verb: str, version: int | None, details: dict[str, Any]) -> None:
    note_event(model, by, verb, version, details)
    record(by, verb, f"{model.name}:{details['alias']}", {"version": version, **details})
    transaction.on_commit(list_names)
    if model.endpoints.exists():
        request_publication()  # gateways answer to aliases as well
