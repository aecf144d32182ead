"""A shadow: a version that gets copies of an endpoint's answered calls. What it says is compared, and never answered.

Nobody waits for a shadow, so it goes last. A copy is kept once its answer has left; it is computed when a turn of the
loop found nothing to do and no call waits for the endpoint, in small batches of copies alone; and after it has worked
the shadow rests. What is quick is done on the loop in short slices: reading, comparing, and asking a table's model that
was measured to answer in a fraction of a millisecond. Any other model is asked on a thread of the shadow's own, and so
is one that proved slower. Copies that find no room, or wait for long, are dropped and counted. So of a shadow that is
slow, hangs or fails there is only less to see.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
import traceback
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from modelyard.contract.counters import SECONDS
from modelyard.contract.errors import InvalidInput, NotReady, Overloaded
from modelyard.contract.plan import PlannedEndpoint
from modelyard.contract.telemetry import Disagreement
from modelyard.contract.tensor import Tensors, joined, row_slice
from modelyard.serve.call import Answer, Batch, Call
from modelyard.serve.comparison import Comparison, compare
from modelyard.serve.copies import Copy, reads_alike, rows_of
from modelyard.serve.log import log
from modelyard.serve.replica import INLINE_S, Replica, Version

if TYPE_CHECKING:
    from modelyard.serve.inference import Dialect
    from modelyard.serve.routing import Deployment, Holder
    from modelyard.serve.telemetry import Telemetry

GATHER_S = 0.02  # how long copies gather, for a batch costs less than its rows apart
LOOK_S = 0.002  # how often one looks whether a batch may begin
LATE_S = 0.003  # a look that comes later than this has waited for the loop or for the machine
QUIET_NS = 200_000  # a turn of the loop that takes longer had something to do
SLICE_NS = 100_000  # of the loop's time at once, for reading copies, asking the model or comparing answers
SLOW_NS = 1_000_000  # of processor time: what was asked on the loop and took longer is asked on the thread from then on
REST = 3  # times as long as it worked, a shadow rests: it takes a quarter of one core at most
COPIES = 32  # computed in one go
WAIT_S = 5.0  # a copy that has waited so long is dropped
WAITING_BYTES = 16 * 1024 * 1024  # of what one shadow's copies hold
SAMPLES = 10  # disagreements that one shadow writes to the records in a second
_EDGES_NS = [int(edge * 1e9) for edge in SECONDS]
_SUM = len(SECONDS) + 1


class Told(NamedTuple):
    """What the shadow said to some copies."""

    copies: Sequence[Copy]
    outputs: Tensors
    took_ns: int = 0
    error: Exception | None = None


class Shadow:
    """One endpoint's shadow in one worker."""

    def __init__(
        self, endpoint: str, version: int, telemetry: Telemetry, loop: asyncio.AbstractEventLoop, max_rows: int
    ) -> None:
        self.endpoint, self.version, self.max_rows = endpoint, version, max_rows
        self.percent = 100
        self._telemetry, self._loop = telemetry, loop
        self._target: Deployment = None  # type: ignore[assignment]  # set by `adopt`
        self._watched: list[Replica] = []  # whose calls go first
        self._fresh: list[tuple[Call, Dialect, Batch, int]] = []  # answered in this turn
        self._waiting: deque[Copy] = deque()
        self._rows = self._bytes = 0  # of what waits
        self._alike: dict[Version, bool] = {}  # answering versions, and whether the shadow reads what they read
        self._jobs: SimpleQueue[tuple[Replica, list[list[Copy]]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_working = self._is_closed = False
        self._slow: set[Replica] = set()  # asked on the thread, though their rows were measured to be quick
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._turn_ns = 0
        self._second = self._sampled = 0
        counters, labels = telemetry.counters, {"endpoint": endpoint, "version": str(version)}
        self._cells, self._labels = counters.cells, labels
        self._compared = counters.counter("modelyard_shadow_compared", **labels)
        self._differing = counters.counter("modelyard_shadow_differing", **labels)
        self._dropped = counters.counter("modelyard_shadow_dropped", **labels)
        self._seconds = counters.histogram("modelyard_shadow_seconds", **labels)
        self._difference = counters.gauge("modelyard_shadow_difference", **labels)

    def adopt(self, endpoint: PlannedEndpoint, deployments: Mapping[int, Deployment]) -> None:
        """Go on under another plan; what waits stays."""
        if endpoint.shadow is not None:
            self.percent = endpoint.shadow.percent
        self._target = deployments[self.version]
        held = (_held(deployment.replica) for deployment in deployments.values())
        self._watched = [replica for replica in held if replica is not None]
        self._alike.clear()
        self._slow.intersection_update(self._watched)

    def close(self) -> None:
        """No further copy. What waits is dropped; what is being computed is counted when it is done."""
        self._is_closed = True
        self._drop(len(self._waiting))
        self._jobs.put(None)
        if self._timer is not None:
            self._timer.cancel()

    def join(self, seconds: float) -> None:
        """Wait so long at most for what is being computed."""
        if self._thread is not None:
            self._thread.join(seconds)

    # --- copying, on the loop

    def follow(self, call: Call, dialect: Dialect) -> None:
        """See that this call, if it is one of the shadow's share, is copied once it is answered."""
        if self.percent == 100 or random.random() * 100 < self.percent:
            call.say = partial(self._answer, call.say, dialect)

    def _answer(self, say: Answer, dialect: Dialect, call: Call, batch: Batch, start: int) -> None:
        say(call, batch, start)
        if self._is_closed or self._rows + call.rows > self.max_rows:
            self._cells[self._dropped] += 1
            return
        self._rows += call.rows
        if not self._fresh:
            self._loop.call_soon(self._keep)  # others of this batch wait for their answers
        self._fresh.append((call, dialect, batch, start))

    def _keep(self) -> None:
        """Make copies of what was answered in the last turn; a slice of time's worth, and the others in the next."""
        until_ns = time.monotonic_ns() + SLICE_NS
        fresh, self._fresh = self._fresh, []
        for at, (call, dialect, batch, start) in enumerate(fresh):
            if at and time.monotonic_ns() > until_ns:
                self._fresh = fresh[at:]
                self._loop.call_soon(self._keep)
                break
            read = None if self._reads_alike(call.deployment) else dialect.read_copy or dialect.read
            copy = Copy(call, rows_of(call, batch, start), read)
            self._waiting.append(copy)
            self._bytes += copy.bytes
            if self._is_closed or self._bytes > WAITING_BYTES:
                self._drop(1)
        self._look_in(GATHER_S)

    def _reads_alike(self, answering: Deployment) -> bool:
        version = answering.replica.loaded
        if (is_alike := self._alike.get(version)) is None:
            is_alike = self._alike[version] = reads_alike(version, self._target.replica.loaded)
        return is_alike

    # --- when it may compute, on the loop

    def _look_in(self, seconds: float) -> None:
        if self._timer is None and self._waiting and not self._is_working and not self._is_closed:
            self._due = time.monotonic() + seconds
            self._timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        """Begin a turn of the loop, to see how long it takes."""
        self._timer = None
        oldest_ns = time.monotonic_ns() - int(WAIT_S * 1e9)
        while self._waiting and self._waiting[0].kept_ns < oldest_ns:
            self._drop(1)
        if time.monotonic() > self._due + LATE_S:
            self._look_in(LOOK_S)
        elif self._waiting:
            self._turn_ns = time.monotonic_ns()
            self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        """The turn is over: hand a batch to the thread, unless somebody who waits for an answer goes first."""
        if self._is_working or self._is_closed or not self._waiting:
            return
        replica = _held(self._target.replica)
        if replica is None:
            self._drop(len(self._waiting))
            return
        if time.monotonic_ns() - self._turn_ns > QUIET_NS or self._is_behind():
            self._look_in(LOOK_S)
            return
        quick = 0 if replica in self._slow else quick_rows(replica)
        groups = self._groups(replica, self._read(self._take(quick or step_of(replica))))
        if not groups:
            self._look_in(LOOK_S)
            return
        replica.copies += 1
        self._is_working = True
        if sum(copy.rows for group in groups for copy in group) <= quick:
            self._ask_here(replica, groups)
        else:
            self._ask_apart(replica, groups)

    def _ask_here(self, replica: Replica, groups: list[list[Copy]]) -> None:
        began_ns = time.thread_time_ns()  # a neighbour that takes the processor away makes no model slow
        told = [told for group in groups for told in self._ask(replica, group)]
        took_ns = time.thread_time_ns() - began_ns
        if took_ns > SLOW_NS:
            self._slow.add(replica)
        self._loop.call_soon(self._done, replica, told, took_ns / 1e9)

    def _ask_apart(self, replica: Replica, groups: list[list[Copy]]) -> None:
        self._jobs.put((replica, groups))
        if self._thread is None:
            name = f"shadow-{self.endpoint}"
            # A daemon: one that hangs must not hold up the worker's end.
            self._thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._thread.start()

    def _is_behind(self) -> bool:
        return any(not replica.is_quiet for replica in self._watched)

    def _take(self, most: int) -> Iterator[Copy]:
        """The next copies: as many as fit `most` rows and a slice of time, and at least one."""
        until_ns, rows = time.monotonic_ns() + SLICE_NS, 0
        for _ in range(min(COPIES, len(self._waiting))):
            if rows and (rows + self._waiting[0].rows > most or time.monotonic_ns() > until_ns):
                return
            copy = self._next()
            rows += copy.rows
            yield copy

    def _read(self, copies: Iterable[Copy]) -> list[Copy]:
        """Those that the shadow can read; the others are counted."""
        readable = []
        for copy in copies:
            try:
                copy.read_for(self._target)
            except Exception as error:  # whatever it is, nobody but this copy is concerned
                self._fail(error)
            else:
                readable.append(copy)
        return readable

    def _groups(self, replica: Replica, copies: list[Copy]) -> list[list[Copy]]:
        """What is asked at once: all rows of a table, and each copy of tensors alone, for shapes may differ."""
        if not replica.loaded.is_table or not replica.joins:
            return [[copy] for copy in copies]
        return [copies] if copies else []

    def _next(self) -> Copy:
        copy = self._waiting.popleft()
        self._rows -= copy.rows
        self._bytes -= copy.bytes
        return copy

    def _drop(self, count: int) -> None:
        for _ in range(count):
            self._next()
        self._cells[self._dropped] += count

    # --- computing, on the thread

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            replica, groups = job
            began_ns = time.monotonic_ns()
            told = [told for group in groups for told in self._ask(replica, group)]
            took_s = (time.monotonic_ns() - began_ns) / 1e9
            try:
                self._loop.call_soon_threadsafe(self._done, replica, told, took_s)
            except RuntimeError:  # the loop is closed
                return

    def _ask(self, replica: Replica, copies: Sequence[Copy]) -> list[Told]:
        began_ns = time.monotonic_ns()
        try:
            outputs = self._predict(replica, copies)
        except Exception as error:  # a model's own code may raise anything
            if len(copies) > 1:
                return [told for copy in copies for told in self._ask(replica, [copy])]
            return [Told(copies, {}, error=error)]
        return [Told(copies, outputs, time.monotonic_ns() - began_ns)]

    def _predict(self, replica: Replica, copies: Sequence[Copy]) -> Tensors:
        """The shadow's answer, in pieces between which answered calls go first. Raises Overloaded if they keep on."""
        inputs = joined([copy.inputs for copy in copies])
        rows, step, version = sum(copy.rows for copy in copies), step_of(replica), replica.loaded
        if rows <= step or not replica.joins:
            return version.predict(inputs)
        until = time.monotonic() + WAIT_S
        answers = []
        for at in range(0, rows, step):
            while self._is_behind():
                if time.monotonic() > until:
                    raise Overloaded("a shadow's copy waited too long between two of its parts")
                time.sleep(LOOK_S)
            answers.append(version.predict(row_slice(inputs, at, at + step)))
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    # --- comparing and counting, on the loop

    def _done(self, replica: Replica, told: Sequence[Told], took_s: float) -> None:
        replica.copies -= 1
        self._settle(self._outcomes(told), took_s)

    def _outcomes(self, told: Iterable[Told]) -> Iterator[None]:
        """Count one copy after the other."""
        for one in told:
            start = 0
            for copy in one.copies:
                if one.error is not None:
                    self._fail(one.error)
                else:
                    alone = len(one.copies) == 1
                    said = one.outputs if alone else row_slice(one.outputs, start, start + copy.rows)
                    self._compare(copy, said, one.took_ns)  # type: ignore[arg-type]
                    start += copy.rows
                yield

    def _settle(self, outcomes: Iterator[None], took_s: float) -> None:
        """Count as many as a slice of time holds, and the others in the next turn of the loop."""
        until_ns = time.monotonic_ns() + SLICE_NS
        for _ in outcomes:
            if time.monotonic_ns() > until_ns:
                self._loop.call_soon(self._settle, outcomes, took_s)
                return
        self._is_working = False
        self._look_in(max(LOOK_S if len(self._waiting) >= COPIES else GATHER_S, took_s * REST))

    def _compare(self, copy: Copy, said: Tensors, took_ns: int) -> None:
        cells = self._cells
        ours, its = copy.deployment.cutoff, self._target.cutoff
        try:
            comparison = compare(copy.answered, said, None if ours is None or its is None else (ours, its))
        except Exception as error:  # a fault of ours must not end the shadow
            log.error("fault", error=repr(error), trace=traceback.format_exception(error))
            self._fail(error, "internal")
            return
        if comparison is None:
            self._fail(None, "incomparable")
            return
        cells[self._compared] += 1
        cells[self._seconds + bisect_left(_EDGES_NS, took_ns)] += 1
        cells[self._seconds + _SUM] += took_ns
        cells[self._difference] = max(cells[self._difference], int(min(comparison.difference, 1e12) * 1e6))
        if comparison.differs:
            cells[self._differing] += 1
            self._record(copy, comparison)

    def _fail(self, error: Exception | None, reason: str = "") -> None:
        """Count a copy without a comparison."""
        if isinstance(error, Overloaded):
            self._cells[self._dropped] += 1
            return
        reason = reason or _reason(error)
        self._cells[self._telemetry.counters.counter("modelyard_shadow_failed", reason=reason, **self._labels)] += 1

    def _record(self, copy: Copy, comparison: Comparison) -> None:
        """Keep a sample of the disagreements: under the request id the record of the answer says what was asked."""
        now_ns = time.time_ns()
        if now_ns // 1_000_000_000 != self._second:
            self._second, self._sampled = now_ns // 1_000_000_000, 0
        if self._sampled >= SAMPLES:
            return
        self._sampled += 1
        self._telemetry.disagreed(Disagreement(
            copy.request_id, now_ns, self.endpoint, copy.deployment.version, self.version, copy.deployment.revision,
            comparison.row, comparison.answered, comparison.shadowed, comparison.difference,
        ))  # fmt: skip


def quick_rows(replica: Replica) -> int:
    """Rows that may be asked for on the loop: of a table here, whose rows take as long as those that were measured."""
    if replica.is_remote or not replica.loaded.is_table:
        return 0
    return replica.inline * SLICE_NS // int(INLINE_S * 1e9)


def step_of(replica: Replica) -> int:
    """Rows that a shadow asks for at once: what holds the loop for a millisecond, or what its own process likes."""
    return replica.lane.max_rows if replica.is_remote else max(1, replica.inline)


def _held(holder: Holder) -> Replica | None:
    """The replica that is in memory, if any is."""
    held = getattr(holder, "replica", holder)  # of a lazy one, what it holds now
    return held if isinstance(held, Replica) else None


def _reason(error: Exception | None) -> str:
    """Of a failure, as the metrics name it."""
    if isinstance(error, InvalidInput):
        return "violation"
    return NotReady.code if isinstance(error, NotReady) else "model_failed"
