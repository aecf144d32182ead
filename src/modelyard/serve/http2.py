"""The HTTP/2 edge: frames in, streams out, and the answers back. Knows no model and no gRPC.

Strict where leniency has cost others: every frame is checked against the state of its stream, every state has a
deadline that a trickle of bytes does not extend, and what costs us more than its sender (resets, pings, settings,
empty frames) is counted against each connection's patience. What one connection can make us hold is bounded: bodies by
not granting window, answers by `MAX_UNREAD_BYTES`. Header blocks of ours never use the peer's table.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from modelyard.contract.settings import Settings
from modelyard.serve.http2_heads import BadBlock, BombBlock, Head, HeadDecoder, Malformed

MAX_STREAMS = 128  # open at once on one connection ...
EARLY_STREAMS = 1024  # ... once it has acknowledged our settings: until then it cannot know
WINDOW_BYTES = 128 * 1024  # what a stream may send ahead of our reading
MAX_HELD_BYTES = 32 * 1024 * 1024  # of one connection's bodies; above it only one stream at a time may go on sending
MAX_UNREAD_BYTES = 32 * 1024 * 1024  # of one connection's answers that its peer has not taken
MAX_FRAME_BYTES = 16_384  # the least that HTTP/2 allows, and what everybody sends
MAX_CONTINUATIONS = 8  # frames of one header block after its first
PATIENCE = 1000  # idle frames (pings, settings, empty or tiny ones) that one connection may send at once ...
PATIENCE_PER_S = 100  # ... and how many more each second
PATIENCE_PER_ANSWER = 4  # and with each answer
RESET_COST = 5  # how many idle frames a reset counts for
TINY_BYTES = 16  # of a DATA frame that is not its stream's last
REMEMBERED_RESETS = 256  # streams that we ended, whose late frames are no fault
LINGER_S = 1.0  # how long a closing connection still reads, so that a reset does not destroy the last answer
SWEEP_S = 0.25  # how exact deadlines are
NEVER = float("inf")

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, WITH_PRIORITY = 0x4, 0x8, 0x20
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0x0, 0x1, 0x2, 0x3
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL = 0x5, 0x6, 0x7, 0x8
COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 0x9, 0xB

_MAX_WINDOW = 2**31 - 1
_LAST_ID = 2**31 - 1
_EMPTY_TABLE = b"\x20"  # HPACK: our encoder's table has no room; said once, before the first block
_head = struct.Struct(">HBBBI")  # length's upper 16 bits, its lower 8, type, flags, stream
_number = struct.Struct(">I")
_setting = struct.Struct(">HI")


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One frame."""
    size = len(payload)
    return _head.pack(size >> 8, size & 0xFF, kind, flags, stream_id) + payload


_SETTINGS_ACK = frame(SETTINGS, ACK, 0)
_DRAIN_PING = b"draining"
_PATIENCE_NS = 1_000_000_000 // PATIENCE_PER_S
_ANSWER_NS = PATIENCE_PER_ANSWER * _PATIENCE_NS
_HINT = b"This port speaks gRPC over HTTP/2; plain HTTP is spoken at gateway_port.\n"
_WRONG_PROTOCOL = (
    b"HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n"
    b"connection: close\r\n\r\n%b" % (len(_HINT), _HINT)
)


