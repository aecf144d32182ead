"""The HTTP/1.1 edge of one worker: its connections, their deadlines' sweep, and what it asks of the gateway.

Bytes in, whole admitted requests out (`http_connection.py`). Knows no model.
"""

from __future__ import annotations

import asyncio
from email.utils import formatdate
from typing import Protocol

from modelyard.contract.errors import ModelyardError
from modelyard.contract.settings import Settings
from modelyard.serve.content import MAX_BYTES
from modelyard.serve.exchange import Exchange, common_head
from modelyard.serve.http_connection import Connection
from modelyard.serve.pending import PendingBytes

SWEEP_S = 0.25  # how exact deadlines of connections are


class Application(Protocol):
    """What the edge asks of the gateway."""

    pending: PendingBytes  # of all edges of this worker

    def admit(self, exchange: Exchange) -> None:
        """At the end of the headers: who, where, how often. Raises the ModelyardError that refuses the request."""

    def handle(self, exchange: Exchange) -> None:
        """The request is whole: see that `exchange` is answered once, now or later."""

    def refuse(self, exchange: Exchange, error: ModelyardError, status: int | None = None) -> None:
        """Answer with an error."""

    def problem_line(self, error: ModelyardError) -> bytes:
        """An error as one line of an answer in pieces."""

    def failed(self, error: BaseException) -> ModelyardError:
        """Log a fault of ours and return what callers may know of it."""


class HttpServer:
    """Every connection of one worker, and the sweep that keeps their deadlines."""

    def __init__(
        self, settings: Settings, app: Application, loop: asyncio.AbstractEventLoop, deflate_bytes: int = MAX_BYTES
    ) -> None:
        self.settings, self.app, self.loop = settings, app, loop
        self.deflate_bytes = deflate_bytes  # answers up to this size are compressed for callers who accept it
        self.now = loop.time
        self.connections: set[Connection] = set()
        self.draining = False
        self.date = self.ok = b""
        self._sweep()

    def __call__(self) -> Connection:
        return Connection(self)

    def drain(self) -> None:
        """Take no further request: idle connections close now, busy ones with their last answer."""
        self.draining = True
        for connection in list(self.connections):
            if not connection.slots and connection.current is None and connection.transport:
                connection.transport.close()

    def _sweep(self) -> None:
        now = self.now()
        self.date = b"date: %b\r\n" % formatdate(usegmt=True).encode()
        self.ok = common_head(self.date)
        for connection in [c for c in self.connections if c.deadline < now or c.write_deadline < now]:
            connection.expire(now)
        self.loop.call_later(SWEEP_S, self._sweep)
