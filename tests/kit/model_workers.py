"""Real model workers for a test: supervised by a thread, as the gateway's parent does it, without a gateway."""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from kit.gateway import until
from modelyard.artifacts.manifest import Code, Manifest
from modelyard.artifacts.store import Shelf
from modelyard.contract.features import Contract
from modelyard.contract.home import Home
from modelyard.contract.plan import ModelWorkerState
from modelyard.contract.settings import Settings
from modelyard.runtimes.python import PythonRuntime, code_of
from modelyard.serve.channel import RemoteVersion
from modelyard.serve.model_processes import ModelProcesses
from modelyard.serve.seats import seat_for, socket_path

KIT_PATH = str(Path(__file__).parents[1])  # where processes find `kit.own_models`


class ModelWorkers:
    """The parent's part, turning in a thread."""

    def __init__(self, root: Path, **settings: object) -> None:
        self.settings = Settings(home=str(root), workers=1, **settings)  # type: ignore[arg-type]
        self.home = Home(root).prepare()
        self.shelf = Shelf(self.home.shelf)
        self.wanted: set[str] = set()
        self._selector = selectors.DefaultSelector()
        self._processes = ModelProcesses(self.settings, self.home, self._selector)
        self._stop = threading.Event()
        self._states: tuple[ModelWorkerState, ...] = ()
        self._thread = threading.Thread(target=self._turn)
        self._thread.start()

    def _turn(self) -> None:
        try:
            while not self._stop.is_set():
                self._processes.tend(tuple(self.wanted))
                self._states = self._processes.states()
                for key, _ in self._selector.select(0.02):
                    key.data()
        finally:
            self._processes.end()

    def states(self) -> tuple[ModelWorkerState, ...]:
        """What the parent would tell."""
        assert self._thread.is_alive(), "the supervisor ended"
        return self._states

    def state(self) -> ModelWorkerState:
        """Of the only process."""
        (state,) = self.states()
        return state

    def pid(self) -> int:
        """Of the only process, once it is ready."""
        until(lambda: [one for one in self.states() if one.state == "ready"], "the process is ready")
        return self.state().pid

    def open(self, digest: str, worker: int = 0) -> RemoteVersion:
        """A version as gateway worker `worker` holds it, connected."""
        self.wanted.add(digest)
        seat = seat_for(self.settings, self.home, digest, worker)
        path = socket_path(self.home, seat)
        version = RemoteVersion(self.shelf.open(digest), path, self.settings.model_timeout_s)
        try:
            version.connect(60)
        except BaseException:
            version.close()
            raise
        return version

    def close(self) -> None:
        """End the thread and all processes."""
        self._stop.set()
        self._thread.join(30)
        self._selector.close()


@contextlib.contextmanager
def model_workers(root: Path, **settings: object) -> Iterator[ModelWorkers]:
    """Model workers of the home `root`."""
    with mock.patch.dict(os.environ, PYTHONPATH=KIT_PATH):
        running = ModelWorkers(root, **settings)
        try:
            yield running
        finally:
            running.close()


def store_class(shelf: Shelf, entry: str, files: dict[str, bytes] | None = None, **manifest: object) -> str:
    """A version of an installed class (`package:Class`). Returns its digest."""
    runtime = PythonRuntime.of(entry)
    code = manifest.pop("code", None) or code_of(entry)
    assert isinstance(code, Code)
    packaged = Manifest(
        "own", "tensor", "python", "python", "2026-01-01T00:00:00Z", {}, runtime.signature, Contract(()),
        independent_rows=runtime.independent_rows, trusted=True, code=code, **manifest,  # type: ignore[arg-type]
    )  # fmt: skip
    runtime.close()
    return shelf.put(packaged, files or {})
