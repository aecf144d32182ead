"""The lane: one thread beside the loop, for batches that would hold the loop up.

Its next batch is what waits when it is free, drawn in turns over callers. A large call comes in parts, so that smaller
ones get in between, and is answered when its last part is computed.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from modelyard.contract.encoding import counted_from
from modelyard.contract.errors import DeadlineExceeded, InvalidInput, NotReady
from modelyard.contract.tensor import Inputs, Tensors, row_slice
from modelyard.serve.batching import take_turn
from modelyard.serve.call import Batch, Call

if TYPE_CHECKING:
    from modelyard.serve.replica import Replica

SWEEP_S = 0.1  # how late a deadline may be noticed while a batch runs


class Part:
    """Some rows of a call; `progress` is shared by all its parts."""

    __slots__ = ("call", "inputs", "progress", "rows", "start")

    def __init__(self, call: Call, inputs: Inputs, start: int, rows: int, progress: Progress) -> None:
        self.call, self.inputs, self.start, self.rows, self.progress = call, inputs, start, rows, progress

    @property
    def owner(self) -> str:
        """Whose turn it uses up."""
        return self.call.owner

    @property
    def group(self) -> object:
        """Only equal ones are joined."""
        return self.call.group

    @property
    def priority(self) -> int:
        """Among its owner's own."""
        return self.call.priority

    def rows_to_explain(self, outputs: Tensors, start: int) -> list[int]:
        """See `Call.rows_to_explain`."""
        return self.call.rows_to_explain(outputs, start, self.rows)


class Progress:
    """What is known so far of a call that came in parts."""

    __slots__ = ("batch", "done", "outputs", "rows")

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.done = 0
        self.outputs: list[Tensors] = []
        self.batch: Batch | None = None

    def add(self, batch: Batch, start: int, rows: int) -> Batch | None:
        """Rows `start` to `start + rows` of a batch are this call's next ones. The whole, once it is."""
        whole = self.batch
        if whole is None:
            whole = self.batch = Batch({})
            whole.started_ns = batch.started_ns
        self.outputs.append({name: values[start : start + rows] for name, values in batch.outputs.items()})
        for row in range(start, start + rows) if batch.contributions else ():
            if (contributions := batch.contributions.get(row)) is not None:
                whole.contributions[self.done + row - start] = contributions
        self.done += rows
        if self.done < self.rows:
            return None
        whole.outputs = {name: np.concatenate([part[name] for part in self.outputs]) for name in batch.outputs}
        return whole


class Lane:
    """The thread of one replica, and what waits for it."""

    def __init__(self, replica: Replica, max_rows: int) -> None:
        self.replica = replica
        self.max_rows = max_rows
        self.waiting: list[Part] = []
        self.is_running = False
        self._running: list[Part] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"lane-{replica.name}")

    def submit(self, call: Call) -> None:
        """Queue a call, in parts if it is large. Its rows are already counted."""
        progress = Progress(call.rows)
        step = self.max_rows if self.replica.joins else call.rows
        if call.rows <= step:
            self.waiting.append(Part(call, call.inputs, 0, call.rows, progress))
        else:
            self.replica.count("split")
            for at in range(0, call.rows, step):
                rows = min(step, call.rows - at)
                self.waiting.append(Part(call, row_slice(call.inputs, at, at + rows), at, rows, progress))
        if not self.is_running:
            self.is_running = True
            self.replica.loop.call_soon(self._next)
        if self._sweeper is None:
            self._sweeper = self.replica.loop.call_later(SWEEP_S, self._sweep)

    def close(self) -> None:
        """End the thread; nothing waits any more."""
        self._thread.shutdown(wait=False)

    def _next(self) -> None:
        replica = self.replica
        while self.waiting:
            if replica.joins:
                parts, self.waiting = take_turn(self.waiting, self.max_rows)
            else:
                parts, self.waiting = self.waiting[:1], self.waiting[1:]
            replica.queued_rows -= sum(part.rows for part in parts)
            wanted = set(map(id, replica.still_wanted(_calls(parts))))
            if parts := [part for part in parts if id(part.call) in wanted]:
                replica.count("lane")
                self._run(parts, partial(self._done, parts))
                return
        self.is_running = False

    def _run(self, parts: list[Part], done: partial[None]) -> None:
        self._running = parts
        self.replica.loop.run_in_executor(self._thread, self.replica.compute, parts).add_done_callback(done)

    def _done(self, parts: list[Part], future: asyncio.Future[Batch]) -> None:
        error = future.exception()
        if error is None:
            self._give(parts, future.result())
        elif isinstance(error, NotReady):  # the model's process died with this batch: nothing is asked twice
            for part in parts:
                self.replica.lose(part.call)
                self._fail(part, error)
        elif len(parts) > 1:
            self._one_by_one(parts)  # one caller's bad row must not fail the others
            return
        else:
            self._fail(parts[0], error)
        self._next()

    def _one_by_one(self, parts: list[Part]) -> None:
        """Each part of a batch that failed, alone; then on with what waits."""
        if not parts:
            self._next()
            return
        self.replica.count("retry")
        self._run(parts[:1], partial(self._one_done, parts))

    def _one_done(self, parts: list[Part], future: asyncio.Future[Batch]) -> None:
        if (error := future.exception()) is None:
            self._give(parts[:1], future.result())
        else:
            if isinstance(error, NotReady):
                self.replica.lose(parts[0].call)
            self._fail(parts[0], error)
        self._one_by_one(parts[1:])

    def _give(self, parts: list[Part], batch: Batch) -> None:
        """Hand out a batch's rows: to calls that are whole now, their answers."""
        self._running = []
        if len(parts) == 1 and parts[0].rows == parts[0].call.rows:
            self.replica.say([parts[0].call], batch)
            return
        start = 0
        for part in parts:
            whole = part.progress.add(batch, start, part.rows)
            start += part.rows
            if whole is not None:
                self.replica.say([part.call], whole)

    def _fail(self, part: Part, error: BaseException) -> None:
        self._running = []
        self._forget(part.call)
        part.call.fail(counted_from(part.start, error) if isinstance(error, InvalidInput) else error)

    def _forget(self, call: Call) -> None:
        """What is left of an answered call is not computed."""
        mine = [part for part in self.waiting if part.call is call]
        if mine:
            self.waiting = [part for part in self.waiting if part.call is not call]
            self.replica.queued_rows -= sum(part.rows for part in mine)

    def _sweep(self) -> None:
        """A batch may run long: who waits behind it, or in it, is told when the deadline passes."""
        self._sweeper = None
        if not self.is_running:
            return
        now = time.monotonic_ns()
        for call in _calls(self._running):
            if call.deadline_ns <= now and call.is_wanted:
                call.refuse(DeadlineExceeded("the deadline passed while the model computed"))
        for call in _calls(self.waiting):
            if call.deadline_ns <= now or not call.is_wanted:
                self._forget(call)  # first: its answer may let the caller's next call in
                self.replica.still_wanted([call])
        self._sweeper = self.replica.loop.call_later(SWEEP_S, self._sweep)


def _calls(parts: list[Part]) -> list[Call]:
    """Each part's call, once."""
    return list({id(part.call): part.call for part in parts}.values())
