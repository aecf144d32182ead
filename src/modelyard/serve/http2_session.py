"""What one HTTP/2 connection keeps for its peer: open streams, windows, answers held back, deadlines, and the end."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from modelyard.serve.http2_budget import BodyBudget
from modelyard.serve.http2_frames import (
    CANCEL,
    FIRST_WINDOW,
    MAX_ID,
    NO_ERROR,
    NUMBER,
    PING,
    PROTOCOL_ERROR,
    RST_STREAM,
    frame,
    goaway_frame,
)
from modelyard.serve.http2_heads import EMPTY_TABLE
from modelyard.serve.http2_patience import Patience
from modelyard.serve.http2_stream import NEVER, Stream

if TYPE_CHECKING:
    from modelyard.serve.http2_server import Http2Server

REMEMBERED_RESETS = 256  # streams that we ended, whose late frames are no fault
RESET_COST = 5  # how many idle frames a reset counts for
LINGER_S = 1.0  # how long a closing connection still reads, so that a reset does not destroy the last answer
DRAIN_PING = b"draining"


class Session:
    """One connection's streams and all that they share. `http2.py` reads the peer's frames into it."""

    __slots__ = (
        "blocked", "budget", "deadline", "ended", "first", "head_by", "idle_by", "is_closing", "is_draining",
        "is_leaving", "is_lost", "is_paused", "last_id", "patience", "peer_window", "server",
        "streams", "transport", "unsent_bytes", "window", "write_by",
    )  # fmt: skip

    def __init__(self, server: Http2Server) -> None:
        self.server = server
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before anything asks for it
        self.streams: dict[int, Stream] = {}
        self.last_id = 0
        self.ended: deque[int] = deque(maxlen=REMEMBERED_RESETS)  # streams that we ended while the peer still sent
        self.first = EMPTY_TABLE  # what goes before our first block
        self.window = FIRST_WINDOW  # what we may send on all streams together
        self.peer_window = FIRST_WINDOW  # what we may send on a new stream
        self.budget = BodyBudget()
        self.blocked: dict[int, Stream] = {}  # streams with answers that windows or socket hold back
        self.unsent_bytes = 0  # of those answers
        self.patience = Patience()
        self.is_paused = False  # the socket takes no more
        self.is_lost = False  # the socket is gone
        self.is_closing = False  # nothing further is read
        self.is_draining = self.is_leaving = False  # the end is announced; no further stream is taken
        self.head_by = self.idle_by = self.write_by = NEVER
        self.deadline = NEVER  # nothing needs a look before this moment

    # --- answers that wait, and streams that wait for window

    def unread_bytes(self) -> int:
        """Bytes of answers that wait for the peer."""
        return self.unsent_bytes + self.transport.get_write_buffer_size()

    def pump(self) -> None:
        """Send what is held back, a frame of each stream in turn, as far as windows and the socket allow."""
        while self.blocked and not self.is_paused and not self.is_lost:
            if not any([stream.send_unsent() for stream in list(self.blocked.values())]):
                return

    def grant_to_all(self) -> None:
        """Let every stream ask for window anew: the one that others waited for is done."""
        if self.is_lost or self.is_closing:
            return
        self.budget.start_anew()
        for stream in list(self.streams.values()):
            stream.grant()

    # --- streams end

    def answered(self, stream: Stream) -> None:
        """The answer has left whole."""
        self.patience.answered()
        if not stream.is_whole:  # the peer need not send the rest
            self.reset(stream.id, NO_ERROR)
        self.forget(stream)

    def reset(self, number: int, code: int) -> None:
        """Tell the peer that a stream has ended; what it still sends there is no fault."""
        self.ended.append(number)
        if not self.is_lost:
            self.transport.write(frame(RST_STREAM, 0, number, NUMBER.pack(code)))

    def forget(self, stream: Stream) -> None:
        """A stream has ended, however it did."""
        stream.close()
        self.budget.held -= stream.held
        if stream.unsent:
            stream.drop_unsent()
        self.streams.pop(stream.id, None)
        if self.budget.has_starved:
            self.grant_to_all()
        if not self.streams:
            self.idle_by = self.server.clock + self.server.settings.idle_timeout_s
            if self.idle_by < self.deadline:
                self.deadline = self.idle_by
            if self.is_leaving:
                self._linger()

    def fault_of(self, number: int, code: int) -> None:
        """One stream broke a rule: it ends, the connection lives on."""
        self.reset(number, code)
        self.lose(number)
        self.patience.use(RESET_COST)  # a peer that makes us reset is as costly as one that resets

    def lose(self, number: int) -> None:
        """Nobody waits for this stream any more."""
        if (stream := self.streams.get(number)) is not None:
            self.forget(stream)
            if stream.receiver is not None:
                stream.receiver.left()

    def abandon(self) -> None:
        """Nobody waits for any stream any more."""
        self.is_closing = True
        for stream in list(self.streams.values()):
            stream.close()
            if stream.receiver is not None:
                stream.receiver.left()
        self.streams.clear()
        self.blocked.clear()

    # --- deadlines

    def watch(self, deadline: float) -> None:
        """Look at what may have expired after this moment."""
        if deadline < self.deadline:
            self.deadline = deadline

    def expire(self, now: float) -> None:
        """Some deadline may have passed: end what it belongs to."""
        if self.is_lost:
            return
        if self.write_by < now or (self.is_closing and self.idle_by < now):
            self.transport.abort()
            return
        if self.head_by < now:
            self.fail(PROTOCOL_ERROR, "the headers did not arrive within header_timeout_s")
            return
        for stream in list(self.streams.values()):
            if stream.sent_by < now:
                self.reset(stream.id, CANCEL)
                self.lose(stream.id)
            elif stream.deadline < now:
                stream.deadline = NEVER
                stream.receiver.expired()
        if not self.streams and self.idle_by < now and not self.is_closing:
            self.fail(NO_ERROR, "idle_timeout_s has passed")
            return
        waits = [min(stream.deadline, stream.sent_by) for stream in self.streams.values()]
        self.deadline = min([self.write_by, self.head_by, NEVER if waits else self.idle_by, *waits])

    # --- the end

    def drain(self) -> None:
        """Announce the end: streams that are on their way are taken, later ones are not."""
        if self.is_lost or self.is_closing or self.is_draining:
            return
        self.is_draining = True
        self.transport.write(goaway_frame(MAX_ID, NO_ERROR) + frame(PING, 0, 0, DRAIN_PING))
        self.server.loop.call_later(LINGER_S, self.leave)  # a peer that does not answer pings

    def leave(self) -> None:
        """Whatever was on its way is here: take no further stream."""
        if self.is_lost or self.is_closing or self.is_leaving:
            return
        self.transport.write(goaway_frame(self.last_id, NO_ERROR))
        self.is_leaving = True
        for stream in list(self.streams.values()):
            stream.receiver.stop()
        if not self.streams:
            self._linger()

    def fail(self, code: int, text: str) -> None:
        """Say why, and end the connection."""
        if not self.is_lost and not self.is_closing:
            self.transport.write(goaway_frame(self.last_id, code, text.encode()))
        self.abandon()
        self._linger()

    def _linger(self) -> None:
        self.is_closing = True
        if self.is_lost:
            return
        self.idle_by = self.deadline = self.server.now() + LINGER_S
        transport = self.transport
        if transport.can_write_eof() and not transport.is_closing():
            transport.write_eof()
            transport.resume_reading()
        else:
            transport.close()
