"""Versions that travel with their digest, and a shelf that loses nothing that is needed."""

import gzip
import io
import json
import tarfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from kit.versions import store
from modelyard.artifacts.manifest import Member
from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import Conflict, InvalidInput, NotFound
from modelyard.contract.home import Home
from modelyard.contract.telemetry import Prediction, frame

ON_SQLITE = pytest.mark.parametrize("home", ["sqlite"], indirect=True)


def registered(home: Home, base: float = 0.0, name: str = "loans") -> Any:
    from modelyard.control.registry.services import register_version

    shelf = Shelf(home.shelf)
    digest = store(shelf, base, name=name)
    return register_version(shelf.open(digest).manifest, digest, "test")


def composed(home: Home, of: str) -> Any:
    """A version that says it is made of another."""
    import msgspec

    from modelyard.control.registry.services import register_version

    shelf = Shelf(home.shelf)
    artifact = shelf.open(store(shelf, 50.0, name="whole"))
    manifest = msgspec.structs.replace(artifact.manifest, members=(Member("member", "loans:1", of),))
    digest = shelf.put(manifest, {"model.onnx": artifact.read("model.onnx")})
    return register_version(shelf.open(digest).manifest, digest, "test")


def elsewhere(tmp_path: Path) -> Home:
    from modelyard.contract.settings import Settings
    from modelyard.control.setup import start

    root = tmp_path / "elsewhere"
    start(Settings(home=str(root)))
    return Home(root)


# --- export and import


@ON_SQLITE
def test_a_version_registers_elsewhere_with_the_same_digest_and_its_members(home: Home, tmp_path: Path) -> None:
    from modelyard.control.archive.bundle import fingerprint
    from modelyard.control.archive.services import export_version, import_version

    member = registered(home)
    whole = composed(home, member.digest)
    file = tmp_path / "whole.tar.gz"
    label = export_version("whole", 1, file, "ada")
    with pytest.raises(Conflict, match="exists"):
        export_version("whole", 1, file, "ada")
    there = elsewhere(tmp_path)
    with pytest.raises(InvalidInput, match="ask the sender"):
        import_version(file, "bob")
    with pytest.raises(InvalidInput, match="not by the signer"):
        import_version(file, "bob", signer="0" * 32)
    assert not Shelf(there.shelf).digests()
    version = import_version(file, "bob", signer=fingerprint(label.signer))
    assert (version.digest, version.number, version.created_by) == (whole.digest, 1, "bob")
    assert "signed by" in version.note
    assert sorted(Shelf(there.shelf).digests()) == sorted([member.digest, whole.digest])
    assert import_version(file, "bob", signer=fingerprint(label.signer)).pk == version.pk, "again is harmless"


@ON_SQLITE
def test_what_a_home_exported_it_takes_back_without_a_word(home: Home, tmp_path: Path) -> None:
    from modelyard.control.archive.services import export_version, import_version

    version = registered(home)
    export_version("loans", None, tmp_path / "v.tar.gz", "ada")
    assert import_version(tmp_path / "v.tar.gz", "ada").pk == version.pk


def tampered(source: Path, target: Path, change: Any) -> Path:
    """The archive with each entry as `change(name, bytes)` wants it; None drops it."""
    with tarfile.open(source) as before, tarfile.open(target, "w:gz") as after:
        for entry in before:
            data = before.extractfile(entry)
            found = change(entry.name, data.read() if data else b"")
            if found is None:
                continue
            name, content = found
            made = tarfile.TarInfo(name)
            made.size = len(content)
            after.addfile(made, io.BytesIO(content))
    return target


@ON_SQLITE
def test_a_bundle_that_was_touched_is_refused_and_leaves_nothing(home: Home, tmp_path: Path) -> None:
    from modelyard.control.archive.services import export_version, import_version

    registered(home)
    file = tmp_path / "v.tar.gz"
    export_version("loans", 1, file, "ada")
    other = json.dumps({"format": 1, "modelyard": "0", "model": "x", "version": 1, "digests": [], "exported_at": 0.0,
                        "signer": "00"}).encode()  # fmt: skip
    changes = {
        "a byte of the graph": lambda name, data: (name, data + b"!" if name.endswith("onnx") else data),
        "a byte of the label": lambda name, data: (
            name,
            data.replace(b"loans", b"moans") if name == "export.json" else data,
        ),
        "another label": lambda name, data: (name, other if name == "export.json" else data),
        "a missing file": lambda name, data: None if name.endswith("onnx") else (name, data),
        "no signature": lambda name, data: None if name == "export.sig" else (name, data),
        "a path that leads out": lambda name, data: (f"../{name}" if name.endswith("onnx") else name, data),
        "an artifact of another digest": lambda name, data: (
            name.replace(name[:64], "a" * 64) if "/" in name else name,
            data,
        ),
    }
    before = Shelf(home.shelf).digests()
    for what, change in changes.items():
        touched = tampered(file, tmp_path / "touched.tar.gz", change)
        with pytest.raises(InvalidInput):
            import_version(touched, "eve")
        assert Shelf(home.shelf).digests() == before, what
        assert not list(home.shelf.glob(".staging-*")), what
    (tmp_path / "no.tar.gz").write_bytes(gzip.compress(b"no tar"))
    with pytest.raises(InvalidInput):
        import_version(tmp_path / "no.tar.gz", "eve")
    with pytest.raises(NotFound):
        import_version(tmp_path / "nothing.tar.gz", "eve")


