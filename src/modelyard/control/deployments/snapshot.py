"""How an endpoint stood before a change, so that a change which no gateway can serve is put back as it was."""

from dataclasses import dataclass, field
from typing import Any

from django.db import transaction

from modelyard.control.deployments.models import Deployment, Endpoint
from modelyard.control.deployments.promises import leader_of, weights_of
from modelyard.control.deployments.settling import settle, text_of
from modelyard.control.registry.services import CHAMPION, set_alias

FIELDS = (
    "cutoff", "is_pinned", "lease_by", "lease_fallback_id", "lease_seconds", "max_rows", "needs_approval",
    "shadow_id", "shadow_percent", "spans", "sticky_by",
)  # fmt: skip


@dataclass(frozen=True)
class Snapshot:
    """The rows of one endpoint, as values."""

    weights: dict[int, int] = field(default_factory=dict)  # primary key of the version -> percent
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def served(self) -> bool:
        """Whether the endpoint answered at all."""
        return any(self.weights.values())


def take(endpoint: Endpoint) -> Snapshot:
    """Of an endpoint whose row the transaction holds."""
    weights = dict(endpoint.deployments.values_list("version_id", "weight"))
    return Snapshot(weights, {name: getattr(endpoint, name) for name in FIELDS})


@transaction.atomic
def put_back(endpoint: str, before: Snapshot, revision: int, by: str, reason: str) -> bool:
    """Bring the endpoint back to what it was, if `revision` was its last change; else somebody else's counts."""
    row = Endpoint.objects.select_for_update(of=("self",)).filter(name=endpoint, revision=revision).first()
    if row is None:
        return False
    details: dict[str, Any] = {"reason": reason, "before": text_of(weights_of(row))}
    if not before.served:
        row.delete()
        settle(row, "put_back", None, details, by=by)
        return True
    row.deployments.exclude(version_id__in=before.weights).delete()
    for version, weight in before.weights.items():
        Deployment.objects.update_or_create(endpoint=row, version_id=version, defaults={"weight": weight})
    for name, value in before.fields.items():
        setattr(row, name, value)
    serving = weights_of(row)
    crown(row, serving, by)
    settle(row, "put_back", leader_of(serving), details, by=by)
    return True


def crown(endpoint: Endpoint, weights: dict[int, int], by: str) -> None:
    """The champion of a model is the version that its own endpoint gives all calls to."""
    if endpoint.name == endpoint.model.name and len(weights) == 1:
        set_alias(endpoint.model.name, CHAMPION, next(iter(weights)), by)
