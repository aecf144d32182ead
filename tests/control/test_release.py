"""One release at a time: a fresh database is made, another release's is left alone, by processes that run as well."""

import subprocess
import sys
from pathlib import Path

import pytest

from modelyard.contract.errors import Conflict
from modelyard.contract.home import Home
from modelyard.contract.settings import Settings
from modelyard.control.setup import active_settings, environment_of, start


@pytest.fixture
def later(home: Home):
    """Somebody upgrades the database while this process works on it."""
    from django.db import connection

    from modelyard.control import release

    def upgrade() -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO django_migrations (app, name, applied) VALUES ('jobs', '9999_later', '2030-01-01')"
            )
        release._looked_at.clear()  # the second is over

    return upgrade


def test_what_was_left_half_made_is_made(empty_database: str, tmp_path: Path) -> None:
    """A first start that was cut off leaves some tables, and nothing to lose."""
    settings = Settings(home=str(tmp_path / "home"), database_url=empty_database)
    program = (
        "from modelyard.control.setup import wake; wake(); from django.core.management import call_command; "
        "call_command('migrate', 'auth', verbosity=0)"
    )
    subprocess.run([sys.executable, "-c", program], env=environment_of(settings), check=True, timeout=60)
    start(settings)
    from modelyard.control.release import Standing, standing

    assert standing() is Standing.CURRENT


def test_a_process_that_runs_notices_an_upgrade(home: Home, later) -> None:
    start(active_settings())
    later()
    with pytest.raises(Conflict, match=r"newer release.*jobs\.9999_later"):
        start(active_settings())


def test_the_runner_ends_when_it_is_outdated(home: Home, later) -> None:
    command = [sys.executable, "-m", "modelyard.control.runner"]
    with subprocess.Popen(command, env=environment_of(active_settings()), stderr=subprocess.PIPE, text=True) as runner:
        assert "takes jobs" in runner.stderr.readline()
        later()
        said = runner.communicate(timeout=30)[1]
    assert runner.returncode == 2
    assert "newer release" in said
    assert "Traceback" not in said


def test_the_web_process_refuses_and_asks_to_be_ended(home: Home, later, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.test import Client

    from modelyard.control import database_guard, release

    asked = []
    monkeypatch.setattr(database_guard, "leave", lambda: asked.append(True))
    client = Client(headers={"host": "localhost:8080"})
    assert client.get("/api/v1/models").status_code == 401
    later()
    for path in ("/api/v1/models", "/admin/"):
        release._looked_at.clear()
        answer = client.get(path)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert answer.json()["code"] == "not_ready"
        assert "newer release" in answer.json()["detail"]
    assert asked == [True, True]
    assert client.get("/healthz").status_code == 200


def test_the_look_is_taken_once_a_second(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    from modelyard.control import release

    release._looked_at.clear()
    now = [1000.0]
    monkeypatch.setattr(release.time, "monotonic", lambda: now[0])
    counts = []
    for moment in (1000.0, 1000.5, 1001.1):
        now[0] = moment
        with CaptureQueriesContext(connection) as queries:
            release.refuse_newer()
        counts.append(len(queries))
    assert counts == [1, 0, 1]


def test_triggers_that_a_migration_lost_come_back(home: Home) -> None:
    from django.db import DatabaseError, connection

    from modelyard.control.accounts.audit import record
    from modelyard.control.append_only import guard_all

    record("test", "look", "nothing")
    on = " ON accounts_auditevent" if connection.vendor == "postgresql" else ""
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TRIGGER accounts_auditevent_no_delete{on}")
    for _ in range(2):  # harmless to repeat
        guard_all(connection)
    with pytest.raises(DatabaseError, match="only grows"), connection.cursor() as cursor:
        cursor.execute("DELETE FROM accounts_auditevent")


@pytest.mark.parametrize("home", ["postgresql"], indirect=True)
@pytest.mark.parametrize("table", ["accounts_auditevent", "registry_event"])
def test_nobody_empties_what_only_grows(home: Home, table: str) -> None:
    from django.db import DatabaseError, connection

    with pytest.raises(DatabaseError, match="only grows"), connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {table}")
