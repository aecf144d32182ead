"""The verbs that change what answers: deploy, share traffic, roll back, take away. The plan follows each commit."""

from django.db import transaction

from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import Conflict, InvalidInput, NotFound
from modelyard.contract.names import check_name
from modelyard.contract.plan import TrafficSplit
from modelyard.control.accounts.audit import record
from modelyard.control.deployments.compatibility import broken_promises
from modelyard.control.deployments.models import Deployment, Endpoint
from modelyard.control.deployments.publish import request_publication
from modelyard.control.registry.models import Version
from modelyard.control.registry.services import CHAMPION, find_version, newest_version, set_alias
from modelyard.control.setup import active_home


@transaction.atomic
def deploy(model: str, version: int | str | None = None, endpoint: str | None = None, *, by: str) -> Endpoint:
    """Send all calls of an endpoint (by default the one of the model's name) to a version (by default the newest).

    The version that served before stays loaded without traffic, for pinned calls and `rollback`. On the endpoint of
    the model's own name the version becomes the champion. Deploying what is deployed changes nothing.
    Raises NotFound, Conflict if the endpoint belongs to another model.
    """
    target = newest_version(model) if version is None else find_version(model, version)
    name = check_name("endpoint", endpoint or model)
    row = Endpoint.objects.select_for_update().filter(name=name).select_related("model").first()
    if row is None:
        row = Endpoint.objects.create(name=name, model=target.model)
    elif row.model_id != target.model_id:
        raise Conflict(f"endpoint {name!r} serves model {row.model.name!r}; undeploy it first or choose another name")
    _share(row, {target.number: 100}, "deploy", by)
    return row


@transaction.atomic
def set_traffic(endpoint: str, split: TrafficSplit, by: str) -> Endpoint:
    """Share the endpoint's calls as `split` says; versions that it does not hold yet are loaded first by the gateways.

    Raises NotFound, and Conflict if a version cannot take what callers of the endpoint send.
    """
    row = _locked(endpoint)
    row.sticky_by = split.sticky_by or ""
    row.save(update_fields=["sticky_by"])
    _share(row, split.weights, "set_traffic", by, always=True)
    return row


@transaction.atomic
def rollback(endpoint: str, by: str) -> Endpoint:
    """Send all calls back: of a split to the version that has most of it, else to the one that served before.

    Conflict if none is held.
    """
    row = _locked(endpoint)
    held = list(row.deployments.select_related("version").order_by("-weight", "version__number"))
    is_split = sum(deployment.weight > 0 for deployment in held) > 1
    before = held[0] if is_split else next((deployment for deployment in held if deployment.weight == 0), None)
    if before is None:
        raise Conflict(f"endpoint {endpoint!r} holds no version that served before; deploy one by its number")
    _share(row, {before.version.number: 100}, "rollback", by)
    return row


@transaction.atomic
def configure(
    endpoint: str,
    by: str,
    *,
    cutoff: float | None = None,
    max_rows: int | None = None,
    is_default: bool = False,
) -> Endpoint:
    """Set all of an endpoint's overrides at once; None takes an override away."""
    row = _locked(endpoint)
    if cutoff is not None and not 0.0 < cutoff < 1.0:
        raise InvalidInput("a cut-off lies between 0 and 1")
    if max_rows is not None and max_rows < 1:
        raise InvalidInput("max_rows is at least 1")
    if is_default:
        Endpoint.objects.filter(is_default=True).exclude(pk=row.pk).update(is_default=False)
    row.cutoff, row.max_rows, row.is_default = cutoff, max_rows, is_default
    row.save(update_fields=["cutoff", "max_rows", "is_default"])
    record(by, "configure", endpoint, {"cutoff": cutoff, "max_rows": max_rows, "is_default": is_default})
    request_publication()
    return row


