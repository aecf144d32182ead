"""Are a system's answers right? Asked before anything is timed: a wrong system is not a fast one."""

from __future__ import annotations

import http.client

from benchmarks.server import Server
from benchmarks.work import Work, probability_in

TOLERANCE = 1e-5
CONNECTIONS = 8  # so that every worker process is asked


class WrongAnswer(Exception):
    """A system answered wrongly; there is no figure to compare."""


def differs(status: int, answer: bytes, expected: float) -> str | None:
    """Why this answer is not the expected probability, or None if it is."""
    if status != 200:
        return f"status {status}: {answer[:200]!r}"
    try:
        said = probability_in(answer)
    except (ValueError, KeyError, TypeError, IndexError, StopIteration):
        return f"no probability in {answer[:200]!r}"
    if not abs(said - expected) <= TOLERANCE:  # also true of NaN
        return f"answered {said!r} where {expected!r} is right"
    return None


def verify(server: Server, work: Work, expected: list[float]) -> int:
    """Ask everything once over each of several connections; the number of right answers. Raises WrongAnswer."""
    asked = list(zip(work.bodies, expected, strict=True))
    for first in range(CONNECTIONS):
        line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        try:
            for body, right in asked[first::CONNECTIONS]:
                line.request("POST", work.path, body, server.headers)
                reply = line.getresponse()
                if reason := differs(reply.status, reply.read(), right):
                    raise WrongAnswer(f"{server.name}, {work.name}: {reason}")
        except (OSError, http.client.HTTPException) as error:
            raise WrongAnswer(f"{server.name}, {work.name}: no answer: {error!r}") from None
        finally:
            line.close()
    return len(work.bodies)
