"""What is served, as far as callers see it: endpoints, their versions, and how a version's schemas are called."""

from __future__ import annotations

import msgspec

from modelyard.artifacts.manifest import Manifest
from modelyard.contract.features import Column
from modelyard.serve.routing import Deployment, Route


class Held(msgspec.Struct, frozen=True):
    """One version that an endpoint holds, as far as its callers see it."""

    number: int
    manifest: Manifest
    cutoff: float | None

    @property
    def is_table(self) -> bool:
        """Whether it takes rows of columns; otherwise it takes tensors as they are."""
        return self.manifest.signature.layout != "tensors"

    @property
    def explains(self) -> bool:
        """Whether it may explain."""
        return self.manifest.may_explain


class Served(msgspec.Struct, frozen=True):
    """One endpoint: the version that its contract is shown from, and the others that it holds."""

    name: str
    model: str
    main: Held
    others: tuple[Held, ...] = ()
    aliases: dict[str, int] = {}
    max_rows: int | None = None

    @property
    def versions(self) -> tuple[Held, ...]:
        """All of them, the oldest first."""
        return tuple(sorted((self.main, *self.others), key=lambda held: held.number))


def name_of(served: Served, held: Held, what: str) -> str:
    """What a schema of this version is called: the endpoint's own unless its contract differs."""
    if held is served.main or same_form(held, served.main):
        return f"{served.name}.{what}"
    return f"{served.name}.v{held.number}.{what}"


def same_form(one: Held, other: Held) -> bool:
    """Whether callers need not tell the two versions apart by what they send and get."""
    left, right = one.manifest, other.manifest
    return (
        left.signature == right.signature
        and one.cutoff == other.cutoff
        and left.decision == right.decision
        and left.contract.target == right.contract.target
        and [_asked(column) for column in left.contract.columns]
        == [_asked(column) for column in right.contract.columns]
    )


def _asked(column: Column) -> Column:
    return msgspec.structs.replace(column, clip=None, fill=None, typical=None, bins=(), note="")


def served(route: Route) -> Served:
    """What a route holds, as its callers see it."""
    others = tuple(_held(one) for one in route.deployments.values() if one is not route.main)
    return Served(route.name, route.model, _held(route.main), others, dict(route.aliases), route.main.max_rows)


def _held(deployment: Deployment) -> Held:
    return Held(deployment.version, deployment.replica.loaded.manifest, deployment.cutoff)
