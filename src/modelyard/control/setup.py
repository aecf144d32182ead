"""Waking the control plane for one home: settings, Django, and a database of this release. The only door from outside.

`start` first, then import models and services: Django refuses to load tables before it is set up.
"""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from modelyard.contract.errors import InvalidInput
from modelyard.contract.home import Home
from modelyard.contract.settings import ENVIRONMENT, Settings, load_settings
from modelyard.control.database import database_of, reach, require_driver
from modelyard.control.secret import secret_key

_active: Settings | None = None
_outside: Settings | None = None  # what environment and files said when it was started
_prepared: dict[tuple[Path, str], tuple[int, int] | None] = {}  # home and URL -> the file that was seen to be right


def start(settings: Settings | None = None) -> Settings:
    """Set Django up for the home of `settings` and see that its database is of this release; harmless to repeat.

    The settings in force come back, with the home as an absolute path. A fresh database is made. A process that works
    on another home (a notebook, a test) may start again with it: what it had open on the first home is closed. A
    long-lived process starts again now and then, and so notices that its database was removed, replaced or upgraded.

    Raises DatabaseAway if PostgreSQL is, InvalidInput for a wrong `database_url`, OtherRelease if `upgrade` is due or
    a newer release has been here.
    """
    settings = wake(settings)
    _see_to_the_database(settings)
    return settings


def wake(settings: Settings | None = None) -> Settings:
    """The same without a look at the database. Whoever gives no settings means those in force, or, if environment or
    files say something else than they did at the last start, what they say now.
    """
    global _active, _outside
    if settings is None:
        outside = load_settings()[0]
        settings = _active if _active is not None and outside == _outside else outside
        _outside = outside
    elif settings != _active:
        with contextlib.suppress(InvalidInput):  # nobody asked what they say
            _outside = load_settings()[0]
    settings = msgspec.structs.replace(settings, home=str(settings.root.expanduser().resolve()))
    database_of(settings)  # refuses before anything is made
    if settings.database_url:
        require_driver()
    moved = _active is not None and settings != _active
    _active = settings
    Home(settings.root).prepare()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "modelyard.control.settings")

    import django

    if not _is_set_up():
        django.setup()
    elif moved:
        _move(settings)
    return settings


@contextmanager
def awake_elsewhere(settings: Settings) -> Iterator[None]:
    """Work on another home for the length of a block, without a look at its database."""
    before = _active
    wake(settings)
    try:
        yield
    finally:
        if before is not None:
            wake(before)


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


def hosts_of(settings: Settings) -> list[str]:
    """Names that a request may call this server by; anything else is refused, which stops DNS rebinding."""
    own = [] if settings.host in ("0.0.0.0", "::") else [settings.host]  # noqa: S104 - compared, not bound
    return list(dict.fromkeys(["localhost", "127.0.0.1", "[::1]", *own, *settings.allowed_hosts]))


def _is_set_up() -> bool:
    from django.apps import apps

    return apps.ready


def _move(settings: Settings) -> None:
    from django.conf import settings as django_settings
    from django.contrib.contenttypes.models import ContentType
    from django.db import connections

    connections.close_all()
    connections.settings["default"] = connections.configure_settings({"default": database_of(settings)})["default"]
    with contextlib.suppress(AttributeError):  # nobody has asked it anything yet
        del connections["default"]
    ContentType.objects.clear_cache()  # its numbers are another database's
    django_settings.SECRET_KEY = secret_key(Home(settings.root))
    django_settings.ALLOWED_HOSTS = hosts_of(settings)


def _see_to_the_database(settings: Settings) -> None:
    from modelyard.control.release import make_or_refuse, refuse_newer

    home, place = Home(settings.root), (settings.root, settings.database_url)
    if place in _prepared:
        if settings.database_url or _identity(home.database) == _prepared[place] is not None:
            refuse_newer()
            return
        _forget_connections()  # the file was removed or replaced under us: what is open leads nowhere
        del _prepared[place]
    if not settings.database_url and not home.database.exists():
        os.close(os.open(home.database, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite gives its -wal the same mode
    reach(settings)
    make_or_refuse(home.run)
    _prepared[place] = _identity(home.database)


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


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, tuple) else str(value)
