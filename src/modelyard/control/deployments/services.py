"""The verbs that change what answers: deploy, share traffic, shadow, lease, roll back, take away.

The plan follows each commit. Where an endpoint needs approval, a verb gives back the `Change` that waits for it instead
of the endpoint; `approved_by` says that it has been given. With `expected`, a verb raises Conflict unless that is still
the endpoint's revision, so that of two people who change the same thing at once one is told.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from django.db import transaction
from django.db.models import QuerySet

from modelyard.contract.errors import Conflict, InvalidInput, NotFound
from modelyard.contract.names import check_name
from modelyard.contract.plan import Lease, Shadow, TrafficSplit
from modelyard.contract.split import move_slots
from modelyard.control.deployments import promises
from modelyard.control.deployments.approvals import unless_it_waits
from modelyard.control.deployments.models import Change, Deployment, Endpoint
from modelyard.control.deployments.settling import settle, shadow_of, text_of
from modelyard.control.deployments.snapshot import crown, take
from modelyard.control.registry.models import Model, Version
from modelyard.control.registry.services import find_version, newest_version


@transaction.atomic
def deploy(
    model: str,
    version: int | str | None = None,
    endpoint: str | None = None,
    *,
    by: str,
    force: str = "",
    expected: int | None = None,
    approved_by: str = "",
) -> Endpoint | Change:
    """Send all calls of an endpoint (by default the one of the model's name) to a version (by default the newest).

    The version that served before stays loaded without traffic, for pinned calls and `rollback`. On the endpoint of
    the model's own name the version becomes the champion. Deploying what is deployed changes nothing.
    Raises NotFound; Conflict if the endpoint belongs to another model, or if callers would break and `force` gives no
    reason.
    """
    target = newest_version(model) if version is None else find_version(model, version)
    row = _held(check_name("endpoint", endpoint or model), target.model, expected)
    if promises.weights_of(row) == {target.number: 100} and row.lease_seconds is None:
        return row
    force = promises.check_reason(force)
    arguments = {"model": model, "version": target.number, "endpoint": row.name, "force": force}
    return _change(row, "deploy", arguments, lambda: _share(row, {target.number: 100}, by, force), by, approved_by)


@transaction.atomic
def set_traffic(
    endpoint: str,
    split: TrafficSplit | Mapping[str, Any],
    by: str,
    *,
    force: str = "",
    expected: int | None = None,
    approved_by: str = "",
) -> Endpoint | Change:
    """Share the endpoint's calls as `split` says; versions that it does not hold yet are loaded first by the gateways.

    Who has which slot follows from who has it now, moving as few as can be; spans in `split` are not looked at.
    A lease ends, unless whoever holds it makes the change. Raises NotFound, InvalidInput, and Conflict if callers of
    the endpoint would break and `force` gives no reason.
    """
    row = _locked(endpoint, expected)
    wanted = _value(split, TrafficSplit, "weights are percents per version number that sum to 100")
    force = promises.check_reason(force)

    def act() -> tuple[int | None, dict[str, Any]]:
        row.sticky_by = wanted.sticky_by or ""
        leader, details = _share(row, wanted.weights, by, force)
        held = row.deployments.filter(weight__gt=0).select_related("version__model")
        promises.check_sticky(row.sticky_by, [deployment.version for deployment in held])
        return leader, {**details, "sticky_by": wanted.sticky_by}

    shared = {"weights": wanted.weights, "sticky_by": wanted.sticky_by}
    arguments = {"endpoint": endpoint, "split": shared, "force": force}
    return _change(row, "set_traffic", arguments, act, by, approved_by)


@transaction.atomic
def set_shadow(
    endpoint: str,
    shadow: Shadow | Mapping[str, Any] | None,
    by: str,
    *,
    expected: int | None = None,
    approved_by: str = "",
) -> Endpoint | Change:
    """Let a version have copies of the endpoint's calls, compared and never answered; None ends it.

    What stands already changes nothing. Raises NotFound, InvalidInput, and Conflict if the version answers calls
    already or would refuse them.
    """
    row = _locked(endpoint, expected)
    wanted = None if shadow is None else _value(shadow, Shadow, "a shadow is a version and 1 to 100 percent")
    if shadow_of(row) == msgspec.to_builtins(wanted):
        return row

    def act() -> tuple[int | None, dict[str, Any]]:
        details = {"before": shadow_of(row)}
        row.shadow, row.shadow_percent = None, None
        if wanted is not None:
            row.shadow, row.shadow_percent = _fit_shadow(row, wanted.version), wanted.percent
        return wanted.version if wanted else None, details

    arguments = {"endpoint": endpoint, "shadow": msgspec.to_builtins(wanted)}
    return _change(row, "set_shadow", arguments, act, by, approved_by)


@transaction.atomic
def set_lease(
    endpoint: str,
    seconds: float | None,
    by: str,
    *,
    fallback: int | None = None,
    approved_by: str = "",
) -> Endpoint | Change:
    """Let the split hold only while the control plane shows a sign of life within `seconds`; None ends that.

    After it gateways give all calls to `fallback`: by default the version that has most of them when the lease is
    first taken, the oldest of equals. A lease outlives the traffic changes of its holder `by`, and no other's.
    Raises NotFound, InvalidInput, and Conflict if the endpoint does not hold that version.
    """
    row = _locked(endpoint)

    def act() -> tuple[int | None, dict[str, Any]]:
        if seconds is None:
            _end_lease(row)
            return None, {"lease": None}
        version = _fallback(row, fallback, by)
        lease = _value({"seconds": seconds, "fallback": version.number}, Lease, "a lease lasts some seconds")
        row.lease_seconds, row.lease_fallback, row.lease_by = lease.seconds, version, by
        return version.number, {"lease": msgspec.to_builtins(lease)}

    arguments = {"endpoint": endpoint, "seconds": seconds, "fallback": fallback}
    return _change(row, "set_lease", arguments, act, by, approved_by)


@transaction.atomic
def rollback(endpoint: str, by: str, *, expected: int | None = None, approved_by: str = "") -> Endpoint | Change:
    """Send all calls back: under a lease to its fallback, of a split to the version that has most of it, else to the
    one that served before.

    What callers rely on is not asked: the way back is always open. Conflict if no such version is held.
    """
    row = _locked(endpoint, expected)
    target = row.lease_fallback or _served_before(row)
    return _change(
        row, "rollback", {"endpoint": endpoint}, lambda: _share(row, {target.number: 100}, by, None), by, approved_by
    )


@transaction.atomic
def configure(
    endpoint: str,
    by: str,
    *,
    cutoff: float | None = None,
    max_rows: int | None = None,
    is_default: bool = False,
    is_pinned: bool = False,
    needs_approval: bool | None = None,
    expected: int | None = None,
    approved_by: str = "",
) -> Endpoint | Change:
    """Set all of an endpoint's overrides at once; None takes an override away, but leaves `needs_approval` as it is.

    Raises NotFound, InvalidInput, and Conflict if the cut-off is moved of a version that has none.
    """
    if cutoff is not None and not 0.0 < cutoff < 1.0:
        raise InvalidInput("a cut-off lies between 0 and 1")
    if max_rows is not None and max_rows < 1:
        raise InvalidInput("max_rows is at least 1")
    if is_default:  # another endpoint's row may change as well: both are taken in one order, whoever asks
        list(Endpoint.objects.select_for_update().order_by("pk"))
    row = _locked(endpoint, expected)
    overrides = {"cutoff": cutoff, "max_rows": max_rows, "is_default": is_default, "is_pinned": is_pinned}

    def act() -> tuple[int | None, dict[str, Any]]:
        if is_default:
            Endpoint.objects.filter(is_default=True).exclude(pk=row.pk).update(is_default=False)
        row.cutoff, row.max_rows, row.is_default, row.is_pinned = cutoff, max_rows, is_default, is_pinned
        row.needs_approval = row.needs_approval if needs_approval is None else needs_approval
        if cutoff is not None:
            held = [one.version for one in row.deployments.select_related("version__model")]
            versions = [*held, row.shadow] if row.shadow else held
            promises.check_cutoff(row, {version.number: promises.manifest_of(version) for version in versions})
        return None, {**overrides, "needs_approval": row.needs_approval}

    arguments = {"endpoint": endpoint, **overrides, "needs_approval": needs_approval}
    return _change(row, "configure", arguments, act, by, approved_by)


@transaction.atomic
def undeploy(endpoint: str, by: str, *, expected: int | None = None, approved_by: str = "") -> Endpoint | Change:
    """Take the endpoint away; versions and their artifacts stay. Raises NotFound."""
    row = _locked(endpoint, expected)

    def act() -> tuple[int | None, dict[str, Any]]:
        before = promises.weights_of(row)
        row.delete()
        return None, {"before": text_of(before)}

    return _change(row, "undeploy", {"endpoint": endpoint}, act, by, approved_by)


def find_endpoint(name: str) -> Endpoint:
    """The endpoint of that name. Raises NotFound."""
    row = list_endpoints().filter(name=name).first()
    if row is None:
        raise _unknown(name)
    return row


def list_endpoints() -> QuerySet[Endpoint]:
    """Every endpoint, with what is shown of it."""
    return Endpoint.objects.whole()


# --- what every change does -------------------------------------------------------------------------------------


def _change(
    row: Endpoint,
    verb: str,
    arguments: Mapping[str, Any],
    act: Callable[[], tuple[int | None, dict[str, Any]]],
    by: str,
    approved_by: str,
) -> Endpoint | Change:
    """Do it, or let it wait. `act` changes row and deployments, and gives the version to name and what to write down.

    The endpoint comes back with `before`: how it stood, for putting it back.
    """

    def settled() -> Endpoint:
        row.before = take(row)
        version, details = act()
        return settle(row, verb, version, details, by=by, approved_by=approved_by)

    return unless_it_waits(row, verb, arguments, settled, by=by, approved_by=approved_by)


def _locked(name: str, expected: int | None = None) -> Endpoint:
    # The model too, before any of its versions: whoever changes another endpoint of it takes them in another order.
    held = Endpoint.objects.select_for_update(of=("self", "model"), no_key=True).select_related("model")
    row = held.filter(name=name).first()
    if row is None:
        raise _unknown(name)
    if expected is not None and row.revision != expected:
        raise Conflict(
            f"endpoint {name!r} was changed meanwhile: it is at revision {row.revision}, not {expected}; look at it "
            "again and decide anew"
        )
    return row


def _unknown(name: str) -> NotFound:
    return NotFound(f"there is no endpoint {name!r}; `modelyard deploy MODEL` makes one")


def _held(name: str, model: Model, expected: int | None) -> Endpoint:
    """The endpoint of that name, made if there is none. Conflict if it serves another model."""
    Endpoint.objects.get_or_create(name=name, defaults={"model": model})
    row = _locked(name, expected)
    if row.model_id != model.pk:
        raise Conflict(f"endpoint {name!r} serves model {row.model.name!r}; undeploy it first or choose another name")
    return row


def _value(given: Any, kind: type[Any], rule: str) -> Any:
    """A value of the plan, from itself or from what JSON has of it. Raises InvalidInput that says the rule."""
    try:
        return given if isinstance(given, kind) else msgspec.convert(given, kind, str_keys=True)
    except msgspec.ValidationError:
        raise InvalidInput(rule) from None


# --- sharing ----------------------------------------------------------------------------------------------------


def _share(
    endpoint: Endpoint, weights: Mapping[int, int], by: str, force: str | None
) -> tuple[int | None, dict[str, Any]]:
    """Make the endpoint hold `weights` and, without traffic, the version that had most of it before.

    force: None does not ask what callers rely on.
    """
    held = {row.version.number: row for row in endpoint.deployments.select_related("version")}
    before = {number: row.weight for number, row in held.items() if row.weight}
    sharing = {number: weight for number, weight in weights.items() if weight}
    versions = {number: find_version(endpoint.model.name, number) for number in weights}
    fallback = endpoint.lease_fallback.number if endpoint.lease_fallback else None  # callers are given it anyway
    known = {*before, fallback}
    broken: list[str] = []
    if force is not None:
        offers = {number: promises.manifest_of(version) for number, version in versions.items() if number not in known}
        promises.check_cutoff(endpoint, offers)
        judged = {number: offer for number, offer in offers.items() if number in sharing}
        broken = promises.broken_by(endpoint, judged, before or sharing)
        promises.refuse_broken(endpoint, broken, force)
    kept = _kept(before, weights, held)
    endpoint.deployments.exclude(version__number__in=[*weights, *kept]).delete()
    for number in kept:
        Deployment.objects.filter(pk=held[number].pk).update(weight=0)
    for number, weight in weights.items():
        Deployment.objects.update_or_create(endpoint=endpoint, version=versions[number], defaults={"weight": weight})
    spans = endpoint.spans or (move_slots((), before) if before else ())
    endpoint.spans = move_slots(spans, sharing)
    if endpoint.shadow is not None and endpoint.shadow.number in sharing:  # it answers now
        endpoint.shadow, endpoint.shadow_percent = None, None
    if endpoint.lease_by != by:
        _end_lease(endpoint)
    crown(endpoint, sharing, by)
    details: dict[str, Any] = {"before": text_of(before)}
    if broken:
        details |= {"forced": force, "breaks": broken[: promises.MAX_LOGGED]}
    return promises.leader_of(sharing), details


def _kept(before: Mapping[int, int], weights: Mapping[int, int], held: Mapping[int, Deployment]) -> list[int]:
    """The one version to hold without traffic: what served most and no longer does, else what was held already."""
    leaving = [number for number in before if number not in weights]
    if leaving:
        return [max(leaving, key=lambda number: (before[number], number))]
    idle = [number for number in held if number not in before and number not in weights]
    return [max(idle)] if idle else []


def _served_before(endpoint: Endpoint) -> Version:
    held = list(endpoint.deployments.select_related("version").order_by("-weight", "version__number"))
    is_split = sum(deployment.weight > 0 for deployment in held) > 1
    before = held[0] if is_split else next((deployment for deployment in held if deployment.weight == 0), None)
    if before is None:
        raise Conflict(f"endpoint {endpoint.name!r} holds no version that served before; deploy one by its number")
    return before.version


def _fit_shadow(endpoint: Endpoint, number: int) -> Version:
    version, weights = find_version(endpoint.model.name, number), promises.weights_of(endpoint)
    if number in weights:
        raise Conflict(f"version {number} answers calls of {endpoint.name!r} itself; a shadow is one that does not")
    offered = promises.manifest_of(version)
    promises.check_cutoff(endpoint, {number: offered})
    if broken := promises.refused_by(endpoint, offered, weights):
        listed = "; ".join(broken[: promises.MAX_LISTED])
        raise Conflict(f"version {number} would refuse what callers of {endpoint.name!r} send: {listed}")
    return version


def _fallback(endpoint: Endpoint, number: int | None, by: str) -> Version:
    if number is None and endpoint.lease_fallback is not None and endpoint.lease_by == by:
        return endpoint.lease_fallback
    held = endpoint.deployments.select_related("version").order_by("-weight", "version__number")
    row = held.first() if number is None else held.filter(version__number=number).first()
    if row is None:
        raise Conflict(f"endpoint {endpoint.name!r} does not hold version {number}; a lease falls back to one it holds")
    return row.version


def _end_lease(endpoint: Endpoint) -> None:
    endpoint.lease_seconds, endpoint.lease_fallback, endpoint.lease_by = None, None, ""
