"""The gateway's parent: binds, starts workers, replaces the dead, reports. It answers no request and knows no model.

Each worker has a listening socket of its own that the parent keeps: when a worker dies, connections that wait in its
backlog are answered by its replacement.
"""

from __future__ import annotations

import os
import select
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from functools import partial
from pathlib import Path

import msgspec

from modelyard.contract.errors import Conflict, InvalidInput, ModelyardError
from modelyard.contract.home import Home
from modelyard.contract.plan import GatewayState, WorkerState
from modelyard.contract.settings import Settings, cores, load_settings
from modelyard.serve.log import log, set_up
from modelyard.serve.model_processes import ModelProcesses
from modelyard.serve.seats import reachable_path
from modelyard.serve.threads import oversubscription, threads_for

SILENCE_S = 10.0  # a worker that says nothing for so long hangs, and is replaced
BACK_OFF_S = (0.0, 0.2, 1.0, 3.0, 5.0)  # after so many deaths in a row soon after the start
SOON_S = 5.0
KEPT_DEATHS = 20
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Child:
    """One worker as the parent sees it."""

    def __init__(self, number: int, listener: socket.socket, grpc: socket.socket | None = None) -> None:
        self.number, self.listener, self.grpc = number, listener, grpc
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
        grpc_listeners = bind(settings.host, settings.grpc_port, settings.worker_count, "grpc_port")
        self.port, self.grpc_port = listeners[0].getsockname()[1], grpc_listeners[0].getsockname()[1]
        pairs = zip(listeners, grpc_listeners, strict=True)
        self.children = [Child(number, http, grpc) for number, (http, grpc) in enumerate(pairs)]
        self.bulk = Child(len(listeners), bind_unix(self.home.bulk_socket))
        self.deaths: deque[str] = deque(maxlen=KEPT_DEATHS)
        self.started_at = time.time()
        self.stopping = False
        self._told = b""
        self._selector = selectors.DefaultSelector()
        self._signals, self._wake = socket.socketpair()
        for end in (self._signals, self._wake):
            end.setblocking(False)
        self._selector.register(self._signals, selectors.EVENT_READ, partial(self._signals.recv, 4096))
        self.models = ModelProcesses(settings, self.home, self._selector)
        for counters in (self.home.run / "counters").glob("*"):
            counters.unlink()
        shutil.rmtree(self.home.graphs, ignore_errors=True)
        (self.home.run / "rates.table").unlink(missing_ok=True)  # its times count from the machine's last start

    def run(self) -> int:
        """Supervise until SIGTERM or SIGINT; return the exit status."""
        signal.set_wakeup_fd(self._wake.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # wakes the selector
        if warning := oversubscription(self.settings, cores()):
            log.warning("more threads than cores", detail=warning)
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
        for child in (*self.children, self.bulk):
            if child.process is None:
                if now >= child.start_at and (child is not self.bulk or _is_called(child.listener)):
                    self._start(child)
            elif child.process.poll() is not None:
                self._bury(child)
            elif now - child.heard > SILENCE_S:
                child.process.kill()
                child.process.wait()
                self._bury(child, f"said nothing for {SILENCE_S:g} s and was killed")
        self._tend_models(0.2)
        self._tell()

    def _start(self, child: Child) -> None:
        ours, theirs = socket.socketpair()
        threads = str(threads_for(self.settings, cores()))
        environment = {**os.environ, **dict.fromkeys(_THREADS, threads)}
        handed = [child.listener.fileno(), theirs.fileno()] + ([child.grpc.fileno()] if child.grpc else [])
        child.process = subprocess.Popen(
            [sys.executable, "-m", "modelyard.serve.main", str(child.number), *map(str, handed)],
            pass_fds=handed,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # a Ctrl-C reaches the parent alone, which then stops its workers in order
        )
        theirs.close()
        ours.sendall(msgspec.json.encode(self.settings) + b"\n")
        ours.setblocking(False)
        child.line, child.unread = ours, b""
        child.started = child.heard = time.monotonic()
        child.state = WorkerState(child.number, child.process.pid, wants=child.state.wants)
        self._selector.register(ours, selectors.EVENT_READ, partial(self._listen, child))
        log.info("worker started", worker=child.number, pid=child.process.pid)

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
        child.state = WorkerState(child.number, 0, wants=child.state.wants)  # its replacement will want them again

    def _tell(self) -> None:
        scheme = "https" if self.settings.tls_certificate else "http"
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        state = GatewayState(
            os.getpid(), f"{scheme}://{host}:{self.port}", self.started_at,
            tuple(child.state for child in self._tended()), tuple(self.deaths), self.models.states(),
            grpc_url=f"{'grpcs' if self.settings.tls_certificate else 'grpc'}://{host}:{self.grpc_port}",
        )  # fmt: skip
        data = msgspec.json.encode(state)
        if data != self._told:
            _write(self.home.gateway_state, data)
            self._told = data

    def _tend_models(self, seconds: float) -> None:
        """Keep the model workers that are wanted running, and hear what all children say for so long at most."""
        self.models.tend({digest for child in (*self.children, self.bulk) for digest in child.state.wants})
        for key, _ in self._selector.select(seconds):
            key.data()

    def _tended(self) -> list[Child]:
        """The workers; the bulk worker among them once it was wanted."""
        return [*self.children, self.bulk] if self.bulk.process else self.children

    def _end(self) -> None:
        running = [child.process for child in self._tended() if child.process]
        for process in running:
            process.terminate()
        until = time.monotonic() + self.settings.drain_s + 2.0
        while time.monotonic() < until and any(process.poll() is None for process in running):
            self._tend_models(0.1)  # what they finish may need a model
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
        self.models.end()
        self.home.gateway_state.unlink(missing_ok=True)
        self.home.bulk_socket.unlink(missing_ok=True)
        log.info("gateway stopped")


def bind(host: str, port: int, count: int, setting: str = "gateway_port") -> list[socket.socket]:
    """One listening socket for each worker, all on one port. Raises Conflict that names a taken port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:  # without SO_REUSEPORT: alone on the port, or not at all
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = error.strerror or str(error)
            raise Conflict(f"cannot listen on {host}:{port}: {reason}; choose another with {setting}") from None
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


def bind_unix(path: Path) -> socket.socket:
    """A listening unix socket; its folder is its owner's alone."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with reachable_path(path) as short:
        listener.bind(short)
    listener.listen(256)
    return listener


def _is_called(listener: socket.socket) -> bool:
    return bool(select.select([listener], [], [], 0)[0])


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
