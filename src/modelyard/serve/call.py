"""One caller's call: from its admission to its one answer."""

from __future__ import annotations

import math
import traceback
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from modelyard.contract.errors import InvalidInput, ModelFailed, ModelyardError, Overloaded
from modelyard.contract.tensor import Inputs, Matrix, Tensors, datatype_of
from modelyard.serve.log import log

if TYPE_CHECKING:
    from modelyard.serve.admission import Principal
    from modelyard.serve.routing import Deployment
    from modelyard.serve.telemetry import Telemetry

DEFAULT_PRIORITY = 5  # of 1, the first, to 9
TIMEOUT = b"x-timeout-ms"  # the header that says how long a caller waits


class QueueFull(Overloaded):
    """As many rows as may wait for this version do so already: it is slower than they come."""


class Caller(Protocol):
    """Who waits for the answer, whatever it speaks: an HTTP exchange, a gRPC stream, a line of a longer one."""

    headers: dict[bytes, bytes]  # names in lower case
    body: bytes | bytearray

    @property
    def is_gone(self) -> bool:
        """Whether nobody waits for the answer any more."""

    def refuse(self, error: ModelyardError) -> None:
        """Answer with an error, as this edge says it."""

    def respond(self, status: int, body: bytes, content_type: bytes = ..., headers: bytes = ...) -> None:
        """Answer with a whole body."""


class Answer(Protocol):
    """How a dialect says what a model said."""

    def __call__(self, call: Call, batch: Batch, start: int) -> None:
        """Answer `call` with rows `start` to `start + call.rows` of `batch`."""


class Batch:
    """What the model said to one batch; lists are made once for all its calls."""

    __slots__ = ("_first", "_lists", "_plain", "answered_ns", "contributions", "outputs", "started_ns")

    def __init__(self, outputs: Tensors) -> None:
        self.outputs = outputs
        self.started_ns = 0  # on the monotonic clock, when the model was asked ...
        self.answered_ns = 0  # ... and when it had answered
        self.contributions: dict[int, Matrix] = {}  # row of the batch -> log-odds per feature, then the base
        self._lists: dict[str, list[Any]] = {}
        self._plain: dict[str, tuple[str, list[Any]] | None] = {}
        self._first: Any = self  # not looked for yet

    def column(self, name: str) -> list[Any]:
        """One output as Python values."""
        if (values := self._lists.get(name)) is None:
            values = self._lists[name] = self.outputs[name].tolist()
        return values

    def plain(self, name: str) -> tuple[str, list[Any]] | None:
        """The datatype and the values of an output that is one JSON number for each row; None for any other."""
        try:
            return self._plain[name]
        except KeyError:
            values = self.outputs.get(name)
            is_plain = values is not None and values.ndim == 1 and values.dtype.kind in "biuf"
            if values is None or not is_plain or values.dtype == np.float16:
                self._plain[name] = None
            else:
                self._plain[name] = datatype_of(values.dtype), self.column(name)
            return self._plain[name]

    @property
    def first(self) -> Matrix | None:
        """What a record keeps: the probability, or the first output, where it is one float32 for each row."""
        if self._first is self:
            outputs = self.outputs
            found = outputs["probability"] if "probability" in outputs else next(iter(outputs.values()), None)
            is_kept = found is not None and found.ndim == 1 and found.dtype == np.float32
            self._first = found if is_kept else None
        return self._first  # type: ignore[no-any-return]


