"""The story of a call: who answers it, what was asked, may this caller ask so much, then wait for the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from modelyard.contract.errors import ModelyardError
from modelyard.serve.call import Answer, Call, Caller
from modelyard.serve.routing import Place, Route

Read = Callable[[Call, int], None]
Peek = Callable[[Caller, Place], bytes | None]


class Dialect(NamedTuple):
    """How the calls of one dialect are read and answered; see `dialects.py`."""

    read: Read  # the body as what the chosen deployment takes
    say: Answer
    peek: Peek  # one column's value in the body, before a deployment is chosen
    read_copy: Read | None = None  # as `read`, on any thread and from the body alone; None: `read` itself does


class Inference:
    """The one path that every dialect's calls take."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows

    def infer(self, call: Call, route: Route, pin: str | None, dialect: Dialect) -> None:
        """See that `call` is answered once: by its replica, or with the ModelyardError that says why not.

        The deployment is chosen before the body is decoded, because the encoder belongs to the version.
        """
        try:
            call.deployment = route.choose(call.exchange, dialect.peek) if pin is None else route.pinned(pin)
            dialect.read(call, call.deployment.max_rows or self._max_rows)
            if call.principal.quota is not None:
                call.principal.quota.charge_rest(call.rows)  # the first was charged at the end of the headers
            if route.shadow is not None and pin is None:
                route.shadow.follow(call, dialect)
            call.deployment.replica.submit(call)  # it says the answer, or call.refuse
        except ModelyardError as refusal:
            call.refuse(refusal)
