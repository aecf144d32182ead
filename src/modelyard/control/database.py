"""Which database remembers, how it is reached, and what its failures mean to whoever asked.

The password in `database_url` goes to the driver and nowhere else: no message, no log and no argument of a process
has it.
"""

import math
import re
import sqlite3
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from modelyard.contract.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidInput,
    ModelyardError,
    NotReady,
    Overloaded,
)
from modelyard.contract.home import Home
from modelyard.contract.settings import Settings

SQLITE, POSTGRESQL = "django.db.backends.sqlite3", "django.db.backends.postgresql"
_SHAPE = "database_url is postgres://user:password@host:port/name, or empty for SQLite in the home"
_LOST_AFTER = {"keepalives_idle": "15", "keepalives_interval": "5", "keepalives_count": "3"}  # 30 s without a sign
_DJANGOS = {"pool", "isolation_level", "server_side_binding", "assume_role", "prepare_threshold", "cursor_factory"}
_IDLE_IN_TRANSACTION = "60s"  # a transaction that does nothing for so long is ended, and its locks with it


class DatabaseAway(NotReady):
    """The database does not answer now; gateways go on without it."""

    retry_after_s = 5.0


def database_of(settings: Settings) -> dict[str, Any]:
    """Django's description of the database. Raises InvalidInput for a `database_url` that cannot be meant."""
    if not settings.database_url:
        return {
            "ENGINE": SQLITE,
            "NAME": str(Home(settings.root).database),
            "OPTIONS": {
                "timeout": settings.database_wait_s,
                "transaction_mode": "IMMEDIATE",  # two writers queue; neither fails halfway through
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA journal_size_limit=67108864",
            },
        }
    url = _parts(settings.database_url)
    asked = dict(parse_qsl(url.query, keep_blank_values=True))
    if wrong := asked.keys() & _DJANGOS:
        raise InvalidInput(f"database_url: {sorted(wrong)[0]} is no option of PostgreSQL's")
    limits = {
        "statement_timeout": f"{settings.database_timeout_s * 1000:.0f}",
        "lock_timeout": f"{settings.database_wait_s * 1000:.0f}",
        "idle_in_transaction_session_timeout": _IDLE_IN_TRANSACTION,
    }
    limited = " ".join(f"-c {name}={value}" for name, value in limits.items())
    return {
        "ENGINE": POSTGRESQL,
        "NAME": unquote(url.path[1:]),
        "USER": unquote(url.username or ""),
        "PASSWORD": unquote(url.password or ""),
        "HOST": url.hostname or "",
        "PORT": str(url.port or ""),
        "OPTIONS": {
            "connect_timeout": str(math.ceil(settings.database_connect_s)),
            "tcp_user_timeout": f"{settings.database_timeout_s * 1000:.0f}",
            **_LOST_AFTER,
            "application_name": "modelyard",
            **asked,
            "options": f"{limited} {asked.get('options', '')}".rstrip(),
        },
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
    }


def shown(url: str) -> str:
    """The URL for people: without user, password and options."""
    try:
        parts = _parts(url)
    except InvalidInput:
        return "***"
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{'***@' if '@' in parts.netloc else ''}{parts.hostname or ''}{port}{parts.path}"


def reach(settings: Settings) -> None:
    """Have an open connection. Raises DatabaseAway if the server is, InvalidInput for what must be set right first."""
    if settings.database_url:
        require_driver()
    from django.core.exceptions import ImproperlyConfigured
    from django.db import Error, NotSupportedError, connection

    try:
        connection.ensure_connection()
        connection.check_database_version_supported()  # Django itself looks once in a process's life
    except NotSupportedError as error:  # connected, but it is too old
        connection.close()
        raise InvalidInput(f"database_url: {error}; use a newer server") from None
    except (Error, ImproperlyConfigured) as error:
        raise (_why_not(settings, error) if settings.database_url else _why_no_file(error)) from None


def require_driver() -> None:
    """Raise InvalidInput that names the extra, if PostgreSQL's driver cannot be loaded."""
    try:
        import psycopg  # noqa: F401 - only whether it can be
    except ImportError:
        raise InvalidInput("database_url asks for PostgreSQL's driver: pip install 'modelyard[postgres]'") from None


def error_of(error: BaseException | None) -> ModelyardError | None:
    """What a failure of the database means to whoever asked; None if it is a fault of ours, or none of the database."""
    from django.db import DataError, Error, IntegrityError, InterfaceError, OperationalError

    if not isinstance(error, Error):
        return None
    cause = error.__cause__
    state = getattr(cause, "sqlstate", None) or ""
    if state in ("40001", "40P01"):
        return Conflict("somebody else changed the same at the same time; look at it again, then repeat")
    if isinstance(error, IntegrityError) and (state in ("23503", "23505") or _names_a_neighbour(cause)):
        return Conflict("somebody else made, changed or removed the same at the same time; look at it, then repeat")
    if state == "57014":
        return DeadlineExceeded("a query took longer than database_timeout_s allows; try again, or raise it")
    if state == "55P03" or _is_busy(cause):
        return Overloaded("others hold what this would change, for longer than database_wait_s; try again shortly")
    if isinstance(error, DataError):
        return InvalidInput("a value is too long, too large, or has a character that the database cannot keep")
    if state == "25006":
        return DatabaseAway("the database takes no changes now; try again, or see whether the server is a standby")
    if isinstance(cause, sqlite3.Error) and _code(cause) not in _FILE_FAILS:
        return None  # such as a table that is not there
    if isinstance(error, OperationalError | InterfaceError):
        return DatabaseAway("the database does not answer; gateways serve on, try again shortly")
    return None


