"""One answered request, back to where it came from: its record, joined with the log, the version and its training.

Three sources, each with its own reach. The *record* says what answered; the gateway removes the oldest. The *log*
says who put that version there; it is kept for ever. The *id* itself proves who asked which endpoint, for ever too,
but holds no time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np

from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import InvalidInput, NotFound
from modelyard.contract.features import Column, Contract
from modelyard.contract.home import Home
from modelyard.contract.telemetry import Feedback, Prediction
from modelyard.control.accounts.models import Principal
from modelyard.control.deployments.models import Endpoint
from modelyard.control.deployments.reading import read_plan
from modelyard.control.registry import history, records
from modelyard.control.registry.history import Served
from modelyard.control.registry.models import Event, Version
from modelyard.control.setup import active_home
from modelyard.secure.request_ids import known_request_ids

ANONYMOUS = "anonymous"  # the principal of calls without a key
MAX_CALLS = 10  # that are shown of one caller's id: the newest
MAX_CALLER_ID = 64  # characters of it that a record keeps
_ID = re.compile(r"[0-9a-f]{32}")


class Put(msgspec.Struct, frozen=True):
    """One change of what an endpoint serves."""

    verb: str
    at: datetime
    by: str
    revision: int | None
    weights: dict[int, int]
    approved_by: str = ""
    forced: str = ""


class Origin(msgspec.Struct, frozen=True):
    """Where a version came from."""

    digest: str
    framework: str
    registered_at: datetime
    registered_by: str
    source: str
    data_digest: str
    code_revision: str
    run: int | None  # the training, if it was one of ours


class Truth(msgspec.Struct, frozen=True):
    """What turned out to be so, for one row of the request."""

    at: datetime
    truth: str
    row: int
    principal: str


class Seen(msgspec.Struct, frozen=True):
    """What the model saw, and said."""

    rows: list[dict[str, Any]]  # by column; a missing value is None
    outputs: list[float]  # the probability, or the first output
    withheld: tuple[str, ...]  # columns that are personal or free text
    reason: str = ""  # why there are no rows


class Trace(msgspec.Struct, frozen=True):
    """One answered request."""

    request_id: str
    caller_id: str
    endpoint: str
    model: str | None
    version: int
    revision: int
    at: datetime
    principal: str
    rows: int
    duration_ms: float
    percent: int | None  # the version's share then; 0: it was held, and called by number or alias
    put_there: Put | None  # what gave it its share; None: it had none, or the log begins later
    last_change: Put | None  # the last word on the endpoint before the request
    origin: Origin | None
    feedback: tuple[Truth, ...]
    seen: Seen | None = None  # only where asked for


class Found(msgspec.Struct, frozen=True):
    """What is known of an id: the requests that it names, or what it proves by itself."""

    asked: str
    kind: str  # request: one of ours; caller: a caller's own
    requests: tuple[Trace, ...]
    genuine: bool | None  # whether the home made it; None for a caller's own
    endpoint: str = ""  # that it was asked of, and ...
    principal: str = ""  # ... by whom: proven by the id, also where the record is gone
    written_between: tuple[datetime, datetime] | None = None  # what is still kept of the process that made it
    records_since: datetime | None = None  # older ones are gone
    feedback: tuple[Truth, ...] = ()


def trace(asked: str, *, inputs: bool = False) -> Found:
    """What is known of a request: by our id, else by the id that its caller gave (`X-Request-Id`).

    Raises NotFound for an id that this home did not make and that no record bears.
    """
    asked = asked.strip()
    if not asked:
        raise InvalidInput("an id is missing: `request_id` of an answer, or the X-Request-Id that went with the call")
    home = active_home()
    if _ID.fullmatch(asked) and (found := _by_request_id(home, asked, inputs)):
        return found
    mine = records.find_caller(home.records, asked[:MAX_CALLER_ID], MAX_CALLS)
    if not mine:
        raise NotFound(_unknown(asked, home))
    came = _truths(home, mine)
    traced = tuple(_traced(one, came.get(one.request_id, ()), inputs) for one in mine)
    return Found(asked, "caller", traced, None, records_since=_since(home))


def who_asked(home: Home, request_id: str) -> tuple[str, str] | None:
    """The principal and the endpoint that an id proves; None for one that was made up.

    Every known pair is tried, at about a microsecond each.
    """
    ids = known_request_ids(home.keys)
    if ids is None:
        return None
    return next((pair for pair in _pairs(home) if ids.proves(request_id, *pair)), None)


def readable(contract: Contract, inputs: bytes, rows: int) -> list[dict[str, Any]]:
    """What the model saw as people wrote it, without what is personal; a missing value is None.

    inputs: float32[rows, features], as a record holds it. Raises InvalidInput where it does not fit the contract.
    """
    features = contract.features
    if not rows or len(inputs) != 4 * rows * len(features):
        raise InvalidInput("the record does not fit the contract of its version")
    matrix = np.frombuffer(inputs, dtype="<f4").reshape(rows, len(features)).tolist()
    shown = [(at, column) for at, column in enumerate(features) if column.pii == "none"]
    return [{column.name: _value(column, row[at]) for at, column in shown} for row in matrix]


def _by_request_id(home: Home, request_id: str, inputs: bool) -> Found | None:
    record = records.find_request(home.records, request_id)
    if record is not None:
        truths = _truths(home, [record]).get(request_id, ())
        one = _traced(record, truths, inputs)
        return Found(request_id, "request", (one,), True, one.endpoint, one.principal, None, _since(home), truths)
    pair = who_asked(home, request_id)
    if pair is None:
        return None
    truths = tuple(map(_truth, records.find_truths(home.records, [request_id])))
    life = records.life_of_maker(home.records, request_id)
    between = (_time(life[0]), _time(life[1])) if life else None
    return Found(request_id, "request", (), True, pair[1], pair[0], between, _since(home), truths)


def _pairs(home: Home) -> Iterator[tuple[str, str]]:
    """Everybody who may have asked anything, names of the past included; last, a call that was refused unnamed."""
    try:
        plan = read_plan(home)
    except (InvalidInput, OSError):
        plan = None
    principals = dict.fromkeys([ANONYMOUS, *Principal.objects.values_list("name", flat=True)])
    endpoints = dict.fromkeys(Endpoint.objects.values_list("name", flat=True))
    endpoints |= dict.fromkeys(
        Event.objects.filter(endpoint__isnull=False).order_by().values_list("endpoint", flat=True).distinct()
    )
    if plan is not None:
        principals |= dict.fromkeys(key.principal for key in plan.keys)
        endpoints |= dict.fromkeys(endpoint.name for endpoint in plan.endpoints)
    for endpoint in endpoints:
        for principal in principals:
            yield principal, endpoint
    yield "", ""


def _traced(record: Prediction, truths: tuple[Truth, ...], inputs: bool) -> Trace:
    state = history.served_by_revision(record.endpoint, record.revision)
    brought = history.brought_by(record.endpoint, record.version, record.revision) if state else None
    version = _version(record, state)
    return Trace(
        request_id=record.request_id,
        caller_id=record.caller_id,
        endpoint=record.endpoint,
        model=state.model if state else version.model.name if version else None,
        version=record.version,
        revision=record.revision,
        at=_time(record.time_ns),
        principal=record.principal,
        rows=record.rows,
        duration_ms=round(record.duration_ns / 1e6, 3),
        percent=state.weights.get(record.version, 0) if state else None,
        put_there=_put(history.state_after(brought)) if brought else None,
        last_change=_put(state),
        origin=_origin(version) if version else None,
        feedback=truths,
        seen=_seen(record, version) if inputs else None,
    )


def _version(record: Prediction, state: Served | None) -> Version | None:
    """The row of the version that answered; its model is the one that the endpoint had then."""
    found = Version.objects.select_related("model").filter(number=record.version)
    if state is not None:
        return found.filter(model__name=state.model).first()
    endpoint = Endpoint.objects.filter(name=record.endpoint).first()  # older than the log: as it is today
    return found.filter(model=endpoint.model_id).first() if endpoint else None


def _origin(version: Version) -> Origin:
    return Origin(
        digest=version.digest,
        framework=version.framework,
        registered_at=version.created_at,
        registered_by=version.created_by,
        source=str(version.lineage.get("source", "")),
        data_digest=version.data_digest,
        code_revision=version.code_revision,
        run=version.runs.order_by("pk").values_list("pk", flat=True).first(),
    )


def _seen(record: Prediction, version: Version | None) -> Seen:
    outputs = [_short(one) for one in np.frombuffer(record.outputs, dtype="<f4").tolist()]
    if version is None:
        return Seen([], outputs, (), "the version that answered is not registered here")
    if not record.inputs:
        return Seen([], outputs, (), "a record of tensors holds no inputs")
    try:
        contract = Shelf(active_home().shelf).describe(version.digest).manifest.contract
        rows = readable(contract, record.inputs, record.rows)
    except (NotFound, InvalidInput) as error:
        return Seen([], outputs, (), str(error))
    return Seen(rows, outputs, tuple(column.name for column in contract.features if column.pii != "none"))


def _value(column: Column, value: float) -> Any:
    if value != value:  # NaN: missing
        return None
    if column.kind == "category":
        return column.categories[int(value)] if 0 <= value < len(column.categories) else None
    if column.kind == "boolean":
        return bool(value)
    return int(value) if column.kind == "integer" else _short(value)


def _short(value: float) -> float:
    """A float32 with the digits that it has."""
    return float(f"{value:.7g}")


def _put(state: Served | None) -> Put | None:
    if state is None:
        return None
    return Put(state.verb, state.since, state.by, state.revision, state.weights, state.approved_by, state.forced)


def _truths(home: Home, answered: Sequence[Prediction]) -> dict[str, tuple[Truth, ...]]:
    """The truths that came for these calls, by request id."""
    found: dict[str, tuple[Truth, ...]] = {}
    ids = {one.request_id for one in answered}
    for one in records.find_truths(home.records, ids, min(one.time_ns for one in answered)):
        found[one.request_id] = (*found.get(one.request_id, ()), _truth(one))
    return found


def _truth(one: Feedback) -> Truth:
    return Truth(_time(one.time_ns), one.truth, one.row, one.principal)


def _since(home: Home) -> datetime | None:
    since = records.kept_since(home.records)
    return None if since is None else _time(since)


def _time(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC)


def _unknown(asked: str, home: Home) -> str:
    kept = _since(home)
    reach = f"records reach back to {kept:%Y-%m-%d %H:%M} UTC" if kept else "no records are kept yet"
    if _ID.fullmatch(asked):
        return f"this home did not make this id, and no record bears it as a caller's own ({reach})"
    return f"no record bears this id as a caller's own ({reach}); ids of this home are 32 hex digits"
