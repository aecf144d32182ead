"""One archive that makes the home again: taken while everything runs, verified before anything is replaced.

It holds the database, the plan, the names, the shelf, `tables`, `modelyard.toml`, and the keys: without the signing
key no gateway would believe the restored plan. So whoever has the archive can sign plans; its mode is 0600, and it
belongs where secrets are kept. Prediction records and logs are not in it.
"""

import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath

from modelyard import __version__
from modelyard.artifacts.names import read_names
from modelyard.artifacts.store import MANIFEST, Shelf
from modelyard.contract.errors import Conflict, InvalidInput, NotFound
from modelyard.contract.home import Home
from modelyard.control.deployments.reading import read_plan
from modelyard.control.deployments.wait import is_alive
from modelyard.control.setup import active_settings

FORMAT = 1
LABEL = "backup.json"
_SINGLE = ("control.sqlite3", "plan.json", "modelyard.toml")
_KEYS = ("plan.key", "plan.pub", "request_id.key", "session.key")
MAX_FILE_BYTES = 64 * 1024**3


def backup(home: Home | Path, target: Path) -> Path:
    """Write the archive (.tar.gz, 0600) and return its path. Raises Conflict if it exists, NotFound for an empty home.

    What is written first refers only to what is written later: database, plan and names before the shelf, which only
    grows. So the archive is whole though others go on writing.
    """
    home = home if isinstance(home, Home) else Home(home)
    target = Path(target)
    if active_settings().database_url:
        raise Conflict("the database is PostgreSQL: back it up with pg_dump, and the home folder as files")
    if not home.database.exists():
        raise NotFound("this home has no database yet; there is nothing to back up")
    if target.exists():
        raise Conflict(f"{target} exists; choose another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, staging = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)  # made 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w:gz", compresslevel=3) as archive:
                _fill(archive, home)
            file.flush()
            os.fsync(file.fileno())
        os.link(staging, target)  # unlike a rename, it never replaces
    except FileExistsError:
        raise Conflict(f"{target} exists; choose another name") from None
    finally:
        Path(staging).unlink(missing_ok=True)
    return target


