"""Row quotas shared by all workers of a host: a small table in a mapped file, under one lock.

A worker leases rows in chunks of a fiftieth of a second's worth (at most 64), so most calls touch no lock. The worst
overshoot is one unused chunk for each worker. The lock is the kernel's: a killed worker lets go of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path

from modelyard.contract.errors import Overloaded, QuotaExceeded, TooLarge
from modelyard.secure.limits import take

ENTRIES = 4096  # callers with a quota, at most
_LOCK_WAIT_NS = 50_000_000
_STUCK_NS = 500_000_000  # after a wait in vain, for so long nobody waits more than a moment: the holder does not run
_MOMENT_NS = 2_000_000
_NAP_S = 0.0005  # asleep, not spinning: on a busy machine the holder needs the processor that we would spin on


class RateTable:
    """The mapped table: for each caller a hash of its id and its theoretical arrival time."""

    def __init__(self, path: Path) -> None:
        self._file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")  # noqa: SIM115 - mapped for life
        size = ENTRIES * 16
        if os.fstat(self._file.fileno()).st_size < size:
            self._file.truncate(size)
        self._stuck_until_ns = 0
        self._cells = memoryview(mmap.mmap(self._file.fileno(), size)).cast("q")

    def entry(self, key_id: str) -> int:
        """Where this caller's arrival time lies; made at first sight. Raises Overloaded when the table is full."""
        wanted = int.from_bytes(hashlib.blake2b(key_id.encode(), digest_size=8).digest(), "little", signed=True) or 1
        with self.locked():
            for step in range(ENTRIES):
                index = (wanted + step) % ENTRIES
                if self._cells[2 * index] in (0, wanted):
                    self._cells[2 * index] = wanted
                    return 2 * index + 1
        raise Overloaded(f"more than {ENTRIES} keys with a quota are in use")

    @contextlib.contextmanager
    def locked(self) -> Iterator[memoryview]:
        """The table, with no other process in it. Never waits long: a stopped worker must not stop its siblings."""
        now = time.monotonic_ns()
        until = now + (_MOMENT_NS if now < self._stuck_until_ns else _LOCK_WAIT_NS)
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic_ns() > until:
                    self._stuck_until_ns = time.monotonic_ns() + _STUCK_NS
                    raise Overloaded("the table of quotas is held by a process that does not run") from None
                time.sleep(_NAP_S)
        try:
            yield self._cells
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the file; no call follows."""
        self._file.close()


class Quota:
    """One caller's quota as one worker sees it."""

    def __init__(self, table: RateTable, key_id: str, rows_per_second: float, burst: int) -> None:
        self._table = table
        self._entry = table.entry(key_id)
        self._interval_ns = max(1, int(1e9 / rows_per_second))
        self._burst = max(1, burst)
        self._chunk = max(1, min(64, int(rows_per_second / 50), self._burst // 4))
        self._leased = 0
        self._limit = f"rows_per_second={rows_per_second:g} with burst_rows={burst}"

    def charge_rest(self, rows: int) -> None:
        """Take all of a call's rows but the first, which admission took. TooLarge for what no wait would allow."""
        if rows > self._burst:
            raise TooLarge(f"{rows} rows at once are above this key's {self._limit}; send fewer at a time")
        if rows > 1:
            self.charge(rows - 1)

    def charge(self, rows: int) -> None:
        """Take `rows`, or raise QuotaExceeded with the time after which they would be allowed."""
        if self._leased >= rows:
            self._leased -= rows
            return
        if rows > self._burst:
            raise QuotaExceeded(f"{rows} rows at once are above this key's {self._limit}; send fewer at a time", 1.0)
        need = rows - self._leased
        with self._table.locked() as cells:
            now, wait_ns = time.monotonic_ns(), 0
            for asked in (max(need, self._chunk), need):  # a chunk; if that is too much, just what is needed
                arrival, wait_ns = take(cells[self._entry], now, asked, self._interval_ns, self._burst)
                if not wait_ns:
                    cells[self._entry] = arrival
                    self._leased += asked - rows
                    return
        raise QuotaExceeded(f"this key's quota is used up: {self._limit}", wait_ns / 1e9)
