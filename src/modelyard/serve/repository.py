"""The V2 model repository: which planned versions are loaded, and callers who unload and load them.

The plan says what may be served; this says what of it is set aside for now. It is one small file that all workers
follow, written atomically under a lock, and it outlives a restart: what was unloaded stays so until it is loaded again.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec

from modelyard.artifacts.store import Artifact
from modelyard.contract.encoding import Encoder
from modelyard.contract.errors import DeadlineExceeded, InvalidInput, ModelyardError, NotReady, Overloaded, Undecodable
from modelyard.contract.tensor import Inputs, Matrix, Tensors
from modelyard.serve.call import Call
from modelyard.serve.replica import Version
from modelyard.serve.routing import Route, Routes

LOCK_S = 0.2  # how long a change waits for another one
ASK_S = 0.05  # how often a change looks whether every worker follows
State = Literal["READY", "UNAVAILABLE", "LOADING", "UNLOADING"]

_encode = msgspec.json.Encoder().encode


class _Written(msgspec.Struct, frozen=True):
    """The file. Every change raises the revision."""

    revision: int = 0
    evicted: tuple[tuple[str, int], ...] = ()


class _Follower(msgspec.Struct, frozen=True):
    """What `run/gateway.json` says of one worker, as far as it matters here."""

    repository: int = 0


class _Followers(msgspec.Struct, frozen=True):
    workers: tuple[_Follower, ...] = ()


class Evicted:
    """The planned versions that are set aside: as the file says, and as far as this worker has followed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mark: tuple[int, int, int] | None = None
        self._written = _Written()
        self.wanted: frozenset[tuple[str, int]] = frozenset()  # as the file says
        self.served: frozenset[tuple[str, int]] = frozenset()  # as this worker does
        self.changed()

    @property
    def revision(self) -> int:
        """Of the file as it was last read."""
        return self._written.revision

    def changed(self) -> bool:
        """Look at the file; whether it says something else than at the last look."""
        try:
            stat = os.stat(self._path)
        except FileNotFoundError:
            return False
        mark = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        if mark == self._mark:
            return False
        self._mark = mark
        before, self._written = self._written, self._read()
        self.wanted = frozenset(self._written.evicted)
        return self._written != before

    def settle(self, pairs: frozenset[tuple[str, int]]) -> None:
        """This worker now serves everything but `pairs`, which is what was wanted when it began."""
        self.served = pairs

    def is_evicted(self, endpoint: str, version: int) -> bool:
        """Whether its calls are refused: it is unloaded, or not loaded again yet."""
        return (endpoint, version) in self.wanted or (endpoint, version) in self.served

    def state_of(self, endpoint: str, version: int) -> State:
        """As Triton calls it."""
        pair = (endpoint, version)
        if pair in self.wanted:
            return "UNAVAILABLE" if pair in self.served else "UNLOADING"
        return "LOADING" if pair in self.served else "READY"

    def evict(self, endpoint: str, versions: Iterable[int]) -> int:
        """Set versions aside. Returns the revision to wait for. Raises Overloaded where another change is stuck."""
        return self._write(lambda pairs: pairs | {(endpoint, version) for version in versions})

    def restore(self, endpoint: str, versions: Iterable[int]) -> int:
        """Take versions back. Returns the revision to wait for. Raises Overloaded where another change is stuck."""
        return self._write(lambda pairs: pairs - {(endpoint, version) for version in versions})

    def _read(self) -> _Written:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Written)
        except (FileNotFoundError, msgspec.MsgspecError):
            return self._written  # nothing was ever unloaded; or a hand wrote it, and what was known stays

    def _write(self, change: Callable[[frozenset[tuple[str, int]]], frozenset[tuple[str, int]]]) -> int:
        with self._locked():
            before = self._read()
            pairs = change(frozenset(before.evicted))
            if pairs == frozenset(before.evicted):
                return before.revision
            written = _Written(before.revision + 1, tuple(sorted(pairs)))
            staging = self._path.with_suffix(f".{os.getpid()}")
            staging.write_bytes(_encode(written))
            staging.chmod(0o600)
            staging.replace(self._path)
            return written.revision  # this worker hears of it as all others do: from `changed`

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600), "rb") as lock:
            until = time.monotonic() + LOCK_S
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise Overloaded("another load or unload holds the repository; try again shortly") from None
                    time.sleep(0.002)  # a change takes less than a millisecond
            yield


class AbsentVersion:
    """A version that is not loaded: what it says of itself, which its endpoint's description needs."""

    def __init__(self, artifact: Artifact) -> None:
        self.manifest = artifact.manifest
        self.encoder = Encoder(artifact.manifest.contract)
        self.decision = artifact.manifest.decision
        self.is_table = artifact.manifest.signature.layout != "tensors"

    def predict(self, inputs: Inputs) -> Tensors:
        """Nobody asks: `AbsentReplica.submit` refuses."""
        raise NotReady("this version is not loaded")

    def predict_joined(self, parts: Sequence[Inputs]) -> Tensors:
        """See `predict`."""
        raise NotReady("this version is not loaded")

    def explain(self, matrix: Matrix) -> Matrix | None:
        """Nothing is explained."""
        return None

    def close(self) -> None:
        """There is nothing to free."""


