"""The verbs: export a version, import one, collect what nothing needs."""

import shutil
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from django.db import transaction
from django.utils import timezone

from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import InvalidInput
from modelyard.contract.home import Home
from modelyard.control.accounts.audit import record
from modelyard.control.archive.bundle import Label, export, fingerprint, unpack
from modelyard.control.archive.garbage import Verdict, is_needed_since, orphans, verdicts
from modelyard.control.locks import SHELF_LOCK, exclusive
from modelyard.control.registry.listing import list_names
from modelyard.control.registry.models import Version
from modelyard.control.registry.services import find_version, note_event, register_version
from modelyard.control.setup import active_home

KEEP = 5
OLDER_THAN_DAYS = 7.0
ORPHANS_AFTER = timedelta(days=1)
ASIDE = ".removed-"


class Collected(msgspec.Struct, frozen=True):
    """What was removed (or would be), and what stays and why."""

    removed: tuple[Verdict, ...]
    kept: tuple[Verdict, ...]
    orphans: tuple[str, ...]  # digests of artifacts without a version

    @property
    def bytes(self) -> int:
        """What the removed versions take."""
        return sum(verdict.bytes for verdict in self.removed)


def export_version(model: str, which: int | str | None, target: Path, by: str) -> Label:
    """Write a version and its members into one signed file. Raises NotFound, Conflict."""
    version = find_version(model, which)
    label = export(active_home(), version.model.name, version.number, version.digest, target)
    record(by, "export_version", str(version), {"digest": version.digest})
    return label


def import_version(source: Path, by: str, *, signer: str | None = None, trust: bool = False) -> Version:
    """Register what another home exported: the same digest, the next number. Raises NotFound, InvalidInput."""
    home = active_home()
    label = unpack(home, source, signer, trust=trust)
    digest = label.digests[0]
    note = f"imported: {label.model} version {label.version}, signed by {fingerprint(label.signer)}"
    version = register_version(Shelf(home.shelf).describe(digest).manifest, digest, by, note)
    record(by, "import_version", str(version), {"digest": digest, "signer": fingerprint(label.signer)})
    return version


def collect(by: str, *, keep: int = KEEP, older_than_days: float = OLDER_THAN_DAYS, dry_run: bool = False) -> Collected:
    """Take versions off the shelf that nothing needs; their rows and history stay, marked as removed.

    Each version is locked and looked at again in the transaction that removes it, so that a deployment in the same
    moment either comes first and keeps it, or finds it removed. Raises InvalidInput.
    """
    if keep < 1 or older_than_days < 0:
        raise InvalidInput("keep is at least 1 and older_than_days at least 0")
    home, age, now = active_home(), timedelta(days=older_than_days), timezone.now()
    with exclusive(home.run / SHELF_LOCK):  # a backup that reads the shelf just now needs all of it
        return _collect(home, by, keep, age, now, dry_run)


def _collect(home: Home, by: str, keep: int, age: timedelta, now: datetime, dry_run: bool) -> Collected:
    _finish_what_was_begun(home)
    found = verdicts(home, keep, age, now)
    lost = orphans(home, ORPHANS_AFTER, now)
    going = [verdict for verdict in found if not verdict.reason]
    if dry_run:
        return Collected(tuple(going), tuple(one for one in found if one.reason), tuple(lost))
    gone = tuple(verdict for verdict in going if _remove(home, verdict, now, by))
    for digest in lost:
        shutil.rmtree(home.shelf / digest, ignore_errors=True)
    kept = tuple(verdict for verdict in found if verdict not in gone)
    if gone or lost:
        list_names()
        record(by, "collect", "shelf", {"versions": len(gone), "orphans": len(lost)})
    return Collected(gone, kept, tuple(lost))


def _remove(home: Home, wanted: Verdict, looked_at: datetime, by: str) -> bool:
    """Whether the version went. Its artifact is set aside before the commit and deleted after it."""
    place, aside = home.shelf / wanted.digest, home.shelf / f"{ASIDE}{wanted.digest}"
    with transaction.atomic():
        version = (
            Version.objects.select_for_update(of=("self",), skip_locked=_skips())
            .select_related("model")
            .filter(model__name=wanted.model, number=wanted.version, status=Version.Status.READY).first()
        )  # fmt: skip
        if version is None:
            return False  # somebody deploys it just now
        if is_needed_since(home, version, looked_at):
            return False
        others = Version.objects.filter(digest=wanted.digest, status=Version.Status.READY).exclude(pk=version.pk)
        version.status, version.note = Version.Status.REMOVED, f"removed by garbage collection. {version.note}".strip()
        version.save(update_fields=["status", "note"])
        note_event(version.model, by, "remove", version.number, {"digest": wanted.digest, "bytes": wanted.bytes})
        is_last = not others.exists()
        if is_last and place.exists():
            place.rename(aside)
    if is_last:
        shutil.rmtree(aside, ignore_errors=True)
    return True


def _finish_what_was_begun(home: Home) -> None:
    """A collection that was killed: what was set aside comes back if its version stayed, else it goes."""
    for aside in home.shelf.glob(f"{ASIDE}*"):
        digest = aside.name.removeprefix(ASIDE)
        if Version.objects.filter(digest=digest, status=Version.Status.READY).exists():
            if not (home.shelf / digest).exists():
                aside.rename(home.shelf / digest)
        else:
            shutil.rmtree(aside, ignore_errors=True)


def _skips() -> bool:
    """SQLite has one writer at a time, and so nothing to skip."""
    from django.db import connection

    return bool(connection.features.has_select_for_update_skip_locked)
