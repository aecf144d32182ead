"""The gateway's parent: binds, starts workers, replaces the dead, reports. It answers no request and knows no model.

Each worker has a listening socket of its own that the parent keeps: when a worker dies, connections that wait in its
backlog are answered by its replacement.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import msgspec

from modelyard.contract.errors import Conflict, InvalidInput, ModelyardError
from modelyard.contract.home import Home
from modelyard.contract.plan import GatewayState, WorkerState
from modelyard.contract.settings import Settings, load_settings
from modelyard.serve.log import log, set_up

SILENCE_S = 10.0  # a worker that says nothing for so long hangs, and is replaced
BACK_OFF_S = (0.0, 0.2, 1.0, 3.0, 5.0)  # after so many deaths in a row soon after the start
SOON_S = 5.0
KEPT_DEATHS = 20
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Child:
    """One worker as the parent sees it."""

    def __init__(self, number: int, listener: socket.socket) -> None:
        self.number, self.listener = number, listener
        self.process: subprocess.Popen[bytes] | None = None
        self.line: socket.socket | None = None
        self.state = WorkerState(number, 0)
        self.heard = self.started = 0.0
        self.early_deaths = 0
        self.start_at = 0.0
        self.unread = b""


class Fleet:
    """All workers of one gateway."""

    def __init__(self, settings: Settings) -> None:
        _check_exposure(settings)
        self.settings = settings
        self.home = Home(settings.root).prepare()
        listeners = bind(settings.host, settings.gateway_port, settings.worker_count)
        self.port = listeners[0].getsockname()[1]
        self.children = [Child(number, listener) for number, listener in enumerate(listeners)]
        self.deaths: deque[str] = deque(maxlen=KEPT_DEATHS)
        self.started_at = time.time()
        self.stopping = False
        self._told = b""
        self._selector = selectors.DefaultSelector()
        self._signals, self._wake = socket.socketpair()
        for end in (self._signals, self._wake):
            end.setblocking(False)
        self._selector.register(self._signals, selectors.EVENT_READ, None)
        for counters in (self.home.run / "counters").glob("*"):
            counters.unlink()
        (self.home.run / "rates.table").unlink(missing_ok=True)  # its times count from the machine's last start

    def run(self) -> int:
        """Supervise until SIGTERM or SIGINT; return the exit status."""
        signal.set_wakeup_fd(self._wake.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # wakes the selector
        try:
            while not self.stopping:
                self._tend()
        finally:
            self._end()
        return 0

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def _tend(self) -> None:
        now = time.monotonic()
        for child in self.children:
            if child.process is None:
                if now >= child.start_at:
                    self._start(child)
            elif child.process.poll() is not None:
                self._bury(child)
            elif now - child.heard > SILENCE_S:
                child.process.kill()
                child.process.wait()
                self._bury(child, f"said nothing for {SILENCE_S:g} s and was killed")
        for key, _ in self._selector.select(0.2):
            if key.data is None:
                self._signals.recv(4096)
            else:
                self._listen(key.data)
        self._tell()

    def _start(self, child: Child) -> None:
        ours, theirs = socket.socketpair()
        environment = {**os.environ, **dict.fromkeys(_THREADS, self._threads())}
        child.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "modelyard.serve.main",
                str(child.number),
                str(child.listener.fileno()),
                str(theirs.fileno()),
            ],
            pass_fds=(child.listener.fileno(), theirs.fileno()),
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # a Ctrl-C reaches the parent alone, which then stops its workers in order
        )
        theirs.close()
        ours.sendall(msgspec.json.encode(self.settings) + b"\n")
        ours.setblocking(False)
        child.line, child.unread = ours, b""
        child.started = child.heard = time.monotonic()
        child.state = WorkerState(child.number, child.process.pid)
        self._selector.register(ours, selectors.EVENT_READ, child)
        log.info("worker started", worker=child.number, pid=child.process.pid)

    def _threads(self) -> str:
        """Threads for each worker's numeric libraries: together never more than the cores."""
        return str(max(1, (os.cpu_count() or 1) // len(self.children)))

    def _listen(self, child: Child) -> None:
        try:
            data = child.line.recv(65536) if child.line else b""
        except (BlockingIOError, ConnectionResetError):
            return
        if not data:
            if child.line:
                self._selector.unregister(child.line)
                child.line.close()
                child.line = None
            return
        child.heard = time.monotonic()
        lines = (child.unread + data).split(b"\n")
        child.unread = lines.pop()
        if lines:
            child.state = msgspec.json.decode(lines[-1], type=WorkerState)

    def _bury(self, child: Child, cause: str | None = None) -> None:
        assert child.process is not None  # noqa: S101 - the caller saw it end
        code = child.process.returncode
        cause = cause or (f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}")
        alive = time.monotonic() - child.started
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.deaths.append(f"{at} worker {child.number} (pid {child.process.pid}) {cause} after {alive:.1f} s")
        log.error("worker died", worker=child.number, pid=child.process.pid, cause=cause)
        if child.line:
            self._selector.unregister(child.line)
            child.line.close()
        child.early_deaths = child.early_deaths + 1 if alive < SOON_S else 0
        child.start_at = time.monotonic() + BACK_OFF_S[min(child.early_deaths, len(BACK_OFF_S) - 1)]
        child.process = child.line = None
        child.state = WorkerState(child.number, 0)

    def _tell(self) -> None:
        scheme = "https" if self.settings.tls_certificate else "http"
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        state = GatewayState(
            os.getpid(), f"{scheme}://{host}:{self.port}", self.started_at,
            tuple(child.state for child in self.children), tuple(self.deaths),
        )  # fmt: skip
        data = msgspec.json.encode(state)
        if data != self._told:
            _write(self.home.gateway_state, data)
            self._told = data

    def _end(self) -> None:
        running = [child.process for child in self.children if child.process]
        for process in running:
            process.terminate()
        until = time.monotonic() + self.settings.drain_s + 2.0
        for process in running:
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.home.gateway_state.unlink(missing_ok=True)
        log.info("gateway stopped")


def bind(host: str, port: int, count: int) -> list[socket.socket]:
    """One listening socket for each worker, all on one port. Raises Conflict that names a taken port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:  # without SO_REUSEPORT: alone on the port, or not at all
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = error.strerror or str(error)
            raise Conflict(f"cannot listen on {host}:{port}: {reason}; choose another with gateway_port") from None
        port = probe.getsockname()[1]
    listeners = []
    for _ in range(count):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        listener.listen(4096)
        listeners.append(listener)
    return listeners


def _check_exposure(settings: Settings) -> None:
    if not settings.is_loopback and not settings.require_keys:
        raise InvalidInput(
            f"host {settings.host!r} can be reached by others, so keys are required: set require_keys (--require-keys)"
        )


def _write(path: Path, data: bytes) -> None:
    staging = path.with_suffix(".new")
    staging.write_bytes(data)
    staging.chmod(0o600)
    staging.replace(path)


def main() -> int:
    """Run the gateway of this home."""
    try:
        settings, _ = load_settings()
        set_up(settings.log_level, process="gateway")
        return Fleet(settings).run()
    except ModelyardError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
