"""The gRPC edge: methods and messages over the streams of `http2.py`. Knows no model.

What a caller may do is decided once for each head, and remembered with it: the same head means the same until the
rules change. What a method does stands in `grpc_infer.py` and `grpc_methods.py`.
"""

from __future__ import annotations

import asyncio
import re
import struct
import time
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import quote

from modelyard.contract.errors import DeadlineExceeded, InvalidInput, ModelyardError, TooLarge, Undecodable
from modelyard.contract.wire import GRPC_STATUS
from modelyard.serve import v2
from modelyard.serve.admission import ANONYMOUS, Admission, Principal
from modelyard.serve.http2 import MAX_UNREAD_BYTES, Http2Server, Stream
from modelyard.serve.http2 import Receiver as StreamReceiver
from modelyard.serve.log import log
from modelyard.serve.routing import UnknownEndpoint

if TYPE_CHECKING:
    from modelyard.serve.gateway import Gateway

PREFIX_BYTES = 5  # before each message: whether it is compressed, and its length
MAX_STATUS_TEXT = 1024  # characters of grpc-message
OK, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 0, 12, 13, 14

_prefix = struct.Struct(">BI")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_WINDOWS = {b"identity": 0, b"gzip": 31, b"deflate": 15}  # zlib's names for them
_ENCODINGS = b"identity,deflate,gzip"
_KINDS = (b"application/grpc+proto", b"application/grpc;")
_PLAIN = "".join(chr(sign) for sign in range(0x20, 0x7F) if sign != 0x25)  # what grpc-message says as it is


class Unimplemented(InvalidInput):
    """A method or coding that is not served here."""


class NotGrpc(Exception):
    """A request of HTTP/2 that is not one of gRPC."""


def field(name: bytes, value: bytes) -> bytes:
    """One header field as HPACK writes it without any table."""
    return b"\x00%b%b%b%b" % (_length(len(name)), name, _length(len(value)), value)


def _length(size: int) -> bytes:
    """HPACK's integer in seven bits and more."""
    if size < 0x7F:
        return bytes((size,))
    size, parts = size - 0x7F, [0x7F]
    while size >= 0x80:
        parts.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes((*parts, size))


_HEAD = b"\x88" + field(b"content-type", b"application/grpc")  # 0x88: ":status: 200"
_OK = field(b"grpc-status", b"0")
_OK_WITH_ID = _OK + field(b"modelyard-request-id", b"")[:-1]  # the length and the id follow
_NOT_GRPC = field(b":status", b"415") + field(b"grpc-status", b"12")


class Receives(Protocol):
    """What makes the receiver of a stream."""

    def __call__(self, edge: GrpcEdge, stream: Stream, known: Known) -> StreamReceiver:
        """The one who receives `stream`."""


class Method(NamedTuple):
    """What a path means."""

    receive: Receives
    is_open: bool = False  # answers without a key: probes


class Known(NamedTuple):
    """What was found out about a head. Holds as long as these rules do."""

    admission: Admission
    method: Method
    principal: Principal
    timeout_ns: int | None
    window: int  # zlib's name of the coding of compressed messages


