"""One writer at a time, over all processes of a home: locks that are let go when their holder dies."""

import fcntl
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelyard.contract.errors import Overloaded
from modelyard.control.setup import active_settings

SHELF_LOCK = "shelf.lock"  # in the home's `run`: of whoever removes from the shelf, or reads all of it
PAUSE_S = 0.01  # between two looks at a lock that somebody holds


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock of that file; waits for whoever has it. Raises Overloaded after `database_wait_s`."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take(descriptor, path.name)
        yield
    finally:
        os.close(descriptor)  # closing lets go


def _take(descriptor: int, name: str) -> None:
    ends_at = time.monotonic() + active_settings().database_wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= ends_at:
                raise Overloaded(
                    f"another process holds {name} of this home for longer than database_wait_s; try again shortly"
                ) from None
            time.sleep(PAUSE_S)
        else:
            return


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Hold a lock of that name in the database itself, so that also another machine waits; for one connection's life.

    SQLite needs none: its file is on this machine. Raises OperationalError after `database_wait_s`.
    """
    from django.db import connection

    if connection.vendor != "postgresql":
        yield
        return
    number = zlib.crc32(name.encode())
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [number])
    try:
        yield
    finally:
        if connection.connection is not None:  # a closed connection has let go already
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [number])


def in_turn(name: str) -> None:
    """Within a transaction: wait until no other transaction of this name is under way. SQLite has one at a time."""
    from django.db import connection

    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [zlib.crc32(name.encode())])
