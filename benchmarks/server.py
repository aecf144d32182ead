"""A system that is measured: started on a free port of loopback, and ended by who started it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.processes import Memory, family
from benchmarks.work import Dialect

ROOT = Path(__file__).parent.parent
PATIENCE_S = 180.0
WORKERS = 2
POLL_S = 0.005


class StartFailed(Exception):
    """A system did not come up; the message ends with what it printed."""


class Server:
    """One running system."""

    def __init__(
        self,
        name: str,
        command: list[str],
        environment: Mapping[str, str],
        log: Path,
        *,
        port: int = 0,
        dialect: Dialect = "v2",
        endpoints: tuple[str, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self.dialect = dialect
        self.endpoints = endpoints  # what it serves
        self.url = f"http://127.0.0.1:{port}"
        self.grpc_port = 0
        self.headers = {"Content-Type": "application/json", **(headers or {})}
        self.began = time.monotonic()
        with open(log, "wb") as output:
            self.process = subprocess.Popen(
                command, env=environment, cwd=log.parent, stdout=output, stderr=output, start_new_session=True
            )

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])

    def pids(self) -> list[int]:
        """The process and all its descendants."""
        return family(self.process.pid)

    def memory(self) -> Memory | None:
        """What all its processes hold now."""
        return Memory.of(self.pids())

    def wait_for(self, fact: Callable[[], bool], what: str) -> None:
        """Wait for a fact about it. Raises StartFailed if it ends first, or takes too long."""
        until = time.monotonic() + PATIENCE_S
        while not fact():
            if self.process.poll() is not None:
                raise StartFailed(f"{self.name} ended: {self.log.read_text('utf-8', 'replace')[-2000:]}")
            if time.monotonic() > until:
                said = self.log.read_text("utf-8", "replace")[-2000:]
                raise StartFailed(f"{self.name}: {what} not within {PATIENCE_S:g} s: {said}")
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End it, in order if it can; nothing of it stays."""
        mine = self.pids()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        for pid in mine:  # whatever did not go with its parent
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
