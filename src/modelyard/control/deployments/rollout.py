"""A deployment that is done when it is served: waits for the gateway, and takes back what a worker refuses."""

import contextlib

from modelyard.contract.errors import Conflict, NotFound, NotReady
from modelyard.contract.plan import GatewayState, TrafficSplit
from modelyard.control.deployments import services
from modelyard.control.deployments.models import Endpoint, Publication
from modelyard.control.deployments.wait import Refused, wait_until_served
from modelyard.control.setup import active_home


def deploy_and_wait(
    model: str, version: int | str | None = None, endpoint: str | None = None, *, by: str, wait_s: float = 30.0
) -> tuple[Endpoint, GatewayState | None]:
    """Deploy, and return once every worker serves it; the state is None if no gateway runs.

    Raises NotReady with the worker's reason if one refuses; the traffic is then as it was before. If the time is over
    without a refusal, NotReady too, and the deployment stands.
    """
    name = endpoint or model
    before = _weights(name)
    row = services.deploy(model, version, endpoint, by=by)
    revision = Publication.objects.get(pk=1).committed
    if not wait_s:
        return row, None
    try:
        return row, wait_until_served(active_home(), revision, wait_s)
    except Refused as refusal:
        _put_back(name, before, by)
        back = "the versions that served before still do" if before else "the endpoint was taken away again"
        raise NotReady(f"{refusal}; {back}") from refusal


def _weights(endpoint: str) -> dict[int, int]:
    row = Endpoint.objects.filter(name=endpoint).first()
    return dict(row.deployments.filter(weight__gt=0).values_list("version__number", "weight")) if row else {}


def _put_back(endpoint: str, before: dict[int, int], by: str) -> None:
    with contextlib.suppress(NotFound, Conflict):  # somebody else changed it meanwhile: theirs counts
        if before:
            sticky_by = services.find_endpoint(endpoint).sticky_by or None
            services.set_traffic(endpoint, TrafficSplit(before, sticky_by), by)
            services.drop_idle(endpoint, by)
        else:
            services.undeploy(endpoint, by)