class GrpcEdge:
    """One worker's gRPC: who may call what, and how streams end."""

    def __init__(self, gateway: Gateway, methods: Mapping[bytes, Method], loop: asyncio.AbstractEventLoop) -> None:
        self.gateway = gateway
        self.methods = methods
        self.settings = gateway.settings
        self.now = loop.time  # the clock of deadlines of streams
        self.server = Http2Server(gateway.settings, self.open, gateway.failed, loop)

    @property
    def is_ready(self) -> bool:
        """Whether a plan is served, and the gateway is not about to stop."""
        return self.gateway.routes.plan is not None and not self.server.draining

    def open(self, stream: Stream) -> StreamReceiver:
        """A stream's head is whole: who receives the rest."""
        known: Known | None = stream.head.memo
        try:
            if known is None or known.admission is not self.gateway.admission:
                known = self._admit(stream)
                if known.principal.expires_at is None:  # a key that expires is looked at each time
                    stream.head.memo = known
            return known.method.receive(self, stream, known)
        except ModelyardError as error:
            self.refuse(stream, error)
        except NotGrpc:
            stream.end(_NOT_GRPC)
        except Exception as error:  # a fault of ours must cost one stream, not the connection's others
            self.refuse(stream, self.gateway.failed(error))
        return NOBODY

    def _admit(self, stream: Stream) -> Known:
        """Who calls what, and how. Raises the error that refuses the stream."""
        head, admission = stream.head, self.gateway.admission
        headers = head.headers
        kind = headers.get(b"content-type", b"")
        if head.method != b"POST" or not (kind == b"application/grpc" or kind.startswith(_KINDS)):
            raise NotGrpc
        if head.problem is not None:
            raise head.problem
        admission.check_host(headers)
        admission.check_origin(headers)
        if (method := self.methods.get(head.path)) is None:
            raise Unimplemented("there is no such method; server reflection lists those that are served")
        principal = ANONYMOUS if method.is_open else admission.identify(headers)
        window = _WINDOWS.get(headers.get(b"grpc-encoding", b"identity"))
        if window is None:
            raise Unimplemented("grpc-encoding is identity, gzip or deflate")
        return Known(admission, method, principal, _timeout_ns(headers), window)

    def reply(self, stream: Stream, message: bytes, request_id: str = "", *, is_last: bool = True) -> None:
        """Send a message, and end the stream well if it is the last. A peer who reads nothing gets an error."""
        if stream.is_closed or stream.is_ended:
            return
        if not stream.has_room(len(message)):
            unread = f"the connection holds {MAX_UNREAD_BYTES} bytes of answers that were not read"
            self.refuse(stream, TooLarge(f"{unread}; read them first"), request_id)
            return
        trailers = None
        if is_last:
            trailers = b"%b%c%b" % (_OK_WITH_ID, len(request_id), request_id.encode()) if request_id else _OK
        stream.send(_HEAD, b"%b%b" % (_prefix.pack(0, len(message)), message), trailers)

    def end(self, stream: Stream) -> None:
        """End a stream well, after its last message."""
        stream.send(_HEAD, b"", _OK)

    def refuse(self, stream: Stream, error: ModelyardError, request_id: str = "") -> None:
        """End a stream with an error."""
        if stream.is_closed or stream.is_ended:
            return
        request_id = request_id or self.gateway.ids.new("", "")
        status = self.note(error, request_id)
        fields = [field(b"grpc-status", b"%d" % status), field(b"grpc-message", _quoted(message_of(error)))]
        fields += [field(b"modelyard-code", error.code.encode()), field(b"modelyard-request-id", request_id.encode())]
        if (wait := getattr(error, "retry_after_s", None)) is not None:
            fields.append(field(b"grpc-retry-pushback-ms", b"%d" % max(1, int(wait * 1000))))
        if isinstance(error, Unimplemented):
            fields.append(field(b"grpc-accept-encoding", _ENCODINGS))
        trailers = b"".join(fields)
        if stream.is_headed:
            stream.send(_HEAD, b"", trailers)
        else:
            stream.end(_HEAD + trailers)

    def note(self, error: ModelyardError, request_id: str) -> int:
        """Count an error that is about to be said, and log it where the fault may be ours; its status."""
        status = status_of(error)
        if not error.is_counted:
            self.gateway.telemetry.refused(error.code, status)
        if status in (UNAVAILABLE, INTERNAL):
            log.warning("refused", code=error.code, status=status, request_id=request_id, detail=str(error))
        return status


