"""How a long job says what it is doing, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Whoever wants to know: a terminal, a job's record, a test."""

    def step(self, title: str, detail: str = "") -> None:
        """A new step begins, or has something to say."""
        ...

    def tick(self, done: int, total: int) -> None:
        """So much of the present step is done."""
        ...


class Silent:
    """Nobody listens."""

    def step(self, title: str, detail: str = "") -> None:
        """Say nothing."""

    def tick(self, done: int, total: int) -> None:
        """Say nothing."""
