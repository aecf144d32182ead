"""One caller's call: from its admission to its one answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from modelyard.contract.errors import ModelyardError
from modelyard.contract.tensor import Matrix, Tensors

if TYPE_CHECKING:
    from modelyard.serve.admission import Principal
    from modelyard.serve.exchange import Exchange
    from modelyard.serve.routing import Deployment
    from modelyard.serve.telemetry import Telemetry


class Answer(Protocol):
    """How a dialect says what a model said."""

    def __call__(self, call: Call, batch: Batch, start: int) -> None:
        """Answer `call` with rows `start` to `start + call.rows` of `batch`."""


class Batch:
    """What the model said to one batch; lists are made once for all its calls."""

    __slots__ = ("_lists", "answered_ns", "contributions", "outputs")

    def __init__(self, outputs: Tensors) -> None:
        self.outputs = outputs
        self.answered_ns = 0  # on the monotonic clock, once the model has answered
        self.contributions: dict[int, Matrix] = {}  # row of the batch -> log-odds per feature, then the base
        self._lists: dict[str, list[Any]] = {}

    def column(self, name: str) -> list[Any]:
        """One output as Python values."""
        if (values := self._lists.get(name)) is None:
            values = self._lists[name] = self.outputs[name].tolist()
        return values


class Call:
    """What the stops of the walk know of one call. `answer` is called once."""

    __slots__ = (
        "deadline_ns", "deployment", "exchange", "language", "matrix", "options", "principal", "reasons", "request_id",
        "rows", "say", "single", "started_ns", "telemetry", "wants_all",
    )  # fmt: skip

    def __init__(
        self,
        exchange: Exchange,
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
        self.matrix: Matrix = None  # type: ignore[assignment]
        self.rows = 0
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

    def rows_to_explain(self, outputs: Tensors, start: int) -> list[int]:
        """Which rows of the batch need contributions for this call's answer."""
        if self.wants_all or self.reasons == "all":
            return list(range(start, start + self.rows))
        cutoff = self.deployment.cutoff
        if self.reasons == "none" or cutoff is None:
            return []
        mine = outputs["probability"][start : start + self.rows]
        if self.rows == 1:
            return [start] if float(mine[0]) >= cutoff else []  # float32 would round the cut-off itself
        mine = mine.astype(np.float64)
        return (np.flatnonzero(mine >= cutoff) + start).tolist()

    def answer(self, result: Batch | ModelyardError, start: int = 0) -> None:
        """Answer with rows of a batch, or with the error that says why not."""
        if isinstance(result, ModelyardError):
            self.exchange.connection.server.app.refuse(self.exchange, result)
            return
        self.say(self, result, start)
        self.telemetry.note(self, result, start)
