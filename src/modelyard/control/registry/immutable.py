"""Columns that are written once: the database refuses to change them, whoever asks it."""

from collections.abc import Sequence
from typing import Any

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor


def freeze(table: str, columns: Sequence[str]) -> migrations.RunPython:
    """A migration step: a trigger that refuses a change of any of `columns`; other columns may change.

    SQLite forgets triggers when a later migration rebuilds the table, so such a migration freezes it again.
    """

    def add(apps: Any, editor: BaseDatabaseSchemaEditor) -> None:
        for statement in _statements(editor.connection.vendor, table, columns):
            editor.execute(statement)

    def remove(apps: Any, editor: BaseDatabaseSchemaEditor) -> None:
        on = f" ON {table}" if editor.connection.vendor == "postgresql" else ""
        editor.execute(f"DROP TRIGGER IF EXISTS {table}_is_immutable{on}")

    return migrations.RunPython(add, remove)


def _statements(vendor: str, table: str, columns: Sequence[str]) -> list[str]:
    trigger = f"CREATE TRIGGER {table}_is_immutable BEFORE UPDATE ON {table} FOR EACH ROW WHEN"
    if vendor == "sqlite":
        changed = " OR ".join(f"OLD.{column} IS NOT NEW.{column}" for column in columns)
        return [f"{trigger} {changed} BEGIN SELECT RAISE(ABORT, '{table} is immutable'); END"]
    if vendor == "postgresql":
        changed = " OR ".join(f"OLD.{column} IS DISTINCT FROM NEW.{column}" for column in columns)
        function = (
            f"CREATE OR REPLACE FUNCTION {table}_is_immutable() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{table} is immutable'; END $$"
        )
        return [function, f"{trigger} ({changed}) EXECUTE FUNCTION {table}_is_immutable()"]
    return []
