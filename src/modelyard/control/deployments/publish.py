"""Rows become the serving plan: whole, signed, on disk, with a revision that only grows.

A change asks for a publication inside its own transaction, so that what cannot be published is not committed either.
The file is written after the commit; if that fails, `publish_if_needed` does it later.
"""

import time

import msgspec
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from modelyard.artifacts.names import write_whole
from modelyard.contract.errors import Conflict, Internal, InvalidInput
from modelyard.contract.home import Home
from modelyard.contract.plan import (
    Lease,
    PlannedEndpoint,
    PlannedKey,
    PlannedVersion,
    ServingPlan,
    Shadow,
    SignedPlan,
    TrafficSplit,
)
from modelyard.contract.settings import Settings
from modelyard.contract.split import Spans
from modelyard.control.accounts.models import Key
from modelyard.control.deployments.models import Endpoint, Publication
from modelyard.control.deployments.reading import read_plan
from modelyard.control.locks import exclusive
from modelyard.control.registry.models import Version
from modelyard.control.setup import active_home
from modelyard.secure.signing import signer


def request_publication() -> int:
    """Ask, within the transaction of a change, that the plan be published once it commits; its revision comes back.

    Raises Conflict if this database has never published and a plan that serves somebody lies on disk.
    """
    publication = _locked_publication()
    disk = _refuse_a_strangers_plan(publication)
    publication.committed = max(publication.committed, disk.revision if disk else 0) + 1
    publication.save(update_fields=["committed"])
    transaction.on_commit(publish_plan)
    return publication.committed


def publish_plan() -> int:
    """Write the plan as the rows now are, unless it lies there already; its revision comes back."""
    home = active_home()
    with exclusive(home.run / "plan.lock"):
        with transaction.atomic():
            publication = _locked_publication()
            disk = _refuse_a_strangers_plan(publication)
            if disk and disk.revision > publication.committed:  # this database is older than the plan: a backup
                publication.committed = disk.revision + 1
                publication.save(update_fields=["committed"])
            plan = plan_of_rows(publication)
        if disk is None or disk.revision < plan.revision:
            raw = msgspec.json.encode(plan)
            signature = signer(home.keys).sign(raw)
            _write(home, msgspec.json.encode(SignedPlan(msgspec.Raw(raw), signature)), plan.revision)
        Publication.objects.filter(pk=1, published__lt=plan.revision).update(published=plan.revision)
    return plan.revision


def publish_if_needed() -> int | None:
    """Publish if what lies on disk is not what the rows say; the new revision, or None if all is well.

    Repairs a publication that failed, a plan that was lost, and drops keys that have expired.
    """
    with transaction.atomic():
        publication = _locked_publication()
        disk = _refuse_a_strangers_plan(publication)
        wanted = plan_of_rows(publication)
        if disk is None and not (publication.committed or wanted.endpoints or wanted.keys):
            return None  # a fresh home: nothing to say yet
        settled = publication.published == publication.committed
        if settled and disk is not None and _content(disk) == _content(wanted):
            return None
        revision = request_publication()
    return revision


def accept_settings(settings: Settings) -> None:
    """Let the long-running control plane say whether keys are required; commands leave it as it is."""
    with transaction.atomic():
        publication = _locked_publication()
        if publication.require_keys != settings.require_keys:
            publication.require_keys = settings.require_keys
            publication.save(update_fields=["require_keys"])
            if publication.committed:
                request_publication()


def plan_of_rows(publication: Publication) -> ServingPlan:
    """The whole wanted state as the database has it. Call within a transaction."""
    versions = ("deployments__version", "shadow", "lease_fallback")
    endpoints = list(Endpoint.objects.whole().prefetch_related(*(f"{version}__aliases" for version in versions)))
    now = timezone.now()
    keys = Key.objects.select_related("principal").filter(revoked_at__isnull=True, principal__active=True)
    keys = keys.filter(Q(expires_at__isnull=True) | Q(expires_at__gt=now))
    return ServingPlan(
        revision=publication.committed,
        published_at=round(time.time(), 3),
        endpoints=tuple(_planned_endpoint(endpoint) for endpoint in endpoints),
        keys=tuple(_planned_key(key) for key in keys.order_by("public_id")),
        require_keys=publication.require_keys,
        default_endpoint=next((endpoint.name for endpoint in endpoints if endpoint.is_default), None),
    )


def _write(home: Home, data: bytes, revision: int) -> None:
    try:
        write_whole(home.plan, data)
    except OSError as error:
        raise Internal(
            f"revision {revision} is in the database, but its plan cannot be written: {error.strerror}; "
            "the runner tries again, and gateways keep what they have"
        ) from error


def _locked_publication() -> Publication:
    Publication.objects.get_or_create(pk=1)
    return Publication.objects.select_for_update().get(pk=1)


def _refuse_a_strangers_plan(publication: Publication) -> ServingPlan | None:
    """The plan on disk, if this database may publish over it."""
    try:
        disk = read_plan(active_home())
    except InvalidInput as error:
        if publication.committed:
            return None  # ours was damaged: the next one replaces it
        raise Conflict(f"{error}, and this database has published none: {_WAYS_OUT}") from None
    # Our own first plan may lie there before `published` says so: a stranger's is newer than all we ever committed.
    is_strange = disk is not None and not publication.published and disk.revision > publication.committed
    if is_strange and (disk.endpoints or disk.keys):
        raise Conflict(
            f"a plan with {len(disk.endpoints)} endpoints (revision {disk.revision}) is being served, and this "
            f"database has published none: {_WAYS_OUT}"
        )
    return disk


_WAYS_OUT = (
    "bring the database back with `modelyard restore ARCHIVE`, or rebuild it from plan and shelf with `modelyard adopt`"
)


def _planned_endpoint(endpoint: Endpoint) -> PlannedEndpoint:
    weights = {row.version.number: row.weight for row in endpoint.deployments.all() if row.weight}
    versions = {row.version.number: row.version for row in endpoint.deployments.all()}
    for version in (endpoint.shadow, endpoint.lease_fallback):  # held ready, whoever gets calls
        if version is not None:
            versions[version.number] = version
    held = [versions[number] for number in sorted(versions)]
    return PlannedEndpoint(
        name=endpoint.name,
        model=endpoint.model.name,
        versions=tuple(PlannedVersion(version.number, version.digest) for version in held),
        split=TrafficSplit(weights, endpoint.sticky_by or None, _spans(endpoint) if len(weights) > 1 else ()),
        aliases={alias.name: version.number for version in held for alias in _aliases(version)},
        cutoff=endpoint.cutoff,
        max_rows=endpoint.max_rows,
        shadow=Shadow(endpoint.shadow.number, endpoint.shadow_percent) if endpoint.shadow else None,
        lease=Lease(endpoint.lease_seconds, endpoint.lease_fallback.number) if endpoint.lease_fallback else None,
        is_pinned=endpoint.is_pinned,
    )


def _spans(endpoint: Endpoint) -> Spans:
    return tuple((version, width) for version, width in endpoint.spans)


def _aliases(version: Version) -> list:
    return sorted(version.aliases.all(), key=lambda alias: alias.name)


def _planned_key(key: Key) -> PlannedKey:
    return PlannedKey(
        id=key.public_id,
        digest=key.digest,
        principal=key.principal.name,
        scopes=tuple(key.scopes),
        rows_per_second=key.rows_per_second,
        burst_rows=key.burst_rows,
        expires_at=key.expires_at.timestamp() if key.expires_at else None,
    )


def _content(plan: ServingPlan) -> ServingPlan:
    return msgspec.structs.replace(plan, revision=0, published_at=0.0)
