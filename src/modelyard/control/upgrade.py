"""An older database comes forward to this release: saved first, under a lock, and told what was done.

Gateways read no database and go on meanwhile. Control and jobs of the older release, if they still run, notice the
newer tables within a second and end, so that `modelyard up` starts them again as this release.
"""

import time
from itertools import chain, count
from pathlib import Path

import msgspec

from modelyard.contract.errors import ModelyardError
from modelyard.contract.home import Home
from modelyard.contract.settings import Settings
from modelyard.control.backup import backup
from modelyard.control.database import reach
from modelyard.control.locks import exclusive
from modelyard.control.release import LOCK, Standing, migrate, refuse, standing
from modelyard.control.setup import start

FOLDER = "backups"  # of the home; not part of a backup itself


class Upgraded(msgspec.Struct, frozen=True):
    """What was done."""

    steps: tuple[str, ...]  # such as registry.0002_life_of_a_version; none: it was of this release already
    backup: str | None


def upgrade(settings: Settings, save_to: Path | None = None) -> Upgraded:
    """Bring the database to this release, after a backup to `save_to` (by default in the home's `backups`).

    To be called with the control plane woken (`setup.wake`). Harmless to repeat; a fresh database is simply made. If a
    step fails, those before it stay, and calling again goes on from there. Raises OtherRelease for a database that is
    newer, and what `start` raises.
    """
    home = Home(settings.root)
    if not settings.database_url and not home.database.exists():
        start(settings)
        return Upgraded((), None)
    reach(settings)
    with exclusive(home.run / LOCK):
        stands = standing()
        if stands is Standing.NEWER:
            refuse(stands)
        saved = backup(settings, save_to or _place(home)) if stands is Standing.OLDER else None
        try:
            steps = tuple(migrate()) if stands is not Standing.CURRENT else ()
        except ModelyardError:
            raise
        except Exception as error:
            raise UpgradeFailed(error, saved) from error
    start(settings)
    return Upgraded(steps, str(saved) if saved else None)


class UpgradeFailed(ModelyardError):
    """A step failed; the database stands where the step before it left it."""

    def __init__(self, cause: Exception, saved: Path | None) -> None:
        kept = f"; what was there before is in {saved}" if saved else ""
        super().__init__(f"a step of the upgrade failed ({type(cause).__name__}); repeating goes on from there{kept}")


def _place(home: Home) -> Path:
    """A name that is still free, also for who repeats within the second."""
    stem = f"before-upgrade-{time.strftime('%Y%m%d-%H%M%S')}"
    names = chain([stem], (f"{stem}-{again}" for again in count(2)))
    places = (home.root / FOLDER / f"{name}.tar.gz" for name in names)
    return next(place for place in places if not place.exists())
