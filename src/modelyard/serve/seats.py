"""Where the processes of a version listen, and how many there are: what gateway workers and their parent agree on."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import InvalidInput
from modelyard.contract.home import Home
from modelyard.contract.settings import Settings
from modelyard.serve.supervision import Seat, process_count

_ADDRESS_BYTES = 100  # what fits into a unix socket's address everywhere


def models_folder(home: Home) -> Path:
    """Where the sockets and post-mortems of model workers lie."""
    return home.run / "models"


def socket_path(home: Home, seat: Seat) -> Path:
    """Where the process in a seat listens."""
    return models_folder(home) / f"{seat.digest[:16]}-{seat.number}.sock"


def seats_of(settings: Settings, home: Home, digest: str) -> int:
    """How many processes a version has. Raises NotFound if the shelf does not hold its artifact."""
    try:
        size = Shelf(home.shelf).bytes_of(digest)
    except InvalidInput:  # damaged: whoever loads it says what is wrong with it
        size = 0
    return process_count(settings.model_workers, settings.worker_count, size)


def seat_for(settings: Settings, home: Home, digest: str, worker: int) -> Seat:
    """The process that gateway worker number `worker` asks. Raises NotFound as `seats_of`."""
    return Seat(digest, worker % seats_of(settings, home, digest))


@contextlib.contextmanager
def reachable_path(path: Path) -> Iterator[str]:
    """A name for `path` that fits into a socket's address, however deep the home lies."""
    if len(os.fsencode(path)) < _ADDRESS_BYTES or sys.platform != "linux":
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
