"""One remote procedure call: the messages that its stream brings and takes, its deadline, and its end."""

from __future__ import annotations

import struct
import time
import zlib

from modelyard.contract.errors import DeadlineExceeded, ModelyardError, TooLarge, Undecodable
from modelyard.serve.grpc import HEAD, Admitted, GrpcEdge
from modelyard.serve.http2_heads import field
from modelyard.serve.http2_stream import MAX_UNREAD_BYTES, Stream

PREFIX_BYTES = 5  # before each message

_prefix = struct.Struct(">BI")  # whether the message is compressed, and its length
_OK = field(b"grpc-status", b"0")
_OK_WITH_ID = _OK + field(b"modelyard-request-id", b"")[:-1]  # the length and the id follow


class Rpc:
    """What all calls have in common, whatever their method. It is their stream's receiver."""

    __slots__ = ("admitted", "deadline_ns", "edge", "headers", "request_id", "stream")

    def __init__(self, edge: GrpcEdge, stream: Stream, admitted: Admitted) -> None:
        self.edge, self.stream, self.admitted = edge, stream, admitted
        self.headers = stream.head.headers
        self.request_id = ""
        self.deadline_ns: int | None = None  # what the caller said, on the monotonic clock
        if admitted.timeout_ns is not None:
            self.deadline_ns = time.monotonic_ns() + admitted.timeout_ns
            stream.deadline = min(stream.deadline, edge.now() + admitted.timeout_ns / 1e9)

    def arrived(self) -> None:
        """Bytes came, or the end: an error ends this stream alone."""
        stream = self.stream
        try:
            self.receive()
            if len(stream.body) != stream.counted:
                stream.weigh(len(stream.body))  # what is no whole message yet, or waits for its turn
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

    # --- what leaves

    def reply(self, message: bytes, request_id: str = "", *, is_last: bool = True) -> None:
        """Send a message, and end the stream well if it is the last. A peer who reads nothing gets an error."""
        stream = self.stream
        if stream.is_closed or stream.is_ended:
            return
        if not stream.has_room(len(message)):
            unread = f"the connection holds {MAX_UNREAD_BYTES} bytes of answers that were not read"
            self.edge.refuse(stream, TooLarge(f"{unread}; read them first"), request_id)
            return
        trailers = None
        if is_last:
            trailers = b"%b%c%b" % (_OK_WITH_ID, len(request_id), request_id.encode()) if request_id else _OK
        stream.send(HEAD, b"%b%b" % (_prefix.pack(0, len(message)), message), trailers)

    def end(self) -> None:
        """End the stream well, after its last message."""
        self.stream.send(HEAD, b"", _OK)

    def refuse(self, error: ModelyardError) -> None:
        """End the stream with an error."""
        self.edge.refuse(self.stream, error, self.request_id)

    # --- what came

    def next_message(self) -> tuple[bytes | bytearray, int] | None:
        """The next whole message, inflated, and its size on the wire; None if it is not here. Raises ModelyardError."""
        end = self.message_end()
        body = self.stream.body
        if end is None or len(body) < end:
            return None
        message = body[PREFIX_BYTES:end]
        if body[0]:
            message = self._inflated(message)
        if len(body) == end:
            self.stream.body = b""
        elif type(body) is bytearray:
            del body[:end]
        else:
            self.stream.body = body[end:]
        return message, end

    def message_end(self) -> int | None:
        """Where in the body the next message ends; None if that is not known yet. Raises TooLarge or Undecodable."""
        body = self.stream.body
        if len(body) < PREFIX_BYTES:
            return None
        flag: int
        size: int
        flag, size = _prefix.unpack_from(body)
        if flag > 1:
            raise Undecodable("the first byte of a message is 0, or 1 if it is compressed")
        if size > self.edge.settings.max_body_bytes:
            raise TooLarge(f"the message exceeds max_body_bytes={self.edge.settings.max_body_bytes}")
        return PREFIX_BYTES + size

    def _inflated(self, message: bytes | bytearray) -> bytes:
        if not self.admitted.window_bits:
            raise Undecodable("the message is compressed, and grpc-encoding does not say how")
        limit = self.edge.settings.max_inflated_bytes
        inflater = zlib.decompressobj(self.admitted.window_bits)
        try:
            whole = inflater.decompress(message, limit + 1)
        except zlib.error:
            raise Undecodable("the message is not what grpc-encoding says") from None
        if len(whole) > limit:
            raise TooLarge(f"the inflated message is above the limit max_inflated_bytes={limit}")
        if not inflater.eof or inflater.unused_data:
            raise Undecodable("the compressed message is cut off, or goes on behind its end")
        return whole


class Unary(Rpc):
    """One message in, one message out."""

    __slots__ = ()

    def receive(self) -> None:
        """Hand the message over once it is whole, and the only one. What is too much is refused before it is here."""
        stream = self.stream
        if not stream.is_whole:
            end = self.message_end()
            if end is not None and len(stream.body) > end:
                raise Undecodable("a unary call has exactly one message")
            return
        found = self.next_message()
        if found is None or stream.body:
            raise Undecodable("a unary call has exactly one whole message")
        self.take(found[0])

    def take(self, message: bytes | bytearray) -> None:
        """Answer the message, now or later. Raises the error that ends the stream."""

    def respond(self, status: int, body: bytes, content_type: bytes = b"", headers: bytes = b"") -> None:
        """Answer with a message; what HTTP says besides has no place here."""
        self.reply(body, self.request_id)
