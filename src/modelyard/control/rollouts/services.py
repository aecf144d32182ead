"""The verbs of rollouts: start, pause, resume, abort; and the runner's duty to look after those under way.

A rollout changes traffic through the same door as a person, `deployments.services.set_traffic`, under the name
`rollout:N`, and holds a lease on its share: when nobody looks after it any more, gateways give the champion all calls.
"""

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from django.db import IntegrityError, transaction
from django.utils import timezone

from modelyard.contract.errors import Conflict, InvalidInput, ModelyardError, NotFound
from modelyard.contract.plan import TrafficSplit
from modelyard.control.accounts.audit import record
from modelyard.control.deployments import services as deployments
from modelyard.control.deployments.approvals import unless_it_waits
from modelyard.control.deployments.models import Change, Endpoint
from modelyard.control.deployments.promises import check_reason, weights_of
from modelyard.control.deployments.wait import gateway_state
from modelyard.control.registry.services import find_model, find_version, note_event
from modelyard.control.rollouts.models import Rollout, RolloutEvent
from modelyard.control.rollouts.watch import (
    counted,
    interference,
    plain,
    policy_of,
    progress_of,
    served_by,
    weights_at,
)
from modelyard.control.setup import active_home
from modelyard.optimise.promotion import (
    Advance,
    Figures,
    Finish,
    Hold,
    Policy,
    Progress,
    RollBack,
    advanced,
    next_action,
    take_in,
)

log = logging.getLogger("modelyard.control.rollouts")

LEASE_S = 30.0  # longer than the runner is ever busy with ending a job
SHORTEST_LEASE_S = 2.0  # it is looked at each second


@transaction.atomic
def start_rollout(
    endpoint: str,
    version: int | str,
    policy: Policy | Mapping[str, Any] | None = None,
    *,
    by: str,
    lease_seconds: float = LEASE_S,
    force: str = "",
    approved_by: str = "",
) -> Rollout | Change:
    """Begin to give `version` the endpoint's calls, step by step; or the change that waits for approval.

    What is approved is the whole rollout: its steps need no further approval. `force`: why callers may break.
    Raises NotFound; InvalidInput; Conflict if the endpoint's calls are shared already or are the version's, if a
    rollout is under way, if the version is not ready, or if callers would break.
    """
    wanted = _policy(policy)
    if not SHORTEST_LEASE_S <= lease_seconds <= 86400:
        raise InvalidInput(f"a lease lasts {SHORTEST_LEASE_S:g} seconds to a day")
    deployments.find_endpoint(endpoint)
    row = _held(endpoint)
    if row is None:
        raise NotFound(f"endpoint {endpoint!r} was taken away just now")
    champion = _champion(row)
    candidate = find_version(row.model.name, version).number
    if candidate == champion:
        raise Conflict(f"endpoint {endpoint!r} gives version {candidate} all its calls already")
    if active := Rollout.objects.filter(endpoint=endpoint, state__in=Rollout.ACTIVE).first():
        raise Conflict(f"rollout {active.pk} of endpoint {endpoint!r} is {active.state}; abort it first")
    force = check_reason(force)
    arguments = {
        "endpoint": endpoint,
        "version": candidate,
        "policy": wanted,
        "lease_seconds": lease_seconds,
        "force": force,
    }

    def begin() -> Rollout:
        now = timezone.now()
        try:
            with transaction.atomic():
                rollout = Rollout.objects.create(
                    endpoint=endpoint,
                    model=row.model.name,
                    champion=champion,
                    candidate=candidate,
                    policy=plain(wanted),
                    lease_seconds=lease_seconds,
                    progress=plain(Progress()),
                    looked_at=now,
                    step_started_at=now,
                    started_at=now,
                    by=by,
                    approved_by=approved_by,
                )
        except IntegrityError:
            raise Conflict(f"another rollout of endpoint {endpoint!r} began just now") from None
        # On an endpoint that needs approval this runs once as a rehearsal, before there is one.
        approval = approved_by or (by if row.needs_approval else "")
        _share(rollout, weights_at(rollout, 0), approval, force)
        leased = deployments.set_lease(endpoint, lease_seconds, rollout.robot, fallback=champion, approved_by=approval)
        rollout.revision = leased.revision
        rollout.baseline = plain(counted(active_home(), rollout))
        rollout.save()
        said = {"champion": champion, "policy": rollout.policy, "lease_seconds": lease_seconds}
        _note(rollout, by, "start", said | ({"approved_by": approved_by} if approved_by else {}))
        record(by, "start_rollout", endpoint, {"rollout": rollout.pk, "version": candidate})
        return rollout

    return unless_it_waits(row, "start_rollout", arguments, begin, by=by, approved_by=approved_by)


