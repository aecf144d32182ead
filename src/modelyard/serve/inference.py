"""The story of a call: who answers it, what was asked, may this caller ask so much, then wait for the model."""

from __future__ import annotations

from collections.abc import Callable

from modelyard.contract.errors import ModelyardError
from modelyard.serve.call import Call
from modelyard.serve.routing import Route

Read = Callable[[Call, int], None]


class Inference:
    """The one path that every dialect's calls take."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows

    def infer(self, call: Call, route: Route, pin: str | None, read: Read) -> None:
        """See that `call` is answered once: by its replica, or with the ModelyardError that says why not.

        The deployment is chosen before the body is decoded, because the encoder belongs to the version.
        """
        try:
            headers = call.exchange.headers
            call.deployment = route.choose(headers) if pin is None else route.pinned(pin)
            read(call, call.deployment.max_rows or self._max_rows)
            if call.principal.quota is not None:
                call.principal.quota.charge_rest(call.rows)  # the first was charged at the end of the headers
            call.deployment.replica.submit(call)  # it says the answer, or call.refuse
        except ModelyardError as refusal:
            call.refuse(refusal)
