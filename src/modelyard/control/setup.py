"""Waking the control plane for one home: settings, database, migrations. The only door from outside.

`start` first, then import models and services: Django refuses to load tables before it is set up.
"""

import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from modelyard.contract.errors import InvalidInput
from modelyard.contract.home import Home
from modelyard.contract.settings import ENVIRONMENT, Settings, load_settings
from modelyard.control.locks import exclusive
from modelyard.control.secret import secret_key

_active: Settings | None = None
_prepared: dict[Path, tuple[int, int] | None] = {}  # home -> the database file that was seen up to date


def start(settings: Settings | None = None) -> Settings:
    """Set Django up for the home of `settings` and bring its database up to date; harmless to repeat.

    The settings in force come back, with the home as an absolute path. A process that works on another home (a
    notebook, a test) may start again with it: what it had open on the first home is closed. A long-lived process
    starts again now and then, and so notices that its database file was removed or replaced.
    """
    global _active
    settings = settings or load_settings()[0]
    settings = msgspec.structs.replace(settings, home=str(settings.root.expanduser().resolve()))
    moved = _active is not None and settings != _active
    _active = settings
    Home(settings.root).prepare()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "modelyard.control.settings")

    import django

    if not _is_set_up():
        django.setup()
    elif moved:
        _move(settings)
    _bring_up_to_date(settings)
    return settings


def active_settings() -> Settings:
    """The settings that this process started with; read from file and environment if nobody has started it yet."""
    return _active or load_settings()[0]


def active_home() -> Home:
    """The home that this process works on."""
    return Home(active_settings().root)


def environment_of(settings: Settings) -> dict[str, str]:
    """The environment in which a child process has exactly these settings."""
    values = {field.name: getattr(settings, field.name) for field in msgspec.structs.fields(Settings)}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT)}
    return inherited | {f"{ENVIRONMENT}{name.upper()}": _text(value) for name, value in values.items()}


def database_of(settings: Settings) -> dict[str, Any]:
    """Django's description of the database: SQLite in the home, or `postgres://user:password@host:port/name`."""
    if not settings.database_url:
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(Home(settings.root).database),
            "OPTIONS": {
                "timeout": 20,  # seconds that a writer waits for another one
                "transaction_mode": "IMMEDIATE",  # two writers queue; neither fails halfway through
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA journal_size_limit=67108864",
            },
        }
    try:
        url = urlsplit(settings.database_url)
        port = url.port
    except ValueError:
        raise InvalidInput("database_url: the port is a number below 65536") from None
    if url.scheme not in ("postgres", "postgresql") or not url.path.strip("/"):
        raise InvalidInput("database_url is postgres://user:password@host:port/name, or empty for SQLite in the home")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(url.path.strip("/")),
        "USER": unquote(url.username or ""),
        "PASSWORD": unquote(url.password or ""),
        "HOST": url.hostname or "",
        "PORT": str(port or ""),
        "OPTIONS": dict(parse_qsl(url.query)),
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
    }


def hosts_of(settings: Settings) -> list[str]:
    """Names that a request may call this server by; anything else is refused, which stops DNS rebinding."""
    own = [] if settings.host in ("0.0.0.0", "::") else [settings.host]  # noqa: S104 - compared, not bound
    return list(dict.fromkeys(["localhost", "127.0.0.1", "[::1]", *own, *settings.allowed_hosts]))


def _is_set_up() -> bool:
    from django.apps import apps

    return apps.ready


def _move(settings: Settings) -> None:
    from django.conf import settings as django_settings
    from django.db import connections

    connections.close_all()
    connections.settings["default"].update(database_of(settings))
    del connections["default"]
    django_settings.SECRET_KEY = secret_key(Home(settings.root))
    django_settings.ALLOWED_HOSTS = hosts_of(settings)


def _bring_up_to_date(settings: Settings) -> None:
    home = Home(settings.root)
    if home.root in _prepared:
        if settings.database_url or _identity(home.database) == _prepared[home.root] is not None:
            return
        _forget_connections()  # the file was removed or replaced under us: what is open leads nowhere
    if not settings.database_url and not home.database.exists():
        os.close(os.open(home.database, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite gives its -wal the same mode
    if _pending_migrations():
        with exclusive(home.run / "migrate.lock"):
            if _pending_migrations():  # another process may have done it while this one waited
                from django.core.management import call_command

                call_command("migrate", interactive=False, verbosity=0)
    _prepared[home.root] = _identity(home.database)


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file lies there, however it is called."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _forget_connections() -> None:
    from django.db import connections

    connections.close_all()


def _pending_migrations() -> bool:
    from django.db import connection
    from django.db.migrations.executor import MigrationExecutor

    executor = MigrationExecutor(connection)
    return bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, tuple) else str(value)
