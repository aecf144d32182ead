"""An empty database takes over what is being served: rows rebuilt from the signed plan, the names, and the shelf."""

from datetime import UTC, datetime

from django.db import transaction

from modelyard.artifacts.names import read_names
from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import Conflict, NotFound
from modelyard.contract.home import Home
from modelyard.contract.plan import PlannedEndpoint, PlannedKey, ServingPlan
from modelyard.contract.split import move_slots
from modelyard.control.accounts.audit import record
from modelyard.control.accounts.models import Key, Principal
from modelyard.control.deployments.models import Deployment, Endpoint, Publication
from modelyard.control.deployments.promises import leader_of, weights_of
from modelyard.control.deployments.publish import request_publication
from modelyard.control.deployments.reading import read_plan
from modelyard.control.deployments.settling import shadow_of, text_of
from modelyard.control.registry.models import Version
from modelyard.control.registry.services import find_version, note_event, register_version, set_alias
from modelyard.control.setup import active_home

_NOTE = "adopted from the shelf"


@transaction.atomic
def adopt(by: str) -> dict[str, int]:
    """Rebuild models, versions, aliases, endpoints and keys; how many of each. What is served does not change.

    Raises Conflict if this database has models, endpoints or keys of its own, NotFound if there is nothing to adopt,
    InvalidInput if plan or names are not signed by this home's key.
    """
    if Version.objects.exists() or Endpoint.objects.exists() or Key.objects.exists():
        raise Conflict("this database has models, endpoints or keys of its own; adopting is for an empty one")
    home = active_home()
    plan, listed = read_plan(home), read_names(home)
    if plan is None and listed is None:
        raise NotFound("there is neither a plan nor a list of names in this home to adopt")
    versions = _adopt_versions(home, plan, dict(listed.names) if listed else {}, by)
    if plan is not None:
        Publication.objects.update_or_create(
            pk=1,
            defaults={"committed": plan.revision, "published": plan.revision, "require_keys": plan.require_keys},
        )
        for endpoint in plan.endpoints:
            _adopt_endpoint(endpoint, endpoint.name == plan.default_endpoint)
        for key in plan.keys:
            _adopt_key(key, by)
        Endpoint.objects.update(revision=request_publication())
        _note_what_is_served(by)
    counts = {
        "versions": versions,
        "endpoints": len(plan.endpoints) if plan else 0,
        "keys": len(plan.keys) if plan else 0,
    }
    record(by, "adopt", "home", {**counts, "revision": plan.revision if plan else 0})
    return counts


def _adopt_versions(home: Home, plan: ServingPlan | None, names: dict[str, str], by: str) -> int:
    served = {
        f"{endpoint.model}:{planned.version}": planned.digest
        for endpoint in (plan.endpoints if plan else ())
        for planned in endpoint.versions
    }
    shelf = Shelf(home.shelf)
    there = {*shelf.digests(), *served.values()}  # one that is served and missing is an error; an old one is history
    numbers, aliases = [], []
    for name, digest in (names | served).items():
        model, _, which = name.rpartition(":")
        if digest in there:
            (numbers if which.isdecimal() else aliases).append((model, which, digest))
    for _, number, digest in sorted(numbers, key=lambda entry: (entry[0], int(entry[1]))):
        register_version(shelf.open(digest).manifest, digest, by, _NOTE, number=int(number))
    for model, alias, digest in sorted(aliases):
        version = Version.objects.filter(model__name=model, digest=digest).first()
        if version is not None:
            set_alias(model, alias, version.number, by)
    return len(numbers)


def _adopt_endpoint(planned: PlannedEndpoint, is_default: bool) -> None:
    """Its row, as the plan has it. Whether it needed approval, and who held its lease, no plan says."""
    split, shadow, lease = planned.split, planned.shadow, planned.lease
    versions = {held.version: find_version(planned.model, held.version) for held in planned.versions}
    endpoint = Endpoint.objects.create(
        name=planned.name,
        model=next(iter(versions.values())).model,
        is_default=is_default,
        cutoff=planned.cutoff,
        max_rows=planned.max_rows,
        sticky_by=split.sticky_by or "",
        spans=split.spans or move_slots((), split.weights),
        shadow=versions[shadow.version] if shadow else None,
        shadow_percent=shadow.percent if shadow else None,
        lease_seconds=lease.seconds if lease else None,
        lease_fallback=versions[lease.fallback] if lease else None,
        is_pinned=planned.is_pinned,
    )
    special = {shadow.version if shadow else None, lease.fallback if lease else None}
    for number, version in versions.items():
        weight = split.weights.get(number, 0)
        if weight or number not in special:
            Deployment.objects.create(endpoint=endpoint, version=version, weight=weight)


def _note_what_is_served(by: str) -> None:
    """The log of a new database begins with how each endpoint stands."""
    for row in Endpoint.objects.select_related("model", "shadow"):
        weights = weights_of(row)
        said = {"endpoint": row.name, "revision": row.revision, "weights": text_of(weights), "shadow": shadow_of(row)}
        note_event(row.model, by, "adopt", leader_of(weights), said)


def _adopt_key(planned: PlannedKey, by: str) -> None:
    principal, _ = Principal.objects.get_or_create(name=planned.principal)
    expires_at = datetime.fromtimestamp(planned.expires_at, UTC) if planned.expires_at is not None else None
    Key.objects.create(
        public_id=planned.id,
        digest=planned.digest,
        principal=principal,
        scopes=list(planned.scopes),
        rows_per_second=planned.rows_per_second,
        burst_rows=planned.burst_rows,
        expires_at=expires_at,
        created_by=by,
    )