class Call:
    """What the stops of the walk know of one call. It is answered once."""

    __slots__ = (
        "deadline_ns", "deployment", "exchange", "group", "inputs", "is_answered", "language", "options",
        "principal", "priority", "queued_ns", "reasons", "request_id", "rows", "say", "single", "started_ns",
        "telemetry", "wants_all",
    )  # fmt: skip

    def __init__(
        self,
        exchange: Caller,
        principal: Principal,
        say: Answer,
        telemetry: Telemetry,
        started_ns: int,
        deadline_ns: int,
    ) -> None:
        self.exchange = exchange
        self.principal = principal
        self.say = say
        self.telemetry = telemetry
        self.started_ns = started_ns
        self.deadline_ns = deadline_ns  # on the monotonic clock, as started_ns
        self.deployment: Deployment = None  # type: ignore[assignment]  # chosen by the story
        self.inputs: Inputs = None  # type: ignore[assignment]  # set by the dialect
        self.rows = 0
        self.group: object = None  # only calls with equal groups may be joined
        self.priority = DEFAULT_PRIORITY
        self.queued_ns = started_ns  # when it was read and began to wait
        self.is_answered = False
        self.single = False
        self.reasons = "auto"  # auto: for the positive class; all; none
        self.wants_all = False  # contributions of every row
        self.language = ""  # as the caller's headers say
        self.options: object = None  # the dialect's own
        self.request_id = ""

    @property
    def owner(self) -> str:
        """Whose turn this call uses up."""
        return self.principal.name

    @property
    def matrix(self) -> Matrix:
        """The inputs of a table's version."""
        return self.inputs  # type: ignore[return-value]

    @property
    def is_wanted(self) -> bool:
        """Whether somebody still waits for the answer."""
        return not self.is_answered and not self.exchange.is_gone

    def expire_in(self, seconds: float) -> None:
        """The caller waits no longer than this; it can only shorten what the gateway allows. Raises InvalidInput."""
        if not 0 < seconds < math.inf:
            raise InvalidInput("a timeout is above 0")
        self.deadline_ns = min(self.deadline_ns, self.started_ns + int(min(seconds, 1e6) * 1e9))

    def rows_to_explain(self, outputs: Tensors, start: int, rows: int | None = None) -> list[int]:
        """Which of the batch's rows from `start` on, all of this call's or some, need contributions for its answer."""
        rows = self.rows if rows is None else rows
        if self.wants_all or self.reasons == "all":
            return list(range(start, start + rows))
        cutoff = self.deployment.cutoff
        if self.reasons == "none" or cutoff is None:
            return []
        mine = outputs["probability"][start : start + rows]
        if rows == 1:
            return [start] if float(mine[0]) >= cutoff else []  # float32 would round the cut-off itself
        mine = mine.astype(np.float64)
        return (np.flatnonzero(mine >= cutoff) + start).tolist()

    def refuse(self, error: ModelyardError) -> None:
        """Answer with the error that says why there is nothing else; a second answer is ignored."""
        if self.is_answered:
            return
        self.is_answered = True
        self.telemetry.failed(self, error)
        self.exchange.refuse(error)

    def fail(self, error: BaseException) -> None:
        """Answer with what the caller may know of an exception; the rest is in the log under the request id."""
        cause = error.__cause__ if isinstance(error, ModelFailed) else None  # of a step of a version made of several
        if isinstance(error, ModelyardError) and cause is None:
            self.refuse(error)
            return
        # Where it failed, not what it said: a model's own message may hold what the caller sent.
        failed = cause or error
        trace = traceback.format_list(traceback.extract_tb(failed.__traceback__))
        log.error(
            "model failed", request_id=self.request_id, endpoint=self.deployment.endpoint, error=type(failed).__name__,
            trace=trace,
        )  # fmt: skip
        if isinstance(error, ModelyardError):
            self.refuse(error)
            return
        self.refuse(
            ModelFailed(f"the model failed on this input; the log has details under request id {self.request_id}")
        )


def seconds_of(timeout: bytes) -> float:
    """What the header `TIMEOUT` says. Raises InvalidInput."""
    if not timeout.isdigit() or len(timeout) > 9 or not int(timeout):
        raise InvalidInput(f"the header '{TIMEOUT.decode()}' is a whole number of milliseconds above 0")
    return int(timeout) / 1000
