"""A real PostgreSQL for tests: started in a folder of its own, shared by the workers of a test run, ended with them.

Nothing outlives the run: a watcher waits for the lock that every worker holds while it lives, also of one that is
killed, and then ends the server and removes its folder. A server ends with the process that started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).parents[2]
USER = "yard"
PASSWORD = "p@ss/w:rd ?#%"  # every sign that a URL must write otherwise
START_WITHIN_S = 300  # the first time it may have to be installed
OPTIONS = {
    "fsync": "off",  # a test's server forgets everything anyway
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "autovacuum": "off",
    "shared_buffers": "32MB",
    "max_connections": "60",
    "listen_addresses": "127.0.0.1",
}


_running: dict[Path, subprocess.Popen[bytes]] = {}  # the servers that this process has started


@dataclass(frozen=True)
class Server:
    """One server: where it lies and listens. Its user may make databases and owns what it makes."""

    folder: Path
    port: int

    @classmethod
    def make(cls) -> Server:
        """A server that has not been started, in a folder that its own user may enter."""
        folder = Path(tempfile.mkdtemp(prefix="modelyard-postgres-", dir=_memory()))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            server = cls(folder, probe.getsockname()[1])
        password = folder / "password"
        password.write_text(PASSWORD)
        if os.geteuid() == 0:
            for path in (folder, password):
                shutil.chown(path, *_account())
        _run_as_its_user(
            _program("initdb"), "--pgdata", folder / "data", "--username", USER, f"--pwfile={password}",
            "--auth-local=trust", "--auth-host=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync",
        )  # fmt: skip
        return server

    def start(self) -> None:
        """Start it, and return when it answers; it ends with this process."""
        words = [_program("postgres"), "-D", self.folder / "data"]
        for name, value in (OPTIONS | {"port": self.port, "unix_socket_directories": self.folder}).items():
            words += ["-c", f"{name}={value}"]
        with open(self.folder / "log", "ab") as log:
            process = subprocess.Popen(
                [str(word) for word in words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                start_new_session=True, preexec_fn=_end_with_parent, **_its_user(),
            )  # fmt: skip
        _running[self.folder] = process
        ends_at = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < ends_at:
            with contextlib.suppress(Exception):  # it says "starting up", or nothing yet
                self.sql("SELECT 1")
                return
            time.sleep(0.05)
        raise RuntimeError(f"PostgreSQL does not start: {(self.folder / 'log').read_text()[-2000:]}")

    def stop(self, mode: str = "fast") -> None:
        """Stop it as `pg_ctl` calls it: smart, fast (connections are cut), immediate (as a crash)."""
        _run_as_its_user(
            _program("pg_ctl"), "stop", "--silent", "--pgdata", self.folder / "data", f"--mode={mode}", "--wait"
        )
        if (process := _running.pop(self.folder, None)) is not None:
            process.wait(60)

    def remove(self) -> None:
        """Remove its folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str = "postgres", *, password: str = PASSWORD, user: str = USER) -> str:
        """The address of a database, as `database_url` takes it."""
        return f"postgres://{quote(user)}:{quote(password, safe='')}@127.0.0.1:{self.port}/{quote(database)}"

    def socket_url(self, database: str = "postgres") -> str:
        """The same through the socket, where nobody is asked for a password: quicker."""
        return f"postgres:///{quote(database)}?host={quote(str(self.folder))}&port={self.port}&user={USER}"

    def create(self, template: str = "template0") -> str:
        """A new database, a copy of another one to which nobody is connected; its name."""
        name = f"t{secrets.token_hex(6)}"
        self.sql(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return name

    def drop(self, name: str) -> None:
        """Remove a database, whoever is connected to it."""
        self.sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def sql(self, statement: str, database: str = "postgres") -> list[tuple]:
        """What a statement returns."""
        import psycopg

        address = f"host={self.folder} port={self.port} user={USER} dbname={database}"
        with psycopg.connect(address, autocommit=True, connect_timeout=10) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    @contextlib.contextmanager
    def database(self, template: str = "template0") -> Iterator[str]:
        """The name of a database that is gone after the block."""
        name = self.create(template)
        try:
            yield name
        finally:
            self.drop(name)


def shared_server(place: Path) -> Server:
    """The one server of a test run whose workers all name the same folder; the first of them has it started."""
    place.mkdir(parents=True, exist_ok=True)
    alive = os.open(place / "alive", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(alive, fcntl.LOCK_SH)  # held, by being left open, until this process ends
    started, failed = place / "server.json", place / "failed"
    with open(place / "starting", "w") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        if not started.exists():
            failed.unlink(missing_ok=True)
            _detached(sys.executable, __file__, str(place))
            ends_at = time.monotonic() + START_WITHIN_S
            while not (started.exists() or failed.exists()) and time.monotonic() < ends_at:
                time.sleep(0.05)
    if not started.exists():
        raise RuntimeError(failed.read_text() if failed.exists() else f"no PostgreSQL after {START_WITHIN_S} s")
    folder, port = json.loads(started.read_text())
    return Server(Path(folder), port)


def watch(place: Path) -> None:
    """Start a server and end it when no worker lives any more, whichever way they ended."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the workers end first, then this
    try:
        server = Server.make()
        server.start()
    except Exception as error:
        _write(place / "failed", f"{type(error).__name__}: {error}")
        return
    _write(place / "server.json", json.dumps([str(server.folder), server.port]))
    with open(place / "alive", "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
    with contextlib.suppress(RuntimeError):  # somebody stopped it already
        server.stop("immediate")
    server.remove()


def _write(path: Path, text: str) -> None:
    """All of it or nothing is there."""
    staging = path.with_suffix(".new")
    staging.write_text(text)
    staging.replace(path)


def _memory() -> Path | None:
    """A folder in memory, where there is one: a database is made for each test."""
    place = Path("/dev/shm")
    return place if os.access(place, os.W_OK) and shutil.disk_usage(place).free > 1e9 else None  # containers: 64 MB


def _detached(*words: str) -> None:
    """A process that belongs to nobody, and keeps nobody's terminal or pipe open."""
    quiet = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)]
    first = os.posix_spawn(words[0], words, os.environ, file_actions=quiet, setsid=True)
    os.waitpid(first, 0)  # it has left another one behind