class ConnectionFault(Exception):
    """The peer broke the protocol so that the connection must end; carries HTTP/2's code and a word for its log."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


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
        "body", "connection", "deadline", "head", "held", "id", "is_closed", "is_ended", "is_headed", "is_whole",
        "pending", "received", "receiver", "room", "sent_by", "wants_more", "window",
    )  # fmt: skip

    def __init__(self, connection: Connection, stream_id: int, head: Head) -> None:
        self.connection = connection
        self.id = stream_id
        self.head = head
        self.body: bytes | bytearray = b""  # what came and was not taken
        self.received = 0  # bytes of the body in all
        self.held = 0  # bytes of it that this stream still holds
        self.is_whole = False  # the peer sends no more
        self.is_closed = False  # nothing more may be sent
        self.is_headed = False  # the answer's head has left
        self.is_ended = False  # its end is said, though it may not have left
        self.wants_more = True  # false: the peer gets no further window
        self.room = WINDOW_BYTES  # what the peer may still send
        self.window = connection.peer_window  # what we may still send
        self.pending: deque[tuple[memoryview, bytes | None]] = deque()  # answers that the windows hold back
        self.deadline = NEVER
        self.sent_by = NEVER  # until when the first of `pending` must have left
        self.receiver: Receiver = None  # type: ignore[assignment]  # set before anything asks for it

    def has_room(self, size: int) -> bool:
        """Whether an answer of so many bytes may be sent: one always may, more only to peers who read."""
        connection = self.connection
        if not connection.paused and not connection.blocked:
            return True
        unread = connection.unread()
        return not unread or unread + size <= MAX_UNREAD_BYTES

    def send(self, head: bytes, data: bytes, trailers: bytes | None) -> None:
        """Send header block, data and trailers; `head` only the first time, trailers (an end) only the last.

        Blocks are HPACK without reference to a table. What the windows hold back leaves as the peer allows.
        """
        if self.is_closed or self.is_ended:
            return
        connection = self.connection
        size = len(data)
        self.is_ended = trailers is not None
        if self.is_headed:
            head = b""
        else:
            self.is_headed = True
            head = frame(HEADERS, END_HEADERS, self.id, connection.first + head)
            connection.first = b""
        room = min(self.window, connection.window, MAX_FRAME_BYTES)
        if size > room or self.pending or connection.paused:
            connection.hold_back(self, head, memoryview(data), trailers)
            return
        self.window -= size
        connection.window -= size
        number = self.id
        body = b"%b%b" % (_head.pack(size >> 8, size & 0xFF, DATA, 0, number), data) if size else b""
        if trailers is None:
            connection.patience -= _ANSWER_NS
            connection.transport.write(head + body)  # type: ignore[union-attr]
            return
        tail = _head.pack(len(trailers) >> 8, len(trailers) & 0xFF, HEADERS, END_HEADERS | END_STREAM, number)
        connection.transport.write(b"%b%b%b%b" % (head, body, tail, trailers))  # type: ignore[union-attr]
        connection.answered(self)

    def end(self, head: bytes) -> None:
        """Answer with a header block alone."""
        if self.is_closed or self.is_ended:
            return
        connection = self.connection
        block, connection.first = connection.first + head, b""
        connection.transport.write(frame(HEADERS, END_HEADERS | END_STREAM, self.id, block))  # type: ignore[union-attr]
        self.pending.clear()
        connection.answered(self)

    def reset(self, code: int) -> None:
        """End the stream without an answer."""
        if not self.is_closed:
            self.connection.reset(self.id, code)
            self.connection.forget(self)

    def expire_at(self, deadline: float) -> None:
        """Call the receiver's `expired` after this moment, on the server's clock."""
        self.deadline = deadline
        self.connection.watch(deadline)

    def want(self, *, more: bool) -> None:
        """Whether the peer gets further window."""
        self.wants_more = more
        if more:
            self.connection.grant(self)

    def took(self, size: int) -> None:
        """The application has done with so many bytes of the body."""
        self.held -= size
        self.connection.held -= size
        self.connection.grant(self)


class Connection(asyncio.Protocol):
    """One client's connection: its frames, windows, limits and deadlines."""

    __slots__ = (
        "block", "block_flags", "block_id", "block_parts", "blocked", "closing", "deadline", "draining", "ended",
        "favoured", "first", "head_by", "heads", "held", "idle_by", "is_greeted", "last_id", "leaving",
        "max_streams", "patience", "paused", "peer_window", "pending_bytes", "received", "rest", "server", "starved",
        "streams", "transport", "window", "write_by",
    )  # fmt: skip

    def __init__(self, server: Http2Server) -> None:
        self.server = server
        self.transport: asyncio.Transport | None = None
        self.heads = HeadDecoder(server.settings)
        self.streams: dict[int, Stream] = {}
        self.ended: deque[int] = deque(maxlen=REMEMBERED_RESETS)  # streams that we ended while the peer still sent
        self.rest = b""  # the beginning of a frame
        self.is_greeted = False  # preface and first SETTINGS are read
        self.last_id = 0
        self.block = bytearray()  # a header block whose end has not come
        self.block_id = self.block_flags = self.block_parts = 0
        self.window = 65_535  # what we may send on all streams together
        self.peer_window = 65_535  # what we may send on a new stream
        self.received = 0  # bytes of DATA since we last granted window to the whole connection
        self.held = 0  # bytes of bodies
        self.favoured: Stream | None = None  # the one stream that may go on above MAX_HELD_BYTES
        self.starved = False  # some stream was not granted what it needs
        self.blocked: dict[int, Stream] = {}  # streams with answers that windows hold back
        self.pending_bytes = 0  # of those answers
        self.paused = False  # the socket takes no more
        self.first = _EMPTY_TABLE
        self.max_streams = EARLY_STREAMS
        self.patience = 0  # the moment on the monotonic clock until which it is used up
        self.closing = False  # nothing further is read
        self.draining = self.leaving = False  # the end is announced; no further stream is taken
        self.head_by = self.idle_by = self.write_by = NEVER
        self.deadline = NEVER  # nothing needs a look before this moment

    # --- the socket's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        server = self.server
        server.connections.add(self)
        self.transport.write(server.greeting)  # type: ignore[union-attr]
        self.head_by = self.deadline = server.now() + server.settings.header_timeout_s
        if len(server.connections) > server.settings.max_connections:
            self._fail(ENHANCE_YOUR_CALM, "the gateway holds max_connections connections; try again shortly")

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)
        self._abandon()
        self.transport = None

    def pause_writing(self) -> None:
        self.paused = True
        self.write_by = self.server.now() + self.server.settings.write_timeout_s
        self.watch(self.write_by)
        if self.transport:
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.paused = False
        self.write_by = NEVER
        self._pump()
        if self.transport and not self.paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        if self.rest:
            data = self.rest + data
        try:
            self._frames(data)
        except ConnectionFault as fault:
            self._fail(fault.code, str(fault))
        except Exception as error:  # a fault of ours in reading frames: their state is no longer sure
            self.server.failed(error)
            self._fail(INTERNAL_ERROR, "the gateway failed on this connection")

    # --- frames

    def _frames(self, data: bytes) -> None:
        at, end = 0, len(data)
        if not self.is_greeted and (at := self._greet(data)) == 0:
            self.rest = data
            return
        while end - at >= 9:
            high, low, kind, flags, number = _head.unpack_from(data, at)
            stop = at + 9 + (high << 8 | low)
            if stop - at > MAX_FRAME_BYTES + 9:
                raise ConnectionFault(FRAME_SIZE_ERROR, f"a frame has at most {MAX_FRAME_BYTES} bytes")
            if stop > end:
                break
            self._frame(kind, flags, number & _LAST_ID, data, at + 9, stop)
            if self.closing:
                return
            at = stop
        self.rest = data[at:] if at < end else b""

    def _greet(self, data: bytes) -> int:
        """Read the preface: where the first frame begins, or 0 as long as that is not known."""
        at = len(PREFACE)
        if not data.startswith(PREFACE[: len(data)]):
            if data[:1].isalpha() and not data.startswith(b"PRI"):
                self.transport.write(_WRONG_PROTOCOL)  # type: ignore[union-attr]
            raise ConnectionFault(PROTOCOL_ERROR, "the bytes received are not HTTP/2")
        if len(data) < at + 9:
            return 0
        if data[at + 3] != SETTINGS or data[at + 4] & ACK:
            raise ConnectionFault(PROTOCOL_ERROR, "the first frame is SETTINGS")
        self.is_greeted = True
        self.head_by = NEVER
        self.idle_by = self.server.now() + self.server.settings.idle_timeout_s
        self.watch(self.idle_by)
        return at

    def _frame(self, kind: int, flags: int, number: int, data: bytes, at: int, stop: int) -> None:
        if self.block_id and (kind != CONTINUATION or number != self.block_id):
            raise ConnectionFault(PROTOCOL_ERROR, "a header block is followed by its continuation")
        if kind == HEADERS:
            self._headers(flags, number, data, at, stop)
        elif kind == DATA:
            self._data(flags, number, data, at, stop)
        elif kind == WINDOW_UPDATE:
            self._window_update(number, data, at, stop)
        elif kind == SETTINGS:
            self._settings(flags, number, data, at, stop)
        elif kind == PING:
            self._ping(flags, number, data, at, stop)
        elif kind == RST_STREAM:
            self._rst_stream(number, stop - at)
        elif kind == CONTINUATION:
            self._continuation(flags, number, data, at, stop)
        elif kind == PUSH_PROMISE:
            raise ConnectionFault(PROTOCOL_ERROR, "clients push nothing")
        elif kind == GOAWAY:
            if number or stop - at < 8:
                raise ConnectionFault(PROTOCOL_ERROR, "GOAWAY belongs to the connection")
            self._bother(1)  # the peer opens no further stream, and will close
        else:  # PRIORITY, which is out of use, and whatever is not known
            if kind == PRIORITY and stop - at != 5:
                raise ConnectionFault(FRAME_SIZE_ERROR, "PRIORITY has five bytes")
            self._bother(1)

    def _headers(self, flags: int, number: int, data: bytes, at: int, stop: int) -> None:
        if not number & 1:
            raise ConnectionFault(PROTOCOL_ERROR, "a client's streams have odd numbers")
        if flags & (PADDED | WITH_PRIORITY):
            at, stop = _unpadded(flags, data, at, stop)
            if flags & WITH_PRIORITY:
                at += 5
            if at > stop:
                raise ConnectionFault(PROTOCOL_ERROR, "HEADERS is shorter than its own fields")
        if flags & END_HEADERS:
            self._whole_block(number, flags, data[at:stop])
            return
        self.block_id, self.block_flags, self.block_parts = number, flags, 0
        self.block += data[at:stop]
        self.head_by = self.server.now() + self.server.settings.header_timeout_s
        self.watch(self.head_by)

    def _continuation(self, flags: int, number: int, data: bytes, at: int, stop: int) -> None:
        if not self.block_id:
            raise ConnectionFault(PROTOCOL_ERROR, "CONTINUATION continues nothing")
        self.block += data[at:stop]
        self.block_parts += 1
        if self.block_parts > MAX_CONTINUATIONS or len(self.block) > self.server.max_block:
            raise ConnectionFault(ENHANCE_YOUR_CALM, self.server.head_limit)
        if flags & END_HEADERS:
            block, self.block = bytes(self.block), bytearray()
            self.block_id, self.head_by = 0, NEVER
            self._whole_block(number, self.block_flags, block)

    def _whole_block(self, number: int, flags: int, block: bytes) -> None:
        """A header block opens a stream, or ends one as trailers."""
        if len(block) > self.server.max_block:
            raise ConnectionFault(ENHANCE_YOUR_CALM, self.server.head_limit)
        try:
            if number <= self.last_id:
                self._trailers(number, flags, block)
                return
            self.last_id = number
            self._open(number, flags, self.heads.head(block))
        except Malformed:
            self._fault_of(number, PROTOCOL_ERROR)
        except BombBlock:
            raise ConnectionFault(ENHANCE_YOUR_CALM, self.server.head_limit) from None
        except BadBlock:
            raise ConnectionFault(COMPRESSION_ERROR, "the header block cannot be decoded") from None

    def _trailers(self, number: int, flags: int, block: bytes) -> None:
        stream = self.streams.get(number)
        if stream is None and number not in self.ended:
            raise ConnectionFault(PROTOCOL_ERROR, "a stream's number is above those before it")
        self.heads.trailers(block)
        if stream is None:
            return
        if stream.is_whole:
            self._fault_of(number, STREAM_CLOSED)
        elif not flags & END_STREAM:
            self._fault_of(number, PROTOCOL_ERROR)
        else:
            self._whole(stream)

    def _open(self, number: int, flags: int, head: Head) -> None:
        if len(self.streams) >= self.max_streams:
            self._fault_of(number, REFUSED_STREAM)
            return
        stream = self.streams[number] = Stream(self, number, head)
        if flags & END_STREAM:
            if head.length:
                self._fault_of(number, PROTOCOL_ERROR)
                return
            stream.is_whole = True
        else:
            stream.deadline = self.server.clock + self.server.settings.body_timeout_s
        stream.receiver = self.server.open(stream)
        if stream.is_whole and not stream.is_closed:
            stream.deadline = NEVER
            stream.receiver.arrived()
        self.watch(stream.deadline)

    def _data(self, flags: int, number: int, data: bytes, at: int, stop: int) -> None:
        size = stop - at
        self.received += size
        if self.received > _MAX_WINDOW >> 2:
            self.transport.write(frame(WINDOW_UPDATE, 0, 0, _number.pack(self.received)))  # type: ignore[union-attr]
            self.received = 0
        if flags & PADDED:
            at, stop = _unpadded(flags, data, at, stop)
        stream = self.streams.get(number)
        if stream is None:
            self._data_of_the_closed(number)
            return
        if stream.is_whole:
            self._fault_of(number, STREAM_CLOSED)
            return
        stream.room -= size
        if stream.room < 0:
            self._fault_of(number, FLOW_CONTROL_ERROR)
            return
        length = stop - at
        if length:
            stream.received += length
            if not stream.body:
                stream.body = data[at:stop]
            else:
                if type(stream.body) is bytes:
                    stream.body = bytearray(stream.body)
                stream.body += data[at:stop]
            stream.held += length
            self.held += length
        if length < TINY_BYTES and not flags & END_STREAM:
            self._bother(1)
        if stream.head.length is not None and (
            stream.received > stream.head.length or (flags & END_STREAM and stream.received != stream.head.length)
        ):
            self._fault_of(number, PROTOCOL_ERROR)
            return
        if flags & END_STREAM:
            self._whole(stream)
        else:
            stream.receiver.arrived()
            self.grant(stream)

    def _data_of_the_closed(self, number: int) -> None:
        if number == 0 or number > self.last_id:
            raise ConnectionFault(PROTOCOL_ERROR, "DATA belongs to an open stream")
        if number not in self.ended:
            raise ConnectionFault(STREAM_CLOSED, "DATA for a stream that has ended")
        self._bother(1)

    def _whole(self, stream: Stream) -> None:
        stream.is_whole = True
        stream.deadline = NEVER
        if stream is self.favoured:
            self._feed_the_starved()
        stream.receiver.arrived()

    def _window_update(self, number: int, data: bytes, at: int, stop: int) -> None:
        if stop - at != 4:
            raise ConnectionFault(FRAME_SIZE_ERROR, "WINDOW_UPDATE has four bytes")
        more = _number.unpack_from(data, at)[0] & _LAST_ID
        if number == 0:
            if more == 0:
                raise ConnectionFault(PROTOCOL_ERROR, "WINDOW_UPDATE grants nothing")
            self.window += more
            if self.window > _MAX_WINDOW:
                raise ConnectionFault(FLOW_CONTROL_ERROR, "the connection's window is above 2^31-1")
        else:
            stream = self.streams.get(number)
            if stream is None:
                if number > self.last_id or not number & 1:
                    raise ConnectionFault(PROTOCOL_ERROR, "WINDOW_UPDATE for a stream that was never opened")
                self._bother(1)
                return
            if more == 0 or stream.window + more > _MAX_WINDOW:
                self._fault_of(number, FLOW_CONTROL_ERROR if more else PROTOCOL_ERROR)
                return
            stream.window += more
        if self.blocked:
            self._pump()
        else:
            self._bother(0.25)

    def _settings(self, flags: int, number: int, data: bytes, at: int, stop: int) -> None:
        if number:
            raise ConnectionFault(PROTOCOL_ERROR, "SETTINGS belong to the connection")
        if flags & ACK:
            if stop != at:
                raise ConnectionFault(FRAME_SIZE_ERROR, "an acknowledgement is empty")
            self.max_streams = MAX_STREAMS
            self._bother(1)
            return
        if (stop - at) % 6:
            raise ConnectionFault(FRAME_SIZE_ERROR, "a setting has six bytes")
        self._bother(1 + (stop - at) // 96)
        for place in range(at, stop, 6):
            name, value = _setting.unpack_from(data, place)
            if name == 0x4:
                if value > _MAX_WINDOW:
                    raise ConnectionFault(FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is above 2^31-1")
                for stream in self.streams.values():
                    stream.window += value - self.peer_window
                    if stream.window > _MAX_WINDOW:
                        raise ConnectionFault(FLOW_CONTROL_ERROR, "a stream's window is above 2^31-1")
                self.peer_window = value
            elif (name == 0x2 and value > 1) or (name == 0x5 and not MAX_FRAME_BYTES <= value < 1 << 24):
                raise ConnectionFault(PROTOCOL_ERROR, "a setting is outside its range")
        self.transport.write(_SETTINGS_ACK)  # type: ignore[union-attr]
        self._pump()

    def _ping(self, flags: int, number: int, data: bytes, at: int, stop: int) -> None:
        if number:
            raise ConnectionFault(PROTOCOL_ERROR, "PING belongs to the connection")
        if stop - at != 8:
            raise ConnectionFault(FRAME_SIZE_ERROR, "PING has eight bytes")
        if flags & ACK:
            self._bother(1)
            if self.draining and data[at:stop] == _DRAIN_PING:
                self._go_away()
            return
        self._bother(1)
        self.transport.write(frame(PING, ACK, 0, data[at:stop]))  # type: ignore[union-attr]

    def _rst_stream(self, number: int, size: int) -> None:
        if size != 4:
            raise ConnectionFault(FRAME_SIZE_ERROR, "RST_STREAM has four bytes")
        if number == 0 or number > self.last_id:
            raise ConnectionFault(PROTOCOL_ERROR, "RST_STREAM for a stream that was never opened")
        self._bother(RESET_COST)
        if (stream := self.streams.get(number)) is not None:
            self._lose(stream)

    # --- streams end

    def answered(self, stream: Stream) -> None:
        """The answer has left whole."""
        self.patience -= _ANSWER_NS
        if not stream.is_whole:  # the peer need not send the rest
            self.reset(stream.id, NO_ERROR)
        self.forget(stream)

    def reset(self, number: int, code: int) -> None:
        """Tell the peer that a stream has ended; what it still sends there is no fault."""
        self.ended.append(number)
        if self.transport is not None:
            self.transport.write(frame(RST_STREAM, 0, number, _number.pack(code)))

    def forget(self, stream: Stream) -> None:
        """A stream has ended, however it did."""
        stream.is_closed = True
        self.held -= stream.held
        if stream.pending:
            self._unblock(stream)
        self.streams.pop(stream.id, None)
        if self.starved:
            self._feed_the_starved()
        if not self.streams:
            self.idle_by = self.server.clock + self.server.settings.idle_timeout_s
            if self.idle_by < self.deadline:
                self.deadline = self.idle_by
            if self.leaving:
                self._linger()

    def _fault_of(self, number: int, code: int) -> None:
        """One stream broke a rule: it ends, the connection lives on."""
        self.reset(number, code)
        if (stream := self.streams.get(number)) is not None:
            self._lose(stream)
        self._bother(RESET_COST)  # a peer that makes us reset is as costly as one that resets

    def _lose(self, stream: Stream) -> None:
        self.forget(stream)
        if stream.receiver is not None:
            stream.receiver.left()

    def _abandon(self) -> None:
        self.closing = True
        for stream in list(self.streams.values()):
            stream.is_closed = True
            if stream.receiver is not None:
                stream.receiver.left()
        self.streams.clear()
        self.blocked.clear()
        self.rest = b""

    # --- windows

    def grant(self, stream: Stream) -> None:
        """Let the peer send more on this stream, unless the connection holds too much already."""
        if stream.is_whole or stream.is_closed or stream.is_ended or not stream.wants_more:
            return
        more = WINDOW_BYTES - stream.room
        if more < WINDOW_BYTES // 2:
            return
        if self.held > MAX_HELD_BYTES and stream is not self.favoured:
            if self.favoured is not None and not (self.favoured.is_closed or self.favoured.is_whole):
                self.starved = True
                return
            self.favoured = stream
        stream.room += more
        self.transport.write(frame(WINDOW_UPDATE, 0, stream.id, _number.pack(more)))  # type: ignore[union-attr]

    def _feed_the_starved(self) -> None:
        if self.transport is None or self.closing:
            return
        self.starved, self.favoured = False, None
        for stream in list(self.streams.values()):
            self.grant(stream)

    def unread(self) -> int:
        """Bytes of answers that wait for the peer."""
        return self.pending_bytes + (self.transport.get_write_buffer_size() if self.transport else 0)

    def hold_back(self, stream: Stream, head: bytes, data: memoryview, trailers: bytes | None) -> None:
        """Keep an answer until the windows and the socket let it go."""
        if head:
            self.transport.write(head)  # type: ignore[union-attr]
        if not stream.pending:
            stream.sent_by = self.server.now() + self.server.settings.write_timeout_s
            self.watch(stream.sent_by)
        stream.pending.append((data, trailers))
        self.pending_bytes += len(data)
        self.blocked[stream.id] = stream
        self._pump()

    def _unblock(self, stream: Stream) -> None:
        self.pending_bytes -= sum(len(data) for data, _ in stream.pending)
        stream.pending.clear()
        stream.sent_by = NEVER
        self.blocked.pop(stream.id, None)

    def _pump(self) -> None:
        """Send what is held back, a frame of each stream in turn, as far as windows and the socket allow."""
        while self.blocked and not self.paused and self.transport is not None:
            if not any([self._send_some(stream) for stream in list(self.blocked.values())]):
                return

    def _send_some(self, stream: Stream) -> bool:
        """One frame of a stream's first answer, and its trailers when that was all of it."""
        if not stream.pending or self.paused:
            return False
        data, trailers = stream.pending[0]
        size = min(len(data), stream.window, self.window, MAX_FRAME_BYTES)
        if size <= 0 < len(data):
            return False
        if size > 0:
            stream.window -= size
            self.window -= size
            self.pending_bytes -= size
            self.transport.write(frame(DATA, 0, stream.id, bytes(data[:size])))  # type: ignore[union-attr]
        if size < len(data):
            stream.pending[0] = (data[size:], trailers)
            return True
        stream.pending.popleft()
        if stream.pending:
            stream.sent_by = self.server.now() + self.server.settings.write_timeout_s
        else:
            self._unblock(stream)
        if trailers is not None:
            self.transport.write(frame(HEADERS, END_HEADERS | END_STREAM, stream.id, trailers))  # type: ignore[union-attr]
            self.answered(stream)
        else:
            stream.receiver.sent()
        return True

    # --- limits and ends of the connection

    def _bother(self, cost: float) -> None:
        """Count what costs us more than the peer; a peer that does little else is told to calm down."""
        now = time.monotonic_ns()
        self.patience = max(self.patience, now) + int(cost * _PATIENCE_NS)
        if self.patience - now > PATIENCE * _PATIENCE_NS:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "too many resets, pings, settings or empty frames")

    def watch(self, deadline: float) -> None:
        """Look at what may have expired after this moment."""
        if deadline < self.deadline:
            self.deadline = deadline

    def expire(self, now: float) -> None:
        """Some deadline may have passed: end what it belongs to."""
        if self.transport is None:
            return
        if self.write_by < now or (self.closing and self.idle_by < now):
            self.transport.abort()
            return
        if self.head_by < now:
            self._fail(PROTOCOL_ERROR, "the headers did not arrive within header_timeout_s")
            return
        for stream in list(self.streams.values()):
            if stream.sent_by < now:
                self.reset(stream.id, CANCEL)
                self._lose(stream)
            elif stream.deadline < now:
                stream.deadline = NEVER
                stream.receiver.expired()
        if not self.streams and self.idle_by < now and not self.closing:
            self._fail(NO_ERROR, "idle_timeout_s has passed")
            return
        waits = [min(stream.deadline, stream.sent_by) for stream in self.streams.values()]
        self.deadline = min([self.write_by, self.head_by, NEVER if waits else self.idle_by, *waits])

    def drain(self) -> None:
        """Announce the end: streams that are on their way are taken, later ones are not."""
        if self.transport is None or self.closing or self.draining:
            return
        self.draining = True
        farewell = frame(GOAWAY, 0, 0, _number.pack(_LAST_ID) + _number.pack(NO_ERROR))
        self.transport.write(farewell + frame(PING, 0, 0, _DRAIN_PING))
        self.server.loop.call_later(LINGER_S, self._go_away)  # a peer that does not answer pings

    def _go_away(self) -> None:
        """Whatever was on its way is here: take no further stream."""
        if self.transport is None or self.closing or self.leaving:
            return
        self.transport.write(frame(GOAWAY, 0, 0, _number.pack(self.last_id) + _number.pack(NO_ERROR)))
        self.leaving = True
        for stream in list(self.streams.values()):
            stream.receiver.stop()
        if not self.streams:
            self._linger()

    def _fail(self, code: int, text: str) -> None:
        """Say why, and end the connection."""
        if self.transport is not None and not self.closing:
            numbers = _number.pack(self.last_id) + _number.pack(code)
            self.transport.write(frame(GOAWAY, 0, 0, numbers + text.encode()))
        self._abandon()
        self._linger()

    def _linger(self) -> None:
        self.closing = True
        transport = self.transport
        if transport is None:
            return
        self.idle_by = self.deadline = self.server.now() + LINGER_S
        if transport.can_write_eof() and not transport.is_closing():
            transport.write_eof()
            transport.resume_reading()
        else:
            transport.close()


class Http2Server:
    """Every connection of one worker, and the sweep that keeps their deadlines."""

    def __init__(
        self,
        settings: Settings,
        open: Callable[[Stream], Receiver],
        failed: Callable[[BaseException], object],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """`open` is asked who receives a new stream (its head is checked), `failed` is told of faults of ours."""
        self.settings, self.open, self.failed, self.loop = settings, open, failed, loop
        self.now = loop.time
        self.clock = loop.time()  # as of the last sweep: exact enough for deadlines
        self.connections: set[Connection] = set()
        self.draining = False
        self.max_block = 2 * settings.max_header_bytes
        self.head_limit = f"the headers exceed max_header_bytes={settings.max_header_bytes}"
        ours = ((0x3, MAX_STREAMS), (0x4, WINDOW_BYTES), (0x6, settings.max_header_bytes))
        greeting = frame(SETTINGS, 0, 0, b"".join(_setting.pack(*one) for one in ours))
        self.greeting = greeting + frame(WINDOW_UPDATE, 0, 0, _number.pack(_MAX_WINDOW - 65_535))
        self._sweep()

    def __call__(self) -> Connection:
        return Connection(self)

    def drain(self) -> None:
        """Take no further stream; connections close with their last answer."""
        self.draining = True
        for connection in list(self.connections):
            connection.drain()

    def _sweep(self) -> None:
        now = self.clock = self.now()
        for connection in [connection for connection in self.connections if connection.deadline < now]:
            connection.expire(now)
        self.loop.call_later(SWEEP_S, self._sweep)


def _unpadded(flags: int, data: bytes, at: int, stop: int) -> tuple[int, int]:
    """Where the payload lies between its padding."""
    if not flags & PADDED:
        return at, stop
    if at == stop or data[at] >= stop - at:
        raise ConnectionFault(PROTOCOL_ERROR, "the padding is longer than its frame")
    return at + 1, stop - data[at]
