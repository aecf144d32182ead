"""Plain sockets that speak HTTP/1.1: requests as bytes, pipelined if wanted, and their answers in order."""

from __future__ import annotations

import json
import socket
from typing import Any, NamedTuple


class Reply(NamedTuple):
    """One answer: its status, headers in lower case, and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def request(path: str, body: bytes | object = b"", method: str = "POST", **headers: str) -> bytes:
    """One request as bytes; anything but bytes becomes JSON. `_` in a header's name is written `-`."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"Host": "localhost", "Content-Length": str(len(data))}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + data


class Line:
    """One connection to a gateway."""

    def __init__(self, port: int, timeout_s: float = 20.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self._unread = b""

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Put bytes on the line."""
        self.socket.sendall(data)

    def ask(self, *requests: bytes) -> list[Reply]:
        """Send requests at once and read as many answers."""
        self.send(b"".join(requests))
        return [self.read() for _ in requests]

    def read(self, *, is_head: bool = False) -> Reply:
        """The next answer. Raises EOFError when the gateway has closed."""
        while b"\r\n\r\n" not in self._unread:
            self._more()
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        size = 0 if is_head else int(headers.get("content-length", "0"))
        while len(self._unread) < size:
            self._more()
        body, self._unread = self._unread[:size], self._unread[size:]
        return Reply(int(status.split(" ")[1]), headers, body)

    def is_closed(self) -> bool:
        """Wait for the gateway to close; False if it sends something instead."""
        try:
            return not self._unread and self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def _more(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise EOFError("the gateway closed the connection")
        self._unread += data
