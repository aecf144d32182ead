"""One request, and the one answer that it gets: what the edge and the application hand each other."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

from modelyard.serve.content import ACCEPTED, MIN_BYTES, WANTED, deflated, digest_line

if TYPE_CHECKING:
    from modelyard.contract.errors import ModelyardError
    from modelyard.serve.http_connection import Connection

JSON = b"application/json"
_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class Sink(Protocol):
    """What takes a request's body piece by piece."""

    def feed(self, chunk: bytes) -> None:
        """The next bytes."""

    def end(self) -> None:
        """There are no more."""

    def abort(self, error: ModelyardError) -> None:
        """The request ends here, with this error."""

    def drop(self) -> None:
        """The request ends here; its answer is somebody else's."""


class Exchange:
    """One request, and the place that its answer has in the connection's order."""

    __slots__ = (
        "answered", "body", "connection", "data", "expects", "extra", "headers", "is_begun", "is_finished",
        "keep_alive", "length", "method", "parts", "pending", "refused", "response", "sink", "target",
    )  # fmt: skip

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.method = b""
        self.target = b""
        self.headers: dict[bytes, bytes] = {}  # names in lower case
        self.body: bytes | bytearray = b""
        self.length: int | None = None
        self.keep_alive = False  # until the whole request is read
        self.refused = False
        self.expects = False
        self.answered = False
        self.response: bytes | None = None
        self.sink: Sink | None = None  # takes the body piece by piece, where it is a stream
        self.parts: list[bytes] = []  # of an answer that is sent piece by piece: those that have not left
        self.is_begun = self.is_finished = False
        self.pending = 0  # bytes of the body that are counted as waiting; below 0: none is any more
        self.extra = b""  # header lines that the answer carries whatever it is, such as CORS
        self.data: Any = None  # the application's own

    @property
    def is_gone(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.connection.transport is None

    def refuse(self, error: ModelyardError) -> None:
        """Answer with an error, in the dialect of the path."""
        if self.sink is not None and not self.answered:
            self.sink.abort(error)
        else:
            self.connection.server.app.refuse(self, error)

    # --- a body that waits

    def weigh(self, size: int) -> None:
        """So many bytes of the body wait: for the rest of it, or for their turn. Raises Overloaded."""
        if self.pending >= 0:
            self.pending = self.connection.server.app.pending.replace(self.pending, size)

    def settle(self) -> None:
        """The body waits no longer: it is handed over, or nobody wants it. What comes of it still is not counted."""
        if self.pending > 0:
            self.connection.server.app.pending.replace(self.pending, 0)
        self.pending = -1

    def drop(self) -> None:
        """The request is refused: what came of its body is not kept, and what still comes is not looked at."""
        self.refused = True
        self.settle()
        self.body = b""
        if self.sink is not None:
            self.sink.drop()

    # --- an answer in pieces

    def begin(self, status: int, content_type: bytes) -> None:
        """Start an answer whose length is not known."""
        self.answered = self.is_begun = True
        close = b"" if self.keep_alive or self.sink is not None else b"connection: close\r\n"
        head = b"%bcontent-type: %b\r\ntransfer-encoding: chunked\r\n%b%b%b\r\n"
        self.parts.append(head % (_LINES[status], content_type, self.connection.server.date, close, self.extra))
        self.connection.flush()

    def send(self, piece: bytes) -> None:
        """One more piece, not empty."""
        self.parts.append(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.connection.flush()

    @property
    def is_held_up(self) -> bool:
        """Whether the caller does not read what was sent."""
        return self.connection.is_held_up

    def fail(self, error: ModelyardError) -> None:
        """Answer with an error; one that is begun ends with a line that says so, and with its connection."""
        if not self.is_begun:
            self.refuse(error)
            return
        self.keep_alive = False
        self.send(self.connection.server.app.problem_line(error) + b"\n")
        self.finish()

    def finish(self) -> None:
        """There is no further piece, and what still comes of a streamed request is not read."""
        self.settle()
        self.is_finished = True
        self.parts.append(b"0\r\n\r\n")
        self.connection.flush()

    def refuse_whole(self, error: ModelyardError) -> None:
        """Answer a stream that has not begun with an error, as any other request."""
        self.sink = None
        self.refused = True
        self.connection.server.app.refuse(self, error)

    # --- a request in pieces

    def made_progress(self) -> None:
        """A whole piece of a streamed request arrived: its deadline starts again."""
        self.connection.extend()

    def hold(self, is_full: bool) -> None:
        """Read no more of a streamed request while `is_full`."""
        self.connection.stall(is_full)

    def respond(self, status: int, body: bytes, content_type: bytes = JSON, headers: bytes = b"") -> None:
        """Answer once; a second answer is ignored. `headers`: further lines, each ending with CRLF."""
        if self.answered:
            return
        self.answered = True
        connection = self.connection
        slots = connection.slots
        if not self.keep_alive or (connection.server.draining and (not slots or slots[-1] is self)):
            self.keep_alive = False  # while draining, the last answer ends the connection, not one before it
            headers += b"connection: close\r\n"
        headers += self.extra
        if len(body) >= MIN_BYTES and ACCEPTED in self.headers and b"content-encoding" not in headers:
            body, lines = deflated(body, self.headers, connection.server.deflate_bytes)
            headers += lines
        if WANTED in self.headers and b"content-digest" not in headers:
            headers += digest_line(body, self.headers)
        if status == 200 and content_type is JSON and not headers and self.method == b"POST":
            self.response = b"%b%d\r\n\r\n%b" % (connection.server.ok, len(body), body)
        elif status == 204:
            self.response = b"%b%b%b\r\n" % (_LINES[204], connection.server.date, headers)
        else:
            self.response = b"%bcontent-type: %b\r\ncontent-length: %d\r\n%b%b\r\n%b" % (
                _LINES[status], content_type, len(body), connection.server.date, headers,
                b"" if self.method == b"HEAD" else body,
            )  # fmt: skip
        connection.flush()


def common_head(date: bytes) -> bytes:
    """The head of most answers, up to their length: 200, JSON, nothing else. `date`: its header line."""
    return b"%bcontent-type: %b\r\n%bcontent-length: " % (_LINES[200], JSON, date)
