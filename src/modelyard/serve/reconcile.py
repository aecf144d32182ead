"""What to do next so that what runs becomes what is wanted. Pure: sets in, one step out."""

from __future__ import annotations

from typing import NamedTuple


class Load(NamedTuple):
    """Bring this version up, and warm it."""

    digest: str


class Swap(NamedTuple):
    """Everything wanted is warm: let the new routes answer."""


class Drain(NamedTuple):
    """Nothing new reaches this version: let it finish and free it."""

    digest: str


def next_action(wanted: frozenset[str], ready: frozenset[str], is_swapped: bool) -> Load | Swap | Drain | None:
    """The next step towards `wanted`, or None. Never leaves an endpoint silent: nothing drains before the swap."""
    if missing := wanted - ready:
        return Load(min(missing))
    if not is_swapped:
        return Swap()
    if stale := ready - wanted:
        return Drain(min(stale))
    return None
