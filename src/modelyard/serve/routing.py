"""Which deployment answers a call: an immutable table, made from the plan, swapped by one assignment."""

from __future__ import annotations

import random
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from modelyard.contract.decision import Decision
from modelyard.contract.errors import InvalidInput, NotFound, NotReady
from modelyard.contract.plan import PlannedEndpoint, ServingPlan
from modelyard.serve.counters import Counters
from modelyard.serve.replica import Replica

if TYPE_CHECKING:
    from modelyard.serve.repository import AbsentReplica


class UnknownEndpoint(NotFound):
    """The plan has no such endpoint."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no endpoint {name[:64]!r}; GET / lists them")
        self.name = name


class Deployment:
    """One version behind one endpoint: its replica, the endpoint's cut-off, and its counters."""

    __slots__ = (
        "cutoff", "endpoint", "executions", "failure_ns", "failures", "infer_ns", "input_ns", "last", "latency",
        "max_rows", "model", "output_ns", "queue_ns", "quick", "records_all", "replica", "requests", "rows", "version",
        "version_text",
    )  # fmt: skip

    def __init__(
        self, endpoint: PlannedEndpoint, version: int, replica: Replica | AbsentReplica, counters: Counters
    ) -> None:
        self.endpoint = endpoint.name
        self.model = endpoint.model
        self.version = version
        self.version_text = str(version)
        self.replica = replica
        self.max_rows = endpoint.max_rows
        self.quick: Any = None  # a dialect may keep here what it compiled for this deployment
        decision = replica.loaded.decision
        if endpoint.cutoff is not None and decision is None:
            raise InvalidInput(
                f"endpoint {endpoint.name!r}: version {version} has no decision whose cutoff could be set"
            )
        self.cutoff = endpoint.cutoff if endpoint.cutoff is not None else (decision.cutoff if decision else None)
        loaded = replica.loaded
        self.records_all = loaded.is_table and loaded.encoder.private is None  # a record holds every column
        labels = {"endpoint": endpoint.name, "version": self.version_text}
        self.requests = counters.counter("modelyard_requests", code="200", **labels)
        self.rows = counters.counter("modelyard_rows", **labels)
        self.latency = counters.histogram("modelyard_request_seconds", **labels)
        self.last = counters.gauge("modelyard_last_call_timestamp_seconds", **labels)
        self.failures = counters.counter("modelyard_failures", **labels)
        self.executions = counters.counter("modelyard_executions", **labels)
        self.input_ns = counters.counter("modelyard_stage_nanoseconds", stage="input", **labels)
        self.queue_ns = counters.counter("modelyard_stage_nanoseconds", stage="queue", **labels)
        self.infer_ns = counters.counter("modelyard_stage_nanoseconds", stage="infer", **labels)
        self.output_ns = counters.counter("modelyard_stage_nanoseconds", stage="output", **labels)
        self.failure_ns = counters.counter("modelyard_stage_nanoseconds", stage="failure", **labels)

    @property
    def decision(self) -> Decision | None:
        """What is said at which probability; the cut-off that counts is this deployment's own."""
        return self.replica.loaded.decision


class Route:
    """One endpoint's deployments and how calls are shared among them."""

    def __init__(self, endpoint: PlannedEndpoint, deployments: dict[int, Deployment]) -> None:
        self.name = endpoint.name
        self.model = endpoint.model
        self.deployments = deployments
        self.aliases = endpoint.aliases
        self.sticky_by = endpoint.split.sticky_by.lower().encode() if endpoint.split.sticky_by else None
        # The newest version takes the lowest buckets: raising its share only ever moves callers towards it.
        self._shares = [
            (version, weight) for version, weight in sorted(endpoint.split.weights.items(), reverse=True) if weight
        ]
        self.main = deployments[max(self._shares, key=lambda share: share[1])[0]]
        self._only = deployments[self._shares[0][0]] if len(self._shares) == 1 else None

    def choose(self, headers: dict[bytes, bytes]) -> Deployment:
        """The deployment for a call that names no version."""
        if self._only is not None:
            return self._only
        bucket = random.random() * 100
        if self.sticky_by is not None and (value := headers.get(self.sticky_by)):
            bucket = int.from_bytes(blake2b(value, digest_size=8, key=self.name.encode()).digest()) / 2**64 * 100
        for version, weight in self._shares:
            bucket -= weight
            if bucket < 0:
                return self.deployments[version]
        return self.main

    def pinned(self, pin: str) -> Deployment:
        """The deployment of a version number or alias. Raises NotFound."""
        version = int(pin) if pin.isdecimal() and len(pin) < 10 else self.aliases.get(pin)
        if version is None or version not in self.deployments:
            raise NotFound(f"Request for unknown model: '{self.name}' version '{pin[:64]}' is not found")
        return self.deployments[version]


class Routes:
    """Every endpoint of one plan."""

    def __init__(self, plan: ServingPlan | None, routes: dict[str, Route]) -> None:
        self.plan = plan
        self._routes = routes
        self.names = sorted(routes)

    def endpoint(self, name: str) -> Route:
        """Raises NotFound."""
        try:
            return self._routes[name]
        except KeyError:
            if self.plan is None:
                raise NotReady("the gateway has no plan yet; deploy a model first") from None
            raise UnknownEndpoint(name) from None

    def default(self) -> str:
        """The endpoint for dialects without a name in the path. Raises NotFound that names the setting."""
        if self.plan is None:
            raise NotReady("the gateway has no plan yet; deploy a model first")
        if self.plan.default_endpoint:
            return self.plan.default_endpoint
        raise NotFound("no default_endpoint is set in the plan, and this path names none")
