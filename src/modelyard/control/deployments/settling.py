"""A change is settled: the plan is asked for, the endpoint carries the revision, and the log says who did what."""

from typing import Any

from modelyard.control.accounts.audit import record
from modelyard.control.deployments.models import Endpoint
from modelyard.control.deployments.promises import weights_of
from modelyard.control.deployments.publish import request_publication
from modelyard.control.registry.services import note_event


def settle(
    endpoint: Endpoint, verb: str, version: int | None, details: dict[str, Any], *, by: str, approved_by: str = ""
) -> Endpoint:
    """Save the row with the revision that its change makes, in the change's own transaction; write down how it stands.

    An endpoint that was deleted has no row any more, and the event says that nothing of it is left.
    """
    endpoint.revision = request_publication()
    is_there = endpoint.pk is not None
    if is_there:
        endpoint.save()
    said = {
        "endpoint": endpoint.name,
        "revision": endpoint.revision,
        "weights": text_of(weights_of(endpoint)) if is_there else {},
        "shadow": shadow_of(endpoint) if is_there else None,
        **details,
        **({"approved_by": approved_by} if approved_by else {}),
    }
    note_event(endpoint.model, by, verb, version, said)
    record(by, verb, endpoint.name, {"model": endpoint.model.name, **said})
    return endpoint


def shadow_of(endpoint: Endpoint) -> dict[str, int] | None:
    """The shadow's version and percent, if there is one."""
    if endpoint.shadow is None:
        return None
    return {"version": endpoint.shadow.number, "percent": endpoint.shadow_percent}


def text_of(weights: dict[int, int]) -> dict[str, int]:
    """The same as JSON has it."""
    return {str(number): weight for number, weight in sorted(weights.items())}
