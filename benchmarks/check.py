"""Are a system's answers right? Asked before anything is timed, and of samples while it is: wrong is not fast."""

from __future__ import annotations

import http.client
import threading

import msgspec
import numpy as np

from benchmarks.server import Server
from benchmarks.work import Work, numbers_in

TOLERANCE = 1e-5
CONNECTIONS = 8  # so that every worker process is asked
PAUSE_S = 0.05  # between samples


class WrongAnswer(Exception):
    """A system answered wrongly; there is no figure to compare."""


def differs(status: int, answer: bytes, expected: list[float], output: str = "probability") -> str | None:
    """Why these are not the expected numbers, or None if they are."""
    if status != 200:
        return f"status {status}: {answer[:200]!r}"
    try:
        said = numbers_in(answer, output)
    except (msgspec.DecodeError, ValueError, KeyError, TypeError, StopIteration):
        return f"no {output} in {answer[:200]!r}"
    if len(said) != len(expected):
        return f"answered {len(said)} numbers where {len(expected)} are right"
    wrong = ~(np.abs(np.subtract(said, expected)) <= TOLERANCE)  # also true of NaN
    if wrong.any():
        at = int(np.argmax(wrong))
        return f"answered {said[at]!r} where {expected[at]!r} is right"
    return None


def expected_of(server: Server, work: Work) -> list[list[float]]:
    """What this system must answer; ours and the rivals' models are one and the same, but for `mixed`."""
    return work.expected["modelyard" if server.name.startswith("Modelyard") else "rival"]


class Line:
    """One connection that asks a system and compares what it says."""

    def __init__(self, server: Server, work: Work, expected: list[list[float]]) -> None:
        self._server, self._work, self._expected = server, work, expected
        self._asked = work.asked(server.dialect)
        self._line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)

    def ask(self, at: int) -> None:
        """Ask body `at`. Raises WrongAnswer, also where there is none."""
        try:
            self._line.request("POST", self._asked.path, self._asked.bodies[at], self._server.headers)
            reply = self._line.getresponse()
            reason = differs(reply.status, reply.read(), self._expected[at], self._work.output)
        except (OSError, http.client.HTTPException) as error:
            reason = f"no answer: {error!r}"
        if reason:
            raise WrongAnswer(f"{self._server.name}, {self._work.name}: {reason}")

    def close(self) -> None:
        """Hang up."""
        self._line.close()


def verify(server: Server, work: Work, expected: list[list[float]]) -> int:
    """Ask everything once over each of several connections; the number of right answers. Raises WrongAnswer."""
    for first in range(CONNECTIONS):
        line = Line(server, work, expected)
        try:
            for at in range(first, len(expected), CONNECTIONS):
                line.ask(at)
        finally:
            line.close()
    return len(expected)


class Sampler:
    """Asks on a connection of its own while a round runs, and compares. Leaving it raises WrongAnswer."""

    def __init__(self, server: Server, work: Work) -> None:
        self.answered = 0
        self._line = Line(server, work, expected_of(server, work))
        self._count = len(work.bodies)
        self._stop = threading.Event()
        self._failed: WrongAnswer | None = None
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        self._line.close()
        if self._failed is not None:
            raise self._failed

    def _run(self) -> None:
        try:
            while not self._stop.wait(PAUSE_S):
                self._line.ask(self.answered % self._count)
                self.answered += 1
        except WrongAnswer as error:
            self._failed = error
