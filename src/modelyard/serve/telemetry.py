"""What the gateway tells of itself: counters, and a record of every answered call.

Records are framed here and written by a thread, whose only work is the system call. The buffer is bounded: when it is
full a record is dropped and counted. Segments are 0600; the oldest go when `record_bytes` is reached.
"""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_left
from collections import deque
from pathlib import Path

import numpy as np

from modelyard.contract.counters import SECONDS
from modelyard.contract.errors import InvalidInput, ModelyardError, Undecodable
from modelyard.contract.telemetry import Disagreement, Feedback, Prediction, frame
from modelyard.serve.call import Batch, Call, QueueFull
from modelyard.serve.counters import Counters
from modelyard.serve.log import log
from modelyard.serve.routing import Deployment

BUFFER_BYTES = 16 * 1024 * 1024
SEGMENT_BYTES = 16 * 1024 * 1024
FLUSH_S = 0.2
_EDGES_NS = [int(edge * 1e9) for edge in SECONDS]
_SUM = len(SECONDS) + 1
# What a version is to blame for. Not: what the caller sent, quotas, limits on sizes, the gateway's own overload.
BLAMED = frozenset({"model_failed", "internal", "not_ready", "deadline_exceeded"})


class Telemetry:
    """One worker's counters and records."""

    def __init__(self, counters: Counters, folder: Path, worker: int, budget_bytes: int) -> None:
        self.counters = counters
        self.cells = counters.cells
        self.revision = 0
        self._records = RecordWriter(folder, worker, budget_bytes)
        self._dropped = counters.counter("modelyard_records_dropped")
        self._truths = counters.counter("modelyard_feedback")
        self._refusals: dict[tuple[str, int], int] = {}
        self._epoch_ns = time.time_ns() - time.monotonic_ns()

    def note(self, answered: list[tuple[Call, int]], batch: Batch) -> None:
        """The answered calls of one batch, each with its first row in it: counters, and records framed together.

        Once for a batch, not for each call: a call's own turn here would cost more than the sums do.
        """
        if not answered:
            return
        first, end_ns, infer_ns = batch.first, batch.answered_ns, batch.answered_ns - batch.started_ns
        records, cells, deployment = [], self.cells, answered[0][0].deployment
        calls = rows = took = read = queued = 0
        for call, start in answered:
            if call.deployment is not deployment:  # two endpoints may share a version
                self._add(deployment, calls, rows, took, read, queued, infer_ns)
                deployment, calls, rows, took, read, queued = call.deployment, 0, 0, 0, 0, 0
            took_ns = end_ns - call.started_ns
            cells[deployment.latency + bisect_left(_EDGES_NS, took_ns)] += 1
            calls += 1
            rows += call.rows
            took += took_ns
            read += call.queued_ns - call.started_ns
            queued += batch.started_ns - call.queued_ns
            caller_id = call.exchange.headers.get(b"x-request-id")
            records.append(Prediction(
                call.request_id, end_ns + self._epoch_ns, deployment.endpoint, deployment.version,
                deployment.revision,
                call.principal.name, call.rows,
                call.inputs.tobytes() if deployment.records_all else _recorded(call),  # type: ignore[union-attr]
                b"" if first is None else first[start : start + call.rows].tobytes(), took_ns,
                "" if caller_id is None else caller_id[:64].decode("ascii", "replace"),
            ))  # fmt: skip
        self._add(deployment, calls, rows, took, read, queued, infer_ns)
        cells[deployment.executions] += 1
        cells[deployment.output_ns] += time.monotonic_ns() - end_ns
        cells[deployment.last] = (end_ns + self._epoch_ns) // 1000
        if not self._records.put(frame(*records)):
            cells[self._dropped] += len(records)

    def _add(
        self, deployment: Deployment, calls: int, rows: int, took_ns: int, read_ns: int, queued_ns: int, infer_ns: int
    ) -> None:
        cells = self.cells
        cells[deployment.requests] += calls
        cells[deployment.rows] += rows
        cells[deployment.latency + _SUM] += took_ns
        cells[deployment.input_ns] += read_ns
        cells[deployment.queue_ns] += queued_ns
        cells[deployment.infer_ns] += infer_ns * calls

    def feedback(self, truths: list[Feedback]) -> None:
        """Truths that callers gave."""
        self.cells[self._truths] += len(truths)
        for truth in truths:
            if not self._records.put(frame(truth)):
                self.cells[self._dropped] += 1

    def disagreed(self, disagreement: Disagreement) -> None:
        """A call that a shadow would have answered otherwise."""
        if not self._records.put(frame(disagreement)):
            self.cells[self._dropped] += 1

    def failed(self, call: Call, error: ModelyardError) -> None:
        """One call that ends with an error after it was let in: the version's own fault, its contract's, or neither."""
        if (deployment := call.deployment) is not None:
            self.cells[deployment.failures] += 1
            self.cells[deployment.failure_ns] += time.monotonic_ns() - call.started_ns
            if error.code in BLAMED or isinstance(error, QueueFull):
                self.cells[deployment.errors] += 1
            elif isinstance(error, InvalidInput) and not isinstance(error, Undecodable):
                self.cells[deployment.violations] += 1

    def refused(self, code: str, status: int) -> None:
        """One request that no model saw."""
        cell = self._refusals.get((code, status))
        if cell is None:
            cell = self._refusals[code, status] = self.counters.counter(
                "modelyard_refusals", code=code, status=str(status)
            )
        self.cells[cell] += 1

    def close(self) -> None:
        """Write what is buffered."""
        self._records.close()


