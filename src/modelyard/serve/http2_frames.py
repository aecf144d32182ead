"""HTTP/2's frames: kinds, flags and codes, how a frame is written, and which forms end the connection."""

from __future__ import annotations

import struct
from collections.abc import Iterator

MAX_FRAME_BYTES = 16_384  # the least that HTTP/2 allows, and what everybody sends
FIRST_WINDOW = 65_535  # bytes that may be sent until settings or updates say otherwise
MAX_WINDOW = 2**31 - 1
MAX_ID = 2**31 - 1

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, WITH_PRIORITY = 0x4, 0x8, 0x20
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0x0, 0x1, 0x2, 0x3
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL = 0x5, 0x6, 0x7, 0x8
COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 0x9, 0xB
ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 0x2, 0x3, 0x4, 0x5, 0x6

HEAD = struct.Struct(">HBBBI")  # length's upper 16 bits, its lower 8, type, flags, stream
HEAD_BYTES = 9
NUMBER = struct.Struct(">I")
_setting = struct.Struct(">HI")
_OF_THE_CONNECTION = {SETTINGS: "SETTINGS", PING: "PING", GOAWAY: "GOAWAY"}
_FIXED = {
    PRIORITY: ("PRIORITY", 5), RST_STREAM: ("RST_STREAM", 4), PING: ("PING", 8), WINDOW_UPDATE: ("WINDOW_UPDATE", 4),
}  # fmt: skip


class ConnectionFault(Exception):
    """The peer broke the protocol so that the connection must end; carries HTTP/2's code and a word for its log."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One frame."""
    size = len(payload)
    return HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream_id) + payload


def settings_frame(*pairs: tuple[int, int]) -> bytes:
    """A SETTINGS frame of names and values."""
    return frame(SETTINGS, 0, 0, b"".join(_setting.pack(*pair) for pair in pairs))


def goaway_frame(last_id: int, code: int, text: bytes = b"") -> bytes:
    """A GOAWAY frame: up to which stream the peer was heard, and why it is not any more."""
    return frame(GOAWAY, 0, 0, NUMBER.pack(last_id) + NUMBER.pack(code) + text)


def check_form(kind: int, flags: int, number: int, size: int) -> None:
    """Raises ConnectionFault for a control frame of the wrong stream or size."""
    if number and kind in _OF_THE_CONNECTION:
        raise ConnectionFault(PROTOCOL_ERROR, f"{_OF_THE_CONNECTION[kind]} belongs to the connection")
    if kind in _FIXED and size != _FIXED[kind][1]:
        raise ConnectionFault(FRAME_SIZE_ERROR, "{} has {} bytes".format(*_FIXED[kind]))
    if kind == SETTINGS and flags & ACK and size:
        raise ConnectionFault(FRAME_SIZE_ERROR, "an acknowledgement is empty")
    if kind == SETTINGS and size % _setting.size:
        raise ConnectionFault(FRAME_SIZE_ERROR, "a setting has six bytes")
    if kind == GOAWAY and size < 2 * NUMBER.size:
        raise ConnectionFault(PROTOCOL_ERROR, "GOAWAY has at least eight bytes")


def settings_in(payload: bytes) -> Iterator[tuple[int, int]]:
    """Names and values of a SETTINGS frame. Raises ConnectionFault for a value outside its range."""
    for name, value in _setting.iter_unpack(payload):
        if name == INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is above 2^31-1")
        if (name == ENABLE_PUSH and value > 1) or (name == MAX_FRAME_SIZE and not MAX_FRAME_BYTES <= value < 1 << 24):
            raise ConnectionFault(PROTOCOL_ERROR, "a setting is outside its range")
        yield name, value


def unpadded(flags: int, data: bytes, at: int, stop: int) -> tuple[int, int]:
    """Where the payload lies between its padding. Raises ConnectionFault."""
    if not flags & PADDED:
        return at, stop
    if at == stop or data[at] >= stop - at:
        raise ConnectionFault(PROTOCOL_ERROR, "the padding is longer than its frame")
    return at + 1, stop - data[at]