# --- collection


def old(*versions: Any, days: int = 30) -> None:
    """Make them look so old. Rows are immutable, so the trigger steps aside for a moment."""
    from django.db import connection

    at = timezone.now() - timedelta(days=days)
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("SELECT sql FROM sqlite_master WHERE name = 'registry_version_is_immutable'")
            trigger = cursor.fetchone()[0]
            cursor.execute("DROP TRIGGER registry_version_is_immutable")
        else:
            cursor.execute("ALTER TABLE registry_version DISABLE TRIGGER USER")
        for version in versions:
            cursor.execute("UPDATE registry_version SET created_at = %s WHERE id = %s", [at, version.pk])
        if connection.vendor == "sqlite":
            cursor.execute(trigger)
        else:
            cursor.execute("ALTER TABLE registry_version ENABLE TRIGGER USER")


def reasons(done: Any) -> dict[int, str]:
    return {one.version: one.reason for one in done.kept if one.model == "loans"}


def test_only_what_nothing_needs_goes(home: Home) -> None:
    from modelyard.control.archive.services import collect
    from modelyard.control.deployments.services import deploy
    from modelyard.control.registry.models import Event, Version
    from modelyard.control.registry.services import find_version, register_version, set_alias

    versions = [registered(home, base=float(at)) for at in range(9)]
    deploy("loans", 1, by="test")
    deploy("loans", 2, by="test")  # version 1 is held for rollback
    set_alias("loans", "audited", 3, "test")
    record = Prediction("r" * 32, 1, "loans", 4, 1, "ada", 1, b"", b"", 1000)
    (home.records / "worker-0-00000000000000000001.records").write_bytes(frame(record))
    composed(home, versions[4].digest)
    old(*versions[:8])
    before = Shelf(home.shelf).digests()
    told = collect("test", keep=1, dry_run=True)
    assert [one.version for one in told.removed] == [8, 7, 6]
    assert Shelf(home.shelf).digests() == before
    done = collect("test", keep=2)
    assert [one.version for one in done.removed] == [7, 6], "the newest two of a model stay"
    assert reasons(done) == {
        9: "it is among the newest",
        8: "it is among the newest",
        5: "a version that stays is made of it",
        4: "prediction records refer to it",
        3: "it is called audited",
        2: "an endpoint holds it",
        1: "an endpoint holds it",
    }
    there = Shelf(home.shelf).digests()
    assert {versions[5].digest, versions[6].digest}.isdisjoint(there)
    assert Version.objects.get(pk=versions[5].pk).status == Version.Status.REMOVED
    assert Event.objects.filter(verb="remove").count() == 2
    with pytest.raises(NotFound, match="removed by garbage collection"):
        find_version("loans", 6)
    with pytest.raises(NotFound):
        deploy("loans", 7, by="test")
    digest = store(Shelf(home.shelf), 5.0)
    again = register_version(Shelf(home.shelf).open(digest).manifest, digest, "test")
    assert (again.number, again.status) == (6, Version.Status.READY), "the same artifact is the same version again"
    assert not collect("test", keep=3).removed


def test_a_young_version_stays_and_so_does_one_that_a_job_needs(home: Home) -> None:
    from modelyard.control.archive.services import collect
    from modelyard.control.batch.services import WORK
    from modelyard.control.jobs.services import enqueue

    versions = [registered(home, base=float(at)) for at in range(4)]
    old(versions[0], versions[1])
    enqueue(WORK, {"digest": versions[0].digest}, by="test")
    done = collect("test", keep=1, older_than_days=7, dry_run=True)
    assert [one.version for one in done.removed] == [2]
    assert reasons(done)[1] == "a job needs it"
    assert reasons(done)[3] == "it is young"


@ON_SQLITE
def test_an_artifact_without_a_version_goes_after_a_day(home: Home) -> None:
    import os

    from modelyard.control.archive.services import collect

    registered(home)
    orphan = store(Shelf(home.shelf), 77.0)
    assert not collect("test").orphans
    os.utime(home.shelf / orphan, (1, 1))
    assert collect("test").orphans == (orphan,)
    assert orphan not in Shelf(home.shelf).digests()


@ON_SQLITE
def test_a_collection_that_was_killed_is_finished_by_the_next(home: Home) -> None:
    from modelyard.control.archive.services import collect
    from modelyard.control.registry.models import Version

    kept, gone = registered(home), registered(home, base=1.0)
    for version in (kept, gone):
        (home.shelf / version.digest).rename(home.shelf / f".removed-{version.digest}")
    Version.objects.filter(pk=gone.pk).update(status=Version.Status.REMOVED)
    collect("test")
    assert Shelf(home.shelf).digests() == [kept.digest]
    assert not list(home.shelf.glob(".removed-*"))


@ON_SQLITE
def test_a_plan_that_cannot_be_read_stops_it(home: Home) -> None:
    from modelyard.control.archive.services import collect

    old(registered(home), registered(home, base=1.0))
    home.plan.write_text("{")
    with pytest.raises(InvalidInput, match=r"plan\.json"):
        collect("test", keep=1)
