"""The tables of a PostgreSQL database: whether there are any, and how they step aside for those of a backup."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import ProgrammingError, connection, transaction

from modelyard.contract.errors import Conflict, InvalidInput

# Tables of the schema that new ones are made in, but for those that belong to an extension.
_THERE = """
    SELECT c.relname FROM pg_class c
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT EXISTS (
        SELECT 1 FROM pg_depend d
        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
    ) ORDER BY 1
"""
INSUFFICIENT_PRIVILEGE = "42501"


@contextmanager
def emptied(aside: str | None) -> Iterator[str | None]:
    """A transaction in an empty database, committed at the end; where its tables went, if there were any.

    With `aside` None, Conflict is raised for a database that holds tables.
    """
    with transaction.atomic(durable=True):
        there = table_names()
        if there and aside is None:
            raise Conflict("the PostgreSQL database is not empty; restore with --force to move its tables aside first")
        if there:
            _move(there, str(aside))
        yield f"schema {aside} of the database" if there else None


def table_names() -> list[str]:
    """Every table of the current schema."""
    with connection.cursor() as cursor:
        cursor.execute(_THERE)
        return [name for (name,) in cursor.fetchall()]


def _move(tables: list[str], schema: str) -> None:
    quote = connection.ops.quote_name
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE SCHEMA {quote(schema)}")
            for table in tables:
                cursor.execute(f"ALTER TABLE {quote(table)} SET SCHEMA {quote(schema)}")
    except ProgrammingError as error:
        if getattr(error.__cause__, "sqlstate", None) != INSUFFICIENT_PRIVILEGE:
            raise
        raise InvalidInput(
            "the database's user may not move its tables aside: GRANT CREATE ON DATABASE to it, or restore into an "
            "empty database"
        ) from None