def restore(home: Home | Path, archive: Path, *, force: bool = False) -> Path | None:
    """Make the home from an archive, after checking every byte of the shelf, the database and the signatures.

    Refuses a home that holds something, unless `force`: then the old one is moved aside, and its new path returned.
    Raises Conflict, NotFound, or InvalidInput for an archive that is damaged or holds what it should not.
    """
    home = home if isinstance(home, Home) else Home(home)
    root = home.root.expanduser().absolute()
    occupied = root.exists() and any(not entry.is_dir() or any(entry.iterdir()) for entry in root.iterdir())
    if occupied and not force:
        raise Conflict(f"{root} is not empty; restore with --force to move it aside first")
    if process := _running(home):
        raise Conflict(f"the control plane of this home runs (process {process}); stop it first")
    root.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{root.name}-restoring-", dir=root.parent))  # made 0700
    try:
        _extract(Path(archive), staging)
        _verify(Home(staging))
        aside = None
        if root.exists():
            aside = root.with_name(f"{root.name}.before-restore-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
            root.rename(aside)
        staging.rename(root)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    if aside is not None and not occupied:
        shutil.rmtree(aside)
        aside = None
    Home(root).prepare()
    return aside


def _fill(archive: tarfile.TarFile, home: Home) -> None:
    label = {"format": FORMAT, "modelyard": __version__, "created_at": round(time.time(), 3)}
    _add_bytes(archive, LABEL, json.dumps(label).encode())
    with tempfile.TemporaryDirectory(prefix=".backup-", dir=home.root) as folder:
        copy = Path(folder) / home.database.name
        with closing(sqlite3.connect(home.database)) as source, closing(sqlite3.connect(copy)) as destination:
            source.backup(destination)
        _add(archive, copy, home.database.name)
    for name in _SINGLE[1:]:
        _add(archive, home.root / name, name)
    for name in _KEYS:
        _add(archive, home.keys / name, f"keys/{name}")
    _add(archive, home.names, f"shelf/{home.names.name}")
    for digest in Shelf(home.shelf).digests():
        for path in sorted((home.shelf / digest).iterdir()):
            _add(archive, path, f"shelf/{digest}/{path.name}")
    for path in _tables(home):
        _add(archive, path, f"tables/{path.name}")


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


def _extract(archive: Path, folder: Path) -> None:
    """Copy out regular files with names that a backup has; nothing in the archive chooses where it lands."""
    try:
        with tarfile.open(archive, mode="r:gz") as opened:
            first = opened.next()
            if first is None or first.name != LABEL:
                raise InvalidInput(f"{archive.name} is not a backup of Modelyard")
            _check_label(opened, first)
            for entry in opened:
                if entry.name == LABEL:
                    continue
                if not entry.isreg() or not _is_expected(entry.name) or entry.size > MAX_FILE_BYTES:
                    raise InvalidInput(f"{archive.name} holds an entry that no backup has; nothing was restored")
                _copy_out(opened, entry, folder)
    except FileNotFoundError:
        raise NotFound(f"there is no file {archive.name!r}") from None
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InvalidInput(f"{archive.name} cannot be read: {type(error).__name__}; nothing was restored") from None


def _check_label(opened: tarfile.TarFile, entry: tarfile.TarInfo) -> None:
    data = opened.extractfile(entry)
    try:
        label = json.loads(data.read(4096)) if data else {}
    except ValueError:
        label = {}
    if not isinstance(label, dict) or label.get("format") != FORMAT:
        raise InvalidInput(f"this backup has a format that Modelyard {__version__} does not read")


def _is_expected(name: str) -> bool:
    parts = PurePosixPath(name).parts
    if "/".join(parts) != name or any(part in ("..", ".", "/") or part.startswith(".") for part in parts):
        return False
    if len(parts) == 1:
        return name in _SINGLE
    if parts[0] == "keys":
        return len(parts) == 2 and parts[1] in _KEYS
    if parts[0] == "tables":
        return len(parts) == 2
    if parts[0] != "shelf":
        return False
    return parts[1:] == ("names.json",) or (len(parts) == 3 and len(parts[1]) == 64 and parts[1].isalnum())


def _copy_out(opened: tarfile.TarFile, entry: tarfile.TarInfo, folder: Path) -> None:
    path = folder.joinpath(*PurePosixPath(entry.name).parts)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    data = opened.extractfile(entry)
    mode = 0o644 if path.name == "plan.pub" else 0o600
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        if data is not None:
            shutil.copyfileobj(data, file, 1024 * 1024)


def _verify(home: Home) -> None:
    """Every artifact, the database, and both signatures; raises InvalidInput for the first that is wrong."""
    shelf = Shelf(home.shelf)
    for digest in shelf.digests():
        known = {MANIFEST, *shelf.open(digest).manifest.files}
        if {path.name for path in (home.shelf / digest).iterdir()} - known:
            raise InvalidInput(f"artifact {digest[:12]} holds a file that its manifest does not list")
    if not home.database.exists():
        raise InvalidInput("the backup holds no database")
    try:
        with closing(sqlite3.connect(f"file:{home.database}?mode=ro", uri=True)) as database:
            sound = database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    except sqlite3.DatabaseError:
        sound = False
    if not sound:
        raise InvalidInput("the backup's database is damaged")
    read_names(home)
    plan = read_plan(home)
    there = set(shelf.digests())
    for endpoint in plan.endpoints if plan else ():
        for planned in endpoint.versions:
            if planned.digest not in there:
                raise InvalidInput(f"the plan serves artifact {planned.digest[:12]}, which the backup does not hold")


def _running(home: Home) -> int | None:
    """The process id of a control plane that works on this home."""
    try:
        process = int((home.run / "control.pid").read_text("ascii"))
    except (FileNotFoundError, ValueError):
        return None
    return process if is_alive(process) else None
