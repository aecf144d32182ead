"""One row answered piece by piece, by a version whose class can: each piece is a line, sent as soon as it is made.

A thread asks the model worker for the next piece, and waits while the caller does not read. When the caller leaves, the
worker is told to stop; so it is when the time is over that the caller gave (`x-timeout-ms`). Without it only each piece
has a limit, `model_timeout_s`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import msgspec

from modelyard.contract.errors import DeadlineExceeded, InvalidInput, ModelyardError, Overloaded
from modelyard.contract.tensor import Tensors
from modelyard.serve.call import TIMEOUT, Batch, Call
from modelyard.serve.channel import RemoteVersion
from modelyard.serve.exchange import Exchange
from modelyard.serve.lazy import LazyReplica
from modelyard.serve.stream import NDJSON

if TYPE_CHECKING:
    from modelyard.serve.routing import Holder

STREAMS = 16  # at once in one worker; further ones are refused
AHEAD = 16  # pieces that wait for a caller who reads slowly
LOOK_S = 0.05  # how late it is noticed that the caller reads again, or has left
_encode = msgspec.json.Encoder().encode


class Pieces:
    """The streams of one worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._threads = ThreadPoolExecutor(STREAMS, thread_name_prefix="stream")
        self._running = 0

    def start(self, call: Call, exchange: Exchange) -> None:
        """Answer a call of one row piece by piece. Raises InvalidInput where its version cannot, Overloaded."""
        replica = call.deployment.replica
        if isinstance(replica, LazyReplica) and not replica.is_resident:
            replica.when_resident(call, lambda: self._start_late(call, exchange))
            return
        version = replica.loaded
        if not isinstance(version, RemoteVersion) or not version.streams:
            which = f"version {call.deployment.version} of {call.deployment.endpoint}"
            raise InvalidInput(f"{which} answers as a whole only; its class has no `stream`")
        if call.rows != 1 or not isinstance(call.inputs, dict):
            raise InvalidInput("a row is answered piece by piece alone: send one")
        if self._running >= STREAMS:
            raise Overloaded(f"{STREAMS} answers already leave piece by piece here; try again shortly")
        self._running += 1
        replica.streams += 1
        answer = _Answer(call, exchange, self._loop)
        done = self._loop.run_in_executor(self._threads, answer.run, version, call.inputs)
        done.add_done_callback(lambda done: self._ended(done, replica))

    def _start_late(self, call: Call, exchange: Exchange) -> None:
        try:
            self.start(call, exchange)
        except ModelyardError as refusal:
            call.refuse(refusal)

    def _ended(self, done: asyncio.Future[None], replica: Holder) -> None:
        self._running -= 1
        replica.streams -= 1
        done.exception()  # told to the caller already

    def close(self) -> None:
        """No further stream; those that run end with their callers' connections."""
        self._threads.shutdown(wait=False)


class _Answer:
    """One answer on its way: `run` in a thread, the rest on the loop."""

    def __init__(self, call: Call, exchange: Exchange, loop: asyncio.AbstractEventLoop) -> None:
        self._call, self._exchange, self._loop = call, exchange, loop
        self._room = threading.Semaphore(AHEAD)

    def run(self, version: RemoteVersion, inputs: Tensors) -> None:
        """Ask for one piece after the other until there is none, or nobody wants it."""
        started_ns = time.monotonic_ns()
        deadline_ns = self._call.deadline_ns if TIMEOUT in self._exchange.headers else None
        timeout_s = None if deadline_ns is None else (deadline_ns - started_ns) / 1e9
        error: ModelyardError | None = None
        try:
            with closing(version.stream(inputs, timeout_s)) as pieces:  # type: ignore[type-var]
                for piece in pieces:
                    while not self._room.acquire(timeout=LOOK_S):
                        if self._exchange.is_gone:
                            break
                    if self._exchange.is_gone:
                        break
                    self._loop.call_soon_threadsafe(self._say, piece)
        except ModelyardError as told:
            error = told
            if deadline_ns is not None and deadline_ns <= time.monotonic_ns():
                error = DeadlineExceeded("the deadline passed while the model answered piece by piece")
        except Exception as fault:  # a fault of ours must not leave the caller waiting
            error = self._exchange.connection.server.app.failed(fault)
        self._loop.call_soon_threadsafe(self._end, error, started_ns)

    def _say(self, piece: Tensors) -> None:
        exchange = self._exchange
        if exchange.is_gone:
            return
        if not exchange.is_begun:
            exchange.begin(200, NDJSON)
        # An output of one value is that value: a token, not a list of one.
        said = {name: values.item() if values.size == 1 else values.tolist() for name, values in piece.items()}
        exchange.send(_encode(said) + b"\n")
        self._make_room()

    def _make_room(self) -> None:
        """Let the thread go on, once the caller reads what was sent."""
        if self._exchange.is_gone or not self._exchange.is_held_up:
            self._room.release()
        else:
            self._loop.call_later(LOOK_S, self._make_room)

    def _end(self, error: ModelyardError | None, started_ns: int) -> None:
        call, exchange = self._call, self._exchange
        if exchange.is_gone or call.is_answered:
            return
        call.is_answered = True
        if error is not None:
            call.telemetry.failed(call, error)
            exchange.fail(error)
            return
        if not exchange.is_begun:
            exchange.begin(200, NDJSON)
        exchange.finish()
        batch = Batch({})
        batch.started_ns, batch.answered_ns = started_ns, time.monotonic_ns()
        call.telemetry.note([(call, 0)], batch)
