"""A change that is done when it is served: waits for the gateway, and puts back what a worker refuses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from modelyard.contract.errors import NotReady
from modelyard.contract.plan import GatewayState, Shadow, TrafficSplit
from modelyard.control.deployments import approvals, services
from modelyard.control.deployments.models import Change, Endpoint
from modelyard.control.deployments.snapshot import Snapshot, put_back
from modelyard.control.deployments.wait import Refused, wait_until_served
from modelyard.control.setup import active_home


@dataclass(frozen=True)
class Outcome:
    """What became of a verb: it is done, or it waits for approval."""

    endpoint: Endpoint | None
    change: Change | None = None  # that waits, or was approved
    state: GatewayState | None = None  # of the gateway that serves it; None: none runs, or nobody waited for it

    @property
    def waits(self) -> bool:
        """Whether nothing has been done yet."""
        return self.change is not None and self.change.status == Change.Status.WAITING


def deploy_and_wait(
    model: str,
    version: int | str | None = None,
    endpoint: str | None = None,
    *,
    by: str,
    wait_s: float = 30.0,
    force: str = "",
    expected: int | None = None,
) -> Outcome:
    """Deploy, and return once every worker serves it. Raises as `and_wait` does."""
    return and_wait(
        lambda: services.deploy(model, version, endpoint, by=by, force=force, expected=expected), by, wait_s
    )


def set_traffic_and_wait(
    endpoint: str,
    split: TrafficSplit | Mapping[str, Any],
    *,
    by: str,
    wait_s: float = 30.0,
    force: str = "",
    expected: int | None = None,
) -> Outcome:
    """Share the calls anew, and return once every worker does. Raises as `and_wait` does."""
    return and_wait(lambda: services.set_traffic(endpoint, split, by, force=force, expected=expected), by, wait_s)


def set_shadow_and_wait(
    endpoint: str, shadow: Shadow | None, *, by: str, wait_s: float = 30.0, expected: int | None = None
) -> Outcome:
    """Begin or end copying calls, and return once every worker does. Raises as `and_wait` does."""
    return and_wait(lambda: services.set_shadow(endpoint, shadow, by, expected=expected), by, wait_s)


def rollback_and_wait(endpoint: str, *, by: str, wait_s: float = 30.0, expected: int | None = None) -> Outcome:
    """Go back, and return once every worker has. Raises as `and_wait` does."""
    return and_wait(lambda: services.rollback(endpoint, by, expected=expected), by, wait_s)


def approve_and_wait(change_id: int, *, by: str, wait_s: float = 30.0) -> Outcome:
    """Approve a change, and return once every worker serves it. Raises as `and_wait` does, and as `approve`."""
    change, done = approvals.approve(change_id, by)
    if not isinstance(done, Endpoint):
        return Outcome(None, change)
    return Outcome(done, change, _wait(done, by, wait_s))


def and_wait(act: Callable[[], Endpoint | Change], by: str, wait_s: float) -> Outcome:
    """Make a change, and return once every worker serves it; without a gateway, or with 0 seconds, at once.

    Raises NotReady with the worker's reason if one refuses; the endpoint is then as it was before. If the time is over
    without a refusal, NotReady too, and the change stands.
    """
    done = act()
    if isinstance(done, Change):
        return Outcome(services.find_endpoint(done.endpoint), done)
    return Outcome(done, None, _wait(done, by, wait_s))


def _wait(endpoint: Endpoint, by: str, wait_s: float) -> GatewayState | None:
    if not wait_s:
        return None
    try:
        return wait_until_served(active_home(), endpoint.revision, wait_s)
    except Refused as refusal:
        before: Snapshot | None = getattr(endpoint, "before", None)
        if before is None or not put_back(endpoint.name, before, endpoint.revision, by, str(refusal)):
            raise NotReady(str(refusal)) from refusal  # somebody else changed it meanwhile: theirs counts
        back = "the versions that served before still do" if before.served else "the endpoint was taken away again"
        raise NotReady(f"{refusal}; {back}") from refusal
