"""What to do next so that the wanted model workers run: started, ended, replaced. Pure: facts in, one step out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import msgspec

BACK_OFF_S = (0.0, 0.2, 1.0, 3.0, 10.0, 30.0)  # before the next start, after so many deaths in a row
STEADY_S = 60.0  # a process that lived so long starts with the first pause again
SILENCE_S = 5.0  # an idle process that does not beat for so long hangs
LOAD_S = 300.0  # how long loading and measuring may take
END_S = 5.0  # how long a process may take to end when it is told to
LARGE_BYTES = 64 * 1024 * 1024  # a version with larger files has one process for each host unless told otherwise

Phase = Literal["absent", "loading", "ready", "ending"]


class Seat(NamedTuple):
    """One of the processes that a version has: its artifact's digest, and a number from 0."""

    digest: str
    number: int


class Seen(msgspec.Struct, frozen=True):
    """What is known of the process in one seat. Times are seconds on the monotonic clock."""

    seat: Seat
    phase: Phase
    since: float = 0.0  # when the phase began
    start_at: float = 0.0  # absent: not before this
    heard: float = 0.0  # its last beat
    busy_since: float | None = None  # since when it computes one batch
    rss_bytes: int = 0


class Limits(msgspec.Struct, frozen=True):
    """What a model worker may take: resident bytes, and seconds for one batch."""

    memory_bytes: int
    batch_s: float


class Start(NamedTuple):
    """Let a process load the version."""

    seat: Seat


class End(NamedTuple):
    """Tell the process to finish: no gateway worker wants it any more."""

    seat: Seat


class Kill(NamedTuple):
    """End the process at once; the cause stands in its post-mortem."""

    seat: Seat
    cause: str
    by_memory: bool = False


class Forget(NamedTuple):
    """Nobody wants the seat and no process is in it: take its socket away."""

    seat: Seat


Step = Start | End | Kill | Forget


def next_step(wanted: Mapping[str, int], seats: Iterable[Seen], limits: Limits, now: float) -> Step | None:
    """The next step towards `wanted` (digest -> number of processes), or None.

    Broken processes first: whoever waits for them has waited enough.
    """
    seen = {one.seat: one for one in seats}
    for one in seen.values():
        if (kill := _fault(one, limits, now)) is not None:
            return kill
    for digest, count in wanted.items():
        for seat in (Seat(digest, number) for number in range(count)):
            found = seen.get(seat)
            if found is None or (found.phase == "absent" and now >= found.start_at):
                return Start(seat)
    for seat, one in seen.items():
        if seat.number < wanted.get(seat.digest, 0):
            continue
        if one.phase == "absent":
            return Forget(seat)
        if one.phase != "ending":
            return End(seat)
    return None


def pause_before(deaths: int) -> float:
    """Seconds to wait before the next start, after so many deaths in a row."""
    return BACK_OFF_S[min(max(deaths - 1, 0), len(BACK_OFF_S) - 1)]


def process_count(model_workers: int, worker_count: int, files_bytes: int) -> int:
    """How many processes a version has, by the setting, the number of gateway workers and the size of its files."""
    if model_workers:
        return model_workers
    return 1 if files_bytes > LARGE_BYTES else worker_count


def _fault(one: Seen, limits: Limits, now: float) -> Kill | None:
    """Why a process must be ended at once, if it must."""
    if one.phase == "absent":
        return None
    if one.rss_bytes > limits.memory_bytes:
        megabytes, limit = one.rss_bytes >> 20, limits.memory_bytes >> 20
        return Kill(one.seat, f"held {megabytes} MB; model_memory_bytes allows {limit} MB", by_memory=True)
    if one.phase == "ending":
        return Kill(one.seat, f"did not end within {END_S:g} s") if now - one.since > END_S else None
    if one.phase == "loading":
        return Kill(one.seat, f"was not ready within {LOAD_S:g} s") if now - one.since > LOAD_S else None
    if one.busy_since is not None:
        if now - one.busy_since > limits.batch_s:
            return Kill(one.seat, f"did not answer a batch within model_timeout_s={limits.batch_s:g} s")
    elif now - one.heard > SILENCE_S:
        return Kill(one.seat, f"said nothing for {SILENCE_S:g} s")
    return None