def _parts(url: str) -> SplitResult:
    """The URL, if it can be meant. A sign that was not escaped would make a part of the password look like a name."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise InvalidInput("database_url: the port is a number below 65536, and signs are escaped") from None
    if parts.scheme not in ("postgres", "postgresql"):
        raise InvalidInput(_SHAPE)
    if parts.fragment or "@" in parts.path:
        raise InvalidInput("database_url: escape the signs of the password: @ is %40, / is %2F, # is %23, ? is %3F")
    if not parts.path.strip("/") or "/" in parts.path[1:]:
        raise InvalidInput(_SHAPE)
    return parts


# What a server says when it refuses, and what to do. Words, because libpq has no codes for a refused connection.
_REFUSALS = {
    "password authentication failed": "user or password is wrong",
    "no password supplied": "the server asks for a password, and there is none",
    r'role ".*" does not exist': "the server does not know this user",
    r'database ".*" does not exist': "there is no database of that name on the server; make it first: createdb NAME",
    r"pg_hba\.conf": "the server does not let this user in from here; its pg_hba.conf says who may",
    "SSL": "encryption: the server and `sslmode` do not agree",
    "certificate": "encryption: the server's certificate is not the one that `sslmode` asks for",
    "permission denied for database": "this user may not connect to that database: GRANT CONNECT",
    "could not translate host name": "nobody knows the host's name",
    "failed to resolve host": "nobody knows the host's name",
}


def _why_not(settings: Settings, error: Exception) -> ModelyardError:
    """Why there is no connection: the server is away, or full, or one of the settings is wrong."""
    import psycopg
    from django.db import ProgrammingError
    from psycopg.conninfo import make_conninfo
    from psycopg.pq import Ping

    if isinstance(error, ProgrammingError):
        return InvalidInput("database_url: an option after the `?` is none of PostgreSQL's, or has a wrong value")
    said, database = str(error), database_of(settings)
    asked = {
        "host": database["HOST"] or database["OPTIONS"].get("host"),
        "port": database["PORT"] or database["OPTIONS"].get("port"),
        "dbname": database["NAME"],
        "user": database["USER"] or database["OPTIONS"].get("user"),
        "connect_timeout": database["OPTIONS"]["connect_timeout"],
    }
    refusal = next((words for sign, words in _REFUSALS.items() if re.search(sign, said)), None)
    if re.search("too many|connection slots", said):
        return DatabaseAway(f"{_place(asked)} has no connection free; try again shortly, or raise its max_connections")
    if "not currently accepting connections" in said:
        return DatabaseAway(f"{_place(asked)} lets nobody into this database now; try again shortly")
    try:
        answer = psycopg.pq.PGconn.ping(make_conninfo(**{k: v for k, v in asked.items() if v}).encode())
    except psycopg.Error:
        answer = Ping.NO_ATTEMPT
    if answer == Ping.REJECT:
        return DatabaseAway(f"{_place(asked)} is starting or stopping; try again shortly")
    if answer == Ping.NO_RESPONSE and refusal is None:
        return DatabaseAway(f"{_place(asked)} does not answer; start it, or set database_url right")
    return InvalidInput(f"database_url: {_place(asked)}: {refusal or 'the server refuses user, password or database'}")


def _place(asked: dict[str, str | None]) -> str:
    return f"PostgreSQL at {asked['host'] or 'the local socket'}{':' + asked['port'] if asked['port'] else ''}"


def _why_no_file(error: Exception) -> ModelyardError:
    """SQLite's file cannot be opened or is none."""
    if isinstance(error.__cause__, sqlite3.OperationalError):
        return DatabaseAway(f"the home's control.sqlite3 cannot be opened: {error}")
    return InvalidInput("the home's control.sqlite3 is damaged; bring it back with `modelyard restore ARCHIVE`")


_FILE_FAILS = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY)


def _is_busy(cause: BaseException | None) -> bool:
    return _code(cause) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _code(cause: BaseException | None) -> int:
    """SQLite's code without its refinements."""
    return int(getattr(cause, "sqlite_errorcode", 0)) & 0xFF


def _names_a_neighbour(cause: BaseException | None) -> bool:
    """Whether a row broke a rule with other rows (unique, referred to) rather than one of its own."""
    return getattr(cause, "sqlite_errorcode", 0) in (
        sqlite3.SQLITE_CONSTRAINT_UNIQUE,
        sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
        sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY,
    )