@transaction.atomic
def pause(pk: int, by: str, reason: str = "") -> Rollout:
    """Keep the share as it is until `resume`; the guards go on watching. Pausing again changes nothing."""
    rollout = _locked(pk)
    if rollout.state == Rollout.State.RUNNING:
        rollout.state, rollout.reason = Rollout.State.PAUSED, reason
        rollout.save()
        _note(rollout, by, "pause", {"reason": reason})
        record(by, "pause_rollout", rollout.endpoint, {"rollout": rollout.pk, "reason": reason})
    return rollout


@transaction.atomic
def resume(pk: int, by: str) -> Rollout:
    """Go on with a paused rollout. Resuming one that runs changes nothing."""
    rollout = _locked(pk)
    if rollout.state == Rollout.State.PAUSED:
        rollout.state, rollout.reason = Rollout.State.RUNNING, ""
        rollout.save()
        _note(rollout, by, "resume", {})
        record(by, "resume_rollout", rollout.endpoint, {"rollout": rollout.pk})
    return rollout


@transaction.atomic
def abort(pk: int, by: str, reason: str = "") -> Rollout:
    """Give the champion all calls again and end the rollout; the way back needs no approval. Conflict if it has ended.

    Traffic that somebody else changed meanwhile stays as that person left it.
    """
    rollout = _locked(pk)
    if not interference(rollout, _held(rollout.endpoint)):
        _give_back(rollout)
    _end(rollout, Rollout.State.ABORTED, by, reason or f"aborted by {by}")
    record(by, "abort_rollout", rollout.endpoint, {"rollout": rollout.pk, "reason": reason})
    return rollout


def find_rollout(pk: int) -> Rollout:
    """Raises NotFound."""
    rollout = Rollout.objects.filter(pk=pk).first()
    if rollout is None:
        raise NotFound(f"there is no rollout {pk}; `modelyard rollout list` shows them")
    return rollout


def newest_rollout(endpoint: str) -> Rollout:
    """The rollout of an endpoint that is under way, else its last one. Raises NotFound."""
    rollout = Rollout.objects.filter(endpoint=endpoint).first()
    if rollout is None:
        raise NotFound(f"endpoint {endpoint!r} had no rollout yet; `modelyard rollout start` begins one")
    return rollout


def advance(now: datetime | None = None) -> bool:
    """Look after every rollout that is under way; whether all could be looked after. The runner's duty, each second."""
    is_well = True
    for pk in list(Rollout.objects.filter(state__in=Rollout.ACTIVE).values_list("pk", flat=True)):
        try:
            with transaction.atomic():
                rollout = Rollout.objects.select_for_update().filter(pk=pk, state__in=Rollout.ACTIVE).first()
                if rollout is not None:
                    _look(rollout, now or timezone.now())
        except ModelyardError as error:  # the next look tries again; if none succeeds, the lease ends the share
            log.error("rollout %s stays as it is: %s", pk, error)
            is_well = False
    return is_well


def _look(rollout: Rollout, now: datetime) -> None:
    home, endpoint = active_home(), _held(rollout.endpoint)
    if said := interference(rollout, endpoint):
        if endpoint is not None and endpoint.lease_by == rollout.robot:
            deployments.set_lease(rollout.endpoint, None, rollout.robot, approved_by=rollout.approved_by or rollout.by)
        _end(rollout, Rollout.State.ABORTED, rollout.robot, said)
        return
    if endpoint is not None and endpoint.needs_approval and not rollout.approved_by:
        _give_back(rollout)
        _end(rollout, Rollout.State.ABORTED, rollout.robot, "the endpoint has come to need approval, which this lacks")
        return
    seconds = max(0.0, (now - rollout.looked_at).total_seconds())
    is_served, refusal = served_by(gateway_state(home), rollout.revision)
    figures = counted(home, rollout)
    came = figures - msgspec.convert(rollout.baseline, Figures)
    rollout.baseline, rollout.looked_at = plain(figures), now
    if seconds > rollout.lease_seconds:
        _note(rollout, rollout.robot, "silence", {"seconds": round(seconds, 1)})
    elif refusal:
        _roll_back(rollout, f"a gateway worker cannot serve it: {refusal}")
        return
    elif came.is_lowered:
        _note(rollout, rollout.robot, "counters_began_anew", {})
    elif is_served:
        _decide(rollout, came, seconds, now)
        return
    rollout.save()


