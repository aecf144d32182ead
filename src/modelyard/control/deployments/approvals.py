"""Changes that wait: asked for by one principal, done when another one approves.

What is asked is first done and undone again within one transaction, so that a change that cannot be made is refused at
once. Approval does it anew, with every check, unless the endpoint was changed meanwhile.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.module_loading import import_string

from modelyard.contract.errors import Conflict, Forbidden, NotFound
from modelyard.control.accounts.audit import record
from modelyard.control.deployments.models import Change, Endpoint

# What may be asked for; each takes the change's arguments, `by` and `approved_by`.
VERBS = {
    "deploy": "modelyard.control.deployments.services.deploy",
    "set_traffic": "modelyard.control.deployments.services.set_traffic",
    "set_shadow": "modelyard.control.deployments.services.set_shadow",
    "set_lease": "modelyard.control.deployments.services.set_lease",
    "rollback": "modelyard.control.deployments.services.rollback",
    "configure": "modelyard.control.deployments.services.configure",
    "undeploy": "modelyard.control.deployments.services.undeploy",
    "start_rollout": "modelyard.control.rollouts.services.start_rollout",
}

MAX_WAITING = 100  # changes of one endpoint that nobody has decided
LOCAL = "local:"  # before the name of the system's user who gave a command


def unless_it_waits(
    endpoint: Endpoint, verb: str, arguments: Mapping[str, Any], act: Callable[[], Any], *, by: str, approved_by: str
) -> Any:
    """What `act` gives; or, where the endpoint needs an approval that is not there, the change that waits for it.

    Call within a transaction that holds the endpoint's row. `arguments` are what `VERBS[verb]` is called with later.
    Raises whatever `act` raises, and Conflict if too many wait.
    """
    if not endpoint.needs_approval or approved_by:
        return act()
    if Change.objects.filter(endpoint=endpoint.name, status=Change.Status.WAITING).count() >= MAX_WAITING:
        raise Conflict(
            f"{MAX_WAITING} changes of endpoint {endpoint.name!r} wait already; approve or reject some first"
        )
    with transaction.atomic():
        act()  # refuses now what could not be done later
        transaction.set_rollback(True)
    change = Change.objects.create(
        endpoint=endpoint.name,
        verb=verb,
        arguments=msgspec.to_builtins(arguments, str_keys=True),
        by=by,
        expected=Endpoint.objects.values_list("revision", flat=True).get(name=endpoint.name),
    )
    record(by, "ask", endpoint.name, {"change": change.pk, "verb": verb})
    return change


def approve(change_id: int, by: str) -> tuple[Change, Any]:
    """Do what was asked, in the name of both; the change, and what its verb gives.

    Raises NotFound; Forbidden to who asked; Conflict if it was decided already, cannot be done any more, or if the
    endpoint was changed after it was asked (the change is then stale).
    """
    with transaction.atomic():
        change = _waiting(change_id)
        if _is_same(by, change.by):
            raise Forbidden(f"{change.by} asked for change {change.pk}: another principal approves it")
        endpoint = Endpoint.objects.select_for_update().filter(name=change.endpoint).first()
        if endpoint is not None and endpoint.revision == change.expected:
            done = import_string(VERBS[change.verb])(**change.arguments, by=change.by, approved_by=by)
            revision = getattr(done, "revision", None)
            _decide(change, Change.Status.APPROVED, by, revision=revision)
            record(by, "approve", change.endpoint, {"change": change.pk, "verb": change.verb, "revision": revision})
            return change, done
        _decide(change, Change.Status.STALE, by, reason="the endpoint was changed after this was asked")
        record(by, "stale", change.endpoint, {"change": change.pk, "verb": change.verb})
    raise Conflict(f"endpoint {change.endpoint!r} was changed after change {change.pk} was asked; ask for it again")


@transaction.atomic
def reject(change_id: int, by: str, reason: str = "") -> Change:
    """See that it is never done; who asked for it withdraws it so. Raises NotFound, Conflict if it was decided."""
    change = _waiting(change_id)
    own = _is_same(by, change.by)
    _decide(change, Change.Status.WITHDRAWN if own else Change.Status.REJECTED, by, reason=reason)
    details = {"change": change.pk, "verb": change.verb, "reason": reason}
    record(by, "withdraw" if own else "reject", change.endpoint, details)
    return change


def withdraw(change_id: int, by: str) -> Change:
    """Take back what one asked for. Raises NotFound, Conflict if it was decided, Forbidden to others."""
    if not _is_same(by, find_change(change_id).by):
        raise Forbidden(f"change {change_id} is withdrawn by who asked for it; others reject it")
    return reject(change_id, by)


def find_change(change_id: int) -> Change:
    """Raises NotFound."""
    change = Change.objects.filter(pk=change_id).first()
    if change is None:
        raise NotFound(f"there is no change {change_id}; `modelyard changes` lists those that wait")
    return change


def list_changes() -> QuerySet[Change]:
    """Every change that was ever asked for, the newest first."""
    return Change.objects.all()


def _waiting(change_id: int) -> Change:
    find_change(change_id)
    change = Change.objects.select_for_update().get(pk=change_id)
    if change.status != Change.Status.WAITING:
        by = f" by {change.decided_by}" if change.decided_by else ""
        raise Conflict(f"change {change.pk} was {change.status}{by} already")
    return change


def _decide(change: Change, status: Change.Status, by: str, reason: str = "", revision: int | None = None) -> None:
    change.status, change.decided_by, change.decided_at = status, by, timezone.now()
    change.reason, change.revision = reason, revision
    change.save(update_fields=["status", "decided_by", "decided_at", "reason", "revision"])


def _is_same(one: str, other: str) -> bool:
    """Whether both are one principal: the account `li`, and the system's user `li` at the command line, are."""
    return one.removeprefix(LOCAL) == other.removeprefix(LOCAL)
