"""Large bodies are answered by the bulk worker: the same gateway in one more process, asked over a unix socket.

Decoding a megabyte of JSON holds the interpreter for ten milliseconds, in which a worker would answer nobody else. So a
worker only passes such a request on and its answer back. The bulk worker follows the same plan and decides everything
anew but one thing: the caller's first row is charged here. The parent starts it when the first such request arrives.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from pathlib import Path

import httptools

from modelyard.contract.errors import DeadlineExceeded, ModelyardError, NotReady, Overloaded
from modelyard.serve.call import TIMEOUT, seconds_of
from modelyard.serve.exchange import Exchange
from modelyard.serve.seats import reachable_path

LINES = 2  # requests that the bulk worker holds for each worker; further ones wait here
WAITING_BYTES = 64 * 1024 * 1024
LOOK_S = 0.1  # how late a caller that left, or a deadline, is noticed
_OURS = frozenset((b"connection", b"content-length", b"expect", b"keep-alive", b"te", b"transfer-encoding", b"upgrade",
                   b"x-timeout-ms"))  # fmt: skip
_NOT_PASSED_BACK = frozenset((b"connection", b"content-length", b"content-type", b"date"))


class Errand:
    """One request on its way, and until when its answer is wanted."""

    __slots__ = ("exchange", "until")

    def __init__(self, exchange: Exchange, until: float) -> None:
        self.exchange, self.until = exchange, until


class Bulk:
    """One worker's way to the bulk worker."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop, deadline_s: float) -> None:
        self._path, self._loop, self._deadline_s = path, loop, deadline_s
        self._waiting: deque[Errand] = deque()
        self._lines: set[Line] = set()
        self._looker: asyncio.TimerHandle | None = None

    def take(self, exchange: Exchange) -> None:
        """See that a whole request is answered. Raises Overloaded when too much waits, and InvalidInput."""
        if sum(len(errand.exchange.body) for errand in self._waiting) + len(exchange.body) > WAITING_BYTES:
            raise Overloaded(f"{WAITING_BYTES} bytes of large requests already wait; try again shortly")
        seconds = self._deadline_s
        if (told := exchange.headers.get(TIMEOUT)) is not None:
            seconds = min(seconds, seconds_of(told))
        self._waiting.append(Errand(exchange, time.monotonic() + seconds))
        self.go_on()
        if self._looker is None:
            self._looker = self._loop.call_later(LOOK_S, self._look)

    def go_on(self) -> None:
        """Let a free line take what waits."""
        while self._waiting:
            line = next((line for line in self._lines if line.is_free), None)
            if line is None and len(self._lines) >= LINES:
                return
            errand = self._waiting.popleft()
            if errand.exchange.is_gone:
                continue
            if line is None:
                line = Line(self)
                self._lines.add(line)
                line.errand = errand
                self._loop.create_task(self._connect(line))
            else:
                line.run(errand)

    def left(self, line: Line) -> None:
        """A line is gone."""
        self._lines.discard(line)
        self.go_on()

    async def _connect(self, line: Line) -> None:
        try:
            with reachable_path(self._path) as path:
                await self._loop.create_unix_connection(lambda: line, path)
        except OSError as error:
            line.fail(NotReady(f"the bulk worker cannot be reached ({error.strerror or 'no socket'}); try again"))
            self.left(line)

    def _look(self) -> None:
        """Tell whose deadline has passed, and let go of what nobody waits for."""
        now = time.monotonic()
        for errand in [errand for errand in self._waiting if errand.until <= now or errand.exchange.is_gone]:
            self._waiting.remove(errand)
            errand.exchange.refuse(DeadlineExceeded("the deadline passed before the call was read"))
        for line in list(self._lines):
            line.look(now)
        self._looker = self._loop.call_later(LOOK_S, self._look) if self._lines or self._waiting else None

    def close(self) -> None:
        """No further request."""
        for line in list(self._lines):
            line.close()


class Line(asyncio.Protocol):
    """One connection to the bulk worker; one request at a time."""

    def __init__(self, bulk: Bulk) -> None:
        self._bulk = bulk
        self._transport: asyncio.Transport | None = None
        self.errand: Errand | None = None
        self._reset()

    @property
    def is_free(self) -> bool:
        """Whether it can take a request."""
        return self.errand is None and self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        if (errand := self.errand) is not None:
            self.run(errand)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.fail(NotReady("the bulk worker ended while it held this request; try again"))
        self._bulk.left(self)

    def run(self, errand: Errand) -> None:
        """Send a request on."""
        self._reset()
        self.errand = errand
        exchange = errand.exchange
        left_ms = max(1, math.ceil((errand.until - time.monotonic()) * 1000))
        head = [b"%b %b HTTP/1.1\r\n" % (exchange.method, exchange.target)]
        head += [b"%b: %b\r\n" % pair for pair in exchange.headers.items() if pair[0] not in _OURS]
        head.append(b"x-timeout-ms: %d\r\ncontent-length: %d\r\n\r\n" % (left_ms, len(exchange.body)))
        if self._transport is not None:
            self._transport.writelines([b"".join(head), exchange.body])

    def look(self, now: float) -> None:
        """Give up what nobody waits for any more: the bulk worker drops it when this line closes."""
        errand = self.errand
        if errand is None:
            return
        if errand.until + 1.0 <= now:  # the bulk worker itself says so at the deadline; this is for one that cannot
            self.fail(DeadlineExceeded("the deadline passed while the model computed"))
        if self.errand is None or errand.exchange.is_gone:
            self.close()

    def fail(self, error: ModelyardError) -> None:
        """Answer the request that this line holds with an error."""
        errand, self.errand = self.errand, None
        if errand is not None:
            errand.exchange.refuse(error)

    def close(self) -> None:
        """Let go of the connection."""
        self.errand = None
        if self._transport is not None:
            self._transport.abort()

    # --- what comes back

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._type = b""
        self._headers: list[bytes] = []
        self._body = bytearray()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"content-type":
            self._type = value
        elif name not in _NOT_PASSED_BACK:
            self._headers.append(b"%b: %b\r\n" % (name, value))

    def on_body(self, chunk: bytes) -> None:
        self._body += chunk

    def on_message_complete(self) -> None:
        errand, self.errand = self.errand, None
        if errand is not None:
            exchange = errand.exchange
            exchange.extra = b""  # stands among the headers that came back
            exchange.respond(self._parser.get_status_code(), bytes(self._body), self._type, b"".join(self._headers))
        self._bulk.go_on()
