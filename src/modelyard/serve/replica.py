"""One running copy of a version: what became complete in one turn of the event loop is one batch.

No timer and no added delay: a lone call runs at once, and under load batches form by themselves. What is predicted to
take longer than `INLINE_S` goes to the lane, a thread beside the loop, so it holds nobody else up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from modelyard.artifacts.manifest import Manifest
from modelyard.contract.counters import ROWS
from modelyard.contract.decision import Decision
from modelyard.contract.encoding import Encoder, counted_from
from modelyard.contract.errors import DeadlineExceeded, InvalidInput, TooLarge
from modelyard.contract.tensor import Inputs, Matrix, Tensors, joined, row_slice, shapes_of
from modelyard.runtimes.timed import TimedOutputs
from modelyard.serve.batching import best_chunk, inline_rows, take_turn
from modelyard.serve.call import Batch, Call, QueueFull
from modelyard.serve.counters import Counters, observe
from modelyard.serve.lane import Lane, Part

if TYPE_CHECKING:
    from modelyard.serve.routing import Deployment

INLINE_S = 0.001  # the longest that a batch may hold the loop
LANE_S = 0.02  # a batch may hold the lane so long while a smaller call waits ...
LANE_MOST_S = 0.25  # ... or so long, where rows together cost less than rows apart


class Version(Protocol):
    """A loaded version, in this process or in a model worker."""

    manifest: Manifest
    encoder: Encoder
    decision: Decision | None
    is_table: bool

    def predict(self, inputs: Inputs) -> Tensors:
        """Answer a batch."""

    def predict_joined(self, parts: Sequence[Inputs]) -> Tensors:
        """Answer several callers' rows as one batch."""

    def explain(self, matrix: Matrix) -> Matrix | None:
        """Each feature's log-odds and the base."""

    def close(self) -> None:
        """Free it."""


