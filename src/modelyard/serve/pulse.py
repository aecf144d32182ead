"""The pulse of a model worker: four numbers in memory that its parent reads whenever it likes.

Messages would not do: a model that holds the interpreter sends none, and is not dead for that.
"""

from __future__ import annotations

import mmap
import os
import time
from typing import NamedTuple

from modelyard.serve.shared import anonymous_file

_BYTES = 32
_BEAT, _BUSY, _BATCHES, _RESIDENT = range(4)


class Beat(NamedTuple):
    """What a pulse says. Times are seconds on the monotonic clock, which all processes of a host share."""

    heard: float  # when the process last beat; 0: not yet
    busy_since: float | None  # None: it waits for a question
    batches: int
    resident_bytes: int  # as the process knows it


class Pulse:
    """The numbers as one process maps them: the worker writes, the parent reads."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, _BYTES)
        self._cells = memoryview(self._memory).cast("q")

    @classmethod
    def make(cls) -> tuple[Pulse, int]:
        """A new pulse, and the descriptor to hand down; the caller closes it."""
        descriptor = anonymous_file()
        os.ftruncate(descriptor, _BYTES)
        return cls(descriptor), descriptor

    def beat(self, resident_bytes: int) -> None:
        """The process lives."""
        self._cells[_RESIDENT] = resident_bytes
        self._cells[_BEAT] = time.monotonic_ns()

    def begin(self) -> None:
        """The model is asked."""
        self._cells[_BUSY] = time.monotonic_ns()

    def end(self) -> None:
        """The model has answered."""
        self._cells[_BUSY] = 0
        self._cells[_BATCHES] += 1

    def read(self) -> Beat:
        """What it says now."""
        beat, busy, batches, resident = self._cells.tolist()
        return Beat(beat / 1e9, busy / 1e9 if busy else None, batches, resident)

    def close(self) -> None:
        """Let go of the numbers."""
        self._cells.release()
        self._memory.close()
