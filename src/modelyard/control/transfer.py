"""Every row of one database into another, of whatever kind: how SQLite becomes PostgreSQL, and both become a backup.

The tables are made by the very migrations that made the source's, an older release's too, and rows travel as the
tables of that release knew them. So an archive can be restored into either database and upgraded there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from pathlib import Path
from typing import Any

from django.apps.registry import Apps
from django.core.management.color import no_style
from django.db import DEFAULT_DB_ALIAS, connections, models, transaction
from django.db.migrations.executor import MigrationExecutor

from modelyard import __version__
from modelyard.contract.errors import InvalidInput
from modelyard.control.append_only import guard_all
from modelyard.control.database import SQLITE
from modelyard.control.release import applied_migrations, known_migrations

ARCHIVE = "archive"  # the alias of the second database, while it is open
CHUNK = 500  # rows in memory at a time
_migrated: ContextVar[str | None] = ContextVar("migrated", default=None)


class MigratedDatabase:
    """Django's router: while another database than the home's own is migrated, a migration's queries go there too."""

    def db_for_read(self, model: type[models.Model], **hints: Any) -> str | None:
        """The alias; None leaves it to Django."""
        return _migrated.get()

    db_for_write = db_for_read


@contextmanager
def opened(file: Path) -> Iterator[str]:
    """An SQLite file as this process's second database; its alias."""
    described = {"ENGINE": SQLITE, "NAME": str(file), "OPTIONS": {"init_command": "PRAGMA synchronous=OFF"}}
    described = connections.configure_settings({DEFAULT_DB_ALIAS: {}, ARCHIVE: described})[ARCHIVE]
    connections.settings[ARCHIVE] = described
    try:
        yield ARCHIVE
    finally:
        connections[ARCHIVE].close()
        del connections[ARCHIVE]
        del connections.settings[ARCHIVE]


@contextmanager
def one_instant(alias: str) -> Iterator[None]:
    """Everything that is read within is as it was at one instant, whoever goes on writing."""
    with transaction.atomic(using=alias, durable=True):
        if connections[alias].vendor == "postgresql":
            with connections[alias].cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield


def refuse_newer_archive(alias: str) -> None:
    """Raise InvalidInput if a newer release made that database."""
    if unknown := sorted(applied_migrations(alias) - known_migrations()):
        raise InvalidInput(
            f"a newer release made this backup; Modelyard {__version__} does not know its step "
            f"{'.'.join(unknown[-1])}. Install the newer release first"
        )


def transfer(source: str, target: str) -> int:
    """Make the tables of `source` in the empty database `target`, and copy every row; how many there were.

    The caller keeps `source` still. PostgreSQL as target: call it within a transaction, and all of it or nothing is
    there.
    """
    apps = _same_tables(source, target)
    rows = 0
    kinds = [kind for kind in apps.get_models(include_auto_created=True) if _is_table(kind)]
    with transaction.atomic(using=target):
        for kind in kinds:
            rows += _copy(kind, source, target)
        with connections[target].cursor() as cursor:
            for statement in connections[target].ops.sequence_reset_sql(no_style(), kinds):
                cursor.execute(statement)  # the next number comes after the copied ones
        connections[target].check_constraints()
    guard_all(connections[target])
    return rows


def _same_tables(source: str, target: str) -> Apps:
    """Migrate `target` to where `source` is; the tables as they are there."""
    executor = MigrationExecutor(connections[target])
    graph, applied = executor.loader.graph, applied_migrations(source)
    reached = [node for node in graph.nodes if node in applied]
    ends = [node for node in reached if not any(child.key in applied for child in graph.node_map[node].children)]
    before = _migrated.set(target)
    try:
        return executor.migrate(ends).apps
    finally:
        _migrated.reset(before)


def _is_table(kind: type[models.Model]) -> bool:
    return kind._meta.managed and not kind._meta.proxy and not kind._meta.swapped


def _copy(kind: type[models.Model], source: str, target: str) -> int:
    for field in kind._meta.local_concrete_fields:
        if isinstance(field, models.DateField):
            field.auto_now = field.auto_now_add = False  # when it happened, not when it was copied
    found = iter(kind._base_manager.using(source).order_by("pk").iterator(chunk_size=CHUNK))
    count = 0
    while chunk := list(islice(found, CHUNK)):
        kind._base_manager.using(target).bulk_create(chunk)
        count += len(chunk)
    return count
