"""Which deployment answers a call: an immutable table, made from the plan, swapped by one assignment."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from modelyard.contract.decision import Decision
from modelyard.contract.errors import InvalidInput, NotFound, NotReady
from modelyard.contract.plan import PlannedEndpoint, ServingPlan
from modelyard.contract.split import SLOTS, move_slots
from modelyard.serve.counters import Counters
from modelyard.serve.replica import Replica

if TYPE_CHECKING:
    from modelyard.serve.call import Caller
    from modelyard.serve.lazy import LazyReplica
    from modelyard.serve.repository import AbsentReplica
    from modelyard.serve.shadow import Shadow

    Holder: TypeAlias = Replica | LazyReplica | AbsentReplica  # whatever takes a deployment's calls

COLUMN = "column:"  # before the name in `sticky_by`, where the value is one of the body and not a header's


class UnknownEndpoint(NotFound):
    """The plan has no such endpoint."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no endpoint {name[:64]!r}; GET / lists them")
        self.name = name


class Deployment:
    """One version behind one endpoint: its replica, the endpoint's cut-off, and its counters."""

    __slots__ = (
        "cutoff", "endpoint", "errors", "executions", "failure_ns", "failures", "infer_ns", "input_ns", "json_outputs",
        "last", "latency", "max_rows", "model", "output_ns", "queue_ns", "quick", "records_all", "replica", "requests",
        "revision", "rows", "steps", "version", "version_text", "violations",
    )  # fmt: skip

    def __init__(
        self, endpoint: PlannedEndpoint, version: int, replica: Holder, counters: Counters, revision: int = 0
    ) -> None:
        self.endpoint = endpoint.name
        self.model = endpoint.model
        self.version = version
        self.version_text = str(version)
        self.revision = revision  # of the plan that it stands in
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
        # Texts that are JSON already: in answers of JSON they stand as what they are.
        self.json_outputs = tuple(spec.name for spec in loaded.manifest.signature.outputs if spec.content == "json")
        labels = {"endpoint": endpoint.name, "version": self.version_text}
        self.requests = counters.counter("modelyard_requests", code="200", **labels)
        self.rows = counters.counter("modelyard_rows", **labels)
        self.latency = counters.histogram("modelyard_request_seconds", **labels)
        self.last = counters.gauge("modelyard_last_call_timestamp_seconds", **labels)
        self.failures = counters.counter("modelyard_failures", **labels)
        self.errors = counters.counter("modelyard_errors", **labels)
        self.violations = counters.counter("modelyard_violations", **labels)
        self.executions = counters.counter("modelyard_executions", **labels)
        self.input_ns = counters.counter("modelyard_stage_nanoseconds", stage="input", **labels)
        self.queue_ns = counters.counter("modelyard_stage_nanoseconds", stage="queue", **labels)
        self.infer_ns = counters.counter("modelyard_stage_nanoseconds", stage="infer", **labels)
        self.output_ns = counters.counter("modelyard_stage_nanoseconds", stage="output", **labels)
        self.failure_ns = counters.counter("modelyard_stage_nanoseconds", stage="failure", **labels)

        self.steps = [
            counters.histogram("modelyard_step_seconds", step=step, **labels) for step in loaded.manifest.steps
        ]

    @property
    def decision(self) -> Decision | None:
        """What is said at which probability; the cut-off that counts is this deployment's own."""
        return self.replica.loaded.decision


class Place(NamedTuple):
    """Where the column stands that callers are told apart by; `sticky.py` finds its value in a body."""

    name: str
    at: int | None = None  # its index among the features of the main version; None: no feature
    kind: str = ""  # as the main version's contract says
    is_only: bool = False  # a row may be this one value
    datatype: str = ""  # of the main version's only tensor: a body may be this tensor's bytes


class Route:
    """One endpoint's deployments and how calls are shared among them."""

    def __init__(
        self, endpoint: PlannedEndpoint, deployments: dict[int, Deployment], shadow: Shadow | None = None
    ) -> None:
        split = endpoint.split
        self.name = endpoint.name
        self.model = endpoint.model
        self.deployments = deployments
        self.aliases = endpoint.aliases
        self.shadow = shadow
        self.main = deployments[max(split.weights.items(), key=lambda share: (share[1], share[0]))[0]]
        self._only = self.main if split.weights[self.main.version] == 100 else None
        spans = () if self._only else split.spans or move_slots((), split.weights)
        self._slots = tuple(deployments[version] for version, width in spans for _ in range(width))
        sticky_by = split.sticky_by or ""
        self._place = _place(sticky_by.removeprefix(COLUMN), self.main) if sticky_by.startswith(COLUMN) else None
        self._header = sticky_by.lower().encode() if sticky_by and self._place is None else None

    def choose(self, caller: Caller, peek: Callable[[Caller, Place], bytes | None]) -> Deployment:
        """The deployment for a call that names no version; `peek` finds a column's value in its body."""
        if self._only is not None:
            return self._only
        if self._header is not None:
            value = caller.headers.get(self._header)
        else:
            value = None if self._place is None else peek(caller, self._place)
        return self._slots[slot_of(value, self.name) if value else int(random.random() * SLOTS)]

    def pinned(self, pin: str) -> Deployment:
        """The deployment of a version number or alias. Raises NotFound."""
        version = int(pin) if pin.isdecimal() and len(pin) < 10 else self.aliases.get(pin)
        if version is None or version not in self.deployments:
            raise NotFound(f"Request for unknown model: '{self.name}' version '{pin[:64]}' is not found")
        return self.deployments[version]


def slot_of(value: bytes, endpoint: str) -> int:
    """The slot of a sticky value, the same in every worker and for ever; another endpoint's callers fall otherwise."""
    return int.from_bytes(blake2b(value, digest_size=8, key=endpoint.encode()).digest()) * SLOTS >> 64


def _place(name: str, main: Deployment) -> Place:
    manifest = main.replica.loaded.manifest
    features = [column.name for column in manifest.contract.features]
    inputs = [spec.name for spec in manifest.signature.inputs]
    return Place(
        name,
        features.index(name) if name in features else None,
        next((column.kind for column in manifest.contract.columns if column.name == name), ""),
        (features or inputs) == [name],
        manifest.signature.inputs[0].datatype if len(inputs) == 1 else "",
    )


class Routes:
    """Every endpoint of one plan."""

    def __init__(self, plan: ServingPlan | None, routes: Mapping[str, Route]) -> None:
        self.plan = plan
        self._routes = dict(routes)
        self.names = sorted(routes)

    def with_changed(self, routes: Mapping[str, Route]) -> Routes:
        """The same, with these routes in the place of their endpoints' own."""
        return Routes(self.plan, {**self._routes, **routes})

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
