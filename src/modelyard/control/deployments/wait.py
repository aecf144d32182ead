"""Waiting until every gateway worker serves a revision: the way back up from the data plane. Needs no database."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from modelyard.contract.errors import NotReady
from modelyard.contract.home import Home
from modelyard.contract.plan import GatewayState


class Refused(NotReady):
    """A worker has said that it cannot serve the revision, and why."""


def wait_until_served(
    home: Home | Path, revision: int, timeout_s: float = 30.0, sleep: Callable[[float], None] = time.sleep
) -> GatewayState | None:
    """The gateway's state once every worker serves `revision` or a newer one; None if no gateway runs.

    Raises Refused with the worker's own reason if one cannot serve the revision, NotReady when the time is over.
    """
    home = home if isinstance(home, Home) else Home(home)
    end = time.monotonic() + timeout_s
    pause = 0.01
    while True:
        state = gateway_state(home)
        if state is None:
            return None
        behind = [worker for worker in state.workers if worker.revision < revision]
        for worker in behind:
            if worker.refused >= revision:
                raise Refused(f"worker {worker.worker} cannot serve revision {revision}: {worker.reason}")
        if state.workers and not behind:
            return state
        if time.monotonic() >= end:
            late = ", ".join(str(worker.worker) for worker in behind) or "all"
            raise NotReady(f"not every worker serves revision {revision} after {timeout_s:g} s (waiting for {late})")
        sleep(pause)
        pause = min(pause * 1.5, 0.25)


def gateway_state(home: Home) -> GatewayState | None:
    """What the running gateway says of itself; None if none runs."""
    try:
        state = msgspec.json.decode(home.gateway_state.read_bytes(), type=GatewayState)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    return state if is_alive(state.pid) else None


def is_alive(pid: int) -> bool:
    """Whether a process of that id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
