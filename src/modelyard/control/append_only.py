"""Tables that only grow: refused by the model, and by the database whoever asks it."""

from typing import Any, NoReturn

from django.db import migrations, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from modelyard.contract.errors import Conflict


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise Conflict("this table only grows: what was recorded is neither changed nor removed")


class AppendOnlyQuerySet(models.QuerySet):
    """Rows to read and to add."""

    update = delete = bulk_update = update_or_create = _refuse


class AppendOnly(models.Model):
    """A row that is written once."""

    objects = AppendOnlyQuerySet.as_manager()

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Insert; a row that is there already is refused."""
        if not self._state.adding:
            _refuse()
        super().save(*args, **{**kwargs, "force_insert": True})

    delete = _refuse


def guard(table: str) -> migrations.RunPython:
    """A migration step: triggers that refuse to change or remove rows of `table`."""

    def add(apps: Any, editor: BaseDatabaseSchemaEditor) -> None:
        for statement in _statements(editor.connection.vendor, table):
            editor.execute(statement)

    def remove(apps: Any, editor: BaseDatabaseSchemaEditor) -> None:
        on = f" ON {table}" if editor.connection.vendor == "postgresql" else ""
        for verb in _verbs(editor.connection.vendor):
            editor.execute(f"DROP TRIGGER IF EXISTS {table}_no_{verb}{on}")

    return migrations.RunPython(add, remove)


def guard_all(connection: BaseDatabaseWrapper) -> None:
    """See that every table that only grows has its triggers; harmless to repeat.

    To be called after migrations: SQLite changes a table by making another one, and the triggers stay behind.
    """
    with connection.cursor() as cursor:
        there = set(connection.introspection.table_names(cursor))
        for kind in AppendOnly.__subclasses__():
            if kind._meta.db_table in there:
                for statement in _statements(connection.vendor, kind._meta.db_table):
                    cursor.execute(statement)


def _verbs(vendor: str) -> tuple[str, ...]:
    return ("update", "delete", "truncate") if vendor == "postgresql" else ("update", "delete")


def _statements(vendor: str, table: str) -> list[str]:
    """What makes the triggers, whether they are there or not."""
    if vendor == "sqlite":
        return [
            f"CREATE TRIGGER IF NOT EXISTS {table}_no_{verb} BEFORE {verb.upper()} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} only grows'); END"
            for verb in _verbs(vendor)
        ]
    function = (
        f"CREATE OR REPLACE FUNCTION {table}_only_grows() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{table} only grows'; END $$"
    )
    return [function] + [
        f"CREATE OR REPLACE TRIGGER {table}_no_{verb} BEFORE {verb.upper()} ON {table} "
        f"FOR EACH {'STATEMENT' if verb == 'truncate' else 'ROW'} EXECUTE FUNCTION {table}_only_grows()"
        for verb in _verbs(vendor)
    ]
