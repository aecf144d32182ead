"""Model workers as the gateway's parent sees them: started, watched, buried with a post-mortem, replaced.

What to do is decided in `supervision.py`; here it is done. The parent keeps each seat's listening socket: who waits in
its backlog is answered by the next process in that seat, or told by the parent why there is none.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from io import FileIO
from pathlib import Path

import msgspec

from modelyard.contract.errors import NotFound
from modelyard.contract.home import Home
from modelyard.contract.memory import machine_bytes, oom_kills, resident_bytes
from modelyard.contract.plan import ModelWorkerState
from modelyard.contract.settings import Settings, cores
from modelyard.serve.log import log
from modelyard.serve.messages import Broken, Refused, send
from modelyard.serve.pulse import Pulse
from modelyard.serve.seats import models_folder, reachable_path, seats_of, socket_path
from modelyard.serve.supervision import (
    STEADY_S,
    End,
    Forget,
    Kill,
    Limits,
    Phase,
    Seat,
    Seen,
    Start,
    next_step,
    pause_before,
)
from modelyard.serve.threads import threads_for

KEPT_LINES = 200  # of what a process said, for its post-mortem
KEPT_POST_MORTEMS = 50
LINE_BYTES = 2_000
LAST_READS = 64  # of what a dead process left in its pipes
PATIENCE_S = 2.0  # whoever asks while no process runs waits in the backlog so long, and is refused beyond it
LINGER_S = 3.0  # a version that nobody wants lives on so long: a gateway worker that restarts wants it again
STALL_S = 1.0  # turns of the parent that are further apart say that the whole machine stood still
MEASURE_S = 0.5  # between two looks at memory
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class PostMortem(msgspec.Struct, frozen=True):
    """Why a model worker died, as it lies in `run/models`; readable by the owner alone: models may print anything."""

    digest: str
    index: int
    pid: int
    at: str  # ISO 8601, UTC
    lived_s: float
    cause: str
    signal: str = ""  # its name, if one ended it
    status: int | None = None  # the exit status otherwise
    killed_by_memory: bool = False  # by model_memory_bytes, or as far as can be known by the kernel
    lines: tuple[str, ...] = ()  # the last that it said


class Told(msgspec.Struct, frozen=True):
    """What a process says to its parent: that it is ready, or why it could not load."""

    ready: bool = False
    failed: str = ""


class Watched:
    """One seat, and the process in it if there is one."""

    def __init__(self, seat: Seat, path: Path) -> None:
        self.seat, self.path = seat, path
        self.listener = _listen(path)
        self.process: subprocess.Popen[bytes] | None = None
        self.line: socket.socket | None = None
        self.output: FileIO | None = None
        self.pulse: Pulse | None = None
        self.phase: Phase = "absent"
        self.since = self.start_at = self.started = 0.0
        self.rss_bytes = self.starts = self.deaths_in_a_row = self.oom_kills = 0
        self.said: deque[str] = deque(maxlen=KEPT_LINES)
        self.unsaid = self.unread = b""
        self.failed = ""  # why it could not load, in its own words
        self.kill: Kill | None = None
        self.last_death = ""

    def seen(self, excused: float) -> Seen:
        """What is known of it now. excused: until when its silence is not its own fault."""
        beat = self.pulse.read() if self.pulse else None
        heard = max(self.since, excused, beat.heard if beat else 0.0)
        busy = beat.busy_since if beat else None
        return Seen(self.seat, self.phase, self.since, self.start_at, heard, busy, self.rss_bytes)

    def state(self) -> ModelWorkerState:
        """What is told of it."""
        return ModelWorkerState(
            self.seat.digest, self.seat.number, self.process.pid if self.process else 0, self.phase,
            self.rss_bytes >> 20 << 20, max(0, self.starts - 1), self.last_death,
        )  # fmt: skip


class ModelProcesses:
    """All model workers of one gateway. `selector` calls what stands in a key's `data` when its file is readable."""

    def __init__(self, settings: Settings, home: Home, selector: selectors.BaseSelector) -> None:
        self._settings, self._home = settings, home
        self._folder = models_folder(home)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for stale in self._folder.glob("*.sock"):
            stale.unlink()
        self._selector = selector
        self._limits = Limits(settings.model_memory_bytes or machine_bytes() // 2, settings.model_timeout_s)
        self._held: dict[Seat, Watched] = {}
        self._wanted: dict[str, float] = {}  # digest -> when it was last wanted
        self._counts: dict[str, int] = {}
        self._measured = self._excused = 0.0
        self._turned = time.monotonic()
        _tidy(self._folder)

    def tend(self, wanted: Iterable[str]) -> None:
        """Bring what runs one round closer to what the gateway workers want."""
        now = time.monotonic()
        if now - self._turned > STALL_S:  # this process itself did not run: neither did the others, perhaps
            self._excused = now
        self._turned = now
        self._wanted |= dict.fromkeys(wanted, now)
        for digest in [digest for digest, last in self._wanted.items() if now - last > LINGER_S]:
            del self._wanted[digest]
            self._counts.pop(digest, None)
        if now - self._measured >= MEASURE_S:
            self._measured = now
            for held in self._held.values():
                held.rss_bytes = _rss(held)
        for held in self._held.values():
            if held.process is not None and held.process.poll() is not None:
                self._bury(held)
        counts = {digest: count for digest in self._wanted if (count := self._count(digest))}
        while (step := next_step(counts, self._seen(), self._limits, now)) is not None:
            match step:
                case Start(seat):
                    self._start(self._held.get(seat) or self._take(seat), counts[seat.digest])
                case End(seat):
                    self._end(self._held[seat])
                case Kill(seat):
                    self._kill(self._held[seat], step)
                case Forget(seat):
                    self._forget(self._held.pop(seat))

    def _seen(self) -> list[Seen]:
        return [held.seen(self._excused) for held in self._held.values()]

    def states(self) -> tuple[ModelWorkerState, ...]:
        """What is told of all."""
        return tuple(held.state() for _, held in sorted(self._held.items()))

    def end(self) -> None:
        """Tell all to finish, and end what does not."""
        running = [held for held in self._held.values() if held.process is not None]
        for held in running:
            self._end(held)
        until = time.monotonic() + 2.0
        for held in running:
            assert held.process is not None  # noqa: S101 - chosen so
            with contextlib.suppress(subprocess.TimeoutExpired):
                held.process.wait(max(0.05, until - time.monotonic()))
            _kill_group(held.process)
        for held in self._held.values():
            self._hang_up(held)
            self._forget(held)
        self._held.clear()

    def _count(self, digest: str) -> int:
        """How many processes a version has; none if the shelf does not hold it: the gateway worker says so."""
        if digest not in self._counts:
            with contextlib.suppress(NotFound):
                self._counts[digest] = seats_of(self._settings, self._home, digest)
        return self._counts.get(digest, 0)

    def _take(self, seat: Seat) -> Watched:
        held = self._held[seat] = Watched(seat, socket_path(self._home, seat))
        return held

    def _start(self, held: Watched, processes: int) -> None:
        self._listen_to(held.listener, None)
        held.since = held.started = time.monotonic()
        held.failed, held.kill, held.unread, held.unsaid = "", None, b"", b""
        held.said.clear()
        try:
            self._spawn(held, threads_for(self._settings, cores(), processes))
        except OSError as error:  # no descriptors or no memory left: the gateway serves on, and tries again
            log.error("model worker not started", digest=held.seat.digest[:12], reason=error.strerror)
            self._hang_up(held)
            self._rest(held, was_ready=False, cause=f"could not be started: {error.strerror}")
            return
        held.phase, held.rss_bytes = "loading", 0
        held.starts += 1

    def _spawn(self, held: Watched, threads: int) -> None:
        """Start the process; what it inherits is closed here, whatever happens."""
        with contextlib.ExitStack() as stack:
            held.line, theirs = socket.socketpair()
            stack.callback(theirs.close)
            output, theirs_output = os.pipe()
            held.output = FileIO(output)
            stack.callback(os.close, theirs_output)
            held.pulse, beats = Pulse.make()
            stack.callback(os.close, beats)
            handed = (held.listener.fileno(), theirs.fileno(), beats)
            held.oom_kills = oom_kills()
            held.process = subprocess.Popen(
                [sys.executable, "-m", "modelyard.serve.worker", held.seat.digest, *map(str, handed)],
                pass_fds=handed,
                stdin=subprocess.DEVNULL,
                stdout=theirs_output,
                stderr=theirs_output,
                env=_environment(threads),
                start_new_session=True,
                umask=0o077,
            )
        with contextlib.suppress(OSError):  # it died at once: its end will be seen
            held.line.sendall(msgspec.json.encode((self._settings, threads)) + b"\n")
        self._listen_to(held.line, lambda: self._hear(held))
        self._listen_to(held.output, lambda: self._keep_log(held))
        log.info("model worker started", digest=held.seat.digest[:12], index=held.seat.number, pid=held.process.pid)

    def _end(self, held: Watched) -> None:
        if held.process is not None:
            held.process.terminate()
        held.phase, held.since = "ending", time.monotonic()

    def _kill(self, held: Watched, kill: Kill) -> None:
        assert held.process is not None  # noqa: S101 - only a process that runs can be at fault
        held.kill = kill
        _kill_group(held.process)
        self._bury(held)

    def _hear(self, held: Watched) -> bool:
        """It said that it is ready, or why it never will be. Whether there was something to hear."""
        data = _received(held.line)
        if data == b"":
            self._shut(held.line)
            held.line = None
        if not data:
            return False
        *lines, held.unread = (held.unread + data[-LINE_BYTES:]).split(b"\n")
        for line in lines:
            with contextlib.suppress(msgspec.MsgspecError):  # the model's code wrote where it should not
                told = msgspec.json.decode(line, type=Told)
                held.failed = told.failed or held.failed
                if told.ready and held.phase == "loading":
                    held.phase, held.since = "ready", time.monotonic()
                    log.info("model worker ready", digest=held.seat.digest[:12], index=held.seat.number)
        return True

    def _keep_log(self, held: Watched) -> bool:
        """It printed something. Whether there was something to read."""
        data = held.output.read(65536) if held.output else None
        if data == b"":
            self._shut(held.output)
            held.output = None
        if not data:
            return False
        *lines, rest = (held.unsaid + data).split(b"\n")
        held.unsaid = rest[-LINE_BYTES:]
        for line in lines:
            held.said.append(line[:LINE_BYTES].decode("utf-8", "replace"))
            log.debug("model worker said", digest=held.seat.digest[:12], index=held.seat.number, line=held.said[-1])
        return True

    def _bury(self, held: Watched) -> None:
        assert held.process is not None  # noqa: S101 - the caller saw it end
        code, alive = held.process.wait(), time.monotonic() - held.started
        _kill_group(held.process)  # what it started itself
        for _ in range(LAST_READS):
            if not (self._hear(held) | self._keep_log(held)):
                break
        was_ready, was_told = held.phase == "ready", held.phase == "ending" and held.kill is None
        found = _post_mortem(held, code)
        self._hang_up(held)
        held.process, held.phase, held.rss_bytes, held.since = None, "absent", 0, time.monotonic()
        if was_told:
            log.info("model worker ended", digest=held.seat.digest[:12], index=held.seat.number)
            held.start_at = held.since
            return
        held.last_death = f"{found.at} pid {found.pid} {found.cause}"
        _write(self._folder / f"{held.path.stem}.json", msgspec.json.format(msgspec.json.encode(found)))
        log.error(
            "model worker died", digest=held.seat.digest[:12], index=held.seat.number, pid=found.pid, cause=found.cause,
            killed_by_memory=found.killed_by_memory,
        )  # fmt: skip
        self._rest(held, was_ready, found.cause, is_steady=was_ready and alive >= STEADY_S)

    def _rest(self, held: Watched, was_ready: bool, cause: str, is_steady: bool = False) -> None:
        """Wait before the next start, the longer the more deaths there were in a row."""
        held.deaths_in_a_row = 1 if is_steady else held.deaths_in_a_row + 1
        # A version that cannot even load is not tried again at once.
        pause = pause_before(held.deaths_in_a_row + (0 if was_ready else 1))
        held.start_at = time.monotonic() + pause
        if not was_ready or pause > PATIENCE_S:
            reason = f"the version cannot be served: its process {cause}"
            self._listen_to(held.listener, lambda: _refuse(held.listener, reason))

    def _hang_up(self, held: Watched) -> None:
        for end in (held.line, held.output):
            self._shut(end)
        if held.pulse is not None:
            held.pulse.close()
        held.line = held.output = held.pulse = None

    def _shut(self, end: socket.socket | FileIO | None) -> None:
        if end is not None:
            self._listen_to(end, None)
            end.close()

    def _forget(self, held: Watched) -> None:
        self._listen_to(held.listener, None)
        held.listener.close()
        held.path.unlink(missing_ok=True)

    def _listen_to(self, file: socket.socket | FileIO, then: Callable[[], object] | None) -> None:
        """Call `then` when there is something to read; None: no longer."""
        if file in self._selector.get_map():
            self._selector.unregister(file)
        if then is not None:
            os.set_blocking(file.fileno(), False)
            self._selector.register(file, selectors.EVENT_READ, then)


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with reachable_path(path) as short:
        listener.bind(short)
    path.chmod(0o600)
    listener.listen(256)
    listener.setblocking(False)
    return listener


def _environment(threads: int) -> dict[str, str]:
    """Ours without our own settings, which may hold secrets: a model's code needs none of them."""
    own = {name: text for name, text in os.environ.items() if not name.startswith("MODELYARD_")}
    return own | dict.fromkeys(THREADS, str(threads)) | {"PYTHONUNBUFFERED": "1"}


def _refuse(listener: socket.socket, reason: str) -> None:
    with contextlib.suppress(OSError, Broken):
        line, _ = listener.accept()
        with line:
            send(line, Refused(reason))


def _post_mortem(held: Watched, code: int) -> PostMortem:
    assert held.process is not None  # noqa: S101 - it has just ended
    name = _signal_name(-code) if code < 0 else ""
    by_kernel = held.kill is None and name == "SIGKILL" and oom_kills() > held.oom_kills
    if held.kill is not None:
        cause = f"{held.kill.cause}, and was killed"
    elif held.failed:
        cause = f"could not load: {held.failed}"
    elif by_kernel:
        cause = "was killed by SIGKILL while the kernel was out of memory"
    else:
        cause = f"was killed by {name}" if name else f"ended with status {code}"
    lines = (*held.said, *([held.unsaid.decode("utf-8", "replace")] if held.unsaid else ()))
    return PostMortem(
        held.seat.digest, held.seat.number, held.process.pid, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        round(time.monotonic() - held.started, 3), cause, name, None if name else code,
        by_kernel or bool(held.kill and held.kill.by_memory), lines[-KEPT_LINES:],
    )  # fmt: skip


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _rss(held: Watched) -> int:
    if held.process is None:
        return 0
    if (found := resident_bytes(held.process.pid)) is not None:
        return found
    return held.pulse.read().resident_bytes if held.pulse else 0


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End the process and whatever it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _received(line: socket.socket | None) -> bytes | None:
    """What has come; b"" at the end of the line, None where nothing is there yet."""
    try:
        return line.recv(65536) if line is not None else None
    except BlockingIOError:
        return None
    except ConnectionResetError:
        return b""


def _tidy(folder: Path) -> None:
    """Keep the newest post-mortems only."""
    found = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
    for old in found[:-KEPT_POST_MORTEMS]:
        old.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    staging = path.with_suffix(".new")
    with open(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    staging.replace(path)
