"""How a rollout stands, for people and programs: plain values of its row and of what its guards have seen."""

from typing import Any

import msgspec

from modelyard.control.rollouts.models import Rollout
from modelyard.control.rollouts.watch import policy_of, progress_of
from modelyard.optimise.promotion import Hold, calls_of, finding_of, next_action


def report_of(rollout: Rollout) -> dict[str, Any]:
    """The share, what was seen at it, what is waited for, and each guard's evidence."""
    policy, progress = policy_of(rollout), progress_of(rollout)
    step = policy.steps[progress.step]
    action = next_action(policy, progress)
    findings = [finding_of(guard, policy, progress) for guard in policy.guards]
    return {
        "percent": _percent(rollout, step.percent),
        "step": progress.step,
        "seconds": round(progress.seconds, 1),
        "min_seconds": step.min_seconds,
        "calls": calls_of(progress.step_figures.candidate),
        "min_calls": step.min_calls,
        "waits_for": action.waits_for if rollout.is_active and isinstance(action, Hold) else None,
        "findings": [msgspec.to_builtins(finding) for finding in findings],
    }


def described(rollout: Rollout) -> dict[str, Any]:
    """A rollout as `--json` shows it."""
    return {
        "id": rollout.pk,
        "endpoint": rollout.endpoint,
        "model": rollout.model,
        "champion": rollout.champion,
        "candidate": rollout.candidate,
        "state": rollout.state,
        "reason": rollout.reason,
        "finding": rollout.finding,
        "policy": rollout.policy,
        "watched": report_of(rollout),
        "lease_seconds": rollout.lease_seconds,
        "by": rollout.by,
        "approved_by": rollout.approved_by,
        "started_at": rollout.started_at.isoformat(timespec="seconds"),
        "ended_at": rollout.ended_at.isoformat(timespec="seconds") if rollout.ended_at else None,
    }


def _percent(rollout: Rollout, at_step: int) -> int:
    """The candidate's share now, as far as the rollout decides over it."""
    if rollout.state == Rollout.State.FINISHED:
        return 100
    return at_step if rollout.is_active else 0
