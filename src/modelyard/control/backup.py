"""One archive that makes the home again, taken while everything runs; `restore.py` takes it.

It holds the database, the plan, the names, the shelf, `tables`, `modelyard.toml`, and the keys: without the signing
key no gateway would believe the restored plan. So whoever has the archive can sign plans; its mode is 0600, and it
belongs where secrets are kept. Prediction records and logs are not in it.

The database travels as an SQLite file, whichever kind it is: a backup of either can be restored into the other.
"""

import io
import json
import os
import re
import sqlite3
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import tomli_w

from modelyard import __version__
from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import Conflict, NotFound
from modelyard.contract.home import Home
from modelyard.contract.settings import Settings
from modelyard.control.database import reach
from modelyard.control.locks import SHELF_LOCK, exclusive
from modelyard.control.setup import wake

FORMAT = 1
LABEL = "backup.json"
SINGLE = ("control.sqlite3", "plan.json", "modelyard.toml")
KEYS = ("plan.key", "plan.pub", "request_id.key", "session.key")
_NOTHING = "this home has no database yet; there is nothing to back up"


def backup(settings: Settings, target: Path) -> Path:
    """Write the archive (.tar.gz, 0600) and return its path. Raises Conflict if it exists, NotFound for an empty home.

    What is written first refers only to what is written later: database, plan and names before the shelf, which only
    grows. So the archive is whole though others go on writing. An older release's database is saved as it is.
    """
    if not (settings.database_url or Home(settings.root).database.exists()):
        raise NotFound(_NOTHING)
    settings, target = wake(settings), Path(target)
    if settings.database_url:
        _refuse_unreadable(settings)
    if target.exists():
        raise Conflict(f"{target} exists; choose another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, staging = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)  # made 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            with (
                exclusive(Home(settings.root).run / SHELF_LOCK),  # nothing is collected meanwhile
                tarfile.open(fileobj=file, mode="w:gz", compresslevel=3) as archive,
            ):
                _fill(archive, settings)
            file.flush()
            os.fsync(file.fileno())
        os.link(staging, target)  # unlike a rename, it never replaces
    except FileExistsError:
        raise Conflict(f"{target} exists; choose another name") from None
    finally:
        Path(staging).unlink(missing_ok=True)
    return target


def _refuse_unreadable(settings: Settings) -> None:
    """Only its own release, or a newer one, knows how the rows of a PostgreSQL database are read."""
    reach(settings)
    from modelyard.control.release import Standing, applied_migrations, refuse, standing

    if not applied_migrations():
        raise NotFound(_NOTHING)
    if standing() is Standing.NEWER:
        refuse(Standing.NEWER)


def _fill(archive: tarfile.TarFile, settings: Settings) -> None:
    home = Home(settings.root)
    label = {"format": FORMAT, "modelyard": __version__, "created_at": round(time.time(), 3)}
    _add_bytes(archive, LABEL, json.dumps(label).encode())
    with tempfile.TemporaryDirectory(prefix=".backup-", dir=home.root) as folder:
        copy = Path(folder) / home.database.name
        _copy_database(settings, copy)
        _add(archive, copy, home.database.name)
    _add(archive, home.plan, home.plan.name)
    if (own := _without_address(home.root / "modelyard.toml")) is not None:
        _add_bytes(archive, "modelyard.toml", own.encode())
    for name in KEYS:
        _add(archive, home.keys / name, f"keys/{name}")
    _add(archive, home.names, f"shelf/{home.names.name}")
    for digest in Shelf(home.shelf).digests():
        for path in sorted((home.shelf / digest).iterdir()):
            _add(archive, path, f"shelf/{digest}/{path.name}")
    for path in _tables(home):
        _add(archive, path, f"tables/{path.name}")


def _copy_database(settings: Settings, copy: Path) -> None:
    """The database as it is at one instant, as an SQLite file."""
    if settings.database_url:
        from modelyard.control.transfer import one_instant, opened, transfer

        with opened(copy) as target, one_instant("default"):
            transfer("default", target)
        return
    with (
        closing(sqlite3.connect(Home(settings.root).database)) as source,
        closing(sqlite3.connect(copy)) as destination,
    ):
        source.backup(destination)


def _without_address(path: Path) -> str | None:
    """The home's own settings without `database_url`: where a database is, is the place's affair, not the archive's."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return None
    shortened = re.sub(r"(?m)^\s*database_url\s*=.*\n?", "", text)
    try:
        if "database_url" not in tomllib.loads(shortened):
            return shortened
    except tomllib.TOMLDecodeError:
        pass
    values = tomllib.loads(text)  # written in several lines: the comments go, the secret too
    values.pop("database_url")
    return tomli_w.dumps(values)


def _tables(home: Home) -> Iterator[Path]:
    folder = home.root / "tables"
    return iter(
        sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink()) if folder.is_dir() else ()
    )


def _add(archive: tarfile.TarFile, path: Path, name: str) -> None:
    try:
        data = path.open("rb")
    except FileNotFoundError:
        return
    with data:  # opened once: a file that is replaced meanwhile is read whole, as it was
        entry = tarfile.TarInfo(name)
        entry.size = os.fstat(data.fileno()).st_size
        entry.mtime, entry.mode = int(time.time()), 0o600
        archive.addfile(entry, data)


def _add_bytes(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o600
    archive.addfile(entry, io.BytesIO(data))