class AbsentReplica:
    """Stands where a replica was: refuses every call, naming how the version comes back."""

    is_idle = True
    is_resident = True
    streams = 0

    def __init__(self, artifact: Artifact) -> None:
        self.loaded: Version = AbsentVersion(artifact)

    def submit(self, call: Call) -> None:
        """Raises NotReady."""
        raise not_ready(call.deployment.endpoint, call.deployment.version)

    def close(self) -> None:
        """There is nothing to free."""


@cache
def evicted_in(folder: Path) -> Evicted:
    """The one of this process for a home's `run` folder."""
    return Evicted(folder / "evicted.json")


def not_ready(endpoint: str, version: int) -> NotReady:
    """What a call of an evicted version gets, in Triton's words."""
    return NotReady(
        f"Request for unknown model: '{endpoint}' version {version} is not at ready state; "
        f"POST /v2/repository/models/{endpoint}/load loads it"
    )


def index(routes: Routes, evicted: Evicted, *, ready_only: bool) -> bytes:
    """`POST /v2/repository/index`: every planned version with its state."""
    rows = []
    for name in routes.names:
        for version in sorted(routes.endpoint(name).deployments):
            state = evicted.state_of(name, version)
            if state == "READY" or not ready_only:
                reason = "" if state in ("READY", "LOADING") else "unloaded"
                rows.append({"name": name, "version": str(version), "state": state, "reason": reason})
    return _encode(rows)


def wants_ready_only(body: bytes | bytearray) -> bool:
    """What an index request asks for. Raises Undecodable."""
    wanted: _IndexRequest = _read(body, _IndexRequest)
    return wanted.ready


def check_load(body: bytes | bytearray) -> None:
    """Raises InvalidInput for what would serve something else than the plan says, or Undecodable."""
    for name in _parameters(body):
        if name == "config" or name.startswith("file:"):
            raise InvalidInput(
                f"the parameter '{name[:64]}' is not served: load takes back what the plan names; "
                "register a new version and deploy it"
            )
        raise InvalidInput(f"load has no parameter '{name[:64]}'")


def check_unload(body: bytes | bytearray) -> None:
    """Raises InvalidInput or Undecodable. No version depends on another: `unload_dependents` says nothing."""
    for name, value in _parameters(body).items():
        if name != "unload_dependents":
            raise InvalidInput(f"unload has no parameter '{name[:64]}'")
        if not isinstance(value, bool):
            raise InvalidInput("the parameter 'unload_dependents' is true or false")


def said(route: Route, verb: Literal["load", "unload"]) -> bytes:
    """The answer to a change that every worker follows: Triton's clients ignore it, KServe's read it."""
    versions = [str(version) for version in sorted(route.deployments)]
    return _encode({"name": route.name, verb: True, "versions": versions})


def follows(state: Path, revision: int) -> bool:
    """Whether every gateway worker of `run/gateway.json` serves this revision of the repository."""
    try:
        workers = msgspec.json.decode(state.read_bytes(), type=_Followers).workers
    except (FileNotFoundError, msgspec.MsgspecError):
        return False
    return all(worker.repository >= revision for worker in workers)


def when_followed(
    state: Path, revision: int, done: Callable[[ModelyardError | None], None], loop: asyncio.AbstractEventLoop,
    seconds: float,
) -> None:  # fmt: skip
    """Call `done(None)` once every worker follows, or with the error that says that they do not."""
    until = loop.time() + seconds

    def look() -> None:
        if follows(state, revision):
            done(None)
        elif loop.time() > until:
            done(DeadlineExceeded("not every worker followed within deadline_s; ask /v2/repository/index later"))
        else:
            loop.call_later(ASK_S, look)

    look()


class _IndexRequest(msgspec.Struct, forbid_unknown_fields=True):
    ready: bool = False


class _ChangeRequest(msgspec.Struct, forbid_unknown_fields=True):
    parameters: dict[str, str | int | float | bool] = {}


def _parameters(body: bytes | bytearray) -> dict[str, str | int | float | bool]:
    change: _ChangeRequest = _read(body, _ChangeRequest)
    return change.parameters


def _read(body: bytes | bytearray, kind: type[_IndexRequest | _ChangeRequest]) -> Any:
    if not body:
        return kind()
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        wanted = '{"ready": true}' if kind is _IndexRequest else '{"parameters": {}}'
        raise Undecodable(f"the body is empty or as {wanted}") from None