def _recorded(call: Call) -> bytes:
    """What the model saw of a table's row, without what is personal; of tensors, which have no columns, nothing."""
    loaded = call.deployment.replica.loaded
    if not loaded.is_table or loaded.encoder.private is None:
        return b""
    return np.where(loaded.encoder.private, np.nan, call.matrix).astype(np.float32).tobytes()


class RecordWriter:
    """A bounded buffer of frames and the thread that appends them to segment files."""

    def __init__(self, folder: Path, worker: int, budget_bytes: int) -> None:
        self._folder, self._worker, self._budget = folder, worker, budget_bytes
        self._segment_bytes = min(SEGMENT_BYTES, budget_bytes // 4)
        self._frames: deque[bytes] = deque()
        self._taken = 0  # bytes in, counted by the loop's thread alone ...
        self._gone = 0  # ... and bytes out, counted by the writer's alone
        self._wake = threading.Event()
        self._closing = False
        self._file: int | None = None
        self._written = 0
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)
        self._thread.start()

    def put(self, data: bytes) -> bool:
        """Whether there was room. Called from the loop's thread only."""
        if self._taken - self._gone + len(data) > BUFFER_BYTES:
            return False
        self._frames.append(data)
        self._taken += len(data)
        return True

    def close(self) -> None:
        """Write the rest and end the thread."""
        self._closing = True
        self._wake.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        while True:
            self._wake.wait(FLUSH_S)
            frames = [self._frames.popleft() for _ in range(len(self._frames))]
            if frames:
                data = b"".join(frames)
                try:
                    self._write(data)
                except OSError as error:
                    log.error("records could not be written", error=str(error))
                    self._abandon()
                self._gone += len(data)
            elif self._closing:
                self._abandon()
                return

    def _write(self, data: bytes) -> None:
        if self._file is None or self._written > self._segment_bytes:
            self._rotate()
        while data:
            written = os.write(self._file, data)  # type: ignore[arg-type]
            self._written += written
            data = data[written:]

    def _abandon(self) -> None:
        """Write no more to this segment: what would follow a torn frame could not be read."""
        if self._file is not None:
            os.close(self._file)
        self._file = None

    def _rotate(self) -> None:
        self._abandon()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        mine = sorted(self._folder.glob(f"worker-{self._worker}-*.records"))
        sizes = [path.stat().st_size for path in mine]
        while mine and sum(sizes) + self._segment_bytes > self._budget:
            mine.pop(0).unlink(missing_ok=True)
            sizes.pop(0)
        name = f"worker-{self._worker}-{time.time_ns():020d}.records"
        self._file = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._written = 0
