"""Finding prediction records on disk: by our request id, or by the id that a caller gave.

A segment is one gateway process's own, and each request id begins with eight digits that name the process which made
it. So the record of an id can only lie in segments whose first record bears the same digits; feedback may lie in any
segment that was written to later. Frames in which the id does not stand are not decoded.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import msgspec

from modelyard.contract.telemetry import Feedback, Prediction, frames, records_with

MAKER = 8  # hex digits of a request id that name the process which made it
CLOCK_SLACK_NS = 3600 * 10**9  # by how much a clock may have been set back while records were written
FIRST_BYTES = 1 << 16  # of a segment, in which its first frame is looked for; a longer frame is read whole


class Segment(msgspec.Struct, frozen=True):
    """One file of records."""

    path: Path
    began_ns: int  # since 1970, when it was opened
    last_ns: int  # when it was last written to


def segments(folder: Path) -> list[Segment]:
    """Every segment, newest first. Others may go while one is read: the gateway removes the oldest."""
    found = []
    for path in folder.glob("*.records"):
        began = path.stem.rpartition("-")[2]
        try:
            found.append(Segment(path, int(began) if began.isdecimal() else 0, path.stat().st_mtime_ns))
        except FileNotFoundError:
            continue
    return sorted(found, key=lambda segment: segment.began_ns, reverse=True)


def find_request(folder: Path, request_id: str) -> Prediction | None:
    """The record of a request; None if there is none, or none any more."""
    for segment in segments(folder):
        if _maker(segment) == request_id[:MAKER]:
            for one in records_with(_bytes(segment), request_id):
                if isinstance(one, Prediction) and one.request_id == request_id:
                    return one
    return None


def find_truths(folder: Path, request_ids: Collection[str], since_ns: int = 0) -> list[Feedback]:
    """The truths that came for these requests, oldest first; `since_ns`: when the first of them was answered."""
    found: list[Feedback] = []
    for segment in segments(folder):
        if segment.last_ns >= since_ns - CLOCK_SLACK_NS:
            data = _bytes(segment)
            for wanted in request_ids:
                there = records_with(data, wanted)
                found += [one for one in there if isinstance(one, Feedback) and one.request_id == wanted]
    return sorted(found, key=lambda one: one.time_ns)


def find_caller(folder: Path, caller_id: str, limit: int) -> list[Prediction]:
    """The records of requests that came with this id of the caller's own, newest first, at most `limit`."""
    found: list[Prediction] = []
    for segment in sorted(segments(folder), key=lambda segment: segment.last_ns, reverse=True):
        if len(found) == limit and segment.last_ns < found[-1].time_ns - CLOCK_SLACK_NS:
            break
        there = records_with(_bytes(segment), caller_id)
        found += [one for one in there if isinstance(one, Prediction) and one.caller_id == caller_id]
        found = sorted(found, key=lambda one: one.time_ns, reverse=True)[:limit]
    return found


def kept_since(folder: Path) -> int | None:
    """From when on records are kept, ns since 1970; None if there are none."""
    there = segments(folder)
    return there[-1].began_ns if there else None


def life_of_maker(folder: Path, request_id: str) -> tuple[int, int] | None:
    """Between which instants the process that made an id wrote what is still kept; None if nothing of it is."""
    own = [segment for segment in segments(folder) if _maker(segment) == request_id[:MAKER]]
    return (min(one.began_ns for one in own), max(one.last_ns for one in own)) if own else None


def _bytes(segment: Segment) -> bytes:
    try:
        return segment.path.read_bytes()
    except FileNotFoundError:  # it was the oldest, and went
        return b""


def _maker(segment: Segment) -> str:
    """Whose ids the predictions of a segment bear; empty if it holds none yet."""
    try:
        with open(segment.path, "rb") as file:
            first = _first(file.read(FIRST_BYTES)) or _first(segment.path.read_bytes())
    except FileNotFoundError:
        return ""
    return first.request_id[:MAKER] if first else ""


def _first(data: bytes) -> Prediction | None:
    return next((one for one in frames(data) if isinstance(one, Prediction)), None)
