"""Versions that are brought into memory by their first call: as many as the budget holds; the longest unused go first.

Calls wait here while their version loads, once for all of them. What computes or has calls waiting is never evicted,
nor is what the plan pins; pinned versions come first, and the others share what is left of the budget.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from modelyard.artifacts.store import Artifact
from modelyard.contract.errors import DeadlineExceeded, ModelyardError, NotReady, Overloaded
from modelyard.contract.memory import resident_bytes
from modelyard.serve.call import Call
from modelyard.serve.counters import Counters
from modelyard.serve.log import log
from modelyard.serve.replica import Replica, Version
from modelyard.serve.repository import AbsentVersion

SWEEP_S = 0.1  # how late a deadline may be noticed while a version loads
RETRY_S = 5.0  # a version that could not be loaded is not tried again for so long
LOOK_S = 0.01  # how often one looks for something that may be evicted


class LazyReplica:
    """One version that may be out of memory."""

    def __init__(self, artifact: Artifact, name: str, file_bytes: int, residents: Residents) -> None:
        self.artifact = artifact
        self.name = name
        self.bytes = file_bytes  # until a load has measured it
        self.replica: Replica | None = None
        self.is_loading = False
        self.is_pinned = False
        self.streams = 0  # answers that leave piece by piece
        self._residents = residents
        self._described = AbsentVersion(artifact)
        self._waiting: list[tuple[Call, Callable[[], None]]] = []
        self._waiting_rows = 0
        self._refusal: NotReady | None = None
        self._refused_until = 0.0

    @property
    def loaded(self) -> Version:
        """What it says of itself; while it is in memory, the version that answers."""
        return self._described if self.replica is None else self.replica.loaded

    @property
    def is_resident(self) -> bool:
        """Whether it is in memory."""
        return self.replica is not None

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for it and nothing runs."""
        is_busy = self.is_loading or self._waiting or self.streams
        return not is_busy and (self.replica is None or self.replica.is_idle)

    def submit(self, call: Call) -> None:
        """See that the call is answered once. Raises as `Replica.submit`, and NotReady while it cannot be loaded."""
        if self.replica is None:
            self.when_resident(call, lambda: self._pass_on(call))
        else:
            self._residents.touch(self)
            self.replica.submit(call)

    def when_resident(self, call: Call, go_on: Callable[[], None]) -> None:
        """Bring the version, then go on; the call is refused if that fails or its deadline passes meanwhile.

        Raises Overloaded when too many rows wait, NotReady if it could not be loaded just now.
        """
        if self._refusal is not None and time.monotonic() < self._refused_until:
            raise self._refusal
        most = self._residents.max_queued_rows
        if self._waiting_rows + call.rows > most:
            raise Overloaded(f"max_queued_rows={most} rows already wait for {self.name} to load; try again shortly")
        self._waiting.append((call, go_on))
        self._waiting_rows += call.rows
        self._residents.bring_soon(self)

    def arrived(self, replica: Replica) -> None:
        """It is in memory: whoever waited goes on, in the order in which they came."""
        self.replica, self._refusal = replica, None
        for call, go_on in self._take_waiting():
            if call.is_wanted:
                go_on()

    def failed(self, reason: BaseException) -> None:
        """It could not be brought: whoever waited hears why, and so does who asks within the next seconds."""
        which = f"this version of {self.name}"
        said = str(reason) if isinstance(reason, ModelyardError) else "the gateway's log has the reason"
        self._refusal = NotReady(f"{which} cannot be loaded: {said}")
        self._refused_until = time.monotonic() + RETRY_S
        for call, _ in self._take_waiting():
            if call.is_wanted:
                call.refuse(self._refusal)

    def drop_late(self) -> bool:
        """Refuse those whose deadline has passed; whether anybody still waits."""
        now = time.monotonic_ns()
        kept = []
        for call, go_on in self._waiting:
            if call.is_wanted and call.deadline_ns > now:
                kept.append((call, go_on))
                continue
            self._waiting_rows -= call.rows
            if call.is_wanted:
                call.refuse(DeadlineExceeded("the deadline passed while the version was loading; it was not computed"))
        self._waiting = kept
        return bool(kept)

    def close(self) -> None:
        """Free it; nobody calls it any more."""
        self._residents.forget(self)

    def _take_waiting(self) -> list[tuple[Call, Callable[[], None]]]:
        waiting, self._waiting, self._waiting_rows = self._waiting, [], 0
        return waiting

    def _pass_on(self, call: Call) -> None:
        try:
            self.submit(call)
        except ModelyardError as refusal:
            call.refuse(refusal)


