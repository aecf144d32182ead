"""The shadows of one worker, as its plan wants them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from modelyard.contract.plan import PlannedEndpoint
from modelyard.serve.log import log
from modelyard.serve.shadow import Shadow

if TYPE_CHECKING:
    from modelyard.serve.routing import Deployment
    from modelyard.serve.telemetry import Telemetry

END_S = 1.0  # how long the worker's end waits for a batch


class Shadows:
    """All shadows of one worker. One whose version stays lives on from plan to plan, with what waits for it."""

    def __init__(self, telemetry: Telemetry, loop: asyncio.AbstractEventLoop, max_rows: int) -> None:
        self._telemetry, self._loop, self._max_rows = telemetry, loop, max_rows
        self._held: dict[str, Shadow] = {}  # by endpoint

    def of(self, endpoint: PlannedEndpoint, deployments: Mapping[int, Deployment]) -> Shadow | None:
        """The shadow that the plan wants for an endpoint."""
        if endpoint.shadow is None:
            return None
        shadow = self._held.get(endpoint.name)
        if shadow is None or shadow.version != endpoint.shadow.version:
            if shadow is not None:
                shadow.close()
            log.info("shadow", endpoint=endpoint.name, version=endpoint.shadow.version)
            version = endpoint.shadow.version
            shadow = Shadow(endpoint.name, version, self._telemetry, self._loop, self._max_rows)
            self._held[endpoint.name] = shadow
        shadow.adopt(endpoint, deployments)
        return shadow

    def keep_only(self, endpoints: Iterable[PlannedEndpoint]) -> None:
        """Close those of endpoints that want none any more."""
        wanted = {endpoint.name for endpoint in endpoints if endpoint.shadow is not None}
        for name in self._held.keys() - wanted:
            self._held.pop(name).close()

    def close(self) -> None:
        """Close them all, and wait a moment for what they compute: a thread is not to be torn out of its model."""
        closing = list(self._held.values())
        self.keep_only(())
        for shadow in closing:
            shadow.join(END_S)