class Replica:
    """One loaded version and the calls that wait for it."""

    is_resident = True  # unlike a `LazyReplica`, always

    def __init__(
        self, loaded: Version, curve: dict[int, float], explain_s: float, loop: asyncio.AbstractEventLoop,
        counters: Counters, max_queued_rows: int, name: str, *, is_remote: bool = False,
    ) -> None:  # fmt: skip
        self.loaded = loaded
        self.name = name
        self.loop = loop
        self.max_queued_rows = max_queued_rows
        self.joins = loaded.manifest.independent_rows
        self.chunk = best_chunk(curve)
        self.is_remote = is_remote
        with_reasons = {size: s + explain_s * size for size, s in curve.items()}
        # What another process computes is waited for, which the loop must not.
        self.inline = 0 if is_remote else inline_rows(curve, INLINE_S)
        self.inline_explained = 0 if is_remote else inline_rows(with_reasons, INLINE_S)
        self.waiting: list[Call] = []
        self.queued_rows = 0
        self.streams = 0  # answers that leave piece by piece
        self.copies = 0  # batches of shadows that compute now; nobody waits for them
        self.cells = counters.cells
        self._batch_rows = counters.histogram("modelyard_batch_rows", model=name)
        sizes = (*map(str, ROWS), "more")
        self._batch_ns = [counters.counter("modelyard_batch_nanoseconds", model=name, rows=size) for size in sizes]
        self._reasons = {
            reason: counters.counter("modelyard_batches", model=name, reason=reason)
            for reason in ("turn", "full", "lane", "split", "retry")
        }
        self._late = counters.counter("modelyard_dropped_calls", model=name, reason="deadline")
        self._lost = counters.counter("modelyard_dropped_calls", model=name, reason="worker_lost")
        self._left = counters.counter("modelyard_dropped_calls", model=name, reason="caller_left")
        dense = best_chunk({size: s for size, s in with_reasons.items() if s <= LANE_MOST_S or size == 1})
        self.lane = Lane(self, max(dense, inline_rows(with_reasons, LANE_S)))

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return self.is_quiet and not self.streams and not self.copies

    @property
    def is_quiet(self) -> bool:
        """Whether no call waits for its batch, or for the end of it."""
        return not self.queued_rows and not self.lane.is_running

    def submit(self, call: Call) -> None:
        """See that the call is answered once. Raises QueueFull, before queuing, when too many rows wait."""
        if call.rows > self.max_queued_rows:
            raise TooLarge(f"{call.rows} rows are above max_queued_rows={self.max_queued_rows}; send them in parts")
        if self.queued_rows + call.rows > self.max_queued_rows:
            raise QueueFull(
                f"max_queued_rows={self.max_queued_rows} rows already wait for {self.name}; try again shortly"
            )
        if isinstance(call.inputs, dict):
            call.group = (shapes_of(call.inputs), call.group)
        self.queued_rows += call.rows
        call.queued_ns = time.monotonic_ns()
        # Explaining costs more than predicting, and which rows will want it is not known before they are predicted.
        explained = min(self.inline, max(1, self.inline_explained))
        if call.rows > (self.inline if call.reasons == "none" else explained):
            self.lane.submit(call)
            return
        if not self.waiting:
            self.loop.call_soon(self._turn)  # runs after every ready socket has been read
        self.waiting.append(call)

    def _turn(self) -> None:
        calls, self.waiting = self._take_turn(self.waiting, self.inline)
        if self.waiting:
            self.loop.call_soon(self._turn)
        self.queued_rows -= sum(call.rows for call in calls)
        if calls := self.still_wanted(calls):
            self.count("full" if self.waiting else "turn")
            try:
                batch = self.compute(calls)
            except Exception as error:
                self._one_by_one(calls, error)
                return
            self.say(calls, batch)

    def _take_turn(self, waiting: list[Call], max_rows: int) -> tuple[list[Call], list[Call]]:
        if self.joins:
            if self.loaded.is_table and sum(call.rows for call in waiting) <= max_rows:
                return waiting, []  # everybody goes
            return take_turn(waiting, max_rows)
        return waiting[:1], waiting[1:]

    def compute(self, parts: Sequence[Call | Part]) -> Batch:
        """The model's answer to calls or parts of calls as one batch; runs on the loop or on the lane's thread."""
        started_ns = time.monotonic_ns()
        rows = sum(part.rows for part in parts)
        if rows <= self.chunk or not self.joins:
            inputs = [part.inputs for part in parts]
            outputs = self.loaded.predict(inputs[0]) if len(inputs) == 1 else self.loaded.predict_joined(inputs)
            answers = [outputs]
        else:  # in chunks of the size that costs least for each row
            whole = joined([part.inputs for part in parts])
            answers = [self._chunk_at(whole, at) for at in range(0, rows, self.chunk)]
            outputs = {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
        self._count_batch(rows, time.monotonic_ns() - started_ns)
        batch = Batch(outputs)
        batch.started_ns = started_ns
        if isinstance(answers[0], TimedOutputs):
            first = parts[0]
            self._count_steps((first.call if isinstance(first, Part) else first).deployment, answers)
        self._explain(batch, parts)
        return batch

    def _chunk_at(self, whole: Inputs, at: int) -> Tensors:
        try:
            return self.loaded.predict(row_slice(whole, at, at + self.chunk))
        except InvalidInput as error:
            raise counted_from(at, error) from None

    def _explain(self, batch: Batch, parts: Sequence[Call | Part]) -> None:
        wanted: list[int] = []
        start = 0
        for part in parts:
            wanted += part.rows_to_explain(batch.outputs, start)
            start += part.rows
        if not wanted or not self.loaded.is_table:
            return
        matrix: Matrix = joined([part.inputs for part in parts])  # type: ignore[assignment]
        for at in range(0, len(wanted), 256):
            rows = wanted[at : at + 256]
            contributions = self.loaded.explain(matrix[rows])
            if contributions is None:
                return
            batch.contributions.update(zip(rows, contributions, strict=True))

    def _one_by_one(self, calls: list[Call], error: BaseException) -> None:
        """A batch failed: one caller's bad row must not fail the others."""
        if len(calls) == 1:
            calls[0].fail(error)
            return
        for call in calls:
            self.count("retry")
            try:
                batch = self.compute([call])
            except Exception as own:
                call.fail(own)
            else:
                self.say([call], batch)

    def say(self, calls: Sequence[Call], batch: Batch) -> None:
        """Answer each call with its rows of the batch."""
        batch.answered_ns = time.monotonic_ns()
        answered = []
        start = 0
        for call in calls:
            if not call.is_answered:
                try:
                    call.say(call, batch, start)
                except Exception as error:  # saying the answer failed: the next caller still gets its own
                    call.fail(error)
                else:
                    call.is_answered = True
                    answered.append((call, start))
            start += call.rows
        calls[0].telemetry.note(answered, batch)

    def still_wanted(self, calls: list[Call]) -> list[Call]:
        """Those whose callers still wait; the others are dropped before computing, and counted."""
        now = time.monotonic_ns()
        wanted = [
            call for call in calls if call.deadline_ns > now and not call.is_answered and not call.exchange.is_gone
        ]
        if len(wanted) < len(calls):
            for call in calls:
                if call.is_answered:
                    continue
                if call.exchange.is_gone:
                    self.cells[self._left] += 1
                    call.is_answered = True
                elif call.deadline_ns <= now:
                    self.cells[self._late] += 1
                    call.refuse(DeadlineExceeded("the deadline passed while the call waited; it was not computed"))
        return wanted

    def lose(self, call: Call) -> None:
        """A call that a model worker held when it died; it is answered as not ready, and counted."""
        if call.is_wanted:
            self.cells[self._lost] += 1

    def count(self, reason: str) -> None:
        """One batch, by why it had its size."""
        self.cells[self._reasons[reason]] += 1

    def _count_steps(self, deployment: Deployment, answers: Sequence[Tensors]) -> None:
        """How long each step of a version that is made of several took, with the deployment that was asked first."""
        timed = [answer.took_ns for answer in answers if isinstance(answer, TimedOutputs)]
        for cell, took_ns in zip(deployment.steps, map(sum, zip(*timed, strict=True)), strict=True):
            observe(self.cells, cell, took_ns)

    def _count_batch(self, rows: int, took_ns: int) -> None:
        bucket = next((i for i, edge in enumerate(ROWS) if rows <= edge), len(ROWS))
        self.cells[self._batch_rows + bucket] += 1
        self.cells[self._batch_ns[bucket]] += took_ns
        self.cells[self._batch_rows + len(ROWS) + 1] += rows

    def close(self) -> None:
        """Free the version; nothing waits any more."""
        self.lane.close()
        self.loaded.close()