class Residents:
    """The versions of one worker that are in memory, the longest unused first."""

    def __init__(
        self, budget_bytes: int, load: Callable[[str, str], Awaitable[Replica]], free: Callable[[str, Replica], None],
        loop: asyncio.AbstractEventLoop, counters: Counters, max_queued_rows: int, deadline_s: float,
    ) -> None:  # fmt: skip
        self.budget_bytes = budget_bytes
        self.max_queued_rows = max_queued_rows
        self._load, self._free, self._loop, self._deadline_s = load, free, loop, deadline_s
        self._resident: OrderedDict[LazyReplica, None] = OrderedDict()
        self._loading: set[LazyReplica] = set()
        self._turn = asyncio.Lock()  # one is loaded at a time: memory that grew meanwhile is what it takes
        self._sweeper: asyncio.TimerHandle | None = None
        self._cells = counters.cells
        self._loads = counters.counter("modelyard_version_loads")
        self._evictions = counters.counter("modelyard_version_evictions")
        self._count = counters.gauge("modelyard_resident_versions")
        self._bytes = counters.gauge("modelyard_resident_bytes")

    @property
    def used_bytes(self) -> int:
        """What the versions in memory take, pinned ones included."""
        return sum(lazy.bytes for lazy in self._resident)

    def touch(self, lazy: LazyReplica) -> None:
        """It was called just now."""
        self._resident.move_to_end(lazy)

    def bring_soon(self, lazy: LazyReplica) -> None:
        """Bring a version that somebody waits for; harmless while it is on its way."""
        if not lazy.is_loading:
            lazy.is_loading = True
            self._loading.add(lazy)
            self._loop.create_task(self._bring_or_say(lazy))
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    async def bring(self, lazy: LazyReplica) -> None:
        """Have it in memory. Raises what loading raises, or NotReady when the budget is full of busy versions."""
        async with self._turn:
            if lazy.replica is not None:
                return
            await self._make_room(lazy)
            before = _own_bytes()
            replica = await self._load(lazy.artifact.digest, lazy.name)
            lazy.bytes = max(_own_bytes() - before, lazy.bytes)
            self._resident[lazy] = None
            self._cells[self._loads] += 1
            self._tell()
        lazy.arrived(replica)

    def evict(self, lazy: LazyReplica) -> None:
        """Out of memory with it; it is idle."""
        replica, lazy.replica = lazy.replica, None
        del self._resident[lazy]
        self._cells[self._evictions] += 1
        self._tell()
        if replica is not None:
            self._free(lazy.artifact.digest, replica)

    def forget(self, lazy: LazyReplica) -> None:
        """The plan knows it no more."""
        if lazy in self._resident:
            self.evict(lazy)

    async def _bring_or_say(self, lazy: LazyReplica) -> None:
        try:
            await self.bring(lazy)
        except Exception as error:  # a runtime's own errors derive from nothing narrower; the callers hear of it
            log.error("version not loaded", model=lazy.name, digest=lazy.artifact.digest[:12], reason=str(error))
            lazy.failed(error)
        finally:
            lazy.is_loading = False
            self._loading.discard(lazy)

    async def _make_room(self, wanted: LazyReplica) -> None:
        if wanted.is_pinned:
            return  # whoever pins more than the budget has said so
        until = self._loop.time() + self._deadline_s
        while (used := self.used_bytes) and used + wanted.bytes > self.budget_bytes:
            victim = next((lazy for lazy in self._resident if not lazy.is_pinned and lazy.is_idle), None)
            if victim is not None:
                self.evict(victim)
            elif all(lazy.is_pinned for lazy in self._resident):
                return  # the last place is always one version's, or nothing could be served beside large pins
            elif self._loop.time() > until:
                raise NotReady(
                    f"resident_bytes={self.budget_bytes} is in use by versions that answer calls; raise it, or pin less"
                )
            else:
                await asyncio.sleep(LOOK_S)

    def _sweep(self) -> None:
        waits = [lazy.drop_late() for lazy in self._loading]
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep) if any(waits) else None

    def _tell(self) -> None:
        self._cells[self._count] = len(self._resident) * 1_000_000
        self._cells[self._bytes] = self.used_bytes * 1_000_000


def _own_bytes() -> int:
    return resident_bytes(os.getpid()) or 0
