"""Which versions nothing needs any more: not what is served, named, recorded, asked for, young, or part of another."""

import json
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec

from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import InvalidInput, NotFound
from modelyard.contract.home import Home
from modelyard.contract.plan import ServingPlan, SignedPlan
from modelyard.contract.telemetry import Prediction, frames
from modelyard.control.deployments.models import Change, Endpoint
from modelyard.control.jobs.models import Job
from modelyard.control.registry.models import Event, Version


class Verdict(msgspec.Struct, frozen=True):
    """One version, and why it stays; an empty reason: it may go."""

    model: str
    version: int
    digest: str
    bytes: int
    reason: str


def verdicts(home: Home, keep: int, older_than: timedelta, now: datetime) -> list[Verdict]:
    """Every ready version and whether it may go. Call within the transaction that removes it.

    keep: so many of each model's newest versions stay. older_than: what is younger stays.
    """
    shelf = Shelf(home.shelf)
    versions = list(
        Version.objects.filter(status=Version.Status.READY)
        .select_related("model").prefetch_related("aliases", "deployments").order_by("model__name", "-number")
    )  # fmt: skip
    planned, recorded, asked = _planned(home), _recorded(home), _asked()
    rank: dict[int, int] = defaultdict(int)
    found: dict[int, str] = {}
    for version in versions:
        rank[version.model_id] += 1
        found[version.pk] = _reason(version, rank[version.model_id] <= keep, now - older_than, planned, recorded, asked)
    members = _members_of(shelf, [version.digest for version in versions if found[version.pk]])
    return [
        Verdict(
            version.model.name, version.number, version.digest, version.size_bytes or 0,
            found[version.pk] or ("a version that stays is made of it" if version.digest in members else ""),
        )
        for version in versions
    ]  # fmt: skip


def is_needed_since(home: Home, version: Version, looked_at: datetime) -> bool:
    """Whether something took to a version after `verdicts` looked; call with its row locked.

    Records are not read again: a version that nobody deployed since has none that are new.
    """
    models, jobs = _asked()
    return (
        version.deployments.exists()
        or version.shadowed.exists()
        or version.fallbacks.exists()
        or version.aliases.exists()
        or version.digest in _planned(home)
        or version.model.name in models
        or version.digest in jobs
        or Version.objects.filter(created_at__gte=looked_at).exists()  # it may be made of this one
    )


def orphans(home: Home, older_than: timedelta, now: datetime) -> list[str]:
    """Artifacts on the shelf that no version is made of, such as those of a registration that failed."""
    shelf = Shelf(home.shelf)
    known = set(Version.objects.exclude(status=Version.Status.REMOVED).values_list("digest", flat=True))
    known |= _members_of(shelf, known) | _planned(home)
    before = (now - older_than).timestamp()
    return [one for one in shelf.digests() if one not in known and (home.shelf / one).stat().st_mtime < before]


def _reason(
    version: Version, is_newest: bool, before: datetime, planned: set[str], recorded: set[tuple[str, int]],
    asked: tuple[set[str], str],
) -> str:  # fmt: skip
    if version.digest in planned or version.deployments.all():
        return "an endpoint holds it"
    if aliases := sorted(alias.name for alias in version.aliases.all()):
        return f"it is called {', '.join(aliases)}"
    if (version.model.name, version.number) in recorded:
        return "prediction records refer to it"
    models, jobs = asked
    if version.model.name in models:
        return "a change of its model waits for approval"
    if version.digest in jobs:
        return "a job needs it"
    if is_newest:
        return "it is among the newest"
    return "it is young" if version.created_at > before else ""


def _planned(home: Home) -> set[str]:
    """What the published plan names, and the last good one, which a gateway may start with."""
    found: set[str] = set()
    for path in (home.plan, home.run / "plan.good.json"):
        try:
            signed = msgspec.json.decode(path.read_bytes(), type=SignedPlan)
            plan = msgspec.json.decode(signed.plan, type=ServingPlan)
        except FileNotFoundError:
            continue
        except msgspec.MsgspecError:
            raise InvalidInput(
                f"{path.name} cannot be read, so nobody knows what it needs; nothing is removed"
            ) from None
        found |= {planned.digest for endpoint in plan.endpoints for planned in endpoint.versions}
    return found


def _recorded(home: Home) -> set[tuple[str, int]]:
    """Model and version of every prediction record that is kept. An endpoint's name may have served several models."""
    models: dict[str, set[str]] = defaultdict(set)
    rows = Event.objects.exclude(endpoint=None).values_list("endpoint", "model__name").distinct()
    for endpoint, model in [*rows, *Endpoint.objects.values_list("name", "model__name")]:
        models[endpoint].add(model)
    seen: set[tuple[str, int]] = set()
    for path in home.records.glob("*.records"):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            continue  # it was the oldest, and went
        seen |= {(one.endpoint, one.version) for one in frames(data) if isinstance(one, Prediction)}
    return {(model, version) for endpoint, version in seen for model in (models[endpoint] or {endpoint})}


def _asked() -> tuple[set[str], str]:
    """Models with a change that waits for approval, and the arguments of jobs that have not ended, as one text."""
    waiting = Change.objects.filter(status=Change.Status.WAITING)
    endpoints = set(waiting.values_list("endpoint", flat=True))
    models = set(Endpoint.objects.filter(name__in=endpoints).values_list("model__name", flat=True)) | endpoints
    models |= {str(arguments.get("model", "")) for arguments in waiting.values_list("arguments", flat=True)}
    jobs = Job.objects.filter(status__in=[Job.Status.QUEUED, Job.Status.RUNNING])
    return models, json.dumps(list(jobs.values_list("arguments", flat=True)))


def _members_of(shelf: Shelf, digests: Iterable[str]) -> set[str]:
    found: set[str] = set()
    waiting = list(digests)
    while waiting:
        try:
            members = shelf.describe(waiting.pop()).manifest.members
        except (NotFound, InvalidInput):
            continue  # a damaged one says nothing; `models show` tells what is wrong with it
        waiting += [member.digest for member in members if member.digest not in found]
        found |= {member.digest for member in members}
    return found
