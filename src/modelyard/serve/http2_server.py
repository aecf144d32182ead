"""Every HTTP/2 connection of one worker: what they share, and the sweep that keeps their deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from modelyard.contract.settings import Settings
from modelyard.serve.http2 import MAX_STREAMS, Connection
from modelyard.serve.http2_frames import (
    FIRST_WINDOW,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_HEADER_LIST_SIZE,
    MAX_WINDOW,
    NUMBER,
    WINDOW_UPDATE,
    frame,
    settings_frame,
)
from modelyard.serve.http2_session import Session
from modelyard.serve.http2_stream import WINDOW_BYTES, Receiver, Stream
from modelyard.serve.pending import PendingBytes

SWEEP_S = 0.25  # how exact deadlines are


class Http2Server:
    """What makes connections, and ends those whose deadlines have passed."""

    def __init__(
        self,
        settings: Settings,
        open: Callable[[Stream], Receiver],
        failed: Callable[[BaseException], object],
        loop: asyncio.AbstractEventLoop,
        pending: PendingBytes,
    ) -> None:
        """`open` is asked who receives a new stream (its head is checked), `failed` is told of faults of ours."""
        self.settings, self.open, self.failed, self.loop = settings, open, failed, loop
        self.pending = pending  # of all edges of this worker
        self.now = loop.time
        self.clock = loop.time()  # as of the last sweep: exact enough for deadlines
        self.connections: set[Session] = set()
        self.draining = False
        self.greeting = settings_frame(
            (MAX_CONCURRENT_STREAMS, MAX_STREAMS),
            (INITIAL_WINDOW_SIZE, WINDOW_BYTES),
            (MAX_HEADER_LIST_SIZE, settings.max_header_bytes),
        ) + frame(WINDOW_UPDATE, 0, 0, NUMBER.pack(MAX_WINDOW - FIRST_WINDOW))
        self._sweep()

    def __call__(self) -> Connection:
        return Connection(self)

    def drain(self) -> None:
        """Take no further stream; connections close with their last answer."""
        self.draining = True
        for session in list(self.connections):
            session.drain()

    def _sweep(self) -> None:
        now = self.clock = self.now()
        for session in [session for session in self.connections if session.deadline < now]:
            session.expire(now)
        self.loop.call_later(SWEEP_S, self._sweep)
