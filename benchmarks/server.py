"""The systems that are measured: each is started on a free port of loopback, and ended by who started it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.contract.plan import (
    GatewayState,
    PlannedEndpoint,
    PlannedKey,
    PlannedVersion,
    ServingPlan,
    SignedPlan,
    TrafficSplit,
)
from modelyard.secure.keys import digest_of, new_key
from modelyard.secure.signing import signer

ROOT = Path(__file__).parent.parent
RIVALS = Path(__file__).parent / "rivals"
PATIENCE_S = 60.0
WORKERS = 2
ROWS_PER_SECOND = 10_000_000.0  # a quota that is charged for every row and never used up
STARTED = b"Application startup complete"  # each uvicorn worker says so once
_TICKS = os.sysconf("SC_CLK_TCK")


class StartFailed(Exception):
    """A system did not come up; the message ends with what it printed."""


class Server:
    """One running system."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path, headers: Mapping[str, str]) -> None:
        self.name = name
        self.process = process
        self.log = log
        self.url = ""
        self.headers = {"Content-Type": "application/json", **headers}

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])

    def pids(self) -> list[int]:
        """The process and all its descendants."""
        return _family(self.process.pid)

    def wait_for(self, fact: Callable[[], bool], what: str) -> None:
        """Wait for a fact about it. Raises StartFailed if it ends first, or takes too long."""
        until = time.monotonic() + PATIENCE_S
        while not fact():
            if self.process.poll() is not None:
                raise StartFailed(f"{self.name} ended: {self.log.read_text('utf-8', 'replace')[-2000:]}")
            if time.monotonic() > until:
                raise StartFailed(f"{self.name}: {what} not within {PATIENCE_S:g} s")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it, in order if it can; nothing of it stays."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)  # its own session, so its own group
            self.process.wait(10)


class Gateway(Server):
    """Modelyard's gateway with everything on: keys, quota, limits, contract, metrics, prediction records."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], home: Home, key: str) -> None:
        super().__init__(name, process, home.root / "gateway.log", {"Authorization": f"Bearer {key}"})
        self.home = home
        self._key = PlannedKey(
            "bench", digest_of(key), "bench", ("infer",), ROWS_PER_SECOND, burst_rows=int(ROWS_PER_SECOND)
        )
        self.revision = 0

    def state(self) -> GatewayState | None:
        """What the parent says, or None before it says anything."""
        try:
            return msgspec.json.decode(self.home.gateway_state.read_bytes(), type=GatewayState)
        except FileNotFoundError:
            return None

    def workers(self) -> list[int]:
        """The workers' process ids."""
        state = self.state()
        return [worker.pid for worker in state.workers] if state else []

    def publish(self, versions: Mapping[str, Mapping[int, str]]) -> int:
        """Sign and publish a plan: endpoint -> version -> digest; the newest takes all calls. Returns its revision."""
        self.revision += 1
        endpoints = tuple(
            PlannedEndpoint(
                name,
                name,
                tuple(PlannedVersion(number, digest) for number, digest in held.items()),
                TrafficSplit({max(held): 100}),
            )
            for name, held in versions.items()
        )
        plan = ServingPlan(self.revision, time.time(), endpoints, (self._key,), require_keys=True)
        raw = msgspec.json.encode(plan)
        signed = SignedPlan(msgspec.Raw(raw), signer(self.home.keys).sign(raw))
        staging = self.home.plan.with_suffix(".new")
        staging.write_bytes(msgspec.json.encode(signed))
        staging.replace(self.home.plan)
        return self.revision

    def serves(self, revision: int) -> bool:
        """Whether every worker serves this revision. Raises StartFailed if one refused it."""
        state = self.state()
        if state is None or not state.workers:
            return False
        for worker in state.workers:
            if worker.refused >= revision:
                raise StartFailed(f"the gateway refused a plan: {worker.reason}")
        return all(worker.revision >= revision for worker in state.workers)


@contextlib.contextmanager
def modelyard(versions: Mapping[str, Mapping[int, str]], shelves: list[Shelf]) -> Iterator[Gateway]:
    """A gateway that serves `versions`, whose artifacts lie on `shelves`."""
    with tempfile.TemporaryDirectory(prefix="modelyard-bench-", ignore_cleanup_errors=True) as folder:
        home = Home(Path(folder) / "home").prepare()
        for shelf in shelves:
            for digest in shelf.digests():
                with contextlib.suppress(FileExistsError):
                    (home.shelf / digest).symlink_to((shelf.folder / digest).resolve())
        environment = {name: text for name, text in os.environ.items() if not name.startswith("MODELYARD_")}
        environment |= {"MODELYARD_HOME": str(home.root), "MODELYARD_GATEWAY_PORT": "0"}
        environment |= {"MODELYARD_WORKERS": str(WORKERS), "MODELYARD_LOG_LEVEL": "warning"}
        log = home.root / "gateway.log"
        process = _start([sys.executable, "-m", "modelyard.serve.fleet"], environment, log)
        gateway = Gateway("Modelyard", process, home, new_key())
        try:
            revision = gateway.publish(versions)
            gateway.wait_for(lambda: gateway.serves(revision), "the first plan is served")
            state = gateway.state()
            gateway.url = state.url if state else ""
            yield gateway
        finally:
            gateway.stop()


@contextlib.contextmanager
def uvicorn(name: str, module: str, model: Path) -> Iterator[Server]:
    """A rival: `rivals/MODULE.py` under uvicorn, in the environment that its lock describes."""
    python = rival_python()
    with tempfile.TemporaryDirectory(prefix="modelyard-bench-") as folder:
        log = Path(folder) / "uvicorn.log"
        port = _free_port()
        command = [str(python), "-m", "uvicorn", f"{module}:app", "--app-dir", str(RIVALS), "--port", str(port)]
        command += ["--host", "127.0.0.1", "--workers", str(WORKERS), "--no-access-log"]
        # Left alone, scikit-learn starts a thread for each core in each worker, and they stand in each other's way.
        environment = {**os.environ, "BENCH_MODEL": str(model), "OMP_NUM_THREADS": "1"}
        server = Server(name, _start(command, environment, log), log, {})
        server.url = f"http://127.0.0.1:{port}"
        try:
            server.wait_for(lambda: log.read_bytes().count(STARTED) >= WORKERS, "every worker has started")
            yield server
        finally:
            server.stop()


def rival_python(make: bool = True) -> Path:
    """The interpreter of the rivals' environment, which is made from its lock if need be."""
    if make:
        subprocess.run([str(ROOT / "scripts" / "venv"), "requirements/rivals/fastapi.txt"], cwd=ROOT, check=True)
    return ROOT / ".venv" / "apart" / "fastapi" / "bin" / "python"


def cpu_seconds(pids: list[int]) -> float | None:
    """Processor seconds that these processes have used; None where the kernel does not tell."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            if not Path("/proc/self/stat").exists():
                return None
            continue
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def resident_bytes(pid: int) -> int | None:
    """Memory that a process holds; None where the kernel does not tell, or the process has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def _start(command: list[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    with open(log, "wb") as output:
        return subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)


def _family(pid: int) -> list[int]:
    found = [pid]
    for parent in found:  # grows while it is walked
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, children.read_text().split())
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
