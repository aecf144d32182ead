"""A small tree of processes: started together, watched, started again with growing pauses, ended together.

Children ignore the terminal's Ctrl-C: the parent hears it and tells each of them to finish, so that the gateway
answers what it holds before it goes.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from modelyard.cli.log_files import last_lines, open_log, rotate
from modelyard.contract.errors import Conflict, Internal

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
STEADY_S = 60.0  # a child that lived this long starts with the first pause again
TRIES_AT_START = 3
KILL_AFTER_S = 10.0  # beyond what draining is allowed
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()))


@dataclass
class Child:
    """One process that is to run for as long as the tree does."""

    name: str
    command: Sequence[str]
    log: Path
    essential: bool = False  # the tree does not come up without it
    process: subprocess.Popen[bytes] | None = None
    failures: int = 0
    started_at: float = 0.0
    due_at: float = 0.0

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return self.process is not None and self.process.poll() is None


def pause_before(failures: int) -> float:
    """Seconds to wait before the next start after so many failures in a row."""
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** max(0, failures - 1))


@dataclass
class Tree:
    """The children, and the signals that end them. A context manager: nothing outlives it."""

    children: Sequence[Child]
    environment: Mapping[str, str]
    drain_s: float
    died: Callable[[Child, int], None]  # told of each death that nobody asked for
    stopping: bool = False
    signals: int = 0  # how often somebody asked to stop
    _wake: tuple[socket.socket, socket.socket] | None = None
    _before: dict[int, Any] = field(default_factory=dict)

    def __enter__(self) -> Tree:
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        self._wake = (reader, writer)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        heard = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # as under nohup
        self._before = {number: signal.signal(number, self._asked_to_stop) for number in heard}
        # A handler of its own, if only an empty one: without it a child's death would not wake the watch.
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda number, frame: None)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in self._before.items():
                signal.signal(number, handler)
            for end in self._wake or ():
                end.close()

    def watch(self, until: Callable[[], bool] | None = None, timeout_s: float | None = None) -> bool:
        """Keep the children running until `until` holds (True), a signal asks to stop, or the time is over (False).

        With `until`, the tree is still starting: an essential child that dies again and again then raises Internal
        with the end of its log.
        """
        ends_at = None if timeout_s is None else monotonic() + timeout_s
        while not self.stopping:
            for child in self.children:
                self._tend(child, starting=until is not None)
            if until is not None and until():
                return True
            if ends_at is not None and monotonic() >= ends_at:
                return False
            self._sleep(0.1 if until is not None else 1.0)
        return False

    def stop(self) -> None:
        """Ask every child to finish, wait for as long as draining may take, then end what is left.

        Whoever presses Ctrl-C once more does not want to wait.
        """
        self.stopping = True
        for child in self.children:
            self._signal(child, signal.SIGTERM)
        ends_at = monotonic() + self.drain_s + KILL_AFTER_S
        while any(child.is_running for child in self.children) and monotonic() < ends_at and self.signals < 2:
            self._sleep(0.1)
        for child in self.children:
            self._signal(child, signal.SIGKILL)
            if child.process is not None:
                child.process.wait()

    def _tend(self, child: Child, starting: bool) -> None:
        now = monotonic()
        if child.is_running:
            if child.failures and now - child.started_at > STEADY_S:
                child.failures = 0
            rotate(child.log)
        elif child.process is not None:
            status = child.process.returncode
            child.process = None
            child.failures = child.failures + 1 if now - child.started_at < STEADY_S else 1
            child.due_at = now + pause_before(child.failures)
            if starting and child.essential and child.failures >= TRIES_AT_START:
                tail = "\n".join(f"  {line}" for line in last_lines(child.log, 8))
                raise Internal(f"{child.name} does not start (exit status {status}); the end of its log says:\n{tail}")
            self.died(child, status)
        elif now >= child.due_at:
            self._start(child)

    def _start(self, child: Child) -> None:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ctrl-C is the parent's to hear
        try:
            with open_log(child.log) as log:
                child.process = subprocess.Popen(
                    child.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(self.environment)
                )
        finally:
            signal.signal(signal.SIGINT, before)
        child.started_at = monotonic()

    def _signal(self, child: Child, number: int) -> None:
        if child.process is not None and child.is_running:
            with contextlib.suppress(ProcessLookupError):
                child.process.send_signal(number)

    def _sleep(self, seconds: float) -> None:
        """Until a signal comes, a child dies, or the time is over."""
        if self._wake is None:
            return
        ready, _, _ = select.select([self._wake[0]], [], [], seconds)
        if ready:
            with contextlib.suppress(BlockingIOError):
                self._wake[0].recv(4096)

    def _asked_to_stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True
        self.signals += 1


def check_port(host: str, port: int, flag: str, variable: str) -> None:
    """Raise Conflict that names the port and how to choose another, if somebody listens there already."""
    if not port:
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port just left is free, as for a server
        try:
            probe.bind((host, port))
        except PermissionError:
            raise Conflict(f"port {port} needs more rights than you have; choose one above 1023 with {flag}") from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise Conflict(
                f"port {port} on {host} cannot be used ({reason}); stop what uses it, or choose another with {flag} or "
                f"the environment variable {variable}"
            ) from None


def answers(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        socket.create_connection((reachable(host), port), timeout=1.0).close()
    except OSError:
        return False
    return True


def answers_at(url: str) -> bool:
    """The same, of a URL that names its port."""
    parts = urlsplit(url)
    return answers(parts.hostname or "", parts.port or 0)


def reachable(host: str) -> str:
    """The address at which this machine reaches what listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
