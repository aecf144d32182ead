"""The synchronous client: `Client(url, key=…).endpoint("credit_scoring").predict(rows)`."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic, sleep
from typing import Any, TypeVar, overload

import httpx

import modelyard
from modelyard.client import exchange
from modelyard.client.exchange import Ask, Broken, Late, Outcome, Patience, Pause, Reply, Talk
from modelyard.contract.infer import Explanation, Prediction

T = TypeVar("T")
AGENT = f"modelyard/{modelyard.__version__}"


class Client:
    """Calls one gateway. Safe to share among threads; keeps connections open until `close` or the end of `with`.

    key: an API key, sent as `Authorization: Bearer`, shown nowhere. timeout_s: how long one request may take, its
    retries included (a big table is several requests). retries: how often a request is tried again when the gateway
    is busy, not ready or unreachable; what the gateway asks by `Retry-After` is kept.
    Raises InvalidInput for a url or key that cannot be right.
    """

    def __init__(
        self, url: str = "http://127.0.0.1:8000", key: str | None = None, timeout_s: float = 30.0, retries: int = 3
    ) -> None:
        self._patience = Patience(timeout_s, retries)
        self._address = exchange.address(url, key, AGENT)
        self._http = httpx.Client(
            base_url=self._address.url,
            headers=self._address.headers,
            trust_env=not self._address.is_loopback,
        )

    def __repr__(self) -> str:
        return f"Client({self._address.url!r})"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def endpoint(self, name: str) -> Endpoint:
        """The endpoint of that name; nothing is asked of the gateway yet."""
        return Endpoint(self, name)

    def endpoints(self) -> dict[str, Any]:
        """What the gateway serves, as it says."""
        return self._run(exchange.get("/", self._patience))

    def _run(self, talk: Talk[T]) -> T:
        """Do what the talk asks until it has its result."""
        outcome: Outcome | None = None
        try:
            while True:
                step = talk.send(outcome)
                if isinstance(step, Pause):
                    sleep(step.seconds)
                    outcome = None
                else:
                    outcome = self._send(step)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    def _send(self, ask: Ask) -> Outcome:
        ends_at = monotonic() + ask.timeout_s
        headers = {"Content-Type": "application/json"} if ask.body is not None else None
        try:
            with self._http.stream(
                ask.method, ask.path, content=ask.body, headers=headers, timeout=ask.timeout_s
            ) as response:
                parts = []
                for part in response.iter_bytes():
                    if monotonic() > ends_at:  # a server that drips would never run into a timeout between two reads
                        return Late()
                    parts.append(part)
                return Reply(response.status_code, b"".join(parts), response.headers.get("Retry-After"))
        except httpx.HTTPError as error:
            return outcome_of(error, self._address.url)


class Endpoint:
    """One endpoint of a gateway."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self.name = name

    def __repr__(self) -> str:
        return f"{self._client!r}.endpoint({self.name!r})"

    @overload
    def predict(
        self, rows: Mapping[str, Any], reasons: str | None = None, language: str | None = None
    ) -> Prediction: ...
    @overload
    def predict(self, rows: Any, reasons: str | None = None, language: str | None = None) -> list[Prediction]: ...
    def predict(self, rows: Any, reasons: str | None = None, language: str | None = None) -> Any:
        """One Prediction for a dict; a list of them, in order, for a list of dicts or a data frame.

        reasons: "all", "none", or None for those of the declined. language: "en" or "zh", of the reasons.
        Raises InvalidInput (with `violations`), Unauthenticated, Forbidden, NotFound, QuotaExceeded (with
        `retry_after_s`), Overloaded, NotReady, DeadlineExceeded, ModelFailed, Unreachable. A big table goes in
        several requests.
        """
        talk = exchange.predict(self.name, rows, self._client._patience, reasons, language)
        return self._client._run(talk)

    @overload
    def explain(self, rows: Mapping[str, Any]) -> Explanation: ...
    @overload
    def explain(self, rows: Any) -> list[Explanation]: ...
    def explain(self, rows: Any) -> Any:
        """One Explanation for a dict; a list of them for a list of dicts or a data frame. Raises as `predict`."""
        return self._client._run(exchange.explain(self.name, rows, self._client._patience))

    def feedback(self, request_id: str, truth: Any, row: int = 0) -> None:
        """Tell the truth for one row of an earlier call; `Prediction.row` says which."""
        self._client._run(exchange.feedback(self.name, request_id, truth, row, self._client._patience))

    def describe(self) -> dict[str, Any]:
        """Columns, ranges, categories, and an example that works as posted."""
        return self._client._run(exchange.describe(self.name, self._client._patience))


def outcome_of(error: httpx.HTTPError, url: str) -> Outcome:
    """What a failure of the transport means; its own text is left out, since it may quote headers."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return Broken(f"nothing answers at {url}; is the gateway running (modelyard status)?")
    if isinstance(error, httpx.TimeoutException):
        return Late()
    return Broken(f"the connection to {url} broke before the answer was whole")
