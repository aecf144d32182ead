"""What served where at any instant, told by the log alone: rows may be gone, events stay.

Each event that changes an endpoint says how it stands afterwards (`services.note_event`), so the last one before an
instant is the answer. Instants are those of the change; gateways follow it within a second.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
from django.db.models import Max, QuerySet

from modelyard.contract.errors import InvalidInput, NotFound
from modelyard.control.registry.models import Event, Model


class Served(msgspec.Struct, frozen=True):
    """How an endpoint stood from one event on, and by whose word."""

    endpoint: str
    model: str
    weights: dict[int, int]  # version number -> percent of calls
    shadow: dict[str, int] | None  # version, percent: gets copies and never answers
    revision: int | None  # of the plan that said so
    since: datetime
    verb: str
    by: str
    approved_by: str = ""
    forced: str = ""  # why it was done though something spoke against it


def changes_of_serving() -> QuerySet[Event]:
    """The events that say how an endpoint stands."""
    return Event.objects.filter(endpoint__isnull=False, details__has_key="weights").select_related("model")


def state_after(event: Event) -> Served | None:
    """How the endpoint of an event stood after it; None: it was gone."""
    said = event.details
    weights = {int(number): percent for number, percent in said["weights"].items() if percent}
    if not weights:
        return None
    return Served(
        endpoint=event.endpoint or "",
        model=event.model.name,
        weights=weights,
        shadow=_shadow(said.get("shadow")),
        revision=event.revision,
        since=event.at,
        verb=event.verb,
        by=event.by,
        approved_by=said.get("approved_by") or "",
        forced=said.get("forced") or "",
    )


def replay(events: Iterable[Event]) -> dict[str, Served]:
    """Every endpoint as it stands after `events`, which come oldest first."""
    states: dict[str, Served] = {}
    for event in events:
        state = state_after(event)
        if state is None:
            states.pop(event.endpoint or "", None)
        else:
            states[state.endpoint] = state
    return states


def served_at(at: datetime, *, model: str | None = None, endpoint: str | None = None) -> list[Served]:
    """What served at `at`: each endpoint of a model, the one endpoint, or everything; one query. By endpoint's name."""
    known = changes_of_serving().filter(at__lte=at)
    if endpoint is not None:
        known = known.filter(endpoint=endpoint)
    if model is not None:
        # All that was ever said of its endpoints: another model may have taken one over since.
        known = known.filter(endpoint__in=Event.objects.filter(model__name=model).values("endpoint"))
    last = known.order_by().values("endpoint").annotate(last=Max("pk")).values("last")
    found = [state_after(event) for event in changes_of_serving().filter(pk__in=last).order_by("endpoint")]
    return [state for state in found if state is not None and model in (None, state.model)]


def whose(name: str) -> tuple[str | None, str | None]:
    """A model of that name, or else an endpoint that the log knows: one of both is None. Raises NotFound."""
    if Model.objects.filter(name=name).exists():
        return name, None
    if Event.objects.filter(endpoint=name).exists():
        return None, name
    raise NotFound(f"there is no model {name!r}, and the log knows no endpoint of that name")


def events_of(model: str | None = None, endpoint: str | None = None) -> QuerySet[Event]:
    """The log of a model, or of an endpoint, newest first."""
    found = Event.objects.select_related("model").order_by("-pk")
    return found.filter(model__name=model) if model is not None else found.filter(endpoint=endpoint)


def served_by_revision(endpoint: str, revision: int) -> Served | None:
    """What an endpoint served under a revision of the plan; None if the log does not reach back so far."""
    last = changes_of_serving().filter(endpoint=endpoint, revision__lte=revision).order_by("-pk").first()
    return None if last is None else state_after(last)


def brought_by(endpoint: str, version: int, revision: int) -> Event | None:
    """The event that gave `version` a share of `endpoint` which it still had under `revision`; None if it had none."""
    found = None
    for event in changes_of_serving().filter(endpoint=endpoint, revision__lte=revision).order_by("-pk").iterator(50):
        if not event.details["weights"].get(str(version)):
            break
        found = event
    return found


def log_began(endpoint: str) -> datetime | None:
    """When the log of an endpoint begins; None if it has none."""
    first = changes_of_serving().filter(endpoint=endpoint).order_by("pk").first()
    return first.at if first else None


def instant(text: str) -> datetime:
    """A point in time as people write it: ISO 8601, UTC where it names no zone. Raises InvalidInput."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput("a time is ISO 8601, such as 2026-03-01T14:30 (UTC) or 2026-03-01T14:30+02:00") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _shadow(said: Any) -> dict[str, int] | None:
    return {"version": int(said["version"]), "percent": int(said.get("percent", 100))} if said else None
