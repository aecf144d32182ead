"""What an endpoint's callers rely on, and whether versions keep it: contracts from the shelf, judged as they stand."""

import re
from collections.abc import Iterable, Mapping

from modelyard.artifacts.manifest import Manifest
from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import Conflict, InvalidInput, NotFound
from modelyard.control.deployments.compatibility import broken_inputs, broken_promises
from modelyard.control.deployments.models import Endpoint
from modelyard.control.registry.models import Version
from modelyard.control.registry.services import find_version
from modelyard.control.setup import active_home

COLUMN = "column:"
MAX_LISTED = 10  # broken promises in one refusal; the log has up to ...
MAX_LOGGED = 50
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")  # a token, as RFC 9110 has it


def weights_of(endpoint: Endpoint) -> dict[int, int]:
    """Version number -> percent, of those that get calls."""
    rows = endpoint.deployments.filter(weight__gt=0).order_by("version__number")
    return dict(rows.values_list("version__number", "weight"))


def leader_of(weights: Mapping[int, int]) -> int | None:
    """The version that callers follow, because the endpoint describes itself by it: most calls, newest of equals."""
    return max(weights, key=lambda number: (weights[number], number), default=None)


def manifest_of(version: Version) -> Manifest:
    """What a version says of itself, every byte of it verified. Conflict if it may not serve or is damaged."""
    name = f"{version.model.name} version {version.number}"
    # Locked, so that garbage collection either finds it deployed or has removed it before.
    version.status = Version.objects.select_for_update(no_key=True).values_list("status", flat=True).get(pk=version.pk)
    if version.status != Version.Status.READY:
        raise Conflict(f"{name} is not ready: {version.note or 'it failed'}")
    try:
        return Shelf(active_home().shelf).open(version.digest).manifest
    except (NotFound, InvalidInput) as error:
        raise Conflict(f"{name} cannot be served: {error}") from None


def broken_by(endpoint: Endpoint, offers: Mapping[int, Manifest], weights: Mapping[int, int]) -> list[str]:
    """What versions that are to get calls break for the endpoint's callers, who follow the leader of `weights`."""
    leader = leader_of(weights)
    if leader is None or not offers:
        return []
    promised = _promised(endpoint, leader)
    if promised is None:
        return [f"what version {leader} promised is not known: its artifact is missing or damaged"]
    return [
        f"version {number}: {broken}"
        for number, offered in offers.items()
        for broken in broken_promises(promised, offered)
    ]


def refused_by(endpoint: Endpoint, offered: Manifest, weights: Mapping[int, int]) -> list[str]:
    """The calls of the endpoint that a shadow would refuse; what it answers may differ."""
    leader = leader_of(weights)
    promised = None if leader is None else _promised(endpoint, leader)
    return [] if promised is None else broken_inputs(promised, offered)


def refuse_broken(endpoint: Endpoint, broken: list[str], force: str) -> None:
    """Conflict that lists what breaks, unless somebody forces it and says why."""
    if not broken or force:
        return
    more = f" and {len(broken) - MAX_LISTED} more" if len(broken) > MAX_LISTED else ""
    raise Conflict(
        f"callers of {endpoint.name!r} would break: {'; '.join(broken[:MAX_LISTED])}{more}. Once they can cope, force "
        "it with a reason, which is recorded"
    )


def check_reason(force: str) -> str:
    """The reason for forcing, fit to be recorded. Raises InvalidInput."""
    reason = " ".join(force.split())
    if len(reason) > 500 or (force and not reason):
        raise InvalidInput("the reason for forcing is a sentence of at most 500 characters")
    return reason


def check_sticky(sticky_by: str, versions: Iterable[Version]) -> None:
    """Raises InvalidInput unless it is a header's name, or a column that each version takes and nobody is hurt by."""
    if not sticky_by.startswith(COLUMN):
        if sticky_by and not _HEADER.fullmatch(sticky_by):
            raise InvalidInput("sticky_by is the name of a header, or column:NAME")
        return
    name = sticky_by.removeprefix(COLUMN)
    for version in versions:
        manifest = manifest_of(version)
        roles = {column.name: column.role for column in manifest.contract.columns}
        roles = roles or {tensor.name: "feature" for tensor in manifest.signature.inputs}
        if name not in roles:
            known = ", ".join([column for column, role in roles.items() if role != "sensitive"][:20]) or "none"
            raise InvalidInput(
                f"sticky_by: version {version.number} of {version.model.name} has no such column; it has: {known}"
            )
        if roles[name] == "sensitive":
            raise InvalidInput(f"sticky_by: column {name!r} is sensitive: callers are not told apart by it")


def check_cutoff(endpoint: Endpoint, offers: Mapping[int, Manifest]) -> None:
    """Raises Conflict if the endpoint moves a cut-off that one of these versions has not."""
    without = [number for number, offer in offers.items() if offer.decision is None]
    if endpoint.cutoff is not None and without:
        raise Conflict(
            f"endpoint {endpoint.name!r} moves the cut-off, and version {without[0]} has no decision; take the cut-off "
            "away first"
        )


def _promised(endpoint: Endpoint, number: int) -> Manifest | None:
    try:
        return Shelf(active_home().shelf).open(find_version(endpoint.model.name, number).digest).manifest
    except (NotFound, InvalidInput):
        return None
