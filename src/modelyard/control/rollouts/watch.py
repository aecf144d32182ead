"""One look at one rollout: what the gateway has counted since the last one, and what follows from it."""

from datetime import datetime
from typing import Any

import msgspec

from modelyard.contract.counters import read_counts
from modelyard.contract.home import Home
from modelyard.contract.plan import GatewayState
from modelyard.control.deployments.models import Endpoint
from modelyard.control.deployments.promises import weights_of
from modelyard.control.deployments.wait import gateway_state
from modelyard.control.rollouts.models import Rollout
from modelyard.optimise.promotion import Figures, Policy, Progress


def policy_of(rollout: Rollout) -> Policy:
    """The value that its row keeps."""
    return msgspec.convert(rollout.policy, Policy)


def progress_of(rollout: Rollout) -> Progress:
    """The value that its row keeps."""
    return msgspec.convert(rollout.progress, Progress)


def counted(home: Home, rollout: Rollout) -> Figures:
    """What the gateway has counted of both since it started."""
    counts = read_counts(home.run / "counters", rollout.endpoint)
    figures = Figures()
    return Figures(counts.get(rollout.champion, figures.champion), counts.get(rollout.candidate, figures.candidate))


def weights_at(rollout: Rollout, step: int) -> dict[int, int]:
    """How the calls are shared at a step."""
    percent = policy_of(rollout).steps[step].percent
    return {rollout.champion: 100 - percent, rollout.candidate: percent} if percent < 100 else {rollout.candidate: 100}


def interference(rollout: Rollout, endpoint: Endpoint | None) -> str:
    """What somebody else did to the endpoint's traffic; empty: nothing, it is as the rollout left it."""
    if endpoint is None:
        return "the endpoint was taken away"
    if weights_of(endpoint) != weights_at(rollout, progress_of(rollout).step) or endpoint.lease_by != rollout.robot:
        return "the endpoint's traffic was changed by somebody else"
    return ""


def served_by(state: GatewayState | None, revision: int) -> tuple[bool, str]:
    """Whether every worker serves that revision, and why one cannot."""
    if state is None:
        return False, ""
    behind = [worker for worker in state.workers if worker.revision < revision]
    refusal = next((worker.reason for worker in behind if worker.refused >= revision), "")
    return bool(state.workers) and not behind, refusal


def warnings_of(home: Home, lease_seconds: float, now: datetime) -> list[str]:
    """What keeps a rollout from getting on, seen from outside: no gateway, no runner."""
    found = []
    if gateway_state(home) is None:
        found.append("no gateway runs, so nothing is counted; start it with `modelyard up`")
    if silence_s(home, now) > lease_seconds:
        found.append("no runner runs, so nobody decides and the champion has all calls; `modelyard up` starts one")
    return found


def silence_s(home: Home, now: datetime) -> float:
    """Seconds since the control plane gave a sign of life; infinite where it never did."""
    try:
        return now.timestamp() - home.control_beat.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def plain(value: Any) -> Any:
    """A value as the database keeps it."""
    return msgspec.to_builtins(value)
