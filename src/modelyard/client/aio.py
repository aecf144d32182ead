"""The asynchronous client: the same calls, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, TypeVar, overload

import httpx

from modelyard.client import exchange
from modelyard.client.client import AGENT, outcome_of
from modelyard.client.exchange import Ask, Late, Outcome, Patience, Pause, Reply, Talk
from modelyard.contract.infer import Explanation, Prediction

T = TypeVar("T")


class AsyncClient:
    """`Client` for asyncio: same arguments, same errors, and every call is awaited."""

    def __init__(
        self, url: str = "http://127.0.0.1:8000", key: str | None = None, timeout_s: float = 30.0, retries: int = 3
    ) -> None:
        self._patience = Patience(timeout_s, retries)
        self._address = exchange.address(url, key, AGENT)
        self._http = httpx.AsyncClient(
            base_url=self._address.url,
            headers=self._address.headers,
            trust_env=not self._address.is_loopback,
            timeout=None,  # noqa: S113 - `_send` sets one over the whole request
        )

    def __repr__(self) -> str:
        return f"AsyncClient({self._address.url!r})"

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Give the connections back."""
        await self._http.aclose()

    def endpoint(self, name: str) -> AsyncEndpoint:
        """The endpoint of that name; nothing is asked of the gateway yet."""
        return AsyncEndpoint(self, name)

    async def endpoints(self) -> dict[str, Any]:
        """What the gateway serves, as it says."""
        return await self._run(exchange.get("/", self._patience))

    async def _run(self, talk: Talk[T]) -> T:
        """Do what the talk asks until it has its result."""
        outcome: Outcome | None = None
        try:
            while True:
                step = talk.send(outcome)
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    outcome = None
                else:
                    outcome = await self._send(step)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    async def _send(self, ask: Ask) -> Outcome:
        headers = {"Content-Type": "application/json"} if ask.body is not None else None
        try:
            async with asyncio.timeout(ask.timeout_s):
                response = await self._http.request(ask.method, ask.path, content=ask.body, headers=headers)
                return Reply(response.status_code, response.content, response.headers.get("Retry-After"))
        except TimeoutError:
            return Late()
        except httpx.HTTPError as error:
            return outcome_of(error, self._address.url)


class AsyncEndpoint:
    """One endpoint of a gateway."""

    def __init__(self, client: AsyncClient, name: str) -> None:
        self._client = client
        self.name = name

    def __repr__(self) -> str:
        return f"{self._client!r}.endpoint({self.name!r})"

    @overload
    async def predict(
        self, rows: Mapping[str, Any], reasons: str | None = None, language: str | None = None
    ) -> Prediction: ...
    @overload
    async def predict(self, rows: Any, reasons: str | None = None, language: str | None = None) -> list[Prediction]: ...
    async def predict(self, rows: Any, reasons: str | None = None, language: str | None = None) -> Any:
        """As `Endpoint.predict`."""
        talk = exchange.predict(self.name, rows, self._client._patience, reasons, language)
        return await self._client._run(talk)

    @overload
    async def explain(self, rows: Mapping[str, Any]) -> Explanation: ...
    @overload
    async def explain(self, rows: Any) -> list[Explanation]: ...
    async def explain(self, rows: Any) -> Any:
        """As `Endpoint.explain`."""
        return await self._client._run(exchange.explain(self.name, rows, self._client._patience))

    async def feedback(self, request_id: str, truth: Any, row: int = 0) -> None:
        """As `Endpoint.feedback`."""
        await self._client._run(exchange.feedback(self.name, request_id, truth, row, self._client._patience))

    async def describe(self) -> dict[str, Any]:
        """As `Endpoint.describe`."""
        return await self._client._run(exchange.describe(self.name, self._client._patience))
