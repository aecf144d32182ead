"""What a gateway worker and a model worker say to each other on their unix socket; tensors travel beside it.

One asks, the other answers, one message at a time: a length (u32, little-endian), then MessagePack. The descriptor of
a new segment travels with the message that first speaks of it.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
from typing import Any, Literal

import msgspec

from modelyard.serve.shared import Placed

MESSAGE_BYTES = 1 << 20
PIECE_S = 5.0  # how long the rest of a message may take once it has begun
_HEAD = struct.Struct("<I")
_READ = 1 << 16
_RIGHTS_BYTES = socket.CMSG_SPACE(4 * struct.calcsize("i"))


class Ask(msgspec.Struct, frozen=True, tag="ask", forbid_unknown_fields=True):
    """What the gateway wants: an answer, an explanation, the next piece of a stream, or only to be heard."""

    verb: Literal["predict", "explain", "stream", "more", "stop", "ping"]
    tensors: tuple[Placed, ...] = ()


class Ready(msgspec.Struct, frozen=True, tag="ready", forbid_unknown_fields=True):
    """The first word of a model worker whose version is loaded and measured."""

    pid: int
    curve: dict[int, float]  # batch size -> seconds
    explain_s: float  # for one row
    streams: bool = False


class Answer(msgspec.Struct, frozen=True, tag="answer", forbid_unknown_fields=True):
    """What the model said. `is_last`: a stream is over, and this holds no piece of it. No tensors: no explanation."""

    tensors: tuple[Placed, ...] = ()
    is_last: bool = False
    took_ns: tuple[int, ...] = ()  # each step, where the version is made of several


class Failed(msgspec.Struct, frozen=True, tag="failed", forbid_unknown_fields=True):
    """Why there is no answer. `code` and `message` as in `contract/errors.py`; safe to show."""

    code: str
    message: str
    trace: tuple[str, ...] = ()  # where in the model's code: files and lines, no values


class Refused(msgspec.Struct, frozen=True, tag="refused", forbid_unknown_fields=True):
    """Said by the parent while no process runs: why the version is not loaded."""

    reason: str


Message = Ask | Ready | Answer | Failed | Refused

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


class Broken(Exception):
    """The other end is gone, or said something that is no message. Never shown to a caller."""


def send(line: socket.socket, message: Message, descriptor: int | None = None) -> None:
    """Say one thing, with a segment if there is a new one; its descriptor is closed here. Raises Broken."""
    try:
        data = _encode(message)
        data = _HEAD.pack(len(data)) + data
        rights: list[Any] = []
        if descriptor is not None:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        line.settimeout(PIECE_S)
        sent = line.sendmsg([data], rights)
        if sent < len(data):
            line.sendall(data[sent:])
    except OSError as error:
        raise Broken(f"cannot be told: {error.strerror or error}") from None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def receive(line: socket.socket, timeout_s: float | None) -> tuple[Message, int | None]:
    """The next message, and the descriptor that came with it, which the caller closes.

    Raises TimeoutError if nothing comes in time, Broken if the line ends or what comes is no message.
    """
    descriptors: list[int] = []
    try:
        line.settimeout(timeout_s)
        data = _piece(line, descriptors)
        message = _decode(_rest(line, data, descriptors))
    except BaseException as error:
        for descriptor in descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        if isinstance(error, TimeoutError | Broken):
            raise
        if isinstance(error, OSError | msgspec.MsgspecError | ValueError):
            raise Broken(f"cannot be understood: {error}") from None
        raise
    return message, descriptors[0] if descriptors else None


def _rest(line: socket.socket, data: bytes, descriptors: list[int]) -> memoryview:
    """The whole message, of which `data` is the beginning."""
    try:
        line.settimeout(PIECE_S)
        while len(data) < _HEAD.size:
            data += _piece(line, descriptors)
        (length,) = _HEAD.unpack_from(data)
        if length > MESSAGE_BYTES:
            raise Broken(f"a message of {length} bytes")
        while len(data) < _HEAD.size + length:
            data += _piece(line, descriptors)
    except TimeoutError:
        raise Broken("a message did not end") from None
    if len(data) > _HEAD.size + length or len(descriptors) > 1:
        raise Broken("more than one message at a time")
    return memoryview(data)[_HEAD.size :]


def _piece(line: socket.socket, descriptors: list[int]) -> bytes:
    data, ancillary, flags, _ = line.recvmsg(_READ, _RIGHTS_BYTES, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            whole = len(content) - len(content) % struct.calcsize("i")
            descriptors += array.array("i", content[:whole]).tolist()
    if flags & socket.MSG_CTRUNC:
        raise Broken("more descriptors than one message has")
    if not data:
        raise Broken("the line ended")
    return data