@transaction.atomic
def undeploy(endpoint: str, by: str) -> None:
    """Take the endpoint away; versions and their artifacts stay. Raises NotFound."""
    row = _locked(endpoint)
    held = list(row.deployments.values_list("version__number", flat=True))
    row.delete()
    record(by, "undeploy", endpoint, {"versions": held})
    request_publication()


@transaction.atomic
def drop_idle(endpoint: str, by: str) -> Endpoint:
    """Let go of versions that are held without traffic, such as one that the gateway refused."""
    row = _locked(endpoint)
    idle = row.deployments.filter(weight=0)
    numbers = sorted(idle.values_list("version__number", flat=True))
    if numbers:
        idle.delete()
        record(by, "drop_idle", endpoint, {"versions": numbers})
        request_publication()
    return row


def find_endpoint(name: str) -> Endpoint:
    """The endpoint of that name. Raises NotFound."""
    row = Endpoint.objects.select_related("model").filter(name=name).first()
    if row is None:
        raise NotFound(f"there is no endpoint {name!r}; `modelyard deploy MODEL` makes one")
    return row


def _crown(endpoint: Endpoint, number: int, by: str) -> None:
    """The champion of a model is the version that its own endpoint gives all calls to."""
    if endpoint.name == endpoint.model.name:
        set_alias(endpoint.model.name, CHAMPION, number, by)


def _share(endpoint: Endpoint, weights: dict[int, int], verb: str, by: str, always: bool = False) -> None:
    """Make the endpoint hold `weights` and, without traffic, the version that had most of it before."""
    held = {row.version.number: row for row in endpoint.deployments.select_related("version")}
    before = {number: row.weight for number, row in held.items() if row.weight}
    if before == {number: weight for number, weight in weights.items() if weight} and not always:
        return
    versions = {number: find_version(endpoint.model.name, number) for number in weights}
    _check(endpoint, versions, weights, before)
    kept = _kept(before, weights, held)
    endpoint.deployments.exclude(version__number__in=[*weights, *kept]).delete()
    for number in kept:
        Deployment.objects.filter(pk=held[number].pk).update(weight=0)
    for number, weight in weights.items():
        Deployment.objects.update_or_create(endpoint=endpoint, version=versions[number], defaults={"weight": weight})
    for number in (number for number, weight in weights.items() if weight == 100):
        _crown(endpoint, number, by)
    record(by, verb, endpoint.name, {"weights": _text(weights), "before": _text(before), "model": endpoint.model.name})
    request_publication()


def _kept(before: dict[int, int], weights: dict[int, int], held: dict[int, Deployment]) -> list[int]:
    """The one version to hold without traffic: what served most and no longer does, else what was held already."""
    leaving = [number for number in before if number not in weights]
    if leaving:
        return [max(leaving, key=lambda number: (before[number], number))]
    idle = [number for number in held if number not in before and number not in weights]
    return [max(idle)] if idle else []


def _check(endpoint: Endpoint, versions: dict[int, Version], weights: dict[int, int], before: dict[int, int]) -> None:
    shelf = Shelf(active_home().shelf)
    contracts = {}
    for number, version in versions.items():
        if version.status != Version.Status.READY:
            raise Conflict(f"{endpoint.model.name} version {number} is not ready: {version.note or 'it failed'}")
        contracts[number] = shelf.open(version.digest).manifest.contract
    sharing = [number for number, weight in weights.items() if weight]
    # Callers follow the contract of the version that serves most; the others must take the same.
    leader = max(sharing, key=lambda number: (before.get(number, 0), weights[number], -number))
    for number in sharing:
        if number != leader and (broken := broken_promises(contracts[leader], contracts[number])):
            raise Conflict(
                f"versions {leader} and {number} of {endpoint.model.name} cannot share calls: {'; '.join(broken[:5])}"
            )


def _locked(name: str) -> Endpoint:
    find_endpoint(name)
    return Endpoint.objects.select_for_update().select_related("model").get(name=name)


def _text(weights: dict[int, int]) -> dict[str, int]:
    return {str(number): weight for number, weight in sorted(weights.items())}
