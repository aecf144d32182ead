"""A home from a backup: every byte is verified before anything is replaced, and either all is restored or nothing."""

import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath

import msgspec
import tomli_w

from modelyard import __version__
from modelyard.artifacts.names import read_names
from modelyard.artifacts.store import MANIFEST, Shelf
from modelyard.contract.errors import Conflict, InvalidInput, NotFound
from modelyard.contract.home import Home
from modelyard.contract.settings import Settings
from modelyard.control.backup import FORMAT, KEYS, LABEL, SINGLE
from modelyard.control.database import reach
from modelyard.control.deployments.reading import read_plan
from modelyard.control.deployments.wait import is_alive
from modelyard.control.setup import awake_elsewhere

MAX_FILE_BYTES = 64 * 1024**3


def restore(settings: Settings, archive: Path, *, force: bool = False) -> list[str]:
    """Make the home of `settings`, and its database, from an archive, after checking every byte of the shelf, the
    database and the signatures.

    Refuses a home or a PostgreSQL database that holds something, unless `force`: then the old ones are moved aside,
    and where to is returned. Either all is restored or nothing. Raises Conflict, NotFound, or InvalidInput for an
    archive that is damaged, of a newer release, or holds what it should not.
    """
    root = settings.root.expanduser().absolute()
    occupied = root.exists() and any(not entry.is_dir() or any(entry.iterdir()) for entry in root.iterdir())
    if occupied and not force:
        raise Conflict(f"{root} is not empty; restore with --force to move it aside first")
    if process := _running(Home(root)):
        raise Conflict(f"the control plane of this home runs (process {process}); stop it first")
    root.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{root.name}-restoring-", dir=root.parent))  # made 0700
    stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    try:
        _extract(Path(archive), staging)
        _verify(Home(staging))
        _keep_address(root / "modelyard.toml", staging / "modelyard.toml")
        with _database_restored(settings, staging, force, stamp) as schema:
            aside = _swap(root, staging, stamp)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    if aside is not None and not occupied:
        shutil.rmtree(aside)
        aside = None
    Home(root).prepare()
    return [*([str(aside)] if aside else []), *([schema] if schema else [])]


def _swap(root: Path, staging: Path, stamp: str) -> Path | None:
    """Put the staged home in its place; where the old one went."""
    aside = root.with_name(f"{root.name}.before-restore-{stamp}") if root.exists() else None
    if aside is not None:
        root.rename(aside)
    try:
        staging.rename(root)
    except OSError:
        if aside is not None:
            aside.rename(root)
        raise
    return aside


@contextmanager
def _database_restored(settings: Settings, staging: Path, force: bool, stamp: str) -> Iterator[str | None]:
    """See that the staged database is of a release that this one can upgrade; with PostgreSQL bring it there.

    PostgreSQL commits when the block has ended well; what the schema is called into which its old tables went.
    """
    file = staging / "control.sqlite3"
    with awake_elsewhere(msgspec.structs.replace(settings, home=str(staging))):
        from modelyard.control.tables import emptied
        from modelyard.control.transfer import opened, refuse_newer_archive, transfer

        with opened(file) as source:
            refuse_newer_archive(source)
        if not settings.database_url:
            yield None
            return
        reach(settings)
        with emptied(f"before_restore_{stamp.replace('-', '_')}" if force else None) as schema:
            with opened(file) as source:
                transfer(source, "default")
            for used in staging.glob(f"{file.name}*"):
                used.unlink()
            yield schema


def _keep_address(old: Path, new: Path) -> None:
    """A home that is replaced keeps its own `database_url`, where its own settings say it."""
    try:
        url = tomllib.loads(old.read_text("utf-8")).get("database_url")
    except FileNotFoundError:
        return
    if url:
        said = new.read_text("utf-8") if new.exists() else ""
        new.write_text(tomli_w.dumps({"database_url": url}) + said, "utf-8")
        new.chmod(0o600)


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
        return name in SINGLE
    if parts[0] == "keys":
        return len(parts) == 2 and parts[1] in KEYS
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