def _end_with_parent() -> None:
    """Linux sends the signal for an immediate shutdown when the parent is gone, however it went."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGQUIT)  # PR_SET_PDEATHSIG


def _program(name: str) -> Path:
    """The newest server program of that name; installed where that is allowed."""
    for _ in range(2):
        if (found := shutil.which(name)) is not None:
            return Path(found)
        if versions := list(Path("/usr/lib/postgresql").glob(f"*/bin/{name}")):
            return max(versions, key=lambda path: int(path.parts[-3]))
        tried = subprocess.run(
            [ROOT / "scripts/apt", "postgresql"], capture_output=True, text=True, timeout=START_WITHIN_S, check=False
        )
    raise RuntimeError(f"PostgreSQL's program {name} is not there. {tried.stderr or tried.stdout}")


def _account() -> tuple[str, str]:
    """Who runs the server when the tests run as root, whom it refuses."""
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres").pw_name, "postgres"
    return "nobody", "nogroup"


def _its_user() -> dict[str, Any]:
    """How a process of the server is started: not by root, and without what stands in this environment for others."""
    own = {name: text for name, text in os.environ.items() if not name.startswith("PG")}
    user: dict[str, Any] = {}
    if os.geteuid() == 0:
        user = dict(zip(("user", "group"), _account(), strict=True)) | {"extra_groups": []}
    return {"env": own | {"LC_ALL": "C"}, **user}


def _run_as_its_user(*words: str | Path) -> None:
    done = subprocess.run(
        [str(word) for word in words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        cwd="/", timeout=120, check=False, **_its_user(),
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{words[0]} ended with {done.returncode}: {done.stdout.decode(errors='replace')}")


if __name__ == "__main__" and os.fork() == 0:
    watch(Path(sys.argv[1]))
