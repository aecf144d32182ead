"""One request, and the one answer that it gets: what the edge and the application hand each other."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelyard.contract.errors import ModelyardError
    from modelyard.serve.http import Connection

JSON = b"application/json"
_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class Exchange:
    """One request, and the place that its answer has in the connection's order."""

    __slots__ = (
        "answered", "body", "connection", "data", "expects", "extra", "headers", "keep_alive", "length", "method",
        "refused", "response", "target",
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
        self.extra = b""  # header lines that the answer carries whatever it is, such as CORS
        self.data: Any = None  # the application's own

    @property
    def is_gone(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.connection.transport is None

    def refuse(self, error: ModelyardError) -> None:
        """Answer with an error, in the dialect of the path."""
        self.connection.server.app.refuse(self, error)

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
