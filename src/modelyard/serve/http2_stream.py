"""One stream of an HTTP/2 connection: a request as far as it came, and the answer as far as it left."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

from modelyard.serve.http2_frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEAD,
    HEADERS,
    MAX_FRAME_BYTES,
    NUMBER,
    WINDOW_UPDATE,
    frame,
)
from modelyard.serve.http2_heads import Head

if TYPE_CHECKING:
    from modelyard.serve.http2_session import Session

WINDOW_BYTES = 128 * 1024  # what a stream may send ahead of our reading
MAX_UNREAD_BYTES = 32 * 1024 * 1024  # of one connection's answers that its peer has not taken
NEVER = float("inf")


class Receiver(Protocol):
    """What the edge tells the application of one stream."""

    def arrived(self) -> None:
        """`stream.body` grew, or `stream.is_whole` became true."""

    def sent(self) -> None:
        """An answer that windows or socket had held back has left."""

    def left(self) -> None:
        """Nobody waits for this stream's answer any more."""

    def expired(self) -> None:
        """`stream.deadline` has passed."""

    def stop(self) -> None:
        """The gateway stops: end what would not end by itself."""


class Stream:
    """One request of a connection and the answer to it."""

    __slots__ = (
        "body", "counted", "deadline", "head", "held", "id", "is_closed", "is_ended", "is_headed", "is_whole",
        "received", "receiver", "room", "sent_by", "session", "unsent", "wants_more", "window",
    )  # fmt: skip

    def __init__(self, session: Session, stream_id: int, head: Head) -> None:
        self.session = session
        self.id = stream_id
        self.head = head
        self.body: bytes | bytearray = b""  # what came and was not taken
        self.received = 0  # bytes of the body in all
        self.held = 0  # bytes of it that count against the connection's budget
        self.counted = 0  # bytes of it that wait for their rest, and count for the whole worker
        self.is_whole = False  # the peer sends no more
        self.is_closed = False  # nothing more may be sent
        self.is_headed = False  # the answer's head has left
        self.is_ended = False  # its end is said, though it may not have left
        self.wants_more = True  # false: the peer gets no further window
        self.room = WINDOW_BYTES  # what the peer may still send
        self.window = session.peer_window  # what we may still send
        self.unsent: deque[tuple[memoryview, bytes | None]] = deque()  # answers held back: data, then trailers
        self.deadline = NEVER
        self.sent_by = NEVER  # until when the first of `unsent` must have left
        self.receiver: Receiver = None  # type: ignore[assignment]  # set before anything asks for it

    # --- the answer

    def has_room(self, size: int) -> bool:
        """Whether an answer of so many bytes may be sent: one always may, more only to peers who read."""
        session = self.session
        if not session.is_paused and not session.blocked:
            return True
        unread = session.unread_bytes()
        return not unread or unread + size <= MAX_UNREAD_BYTES

    def send(self, head: bytes, data: bytes, trailers: bytes | None) -> None:
        """Send header block, data and trailers; `head` only the first time, trailers (an end) only the last.

        Blocks are HPACK without reference to a table. What the windows hold back leaves as the peer allows.
        """
        if self.is_closed or self.is_ended:
            return
        session = self.session
        size = len(data)
        self.is_ended = trailers is not None
        if self.is_headed:
            head = b""
        else:
            self.is_headed = True
            head = frame(HEADERS, END_HEADERS, self.id, session.first + head)
            session.first = b""
        room = min(self.window, session.window, MAX_FRAME_BYTES)
        if size > room or self.unsent or session.is_paused:
            self._hold_back(head, memoryview(data), trailers)
            return
        self.window -= size
        session.window -= size
        number = self.id
        start = HEAD.pack(size >> 8, size & 0xFF, DATA, 0, number) if size else b""
        if trailers is None:
            session.patience.answered()
            session.transport.write(b"%b%b%b" % (head, start, data))
            return
        tail = HEAD.pack(len(trailers) >> 8, len(trailers) & 0xFF, HEADERS, END_HEADERS | END_STREAM, number)
        session.transport.write(b"%b%b%b%b%b" % (head, start, data, tail, trailers))
        session.answered(self)

    def end(self, head: bytes) -> None:
        """Answer with a header block alone."""
        if self.is_closed or self.is_ended:
            return
        session = self.session
        block, session.first = session.first + head, b""
        session.transport.write(frame(HEADERS, END_HEADERS | END_STREAM, self.id, block))
        session.answered(self)

    def reset(self, code: int) -> None:
        """End the stream without an answer."""
        if not self.is_closed:
            self.session.reset(self.id, code)
            self.session.forget(self)

    def _hold_back(self, head: bytes, data: memoryview, trailers: bytes | None) -> None:
        """Keep an answer until the windows and the socket let it go; its head needs neither."""
        session = self.session
        if head:
            session.transport.write(head)
        if not self.unsent:
            self._expect_to_send()
        self.unsent.append((data, trailers))
        session.unsent_bytes += len(data)
        session.blocked[self.id] = self
        session.pump()

    def send_unsent(self) -> bool:
        """Send a frame of the first answer held back, and its trailers when that was all of it; whether it could."""
        session = self.session
        if not self.unsent or session.is_paused:
            return False
        data, trailers = self.unsent[0]
        size = min(len(data), self.window, session.window, MAX_FRAME_BYTES)
        if size <= 0 < len(data):
            return False
        if size > 0:
            self.window -= size
            session.window -= size
            session.unsent_bytes -= size
            session.transport.write(frame(DATA, 0, self.id, bytes(data[:size])))
        if size < len(data):
            self.unsent[0] = (data[size:], trailers)
            return True
        self.unsent.popleft()
        if self.unsent:
            self._expect_to_send()
        else:
            self.drop_unsent()
        if trailers is not None:
            session.transport.write(frame(HEADERS, END_HEADERS | END_STREAM, self.id, trailers))
            session.answered(self)
        else:
            self.receiver.sent()
        return True

    def drop_unsent(self) -> None:
        """Nothing is held back any more."""
        session = self.session
        session.unsent_bytes -= sum(len(data) for data, _ in self.unsent)
        self.unsent.clear()
        self.sent_by = NEVER
        session.blocked.pop(self.id, None)

    def _expect_to_send(self) -> None:
        server = self.session.server
        self.sent_by = server.now() + server.settings.write_timeout_s
        self.session.watch(self.sent_by)

    # --- the request

    def keep(self, data: bytes) -> None:
        """Add to the body what came."""
        size = len(data)
        self.received += size
        self.held += size
        self.session.budget.held += size
        if not self.body:
            self.body = data
            return
        if type(self.body) is bytes:
            self.body = bytearray(self.body)
        self.body += data

    def took(self, size: int) -> None:
        """The application has done with so many bytes of the body."""
        self.held -= size
        self.session.budget.held -= size
        self.grant()

    def weigh(self, size: int) -> None:
        """So many bytes of the body wait for their rest. Raises Overloaded where the worker holds too much already."""
        if not self.is_closed:
            self.counted = self.session.server.pending.replace(self.counted, size)

    def close(self) -> None:
        """Nothing more comes of it or goes to it."""
        self.is_closed = True
        if self.counted:
            self.counted = self.session.server.pending.replace(self.counted, 0)

    def want(self, *, more: bool) -> None:
        """Whether the peer gets further window."""
        self.wants_more = more
        if more:
            self.grant()

    def grant(self) -> None:
        """Let the peer send more, unless the connection holds too much already."""
        if self.is_whole or self.is_closed or self.is_ended or not self.wants_more:
            return
        more = WINDOW_BYTES - self.room
        if more < WINDOW_BYTES // 2 or not self.session.budget.lets_go_on(self):
            return
        self.room += more
        self.session.transport.write(frame(WINDOW_UPDATE, 0, self.id, NUMBER.pack(more)))

    def expire_at(self, deadline: float) -> None:
        """Call the receiver's `expired` after this moment, on the server's clock."""
        self.deadline = deadline
        self.session.watch(deadline)