def _decide(rollout: Rollout, came: Figures, seconds: float, now: datetime) -> None:
    policy, is_paused = policy_of(rollout), rollout.state == Rollout.State.PAUSED
    progress = take_in(policy, progress_of(rollout), came, 0.0 if is_paused else seconds)
    rollout.progress = plain(progress)
    match next_action(policy, progress):
        case RollBack(reason, finding):
            rollout.finding = plain(finding)
            _roll_back(rollout, reason)
            return
        case Advance(step) if not is_paused:
            _step(rollout, progress, step, now)
        case Finish() if not is_paused:
            _finish(rollout)
            return
        case Hold() | Advance() | Finish():
            pass
    rollout.save()


def _step(rollout: Rollout, progress: Progress, step: int, now: datetime) -> None:
    rollout.revision = _share(rollout, weights_at(rollout, step), rollout.approved_by)
    rollout.progress, rollout.step_started_at = plain(advanced(progress, step)), now
    percent = policy_of(rollout).steps[step].percent
    _note(rollout, rollout.robot, "advance", {"percent": percent, "seen": plain(progress.step_figures)})


def _finish(rollout: Rollout) -> None:
    rollout.revision = _share(rollout, {rollout.candidate: 100}, rollout.approved_by)
    deployments.set_lease(rollout.endpoint, None, rollout.robot, approved_by=rollout.approved_by)
    _end(rollout, Rollout.State.FINISHED, rollout.robot, "")


def _roll_back(rollout: Rollout, reason: str) -> None:
    _give_back(rollout)
    _end(rollout, Rollout.State.ROLLED_BACK, rollout.robot, reason)


def _give_back(rollout: Rollout) -> None:
    """All calls to the champion. The way back is always open: also where the endpoint came to need approval."""
    endpoint = _held(rollout.endpoint)
    approved_by = rollout.approved_by or (rollout.by if endpoint is not None and endpoint.needs_approval else "")
    rollout.revision = _share(rollout, {rollout.champion: 100}, approved_by)
    deployments.set_lease(rollout.endpoint, None, rollout.robot, approved_by=approved_by)


def _share(rollout: Rollout, weights: dict[int, int], approved_by: str, force: str = "") -> int:
    """Change the traffic as this rollout; the revision that says so."""
    sticky_by = deployments.find_endpoint(rollout.endpoint).sticky_by or None
    split = TrafficSplit(weights, sticky_by)
    return deployments.set_traffic(
        rollout.endpoint, split, rollout.robot, force=force, approved_by=approved_by
    ).revision


def _end(rollout: Rollout, state: Rollout.State, by: str, reason: str) -> None:
    rollout.state, rollout.reason, rollout.ended_at = state, reason, timezone.now()
    rollout.save()
    said = {"reason": reason, "finding": rollout.finding, "seen": rollout.progress.get("total")}
    _note(rollout, by, state.value, {key: value for key, value in said.items() if value})


def _note(rollout: Rollout, by: str, verb: str, details: dict[str, Any]) -> None:
    """Write down what happened: with the rollout, and in its model's own log."""
    RolloutEvent.objects.create(rollout=rollout, by=by, verb=verb, details=details)
    said = {"rollout": rollout.pk, "endpoint": rollout.endpoint, **details}
    note_event(find_model(rollout.model), by, f"rollout_{verb}", rollout.candidate, said)


def _held(endpoint: str) -> Endpoint | None:
    """The endpoint's row, held until the transaction ends."""
    return Endpoint.objects.select_for_update(of=("self",)).select_related("model").filter(name=endpoint).first()


def _locked(pk: int) -> Rollout:
    find_rollout(pk)
    rollout = Rollout.objects.select_for_update().get(pk=pk)
    if not rollout.is_active:
        raise Conflict(f"rollout {pk} is {rollout.state} already")
    return rollout


def _champion(endpoint: Endpoint) -> int:
    weights = weights_of(endpoint)
    if len(weights) != 1:
        shared = ", ".join(map(str, weights)) or "none"
        raise Conflict(
            f"endpoint {endpoint.name!r} has no champion: its calls are shared by versions {shared}; deploy one of "
            "them first"
        )
    return next(iter(weights))


def _policy(given: Policy | Mapping[str, Any] | None) -> Policy:
    if given is None:
        return Policy()
    try:
        return given if isinstance(given, Policy) else msgspec.convert(given, Policy)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the rollout's policy does not fit: {error}") from None