class Receiver:
    """What all receivers of streams have in common: messages, deadlines, the end."""

    __slots__ = ("deadline_ns", "edge", "headers", "known", "request_id", "stream")

    def __init__(self, edge: GrpcEdge, stream: Stream, known: Known) -> None:
        self.edge, self.stream, self.known = edge, stream, known
        self.headers = stream.head.headers
        self.request_id = ""
        self.deadline_ns: int | None = None  # what the caller said, on the monotonic clock
        if known.timeout_ns is not None:
            self.deadline_ns = time.monotonic_ns() + known.timeout_ns
            stream.deadline = min(stream.deadline, edge.now() + known.timeout_ns / 1e9)

    def arrived(self) -> None:
        """Bytes came, or the end: an error ends this stream alone."""
        try:
            self.receive()
        except ModelyardError as error:
            self.refuse(error)
        except Exception as error:
            self.refuse(self.edge.gateway.failed(error))

    def receive(self) -> None:
        """Take what came. Raises the error that ends the stream."""

    def sent(self) -> None:
        """An answer that was held back has left."""

    def left(self) -> None:
        """The caller cancelled, or is gone."""

    def stop(self) -> None:
        """The gateway stops: a stream that would not end by itself ends now."""

    def expired(self) -> None:
        """What the stream waits for did not come in time."""
        if self.is_late:
            self.refuse(DeadlineExceeded("the grpc-timeout has passed"))
        else:
            self.refuse(DeadlineExceeded("the message did not arrive within body_timeout_s"))

    @property
    def is_late(self) -> bool:
        """Whether the deadline that the caller gave has passed."""
        return self.deadline_ns is not None and self.deadline_ns <= time.monotonic_ns()

    @property
    def is_gone(self) -> bool:
        """Whether nobody waits any more."""
        return self.stream.is_closed

    def refuse(self, error: ModelyardError) -> None:
        """End the stream with an error."""
        self.edge.refuse(self.stream, error, self.request_id)

    def next_message(self) -> tuple[bytes | bytearray, int] | None:
        """The next whole message, inflated, and its size on the wire; None if it is not here. Raises ModelyardError."""
        body = self.stream.body
        if len(body) < PREFIX_BYTES:
            return None
        flag, size = _prefix.unpack_from(body)
        if flag > 1:
            raise Undecodable("the first byte of a message is 0, or 1 if it is compressed")
        if size > self.edge.settings.max_body_bytes:
            raise TooLarge(f"the message exceeds max_body_bytes={self.edge.settings.max_body_bytes}")
        end = PREFIX_BYTES + size
        if len(body) < end:
            return None
        message = body[PREFIX_BYTES:end]
        if len(body) == end:
            self.stream.body = b""
        elif type(body) is bytearray:
            del body[:end]
        else:
            self.stream.body = body[end:]
        return (self._inflated(message) if flag else message), end

    def _inflated(self, message: bytes | bytearray) -> bytes:
        if not self.known.window:
            raise Undecodable("the message is compressed, and grpc-encoding does not say how")
        limit = self.edge.settings.max_inflated_bytes
        inflater = zlib.decompressobj(self.known.window)
        try:
            whole = inflater.decompress(message, limit + 1)
        except zlib.error:
            raise Undecodable("the message is not what grpc-encoding says") from None
        if len(whole) > limit:
            raise TooLarge(f"the inflated message is above the limit max_inflated_bytes={limit}")
        if not inflater.eof or inflater.unused_data:
            raise Undecodable("the compressed message is cut off, or goes on behind its end")
        return whole


class Unary(Receiver):
    """One message in, one message out."""

    __slots__ = ()

    def receive(self) -> None:
        """Hand the message over once it is whole, and the only one."""
        if not self.stream.is_whole:
            self._check_size()
            return
        found = self.next_message()
        if found is None or self.stream.body:
            raise Undecodable("a unary call has exactly one whole message")
        self.take(found[0])

    def _check_size(self) -> None:
        """Refuse what is too large, or too much, before it is all here. Raises ModelyardError."""
        body = self.stream.body
        if len(body) < PREFIX_BYTES:
            return
        size = int.from_bytes(body[1:PREFIX_BYTES])
        if size > self.edge.settings.max_body_bytes:
            raise TooLarge(f"the message exceeds max_body_bytes={self.edge.settings.max_body_bytes}")
        if len(body) > PREFIX_BYTES + size:
            raise Undecodable("a unary call has exactly one message")

    def take(self, message: bytes | bytearray) -> None:
        """Answer the message, now or later. Raises the error that ends the stream."""

    def respond(self, status: int, body: bytes, content_type: bytes = b"", headers: bytes = b"") -> None:
        """Answer with a message; what HTTP says besides has no place here."""
        self.edge.reply(self.stream, body, self.request_id)


class _Nobody:
    """Receives what comes for a stream that has ended."""

    def arrived(self) -> None:
        """Nothing waits for it."""

    sent = left = expired = stop = arrived


NOBODY = _Nobody()


def status_of(error: ModelyardError) -> int:
    """The gRPC status of an error."""
    return UNIMPLEMENTED if isinstance(error, Unimplemented) else GRPC_STATUS[error.code]


def message_of(error: ModelyardError) -> str:
    """An error's text, in the protocol's own words where it has some."""
    return v2.unknown_model(error.name) if isinstance(error, UnknownEndpoint) else str(error)


def _quoted(text: str) -> bytes:
    """A text as the header grpc-message says it."""
    return quote(text[:MAX_STATUS_TEXT], safe=_PLAIN).encode()


def _timeout_ns(headers: dict[bytes, bytes]) -> int | None:
    text = headers.get(b"grpc-timeout")
    if text is None:
        return None
    if (found := _TIMEOUT.fullmatch(text)) is None:
        raise InvalidInput("grpc-timeout has at most 8 digits and a unit, one of H M S m u n")
    return int(int(found[1]) * _UNITS[found[2]] * 1e9)
