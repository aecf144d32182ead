"""One running copy of a version: what became complete in one turn of the event loop is one batch.

No timer and no added delay: a lone call runs at once, and under load batches form by themselves. What is predicted to
take longer than `INLINE_S` runs in a thread (ONNX Runtime releases the interpreter), so it holds nobody else up.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from modelyard.contract.errors import DeadlineExceeded, ModelFailed, ModelyardError, Overloaded, TooLarge
from modelyard.contract.tensor import Matrix
from modelyard.runtimes.version import LoadedVersion
from modelyard.serve.batching import best_chunk, inline_rows, take_turn
from modelyard.serve.call import Batch, Call
from modelyard.serve.counters import ROWS, Counters
from modelyard.serve.log import log

INLINE_S = 0.001  # the longest that a batch may hold the loop


class Replica:
    """One loaded version and the calls that wait for it."""

    def __init__(
        self, loaded: LoadedVersion, curve: dict[int, float], explain_s: float, loop: asyncio.AbstractEventLoop,
        counters: Counters, max_queued_rows: int, name: str,
    ) -> None:  # fmt: skip
        self.loaded = loaded
        self.name = name
        self.loop = loop
        self.max_queued_rows = max_queued_rows
        self.chunk = best_chunk(curve)
        self.inline = inline_rows(curve, INLINE_S)
        self.inline_explained = inline_rows({size: s + explain_s * size for size, s in curve.items()}, INLINE_S)
        self.waiting: list[Call] = []
        self.bulk: list[Call] = []
        self.queued_rows = 0
        self.bulk_runs = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"bulk-{name}")
        self.cells = counters.cells
        self._batch_rows = counters.histogram("modelyard_batch_rows", model=name)
        self._reasons = {
            reason: counters.counter("modelyard_batches", model=name, reason=reason)
            for reason in ("turn", "full", "bulk", "retry")
        }
        self._late = counters.counter("modelyard_dropped_calls", model=name, reason="deadline")
        self._left = counters.counter("modelyard_dropped_calls", model=name, reason="caller_left")

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self.queued_rows and not self.bulk_runs

    def submit(self, call: Call) -> None:
        """See that the call is answered once. Raises Overloaded, before queuing, when too many rows wait."""
        if call.rows > self.max_queued_rows:
            raise TooLarge(f"{call.rows} rows are above max_queued_rows={self.max_queued_rows}; send them in parts")
        if self.queued_rows + call.rows > self.max_queued_rows:
            raise Overloaded(
                f"max_queued_rows={self.max_queued_rows} rows already wait for {self.name}; try again shortly"
            )
        self.queued_rows += call.rows
        # Explaining costs more than predicting, and which rows will want it is not known before they are predicted.
        if call.rows > (self.inline if call.reasons == "none" else min(self.inline, max(1, self.inline_explained))):
            self.bulk.append(call)
            if not self.bulk_runs:
                self.bulk_runs = True
                self.loop.call_soon(self._next_bulk)
            return
        if not self.waiting:
            self.loop.call_soon(self._turn)  # runs after every ready socket has been read
        self.waiting.append(call)

    def _turn(self) -> None:
        calls, self.waiting = take_turn(self.waiting, self.inline)
        if self.waiting:
            self.loop.call_soon(self._turn)
        self.queued_rows -= sum(call.rows for call in calls)
        if calls := self._still_wanted(calls):
            self.cells[self._reasons["full" if self.waiting else "turn"]] += 1
            try:
                batch = self._compute(_joined(calls), calls)
            except Exception as error:
                self._one_by_one(calls, error)
                return
            _answer(calls, batch)

    def _next_bulk(self) -> None:
        while self.bulk:
            call = self.bulk.pop(0)
            self.queued_rows -= call.rows
            if self._still_wanted([call]):
                self.cells[self._reasons["bulk"]] += 1
                future = self.loop.run_in_executor(self._thread, self._compute, call.matrix, [call])
                future.add_done_callback(partial(self._bulk_done, call))
                return
        self.bulk_runs = False

    def _bulk_done(self, call: Call, done: asyncio.Future[Batch]) -> None:
        error = done.exception()
        if error is None:
            _answer([call], done.result())
        else:
            call.answer(_told(error, call))
        self._next_bulk()

    def _compute(self, matrix: Matrix, calls: Sequence[Call]) -> Batch:
        """The model's answer to a whole batch, in chunks of the size that costs least per row."""
        self._count(len(matrix))
        if len(matrix) <= self.chunk:
            outputs = self.loaded.predict(matrix)
        else:
            parts = [self.loaded.predict(matrix[at : at + self.chunk]) for at in range(0, len(matrix), self.chunk)]
            outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        batch = Batch(outputs)
        wanted: list[int] = []
        start = 0
        for call in calls:
            wanted += call.rows_to_explain(outputs, start)
            start += call.rows
        if wanted:
            self._explain(batch, matrix, wanted)
        return batch

    def _explain(self, batch: Batch, matrix: Matrix, wanted: list[int]) -> None:
        for at in range(0, len(wanted), 256):
            rows = wanted[at : at + 256]
            contributions = self.loaded.explain(matrix[rows])
            if contributions is None:
                return
            batch.contributions.update(zip(rows, contributions, strict=True))

    def _one_by_one(self, calls: list[Call], error: BaseException) -> None:
        """A batch failed: one caller's bad row must not fail the others."""
        if len(calls) == 1:
            calls[0].answer(_told(error, calls[0]))
            return
        for call in calls:
            self.cells[self._reasons["retry"]] += 1
            try:
                batch = self._compute(call.matrix, [call])
            except Exception as own:
                call.answer(_told(own, call))
            else:
                _answer([call], batch)

    def _still_wanted(self, calls: list[Call]) -> list[Call]:
        now = time.monotonic_ns()
        wanted = [call for call in calls if call.deadline_ns > now and call.exchange.connection.transport is not None]
        if len(wanted) < len(calls):
            for call in calls:
                if call.exchange.is_gone:
                    self.cells[self._left] += 1
                elif call.deadline_ns <= now:
                    self.cells[self._late] += 1
                    call.answer(DeadlineExceeded("the deadline passed while the call waited; it was not computed"))
        return wanted

    def _count(self, rows: int) -> None:
        bucket = next((i for i, edge in enumerate(ROWS) if rows <= edge), len(ROWS))
        self.cells[self._batch_rows + bucket] += 1
        self.cells[self._batch_rows + len(ROWS) + 1] += rows

    def close(self) -> None:
        """Free the version; nothing waits any more."""
        self._thread.shutdown(wait=False)
        self.loaded.close()


def _joined(calls: list[Call]) -> Matrix:
    return calls[0].matrix if len(calls) == 1 else np.concatenate([call.matrix for call in calls])


def _answer(calls: list[Call], batch: Batch) -> None:
    batch.answered_ns = time.monotonic_ns()
    start = 0
    for call in calls:
        try:
            call.answer(batch, start)
        except Exception as error:  # saying the answer failed: the next caller still gets its own
            call.answer(_told(error, call))
        start += call.rows
    calls[0].telemetry.settle()


def _told(error: BaseException, call: Call) -> ModelyardError:
    """What the caller may know; the rest is in the log under the request id."""
    if isinstance(error, ModelyardError):
        return error
    # Where it failed, not what it said: a model's own message may hold what the caller sent.
    trace = traceback.format_list(traceback.extract_tb(error.__traceback__))
    log.error(
        "model failed", request_id=call.request_id, endpoint=call.deployment.endpoint, error=type(error).__name__,
        trace=trace,
    )  # fmt: skip
    return ModelFailed(f"the model failed on this input; the log has details under request id {call.request_id}")
