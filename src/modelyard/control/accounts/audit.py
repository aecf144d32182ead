"""One line for each change: who did what to what. Written in the transaction of the change itself."""

from typing import Any

from modelyard.control.accounts.models import AuditEvent


def record(by: str, verb: str, thing: str, details: dict[str, Any] | None = None) -> AuditEvent:
    """Write an audit event. `details` are names and numbers that a reader may see: no secret, no person's data."""
    return AuditEvent.objects.create(principal=by, verb=verb, object=thing, details=details or {})
