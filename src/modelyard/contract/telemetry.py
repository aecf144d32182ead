"""Prediction records and feedback as they leave a gateway: framed msgpack in segment files.

A record is what the model saw, never the raw body. A segment is a run of frames; a frame is length, CRC-32 and one
msgpack list of records, so a reader stops cleanly at a torn end.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import msgspec

_HEAD = struct.Struct("<II")  # payload bytes, CRC-32 of the payload


class Prediction(msgspec.Struct, frozen=True, array_like=True, tag="p", gc=False):
    """One answered call."""

    request_id: str
    time_ns: int  # since 1970, when the answer left
    endpoint: str
    version: int
    revision: int
    principal: str
    rows: int
    inputs: bytes  # float32[rows, features], little-endian, personal columns blanked
    outputs: bytes  # float32[rows], the probability or the first output
    duration_ns: int
    caller_id: str = ""


class Feedback(msgspec.Struct, frozen=True, array_like=True, tag="f", gc=False):
    """The truth that came later, for one row of an earlier call."""

    request_id: str
    time_ns: int
    endpoint: str
    principal: str
    truth: str
    row: int = 0


class Disagreement(msgspec.Struct, frozen=True, array_like=True, tag="d", gc=False):
    """One call that a shadow would have answered otherwise. What was asked stands in the call's own record."""

    request_id: str
    time_ns: int  # since 1970, when it was compared
    endpoint: str
    version: int  # that answered
    shadow: int  # the version that did not
    revision: int
    row: int  # that is furthest apart
    answered: float  # this row's probability, or its number in the first output that has any ...
    shadowed: float  # ... and as the shadow says it
    difference: float  # the largest of the call, absolute


Record = Prediction | Feedback | Disagreement

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Record]).decode


def frame(*records: Record) -> bytes:
    """Records that belong to one moment, ready to append to a segment."""
    payload = _encode(records)
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def frames(segment: bytes) -> Iterator[Record]:
    """The records of a segment, in order, up to its end or the first torn or damaged frame."""
    at = 0
    while at + _HEAD.size <= len(segment):
        length, crc = _HEAD.unpack_from(segment, at)
        payload = segment[at + _HEAD.size : at + _HEAD.size + length]
        if not length or len(payload) < length or zlib.crc32(payload) != crc:
            return  # a length of 0 is no record: a power cut may leave zeros at a file's end
        yield from _decode(payload)
        at += _HEAD.size + length


def records_with(segment: bytes, text: str) -> Iterator[Record]:
    """The records of the frames in which `text` stands whole, as a request id does; others are not even decoded."""
    wanted, at, found = _encode(text), 0, 0
    while (found := segment.find(wanted, found)) >= 0:
        while True:  # on to the frame that holds it
            if at + _HEAD.size > len(segment):
                return
            length, crc = _HEAD.unpack_from(segment, at)
            end = at + _HEAD.size + length
            if not length or end > len(segment):
                return  # torn: what follows cannot be read, as in `frames`
            if end > found:
                break
            at = end
        payload = segment[at + _HEAD.size : end]
        if zlib.crc32(payload) != crc:
            return
        yield from _decode(payload)
        at = found = end
