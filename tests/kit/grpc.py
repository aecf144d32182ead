"""A small gRPC client on the library h2: it sends what it is told, also what no client library would send."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from modelyard.serve.grpc_messages import message_class

GOAWAY = 7
INFERENCE = "inference.GRPCInferenceService"


@dataclass
class Reply:
    """What came back on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    has_ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> int:
        """The gRPC status; -1 where there is none."""
        return int(self.trailers.get("grpc-status", self.headers.get("grpc-status", "-1")))

    @property
    def text(self) -> str:
        """What grpc-message says."""
        return unquote(self.trailers.get("grpc-message", self.headers.get("grpc-message", "")))

    @property
    def code(self) -> str:
        """Modelyard's own code."""
        return self.trailers.get("modelyard-code", self.headers.get("modelyard-code", ""))

    def messages(self) -> list[bytes]:
        """The whole messages so far."""
        found, rest = [], self.body
        while len(rest) >= 5 and len(rest) >= 5 + (size := struct.unpack(">I", rest[1:5])[0]):
            found.append(rest[5 : 5 + size])
            rest = rest[5 + size :]
        return found


class Caller:
    """One connection."""

    def __init__(self, port: int, metadata: dict[str, str] | None = None, tls: ssl.SSLContext | None = None) -> None:
        line: socket.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.line = tls.wrap_socket(line, server_hostname="localhost") if tls else line
        self.metadata = metadata or {}
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(1 << 30)
        self.replies: dict[int, Reply] = {}
        self.is_over = False  # the gateway has hung up
        self.farewells: list[int] = []  # codes of GOAWAY
        self._unread = b""
        self.flush()

    def flush(self) -> None:
        """Send what waits."""
        self.line.sendall(self.h2.data_to_send())

    def open(self, path: str, metadata: dict[str, str] | None = None, *, sends: bool = True, **pseudo: str) -> int:
        """Open a stream; `path` is a whole one or a method of the inference service. Not `sends`: with what follows."""
        number = self._open(path, metadata, **pseudo)
        if sends:
            self.flush()
        return number

    def put(self, number: int, message: Any) -> None:
        """A whole unary message, to be sent with what follows."""
        data = message.SerializeToString()
        self.h2.send_data(number, struct.pack(">BI", 0, len(data)) + data, end_stream=True)

    def cancel(self, method: str, message: Any) -> None:
        """Send a whole unary call and its cancellation at once."""
        number = self._open(method)
        self.put(number, message)
        self.h2.reset_stream(number, 8)
        self.flush()

    def _open(self, path: str, metadata: dict[str, str] | None = None, **pseudo: str) -> int:
        number = self.h2.get_next_available_stream_id()
        path = path if path.startswith("/") else f"/{INFERENCE}/{path}"
        headers = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost"}
        headers |= {f":{name}": value for name, value in pseudo.items()}
        headers |= {"content-type": "application/grpc", "te": "trailers", **self.metadata, **(metadata or {})}
        self.h2.send_headers(number, [pair for pair in headers.items() if pair[1]])
        self.replies[number] = Reply()
        return number

    def send(self, number: int, message: Any = b"", *, end: bool = False, flag: int = 0, bare: bool = False) -> None:
        """Send one message, or bare bytes."""
        data = message if isinstance(message, bytes) else message.SerializeToString()
        data = data if bare else struct.pack(">BI", flag, len(data)) + data
        for at in range(0, max(1, len(data)), 16_384):
            part = data[at : at + 16_384]
            while self.h2.local_flow_control_window(number) < len(part):
                self.read()
            self.h2.send_data(number, part, end_stream=end and at + 16_384 >= len(data))
            self.flush()

    def end(self, number: int) -> None:
        """Nothing more comes."""
        self.h2.end_stream(number)
        self.flush()

    def read(self, *, acknowledges: bool = True) -> None:
        """Take what the gateway says next. Not `acknowledges`: it gets no window for more."""
        data = self.line.recv(262_144)
        if not data:
            self.is_over = True
            return
        data = self._without_farewells(data)
        for event in self.h2.receive_data(data):
            reply = self.replies.get(getattr(event, "stream_id", 0) or 0)
            if isinstance(event, h2.events.DataReceived):
                assert reply is not None
                reply.body += event.data
                with contextlib.suppress(h2.exceptions.ProtocolError):
                    if not acknowledges:
                        continue
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.ResponseReceived):
                assert reply is not None
                reply.headers = dict(event.headers)
            elif isinstance(event, h2.events.TrailersReceived):
                assert reply is not None
                reply.trailers = dict(event.headers)
            elif isinstance(event, h2.events.StreamEnded):
                assert reply is not None
                reply.has_ended = True
            elif isinstance(event, h2.events.StreamReset):
                assert reply is not None
                reply.reset, reply.has_ended = int(event.error_code), True
        with contextlib.suppress(OSError):
            self.flush()

    def _without_farewells(self, data: bytes) -> bytes:
        """The whole frames so far but GOAWAY, after which h2 would not let open streams end."""
        self._unread += data
        kept = b""
        while len(self._unread) >= 9 and len(self._unread) >= (end := 9 + int.from_bytes(self._unread[:3])):
            one, self._unread = self._unread[:end], self._unread[end:]
            if one[3] == GOAWAY:
                self.farewells.append(int.from_bytes(one[13:17]))
            else:
                kept += one
        return kept

    def wait(self, number: int, messages: int | None = None) -> Reply:
        """The stream's reply, once it has ended or has so many messages."""
        reply = self.replies[number]
        while not reply.has_ended and not self.is_over and (messages is None or len(reply.messages()) < messages):
            self.read()
        return reply

    def call(self, method: str, message: Any = b"", metadata: dict[str, str] | None = None, **options: Any) -> Reply:
        """A unary call."""
        number = self.open(method, metadata)
        if not self.replies[number].has_ended:
            with contextlib.suppress(h2.exceptions.StreamClosedError):
                self.send(number, message, end=True, **options)
        return self.wait(number)

    def close(self) -> None:
        """Hang up."""
        self.line.close()


@contextlib.contextmanager
def caller(port: int, **metadata: str) -> Iterator[Caller]:
    """A connection that is closed at the end; `x_api_key` becomes `x-api-key`."""
    one = Caller(port, {name.replace("_", "-"): value for name, value in metadata.items()})
    try:
        yield one
    finally:
        one.close()


def infer(reply: Reply) -> Any:
    """The answer of a ModelInfer."""
    assert reply.status == 0, (reply.status, reply.text)
    (message,) = reply.messages()
    return message_class("inference.ModelInferResponse").FromString(message)
