"""Waking the control plane: one database, readable by its owner, whatever order processes come in."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from modelyard.contract.errors import InvalidInput
from modelyard.contract.home import Home
from modelyard.contract.settings import Settings, load_settings
from modelyard.control.database import database_of
from modelyard.control.main import gunicorn_options
from modelyard.control.setup import active_home, active_settings, environment_of, hosts_of, start

SQLITE_ONLY = pytest.mark.parametrize("home", ["sqlite"], indirect=True)


@SQLITE_ONLY
def test_the_database_and_the_keys_are_the_owners_alone(home: Home) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in (home.root, home.database, home.keys / "session.key")}
    assert modes == {"home": 0o700, "control.sqlite3": 0o600, "session.key": 0o600}


@SQLITE_ONLY
def test_sqlite_waits_for_writers_and_lets_readers_read(home: Home) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        facts = [cursor.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "busy_timeout")]
    assert facts == ["wal", 20_000]


def test_another_home_is_another_database(home: Home, tmp_path: Path) -> None:
    from modelyard.control.accounts.services import create_key, list_keys

    before = active_settings()
    create_key("somebody", ["infer"], by="test")
    start(Settings(home=str(tmp_path / "other")))
    assert active_home().root == tmp_path / "other"
    assert not list_keys().exists()
    start(before)
    assert list_keys().count() == 1


def test_many_processes_may_be_the_first(empty_database: str, tmp_path: Path) -> None:
    program = "from modelyard.control.setup import start; start(); from modelyard.control.accounts.services import *; "
    program += "print(ensure_admin() is not None)"
    environment = {**os.environ, "MODELYARD_HOME": str(tmp_path / "first"), "MODELYARD_DATABASE_URL": empty_database}
    processes = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(said) == ["False", "False", "True"]


def test_a_child_process_gets_exactly_these_settings() -> None:
    settings = Settings(home="/somewhere", workers=3, require_keys=True, allowed_hosts=("a.example", "b.example"))
    environment = {name: text for name, text in environment_of(settings).items() if name.startswith("MODELYARD_")}
    assert load_settings({}, environment, folder=Path("/nonexistent"))[0] == settings


def test_postgres_is_read_from_a_url() -> None:
    settings = Settings(database_url="postgres://me:s%40cret@db.example:6432/yard?sslmode=require")
    database = database_of(settings)
    assert database["ENGINE"] == "django.db.backends.postgresql"
    asked = [database[name] for name in ("NAME", "USER", "PASSWORD", "HOST", "PORT")]
    assert asked == ["yard", "me", "s@cret", "db.example", "6432"]
    assert database["OPTIONS"]["sslmode"] == "require"


@pytest.mark.parametrize("url", ["mysql://host/name", "postgres://host", "postgres://host:port/name", "nonsense"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="database_url"):
        database_of(Settings(database_url=url))


def test_an_address_for_strangers_needs_keys() -> None:
    public = Settings(host="0.0.0.0")
    with pytest.raises(InvalidInput, match="require_keys"):
        gunicorn_options(public)
    assert gunicorn_options(msgspec.structs.replace(public, require_keys=True))["bind"] == "0.0.0.0:8080"
    assert "0.0.0.0" not in hosts_of(public)


def test_ipv6_is_bound_in_brackets() -> None:
    assert gunicorn_options(Settings(host="::1"))["bind"] == "[::1]:8080"
