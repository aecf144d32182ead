"""A caller that compares every answer: many in one process, each on a connection of its own, at a pace or without."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable

import msgspec
import numpy as np

from benchmarks.check import TOLERANCE
from benchmarks.server import Server
from benchmarks.work import Work

DEADLINE_S = 15.0  # without an answer for so long, a call has failed


class Output(msgspec.Struct):
    """One tensor of an answer in protocol V2."""

    name: str
    data: list[float | int | str]


class Said(msgspec.Struct):
    """What is compared, in protocol V2 or our own dialect."""

    outputs: list[Output] = []
    model_version: str = ""
    probability: float | None = None


_decode = msgspec.json.Decoder(Said).decode

Judge = Callable[[Said, int], str | None]  # what was said to which body -> why it is wrong, if it is


class Tally:
    """What several callers saw."""

    def __init__(self) -> None:
        self.answered = self.failed = self.wrong = 0
        self.reasons: list[str] = []
        self.latencies = array("d")  # seconds, only where they are kept

    def note(self, kind: str, reason: str) -> None:
        """A call that failed, or an answer that is wrong."""
        setattr(self, kind, getattr(self, kind) + 1)
        if len(self.reasons) < 10:
            self.reasons.append(f"{kind}: {reason}")

    def p99_ms(self) -> float:
        """Of the latencies that were kept."""
        kept = sorted(self.latencies)
        return kept[int(len(kept) * 0.99)] * 1e3 if kept else 0.0


def judge_by(expected: list[list[float]], output: str) -> Judge:
    """The judge of a work whose answers do not change."""
    known = [np.array(each) for each in expected]

    def judge(said: Said, at: int) -> str | None:
        return difference(said, known[at], output)

    return judge


def difference(said: Said, right: np.ndarray, output: str) -> str | None:
    """Why this is not the right answer, or None if it is."""
    if said.probability is not None:
        numbers: list[float | int | str] = [said.probability]
    else:
        numbers = next((one.data for one in said.outputs if one.name == output), [])
    if len(numbers) != len(right) or not np.all(np.abs(np.asarray(numbers, np.float64) - right) <= TOLERANCE):
        return f"answered {str(numbers)[:100]} where {str(right)[:100]} is right"
    return None


class Caller(asyncio.Protocol):
    """One connection with one call at a time; `every_s` seconds between two calls' starts, 0: without a pause."""

    def __init__(
        self, server: Server, work: Work, judge: Judge, tally: Tally, *, first: int = 0, keep: bool = False,
        headers: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        self._loop = asyncio.get_running_loop()
        self._port, self._judge, self.tally, self.keep = server.port, judge, tally, keep
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or server.headers).items())
        head = f"POST {work.path} HTTP/1.1\r\nHost: localhost\r\n{lines}".encode()
        self._requests = [
            b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body) for body in map(str.encode, work.bodies)
        ]
        self._next = first % len(self._requests)
        self.every_s = 0.0
        self._running = False
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._asked = self._due = 0.0
        self._at = -1  # what is asked now; -1: nothing
        self._quiet = self._loop.create_future()

    async def start(self, every_s: float = 0.0, delay_s: float = 0.0) -> None:
        """Connect and begin to call."""
        self.every_s, self._running = every_s, True
        self._quiet = self._loop.create_future()
        if self._transport is None:
            await self._loop.create_connection(lambda: self, "127.0.0.1", self._port)
        self._due = time.monotonic() + delay_s
        self._loop.call_later(delay_s, self._ask)

    async def stop(self) -> None:
        """Ask nothing more, and wait for what was asked."""
        self._running = False
        if self._at >= 0:
            try:
                await asyncio.wait_for(self._quiet, DEADLINE_S)
            except TimeoutError:
                self.tally.note("failed", f"no answer within {DEADLINE_S:g} s")

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self._transport = transport  # type: ignore[assignment]  # uvloop's do not derive from asyncio's

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol: an answer, or a part of one."""
        buffer = self._buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = int(buffer[:end].lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(buffer) < end + 4 + length:
            return
        self._buffer = b""
        self._answered(int(buffer[9:12]), buffer[end + 4 : end + 4 + length])

    def connection_lost(self, error: Exception | None) -> None:
        """Part of asyncio.Protocol: called again if anybody still wants to call."""
        self._transport, self._buffer = None, b""
        if self._at >= 0:
            self.tally.note("failed", f"the connection was lost: {error!r}")
            self._at = -1
            if not self._quiet.done():
                self._quiet.set_result(None)
        if self._running:
            self._loop.create_task(self._again())

    async def _again(self) -> None:
        await asyncio.sleep(0.05)
        try:
            await self._loop.create_connection(lambda: self, "127.0.0.1", self._port)
        except OSError as error:
            self.tally.note("failed", f"no connection: {error!r}")
            self._loop.create_task(self._again())
            return
        self._ask()

    def _ask(self) -> None:
        if not self._running or self._transport is None or self._at >= 0:
            return
        self._at = self._next
        self._next = (self._next + 1) % len(self._requests)
        self._asked = time.monotonic()
        self._transport.write(self._requests[self._at])

    def _answered(self, status: int, body: bytes) -> None:
        now = time.monotonic()
        at, self._at = self._at, -1
        if status != 200:
            self.tally.note("failed", f"status {status}: {body[:200]!r}")
        else:
            try:
                reason = self._judge(_decode(body), at)
            except msgspec.DecodeError as error:
                reason = f"no answer in {body[:200]!r}: {error}"
            if reason:
                self.tally.note("wrong", reason)
            else:
                self.tally.answered += 1
        if self.keep:
            self.tally.latencies.append(now - self._asked)
        if not self._quiet.done() and not self._running:
            self._quiet.set_result(None)
        # A call that is late does not push the later ones back; what was missed while it waited is not made up for.
        self._due = max(self._due + self.every_s, now)
        if self._due <= now:
            self._loop.call_soon(self._ask)
        else:
            self._loop.call_at(self._loop.time() + self._due - now, self._ask)
