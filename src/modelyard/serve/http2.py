"""The HTTP/2 edge: one connection's frames, each checked against the state of its stream. Knows no model and no gRPC.

Strict where leniency has cost others: every state has a deadline that a trickle of bytes does not extend, and what
costs us more than its sender is counted against the connection's patience. What one connection can make us hold is
bounded: bodies by not granting window (`http2_budget.py`), answers by `MAX_UNREAD_BYTES` (`http2_stream.py`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from modelyard.serve.http2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    HEAD,
    HEAD_BYTES,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    INTERNAL_ERROR,
    MAX_FRAME_BYTES,
    MAX_ID,
    MAX_WINDOW,
    NUMBER,
    PADDED,
    PING,
    PREFACE,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    ConnectionFault,
    check_form,
    frame,
    settings_in,
    unpadded,
)
from modelyard.serve.http2_heads import Block, Head, HeadDecoder, Malformed
from modelyard.serve.http2_session import DRAIN_PING, RESET_COST, Session
from modelyard.serve.http2_stream import NEVER, Stream

if TYPE_CHECKING:
    from modelyard.serve.http2_server import Http2Server

MAX_STREAMS = 128  # open at once on one connection ...
EARLY_STREAMS = 1024  # ... once it has acknowledged our settings: until then it cannot know
TINY_BYTES = 16  # of a DATA frame that is not its stream's last

_SETTINGS_ACK = frame(SETTINGS, ACK, 0)
_HINT = b"This port speaks gRPC over HTTP/2; plain HTTP is spoken at gateway_port.\n"
_WRONG_PROTOCOL = (
    b"HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n"
    b"connection: close\r\n\r\n%b" % (len(_HINT), _HINT)
)


class Connection(asyncio.Protocol):
    """One client's connection: reads what the peer says into its session."""

    __slots__ = ("block", "heads", "is_greeted", "max_streams", "received", "rest", "server", "session")

    def __init__(self, server: Http2Server) -> None:
        self.server = server
        self.session = Session(server)
        self.heads = HeadDecoder(server.settings)
        self.block: Block | None = None  # a header block whose end has not come
        self.rest = b""  # the beginning of a frame
        self.is_greeted = False  # preface and first SETTINGS are read
        self.max_streams = EARLY_STREAMS
        self.received = 0  # bytes of DATA since we last granted window to the whole connection

    # --- the socket's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        server, session = self.server, self.session
        server.connections.add(session)
        session.transport = transport  # type: ignore[assignment]
        session.transport.write(server.greeting)
        session.head_by = session.deadline = server.now() + server.settings.header_timeout_s
        if len(server.connections) > server.settings.max_connections:
            session.fail(ENHANCE_YOUR_CALM, "the gateway holds max_connections connections; try again shortly")

    def connection_lost(self, exc: Exception | None) -> None:
        self.session.is_lost = True
        self.server.connections.discard(self.session)
        self.session.abandon()

    def pause_writing(self) -> None:
        session = self.session
        session.is_paused = True
        session.write_by = self.server.now() + self.server.settings.write_timeout_s
        session.watch(session.write_by)
        if not session.is_lost:
            session.transport.pause_reading()

    def resume_writing(self) -> None:
        session = self.session
        session.is_paused = False
        session.write_by = NEVER
        session.pump()
        if not (session.is_lost or session.is_paused or session.transport.is_closing()):
            session.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self.session.is_closing:
            return
        if self.rest:
            data = self.rest + data
        try:
            self.rest = self._frames(data)
        except ConnectionFault as fault:
            self.rest = b""
            self.session.fail(fault.code, str(fault))
        except Exception as error:  # a fault of ours in reading frames: their state is no longer sure
            self.rest = b""
            self.server.failed(error)
            self.session.fail(INTERNAL_ERROR, "the gateway failed on this connection")

    # --- frames

    def _frames(self, data: bytes) -> bytes:
        """Read the whole frames; what is left of the data. Raises ConnectionFault."""
        at, end = 0, len(data)
        if not self.is_greeted and (at := self._greet(data)) == 0:
            return data
        session = self.session
        while end - at >= HEAD_BYTES:
            high, low, kind, flags, number = HEAD.unpack_from(data, at)
            size = high << 8 | low
            if size > MAX_FRAME_BYTES:
                raise ConnectionFault(FRAME_SIZE_ERROR, f"a frame has at most {MAX_FRAME_BYTES} bytes")
            start = at + HEAD_BYTES
            stop = start + size
            if stop > end:
                break
            self._frame(kind, flags, number & MAX_ID, data, start, stop)
            if session.is_closing:
                return b""
            at = stop
        return data[at:] if at < end else b""

    def _greet(self, data: bytes) -> int:
        """Read the preface: where the first frame begins, or 0 as long as that is not known."""
        at = len(PREFACE)
        session = self.session
        if not data.startswith(PREFACE[: len(data)]):
            if data[:1].isalpha() and not data.startswith(b"PRI"):
                session.transport.write(_WRONG_PROTOCOL)
            raise ConnectionFault(PROTOCOL_ERROR, "the bytes received are not HTTP/2")
        if len(data) < at + HEAD_BYTES:
            return 0
        _, _, kind, flags, _ = HEAD.unpack_from(data, at)
        if kind != SETTINGS or flags & ACK:
            raise ConnectionFault(PROTOCOL_ERROR, "the first frame is SETTINGS")
        self.is_greeted = True
        session.head_by = NEVER
        session.idle_by = self.server.now() + self.server.settings.idle_timeout_s
        session.watch(session.idle_by)
        return at

    def _frame(self, kind: int, flags: int, number: int, data: bytes, at: int, stop: int) -> None:
        if self.block is not None and (kind != CONTINUATION or number != self.block.stream_id):
            raise ConnectionFault(PROTOCOL_ERROR, "a header block is followed by its continuation")
        if kind == HEADERS:
            self._headers(flags, number, data, at, stop)
        elif kind == DATA:
            self._data(flags, number, data, at, stop)
        elif kind == CONTINUATION:
            self._continuation(flags, data[at:stop])
        elif kind == PUSH_PROMISE:
            raise ConnectionFault(PROTOCOL_ERROR, "clients push nothing")
        else:
            check_form(kind, flags, number, stop - at)
            self._control(kind, flags, number, data[at:stop])

    # --- a request comes

    def _headers(self, flags: int, number: int, data: bytes, at: int, stop: int) -> None:
        if not number & 1:
            raise ConnectionFault(PROTOCOL_ERROR, "a client's streams have odd numbers")
        if flags & (PADDED | WITH_PRIORITY):
            at, stop = unpadded(flags, data, at, stop)
            if flags & WITH_PRIORITY:
                at += 5
            if at > stop:
                raise ConnectionFault(PROTOCOL_ERROR, "HEADERS is shorter than its own fields")
        if flags & END_HEADERS:
            self._whole_block(number, flags, data[at:stop])
            return
        settings, session = self.server.settings, self.session
        self.block = Block(number, flags, data[at:stop], settings.max_header_bytes)
        session.head_by = self.server.now() + settings.header_timeout_s
        session.watch(session.head_by)

    def _continuation(self, flags: int, part: bytes) -> None:
        block = self.block
        if block is None:
            raise ConnectionFault(PROTOCOL_ERROR, "CONTINUATION continues nothing")
        block.add(part)
        if flags & END_HEADERS:
            self.block, self.session.head_by = None, NEVER
            self._whole_block(block.stream_id, block.flags, bytes(block.data))

    def _whole_block(self, number: int, flags: int, block: bytes) -> None:
        """A header block opens a stream, or ends one as trailers."""
        session = self.session
        try:
            if number <= session.last_id:
                self._trailers(number, flags, block)
                return
            session.last_id = number
            self._open(number, flags, self.heads.head(block))
        except Malformed:
            session.fault_of(number, PROTOCOL_ERROR)

    def _trailers(self, number: int, flags: int, block: bytes) -> None:
        session = self.session
        stream = session.streams.get(number)
        if stream is None and number not in session.ended:
            raise ConnectionFault(PROTOCOL_ERROR, "a stream's number is above those before it")
        self.heads.trailers(block)
        if stream is None:
            return
        if stream.is_whole:
            session.fault_of(number, STREAM_CLOSED)
        elif not flags & END_STREAM:
            session.fault_of(number, PROTOCOL_ERROR)
        else:
            self._whole(stream)

    def _open(self, number: int, flags: int, head: Head) -> None:
        server, session = self.server, self.session
        if len(session.streams) >= self.max_streams:
            session.fault_of(number, REFUSED_STREAM)
            return
        stream = session.streams[number] = Stream(session, number, head)
        if flags & END_STREAM:
            if head.length:
                session.fault_of(number, PROTOCOL_ERROR)
                return
            stream.is_whole = True
        else:
            stream.deadline = server.clock + server.settings.body_timeout_s
        stream.receiver = server.open(stream)
        if stream.is_whole and not stream.is_closed:
            stream.deadline = NEVER
            stream.receiver.arrived()
        session.watch(stream.deadline)

    def _data(self, flags: int, number: int, data: bytes, at: int, stop: int) -> None:
        size, session = stop - at, self.session
        self.received += size
        if self.received > MAX_WINDOW >> 2:
            session.transport.write(frame(WINDOW_UPDATE, 0, 0, NUMBER.pack(self.received)))
            self.received = 0
        if flags & PADDED:
            at, stop = unpadded(flags, data, at, stop)
        stream = session.streams.get(number)
        if stream is None:
            self._data_of_the_closed(number)
            return
        if stream.is_whole:
            session.fault_of(number, STREAM_CLOSED)
            return
        stream.room -= size
        if stream.room < 0:
            session.fault_of(number, FLOW_CONTROL_ERROR)
            return
        if stop > at:
            stream.keep(data[at:stop])
        if stop - at < TINY_BYTES and not flags & END_STREAM:
            session.patience.use(1)
        length = stream.head.length
        if length is not None and (stream.received > length or (flags & END_STREAM and stream.received != length)):
            session.fault_of(number, PROTOCOL_ERROR)
            return
        if flags & END_STREAM:
            self._whole(stream)
        else:
            stream.receiver.arrived()
            stream.grant()

    def _data_of_the_closed(self, number: int) -> None:
        if number == 0 or number > self.session.last_id:
            raise ConnectionFault(PROTOCOL_ERROR, "DATA belongs to an open stream")
        if number not in self.session.ended:
            raise ConnectionFault(STREAM_CLOSED, "DATA for a stream that has ended")
        self.session.patience.use(1)

    def _whole(self, stream: Stream) -> None:
        stream.is_whole = True
        stream.deadline = NEVER
        if stream is self.session.budget.favoured:
            self.session.grant_to_all()
        stream.receiver.arrived()

    # --- what the peer says of windows, settings and ends

    def _control(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            self._window_update(number, NUMBER.unpack(payload)[0] & MAX_WINDOW)
        elif kind == SETTINGS:
            self._settings(flags, payload)
        elif kind == PING:
            self._ping(flags, payload)
        elif kind == RST_STREAM:
            self._rst_stream(number)
        else:  # GOAWAY: the peer will close; PRIORITY is out of use; and whatever is not known
            self.session.patience.use(1)

    def _window_update(self, number: int, more: int) -> None:
        session = self.session
        if number == 0:
            if more == 0:
                raise ConnectionFault(PROTOCOL_ERROR, "WINDOW_UPDATE grants nothing")
            session.window += more
            if session.window > MAX_WINDOW:
                raise ConnectionFault(FLOW_CONTROL_ERROR, "the connection's window is above 2^31-1")
        else:
            stream = session.streams.get(number)
            if stream is None:
                if number > session.last_id or not number & 1:
                    raise ConnectionFault(PROTOCOL_ERROR, "WINDOW_UPDATE for a stream that was never opened")
                session.patience.use(1)
                return
            if more == 0 or stream.window + more > MAX_WINDOW:
                session.fault_of(number, FLOW_CONTROL_ERROR if more else PROTOCOL_ERROR)
                return
            stream.window += more
        if session.blocked:
            session.pump()
        else:
            session.patience.use(0.25)

    def _settings(self, flags: int, payload: bytes) -> None:
        session = self.session
        if flags & ACK:
            self.max_streams = MAX_STREAMS
            session.patience.use(1)
            return
        session.patience.use(1 + len(payload) // 96)
        for name, value in settings_in(payload):
            if name == INITIAL_WINDOW_SIZE:
                for stream in session.streams.values():
                    stream.window += value - session.peer_window
                    if stream.window > MAX_WINDOW:
                        raise ConnectionFault(FLOW_CONTROL_ERROR, "a stream's window is above 2^31-1")
                session.peer_window = value
        session.transport.write(_SETTINGS_ACK)
        session.pump()

    def _ping(self, flags: int, payload: bytes) -> None:
        session = self.session
        session.patience.use(1)
        if not flags & ACK:
            session.transport.write(frame(PING, ACK, 0, payload))
        elif session.is_draining and payload == DRAIN_PING:
            session.leave()

    def _rst_stream(self, number: int) -> None:
        session = self.session
        if number == 0 or number > session.last_id:
            raise ConnectionFault(PROTOCOL_ERROR, "RST_STREAM for a stream that was never opened")
        session.patience.use(RESET_COST)
        session.lose(number)
