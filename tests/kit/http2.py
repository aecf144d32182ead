"""An HTTP/2 connection without a socket: our server's side of it, and an independent client's (the library h2)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import h2.config
import h2.connection
import h2.events
import hyperframe.frame as frames

from modelyard.contract.settings import Settings
from modelyard.serve.http2 import Connection
from modelyard.serve.http2_server import Http2Server
from modelyard.serve.http2_session import Session
from modelyard.serve.http2_stream import Stream
from modelyard.serve.pending import PendingBytes

HEADERS = [
    (":method", "POST"), (":scheme", "http"), (":path", "/a.Service/Method"), (":authority", "localhost"),
    ("content-type", "application/grpc"), ("te", "trailers"),
]  # fmt: skip
OK_HEAD, OK_TRAILERS = b"\x88", b"\x00\x0bgrpc-status\x010"


class Clock:
    """A loop's clock and timers, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[tuple[float, Callable[..., object], tuple[object, ...]]] = []

    def time(self) -> float:
        """The time now."""
        return self.now

    def call_later(self, delay: float, call: Callable[..., object], *arguments: object) -> None:
        """Remember to call."""
        self.timers.append((self.now + delay, call, arguments))

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and call what is due on the way."""
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer[0] <= end]:
            first = min(due, key=lambda timer: timer[0])
            self.timers.remove(first)
            self.now = first[0]
            first[1](*first[2])
        self.now = end


class Pipe:
    """What the server writes to."""

    def __init__(self) -> None:
        self.data = b""
        self.is_reading = True
        self.is_aborted = self.is_closed = self.has_eof = False
        self.unsent = 0

    def write(self, data: bytes) -> None:
        """Keep it."""
        assert not self.has_eof, "nothing follows the end"
        self.data += data

    def get_write_buffer_size(self) -> int:
        """Bytes that the peer did not take."""
        return self.unsent

    def pause_reading(self) -> None:
        """No further bytes are wanted."""
        self.is_reading = False

    def resume_reading(self) -> None:
        """Bytes are wanted again."""
        self.is_reading = True

    def can_write_eof(self) -> bool:
        """As TCP can."""
        return True

    def write_eof(self) -> None:
        """The end of what is written."""
        self.has_eof = True

    def is_closing(self) -> bool:
        """Whether it is about to close."""
        return self.is_closed or self.is_aborted

    def close(self) -> None:
        """Close in order."""
        self.is_closed = True

    def abort(self) -> None:
        """Close at once."""
        self.is_aborted = True


class Echo:
    """Receives a stream and remembers what it was told; answers with the body once it is whole."""

    def __init__(self, stream: Stream, *, answers: bool) -> None:
        self.stream, self.answers = stream, answers
        self.told: list[str] = []

    def arrived(self) -> None:
        """Bytes came, or the end."""
        self.told.append("arrived")
        if self.stream.is_whole and self.answers:
            self.stream.send(OK_HEAD, bytes(self.stream.body), OK_TRAILERS)

    def sent(self) -> None:
        """An answer that was held back has left."""
        self.told.append("sent")

    def left(self) -> None:
        """Nobody waits any more."""
        self.told.append("left")

    def expired(self) -> None:
        """The deadline has passed."""
        self.told.append("expired")
        self.stream.reset(8)

    def stop(self) -> None:
        """The server stops."""
        self.told.append("stop")


class Link:
    """One connection, both sides of it."""

    def __init__(self, settings: Settings | None = None, *, answers: bool = True, greets: bool = True) -> None:
        self.clock = Clock()
        self.receivers: list[Echo] = []
        self.faults: list[BaseException] = []
        self.answers = answers
        settings = settings or Settings()
        self.pending = PendingBytes(settings.max_pending_bytes)
        self.server = Http2Server(settings, self._open, self.faults.append, self.clock, self.pending)  # type: ignore[arg-type]
        self.connect(greets=greets)

    def connect(self, *, greets: bool = True) -> None:
        """Open a (further) connection; the link speaks of the newest."""
        self.pipe = Pipe()
        self.connection: Connection = self.server()
        self.client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
        self.client_reads = True
        self.events: list[h2.events.Event] = []
        self.frames: list[frames.Frame] = []  # what the server sent
        self.connection.connection_made(self.pipe)  # type: ignore[arg-type]
        if greets:
            self.client.initiate_connection()
            self.exchange()

    @property
    def session(self) -> Session:
        """What the server keeps of the connection."""
        return self.connection.session

    def _open(self, stream: Stream) -> Echo:
        receiver = Echo(stream, answers=self.answers)
        self.receivers.append(receiver)
        return receiver

    def exchange(self) -> list[h2.events.Event]:
        """Carry bytes both ways until nothing moves; the client's new events."""
        found: list[h2.events.Event] = []
        while True:
            sent = self.client.data_to_send()
            if sent:
                self.connection.data_received(sent)
            came, self.pipe.data = self.pipe.data, b""
            self.frames += parsed(came)
            if came and self.client_reads:
                found += self.client.receive_data(came)
            if not sent and not came:
                self.events += found
                return found

    def take_answers(self) -> None:
        """Read all that the server has to say, granting window for it, and forget it."""
        while self.exchange() or self.events:
            for event in self.events:
                if isinstance(event, h2.events.DataReceived):
                    self.client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.events.clear()

    def ask(self, body: bytes = b"", headers: list[tuple[str, Any]] | None = None, *, end: bool = True) -> int:
        """Open a stream with a body that fits the window; its number."""
        number = self.client.get_next_available_stream_id()
        self.client.send_headers(number, headers or HEADERS, end_stream=end and not body)
        for at in range(0, len(body), 16_384):
            self.client.send_data(number, body[at : at + 16_384], end_stream=end and at + 16_384 >= len(body))
        return number

    def raw(self, *sent: bytes) -> None:
        """Send bytes that the client library would not send; from now on it does not read either."""
        self.client_reads = False
        for one in sent:
            self.connection.data_received(one)
        self.exchange()

    def answer(self, number: int) -> bytes | None:
        """The body of a stream's answer; None if it has not ended well."""
        data, ended = b"", False
        for event in self.events:
            if getattr(event, "stream_id", None) != number:
                continue
            if isinstance(event, h2.events.DataReceived):
                data += event.data
            ended = ended or isinstance(event, h2.events.StreamEnded)
        return data if ended else None

    def resets(self) -> dict[int, int]:
        """Streams that the server reset, and the codes."""
        return {one.stream_id: one.error_code for one in self.frames if isinstance(one, frames.RstStreamFrame)}

    @property
    def farewell(self) -> tuple[int, bytes] | None:
        """The code and text of the GOAWAY that came last."""
        found = [one for one in self.frames if isinstance(one, frames.GoAwayFrame)]
        return (found[-1].error_code, found[-1].additional_data) if found else None


def parsed(data: bytes) -> list[frames.Frame]:
    """Frames, whole ones all of them."""
    found = []
    while data:
        one, length = frames.Frame.parse_frame_header(memoryview(data)[:9])
        one.parse_body(memoryview(data)[9 : 9 + length])
        found.append(one)
        data = data[9 + length :]
    return found


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One frame, made apart from the server's own code."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream_id) + payload
