"""Log files of the processes that `up` starts: opened for appending, kept small, read from the end.

A child writes to its file itself, so it can go on writing when its parent is gone. A file above the limit is copied
and emptied in place: the child keeps its open file, and appends to the empty one.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

LIMIT_BYTES = 8 * 1024 * 1024
KEPT = 3  # older files beside the current one


def open_log(path: Path) -> IO[bytes]:
    """The file, for appending, readable by its owner alone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab", buffering=0)


def rotate(path: Path, limit_bytes: int = LIMIT_BYTES) -> bool:
    """Put a file above the limit aside as `name.1`, older ones moving up; whether it did."""
    try:
        if path.stat().st_size <= limit_bytes:
            return False
    except FileNotFoundError:
        return False
    for number in range(KEPT - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number + 1}"))
    aside = path.with_name(f"{path.name}.1")
    shutil.copyfile(path, aside)
    aside.chmod(0o600)
    os.truncate(path, 0)
    return True


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a file, from at most its last 256 kB; none if there is no file."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 256 * 1024))
            return file.read().decode("utf-8", "replace").splitlines()[-count:] if count else []
    except FileNotFoundError:
        return []


def follow(paths: list[Path], pause_s: float = 0.2) -> Iterator[tuple[Path, str]]:
    """Lines written from now on, for ever; a file that was emptied is read from its start."""
    return _new_lines({path: _size(path) for path in paths}, pause_s)


def _new_lines(read: dict[Path, int], pause_s: float) -> Iterator[tuple[Path, str]]:
    rest = dict.fromkeys(read, b"")
    while True:
        for path in read:
            size = _size(path)
            if size < read[path]:
                read[path] = 0
            if size == read[path]:
                continue
            with open(path, "rb") as file:
                file.seek(read[path])
                data = file.read()
            read[path] += len(data)
            *lines, rest[path] = (rest[path] + data).split(b"\n")
            for line in lines:
                yield path, line.decode("utf-8", "replace")
        time.sleep(pause_s)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
