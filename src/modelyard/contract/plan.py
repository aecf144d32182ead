"""The serving plan: the whole wanted state of the data plane, signed, with a revision that only grows."""

from __future__ import annotations

import msgspec

from modelyard.contract.names import check_name
from modelyard.contract.split import widths


class TrafficSplit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How an endpoint shares its calls among versions."""

    weights: dict[int, int]  # version number -> percent
    sticky_by: str | None = None  # header, or `column:NAME`, whose value pins a caller to one version
    spans: tuple[tuple[int, int], ...] = ()  # who has which of the hundred slots, see `contract/split.py`

    def __post_init__(self) -> None:
        if not self.weights or sum(self.weights.values()) != 100 or min(self.weights.values()) < 0:
            raise ValueError(f"weights are percents that sum to 100, got {self.weights}")
        if self.spans and widths(self.spans) != {number: weight for number, weight in self.weights.items() if weight}:
            raise ValueError(f"spans give each version as many slots as its percents, got {self.spans}")


class Shadow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A version that gets copies of an endpoint's calls; what it says is compared and never answered."""

    version: int
    percent: int = 100  # of the calls that are copied

    def __post_init__(self) -> None:
        if not 1 <= self.percent <= 100:
            raise ValueError(f"a shadow gets 1 to 100 percent of the calls, got {self.percent}")


class Lease(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For how long a split holds without a sign of life from the control plane, and who has all calls after that."""

    seconds: float
    fallback: int  # version number

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise ValueError(f"a lease lasts some seconds, got {self.seconds}")


class PlannedVersion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One version that an endpoint holds ready."""

    version: int
    digest: str  # of the artifact on the shelf


class PlannedEndpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One endpoint: its versions, who gets how much, and what may be called by alias."""

    name: str
    model: str
    versions: tuple[PlannedVersion, ...]
    split: TrafficSplit
    aliases: dict[str, int] = {}
    cutoff: float | None = None  # overrides the artifact's decision
    max_rows: int | None = None  # overrides the gateway's limit
    shadow: Shadow | None = None
    lease: Lease | None = None  # of a canary: its share goes back if control falls silent
    is_pinned: bool = False  # its versions stay in memory, however long nobody calls them

    def __post_init__(self) -> None:
        check_name("endpoint", self.name)
        held = {planned.version for planned in self.versions}
        if len(held) != len(self.versions):
            raise ValueError(f"endpoint {self.name!r} holds a version twice")
        named = {*self.split.weights, *self.aliases.values()}
        named |= {self.shadow.version} if self.shadow else set()
        named |= {self.lease.fallback} if self.lease else set()
        if unknown := named - held:
            raise ValueError(f"endpoint {self.name!r} refers to versions {sorted(unknown)} that it does not hold")
        if self.cutoff is not None and not 0.0 < self.cutoff < 1.0:
            raise ValueError(f"endpoint {self.name!r}: a cut-off lies between 0 and 1, got {self.cutoff}")
        if self.max_rows is not None and self.max_rows < 1:
            raise ValueError(f"endpoint {self.name!r}: max_rows is at least 1")


class PlannedKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a gateway must know of an API key: never the key, only its SHA-256."""

    id: str
    digest: str  # SHA-256 of the secret, 64 hex digits
    principal: str
    scopes: tuple[str, ...]  # such as infer, infer:credit_scoring, feedback:any
    rows_per_second: float | None = None
    burst_rows: int | None = None
    expires_at: float | None = None  # seconds since 1970, UTC

    def __post_init__(self) -> None:
        if len(self.digest) != 64 or not set(self.digest) <= set("0123456789abcdef"):
            raise ValueError(f"key {self.id!r}: a digest is 64 hex digits")
        if (self.rows_per_second is not None and self.rows_per_second <= 0) or (self.burst_rows or 1) < 1:
            raise ValueError(f"key {self.id!r}: rows_per_second is above 0 and burst_rows at least 1")


class ServingPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Everything that a gateway needs besides the shelf. Whole, monotonic, small."""

    revision: int
    published_at: float  # seconds since 1970, UTC
    endpoints: tuple[PlannedEndpoint, ...] = ()
    keys: tuple[PlannedKey, ...] = ()
    require_keys: bool = False
    default_endpoint: str | None = None  # for dialects that have no name in the path

    def __post_init__(self) -> None:
        names = [endpoint.name for endpoint in self.endpoints]
        if len(set(names)) != len(names):
            raise ValueError("an endpoint appears twice in the plan")


class SignedPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What lies on disk: the plan's exact bytes and an Ed25519 signature over them, in hex."""

    plan: msgspec.Raw
    signature: str


class WorkerState(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one gateway worker says of itself; the way back up for plans."""

    worker: int
    pid: int
    revision: int = 0  # the newest revision that is served
    refused: int = 0  # the newest revision that could not be served ...
    reason: str = ""  # ... and why
    wants: tuple[str, ...] = ()  # artifacts that it needs model workers for
    repository: int = 0  # the revision of the repository, in `run/evicted.json`, that is served
    lapsed: tuple[str, ...] = ()  # endpoints whose lease has lapsed: their fallback answers


class ModelWorkerState(msgspec.Struct, frozen=True, omit_defaults=True):
    """One process that holds a version apart from the gateway, as the parent sees it."""

    digest: str  # of the artifact
    index: int  # among the processes of that version
    pid: int  # 0: none runs now
    state: str  # loading, ready, ending, absent
    rss_bytes: int = 0  # resident memory, to the megabyte
    restarts: int = 0  # starts after the first
    last_death: str = ""  # when and why; the whole post-mortem lies in run/models


class GatewayState(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the gateway parent says of the whole: `run/gateway.json`."""

    pid: int
    url: str
    started_at: float
    workers: tuple[WorkerState, ...] = ()
    restarts: tuple[str, ...] = ()  # the last deaths of workers, each with its cause
    models: tuple[ModelWorkerState, ...] = ()
    grpc_url: str = ""  # grpc://host:port, or grpcs:// where TLS is set
