"""Is the database of this release? A fresh one is made, an older one waits for `upgrade`, a newer one is left alone.

Nobody but `modelyard upgrade` changes a database that holds something. A process that runs while another one upgrades
notices within a second, touches nothing any more and ends, so that whoever looks after it starts the new release.
"""

import time
from enum import StrEnum
from functools import cache
from pathlib import Path

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

from modelyard import __version__
from modelyard.contract.errors import Conflict
from modelyard.control.append_only import guard_all
from modelyard.control.locks import exclusive, one_at_a_time

LOOK_EVERY_S = 1.0
LOCK = "migrate.lock"  # in the home's `run`

_looked_at: dict[str, float] = {}


class OtherRelease(Conflict):
    """The database belongs to another release of Modelyard."""


class Standing(StrEnum):
    """How the database stands to this release."""

    FRESH = "fresh"
    CURRENT = "current"
    OLDER = "older"
    NEWER = "newer"


def standing(alias: str = DEFAULT_DB_ALIAS) -> Standing:
    """How the tables of that database stand to the migrations of this release."""
    if applied_migrations(alias) - known_migrations():
        return Standing.NEWER
    if not pending_migrations(alias):
        return Standing.CURRENT
    return Standing.OLDER if is_used(alias) else Standing.FRESH


def is_used(alias: str = DEFAULT_DB_ALIAS) -> bool:
    """Whether anything was ever done in that database; tables alone, or some of them, are nothing to lose."""
    connection = connections[alias]
    with connection.cursor() as cursor:
        there = {"accounts_auditevent", "auth_user"} & set(connection.introspection.table_names(cursor))
        for table in there:
            cursor.execute(f"SELECT 1 FROM {table} LIMIT 1")  # noqa: S608 - one of the two above
            if cursor.fetchone():
                return True
    return False


def make_or_refuse(run: Path) -> None:
    """Make the tables of a fresh database. Raises OtherRelease if it is another release's."""
    stands = standing()
    if stands is not Standing.CURRENT:
        with exclusive(run / LOCK):  # another process may be making them just now
            stands = standing()
            if stands is Standing.FRESH:
                migrate()
                stands = standing()
    refuse(stands)


def refuse(stands: Standing) -> None:
    """Raise OtherRelease, with the next step, unless the database is of this release."""
    if stands is Standing.OLDER:
        raise OtherRelease(
            f"the database is of an older release than Modelyard {__version__}: run `modelyard upgrade`, which makes a "
            "backup first; gateways go on meanwhile"
        )
    if stands is Standing.NEWER:
        unknown = sorted(applied_migrations() - known_migrations())
        raise OtherRelease(
            f"the database was upgraded by a newer release; Modelyard {__version__} does not know its step "
            f"{'.'.join(unknown[-1])}. Install the newer release, or restore the backup that `upgrade` made"
        )


def refuse_newer() -> None:
    """Raise OtherRelease if somebody has upgraded the database meanwhile; looks once a second at most."""
    name = str(connections[DEFAULT_DB_ALIAS].settings_dict["NAME"])
    if time.monotonic() - _looked_at.get(name, -LOOK_EVERY_S) < LOOK_EVERY_S:
        return
    recorded = MigrationRecorder(connections[DEFAULT_DB_ALIAS]).migration_qs.values_list("app", "name")
    if set(recorded) - known_migrations():
        refuse(Standing.NEWER)
    _looked_at.clear()
    _looked_at[name] = time.monotonic()


def migrate() -> list[str]:
    """Bring the database forward to this release, under the caller's lock; the steps that were done, in order."""
    from django.core.management import call_command

    connection = connections[DEFAULT_DB_ALIAS]
    with one_at_a_time("modelyard.migrate"):
        due = pending_migrations()
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SET statement_timeout = 0")  # a large table may take its time
        try:
            call_command("migrate", interactive=False, verbosity=0)
            guard_all(connection)
        finally:
            connection.close()  # and with it what was set for this connection
    return due


def pending_migrations(alias: str = DEFAULT_DB_ALIAS) -> list[str]:
    """The steps from that database to this release, such as `registry.0002_life_of_a_version`."""
    executor = MigrationExecutor(connections[alias])
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return [f"{migration.app_label}.{migration.name}" for migration, _ in plan]


def applied_migrations(alias: str = DEFAULT_DB_ALIAS) -> set[tuple[str, str]]:
    """The steps that made that database what it is; empty for a fresh one."""
    return set(MigrationRecorder(connections[alias]).applied_migrations())


@cache
def known_migrations() -> frozenset[tuple[str, str]]:
    """Every step that this release knows, those included that others have replaced."""
    migrations = MigrationLoader(None).disk_migrations
    replaced = {name for migration in migrations.values() for name in migration.replaces}
    return frozenset(migrations) | replaced
