"""Backup and restore: whole while others write, and nothing from an archive lands where it should not."""

import io
import json
import sqlite3
import tarfile
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from modelyard.artifacts.names import read_names
from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import Conflict, InvalidInput, NotFound
from modelyard.contract.home import Home
from modelyard.contract.settings import Settings
from modelyard.control.backup import backup
from modelyard.control.deployments.reading import read_plan
from modelyard.control.restore import restore
from modelyard.control.setup import active_settings, start


def on_sqlite(home: Home) -> Settings:
    """The settings of a home with a file for its database."""
    return Settings(home=str(home.root))


@pytest.fixture
def served(home: Home, register) -> Home:
    """A home that serves something."""
    from modelyard.control.accounts.services import create_key
    from modelyard.control.deployments.services import deploy

    register()
    deploy("scores", by="test")
    create_key("somebody", ["infer"], by="test")
    return home


def test_a_home_comes_back(served: Home, tmp_path: Path) -> None:
    from modelyard.control.deployments.services import deploy
    from modelyard.control.registry.work import register_packaged  # noqa: F401 - the room must be importable alone

    archive = backup(active_settings(), tmp_path / "backup.tar.gz")
    assert archive.stat().st_mode & 0o777 == 0o600
    copy = Home(tmp_path / "copy")
    assert restore(on_sqlite(copy), archive) == []
    assert read_plan(copy) == read_plan(served)
    assert read_names(copy) == read_names(served)
    assert copy.database.stat().st_mode & 0o777 == 0o600
    assert (copy.keys / "plan.key").stat().st_mode & 0o777 == 0o600
    start(Settings(home=str(copy.root)))
    deploy("scores", endpoint="again", by="test")
    assert read_plan(copy).revision == read_plan(served).revision + 1


def test_a_backup_is_whole_while_others_write(served: Home, register, tmp_path: Path) -> None:
    from django.db import connections

    stop, first = threading.Event(), threading.Event()

    def write() -> None:
        for seed in range(100, 300):
            register(seed)
            first.set()
            if stop.is_set():
                break
        connections.close_all()

    writer = threading.Thread(target=write)
    writer.start()
    first.wait(30)
    try:
        archives = [backup(active_settings(), tmp_path / f"{number}.tar.gz") for number in range(3)]
    finally:
        stop.set()
        writer.join()
    for number, archive in enumerate(archives):
        copy = Home(tmp_path / f"copy {number}")
        restore(on_sqlite(copy), archive)
        with closing(sqlite3.connect(copy.database)) as database:
            digests = {row[0] for row in database.execute("SELECT digest FROM registry_version")}
        assert len(digests) >= 2
        assert digests <= set(Shelf(copy.shelf).digests())


def test_a_home_that_holds_something_is_not_overwritten(served: Home, tmp_path: Path) -> None:
    archive = backup(active_settings(), tmp_path / "backup.tar.gz")
    with pytest.raises(Conflict, match="--force"):
        restore(active_settings(), archive)
    with pytest.raises(Conflict, match="exists"):
        backup(active_settings(), archive)
    before = served.plan.read_bytes()
    aside, *_ = restore(active_settings(), archive, force=True)
    assert (Path(aside) / "plan.json").read_bytes() == before == served.plan.read_bytes()


def test_a_running_control_plane_is_not_pulled_away(served: Home, tmp_path: Path) -> None:
    import os

    archive = backup(active_settings(), tmp_path / "backup.tar.gz")
    (served.run / "control.pid").write_text(str(os.getpid()))
    with pytest.raises(Conflict, match="stop it first"):
        restore(active_settings(), archive, force=True)


def test_an_empty_home_has_nothing_to_back_up(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        backup(on_sqlite(Home(tmp_path / "empty")), tmp_path / "backup.tar.gz")
    with pytest.raises(NotFound):
        restore(on_sqlite(Home(tmp_path / "empty")), tmp_path / "backup.tar.gz")


def rewrite(
    source: Path, target: Path, change: Callable[[tarfile.TarInfo, bytes], tuple[tarfile.TarInfo, bytes]]
) -> Path:
    """The same archive, each entry as `change` makes it."""
    with tarfile.open(source) as old, tarfile.open(target, "w:gz") as new:
        for entry in old:
            data = old.extractfile(entry)
            entry, content = change(entry, data.read() if data else b"")
            entry.size = len(content) if entry.isreg() else 0
            new.addfile(entry, io.BytesIO(content))
    return target


SQLITE_ONLY = pytest.mark.parametrize("home", ["sqlite"], indirect=True)  # what an archive holds is the same


@SQLITE_ONLY
@pytest.mark.parametrize(
    "name",
    [
        "../escaped",
        "/tmp/escaped",
        "shelf/../../escaped",
        "keys/../../escaped",
        "shelf/names.json/../../../x",
        "keys/authorized_keys",
        "run/gateway.json",
        ".bashrc",
        "shelf/short/manifest.json",
        "tables/.hidden",
    ],
)
def test_no_entry_chooses_where_it_lands(served: Home, tmp_path: Path, name: str) -> None:
    def change(entry: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
        if entry.name == "plan.json":
            entry.name = name
        return entry, content

    bad = rewrite(backup(active_settings(), tmp_path / "good.tar.gz"), tmp_path / "bad.tar.gz", change)
    refused(tmp_path, bad, "no backup has")


@SQLITE_ONLY
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE])
def test_only_files_are_restored(served: Home, tmp_path: Path, kind: bytes) -> None:
    def change(entry: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
        if entry.name == "plan.json":
            entry.type, entry.linkname = kind, "/etc/passwd"
        return entry, content

    bad = rewrite(backup(active_settings(), tmp_path / "good.tar.gz"), tmp_path / "bad.tar.gz", change)
    refused(tmp_path, bad, "no backup has")


@SQLITE_ONLY
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("model.onnx", "was changed"),
        ("manifest.json", "manifest was changed"),
        ("plan.json", "plan on disk"),
        ("names.json", "names.json"),
        ("control.sqlite3", "damaged"),
    ],
)
def test_a_changed_byte_is_found(served: Home, tmp_path: Path, name: str, reason: str) -> None:
    def change(entry: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
        if entry.name.rpartition("/")[2] == name:
            content = content.replace(b"scores", b"scares") if name.endswith("json") else b"x" + content[1:]
        return entry, content

    bad = rewrite(backup(active_settings(), tmp_path / "good.tar.gz"), tmp_path / "bad.tar.gz", change)
    refused(tmp_path, bad, reason)


@pytest.mark.parametrize("content", [b"", b"not an archive", json.dumps({"format": 1}).encode()])
def test_what_is_no_backup_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.tar.gz"
    path.write_bytes(content)
    refused(tmp_path, path, "backup of Modelyard|cannot be read")


@SQLITE_ONLY
def test_a_cut_archive_restores_nothing(served: Home, tmp_path: Path) -> None:
    good = backup(active_settings(), tmp_path / "good.tar.gz")
    path = tmp_path / "bad.tar.gz"
    path.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    refused(tmp_path, path, "backup of Modelyard|cannot be read")


def refused(folder: Path, archive: Path, reason: str) -> None:
    """Restoring says why not, and leaves nothing behind."""
    target = folder / "target" / "home"
    with pytest.raises(InvalidInput, match=reason):
        restore(on_sqlite(Home(target)), archive)
    assert list(target.parent.iterdir()) == []
    assert not (folder / "escaped").exists()
    assert not (folder / "target" / "escaped").exists()
