"""Every released state comes forward to this one, on both databases, with all its rows; and nobody else touches it.

`0.1.0.tar.gz` and its like are backups that the release itself made, see `make.py`.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelyard.contract.errors import Conflict, InvalidInput
from modelyard.contract.home import Home
from modelyard.contract.settings import Settings
from modelyard.control.deployments.reading import read_plan
from modelyard.control.restore import restore
from modelyard.control.setup import environment_of, start, wake

RELEASES = sorted(Path(__file__).parent.glob("*.tar.gz"))


@pytest.fixture(params=RELEASES, ids=lambda path: path.name.removesuffix(".tar.gz"))
def older(request: pytest.FixtureRequest, empty_database: str, tmp_path: Path) -> Iterator[Settings]:
    """A home that a release has left behind."""
    settings = Settings(home=str(tmp_path / "yard"), database_url=empty_database)
    assert restore(settings, request.param) == []
    yield wake(settings)
    from django.db import connections

    connections.close_all()


def rows() -> dict[str, list[dict[str, Any]]]:
    """Every row of every table but the list of migrations, each as column -> text."""
    from django.db import connection

    found = {}
    with connection.cursor() as cursor:
        for table in sorted(connection.introspection.table_names(cursor)):
            if table == "django_migrations":
                continue
            names = [column.name for column in connection.introspection.get_table_description(cursor, table)]
            cursor.execute(f"SELECT * FROM {table} ORDER BY 1")  # noqa: S608 - our own tables
            found[table] = [dict(zip(names, map(str, row), strict=True)) for row in cursor.fetchall()]
    return found


def shape() -> dict[str, Any]:
    """Every table's columns, keys, indexes and rules; and the triggers."""
    from django.db import connection

    with connection.cursor() as cursor:
        tables = sorted(connection.introspection.table_names(cursor))
        columns = {
            table: sorted(
                (str(column.name), str(column.type_code), column.null_ok, str(column.collation))
                for column in connection.introspection.get_table_description(cursor, table)
            )
            for table in tables
        }
        rules = {table: _rules(connection.introspection.get_constraints(cursor, table)) for table in tables}
        listed = {
            "sqlite": "SELECT name FROM sqlite_master WHERE type = 'trigger' ORDER BY 1",
            "postgresql": "SELECT tgname FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid "
            "WHERE NOT tgisinternal AND relnamespace = current_schema()::regnamespace ORDER BY 1",
        }
        cursor.execute(listed[connection.vendor])
        return {"columns": columns, "rules": rules, "triggers": cursor.fetchall()}


def _rules(constraints: dict[str, Any]) -> list[str]:
    kept = ("columns", "primary_key", "unique", "foreign_key", "check", "index")
    return sorted(str([rule[name] for name in kept]) for rule in constraints.values())


def test_only_upgrade_changes_an_older_database(older: Settings) -> None:
    before = rows()
    with pytest.raises(Conflict, match="run `modelyard upgrade`"):
        start(older)
    said = subprocess.run(
        [sys.executable, "-m", "modelyard.cli.main", "models", "list"],
        env=environment_of(older), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert said.returncode == 1
    assert "modelyard upgrade" in said.stderr
    assert rows() == before


def test_all_rows_come_along_and_the_tables_are_this_releases_own(older: Settings, tmp_path: Path) -> None:
    from modelyard.control.upgrade import upgrade

    before = rows()
    assert sum(len(found) for found in before.values()) > 100
    for table in ("registry_version", "deployments_deployment", "accounts_key", "accounts_token", "jobs_job"):
        assert before[table], table
    done = upgrade(older)
    assert done.steps
    after = rows()
    for table, found in before.items():
        kept = [{name: row[name] for name in found[0] if name in row} for row in after[table]] if found else []
        assert all(row in kept for row in found), table
    upgraded = shape()
    start(Settings(home=str(tmp_path / "fresh")) if not older.database_url else fresh_beside(older, tmp_path))
    assert upgraded == shape()


def fresh_beside(older: Settings, tmp_path: Path) -> Settings:
    """A home whose tables are made anew in the same PostgreSQL database, in a schema of their own."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA fresh")
    url = f"{older.database_url}?options=-c%20search_path%3Dfresh"
    return Settings(home=str(tmp_path / "fresh"), database_url=url)


def test_it_is_saved_first_and_can_go_back(older: Settings, tmp_path: Path) -> None:
    from modelyard.control.upgrade import upgrade

    before = rows()
    saved = Path(str(upgrade(older).backup))
    assert saved.parent == Path(older.home) / "backups"
    assert saved.stat().st_mode & 0o777 == 0o600
    back = Settings(home=str(tmp_path / "back"))
    restore(back, saved)
    wake(back)
    assert {table: len(found) for table, found in rows().items()} == {
        table: len(found) for table, found in before.items()
    }
    with pytest.raises(Conflict, match="run `modelyard upgrade`"):
        start(back)


def test_repeating_changes_nothing(older: Settings) -> None:
    from modelyard.control.upgrade import upgrade

    upgrade(older)
    before = rows()
    again = upgrade(older)
    assert (again.steps, again.backup) == ((), None)
    assert rows() == before


def test_what_served_goes_on_and_can_be_changed(older: Settings) -> None:
    from modelyard.control.upgrade import upgrade

    home = Home(older.root)
    before = read_plan(home)
    upgrade(older)
    assert read_plan(home) == before
    from modelyard.contract.plan import TrafficSplit
    from modelyard.control.deployments.publish import publish_if_needed
    from modelyard.control.deployments.services import set_traffic

    publish_if_needed()
    same = read_plan(home)
    assert {one.name: one.split.weights for one in same.endpoints} == {
        one.name: one.split.weights for one in before.endpoints
    }
    assert [key.digest for key in same.keys] == [key.digest for key in before.keys]
    set_traffic("public", TrafficSplit({1: 50, 2: 50}, "x-customer"), by="test")
    assert read_plan(home).revision > same.revision


def test_the_record_still_only_grows(older: Settings) -> None:
    from modelyard.control.upgrade import upgrade

    upgrade(older)
    from django.db import DatabaseError, connection

    for table in ("accounts_auditevent", "registry_event"):
        for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET verb = ''"):  # noqa: S608 - our own tables
            with pytest.raises(DatabaseError, match="only grows"), connection.cursor() as cursor:
                cursor.execute(statement)


def test_two_who_upgrade_at_once_do_it_once(older: Settings) -> None:
    command = [sys.executable, "-m", "modelyard.cli.main", "upgrade", "--json"]
    both = [
        subprocess.Popen(command, env=environment_of(older), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=100) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    did = sorted('"steps":[]' in out.replace(" ", "").replace("\n", "") for out, _ in said)
    assert did == [False, True]


def test_a_step_that_fails_is_said_and_repeating_goes_on(older: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.db import connection

    from modelyard.control import upgrade as room
    from modelyard.control.upgrade import UpgradeFailed, upgrade

    monkeypatch.setattr(room.time, "strftime", lambda form: "20260101-000000")  # the second is not over yet
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE deployments_change (id integer)")  # in the way
    with pytest.raises(UpgradeFailed, match=r"backups/before-upgrade-.*repeating|repeating.*before-upgrade"):
        upgrade(older)
    with pytest.raises(Conflict, match="run `modelyard upgrade`"):
        start(older)
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE deployments_change")
    again = upgrade(older)
    assert again.steps
    assert again.backup
    assert sorted(Path(again.backup).parent.iterdir()) == [
        Path(again.backup),
        Path(again.backup).with_name("before-upgrade-20260101-000000.tar.gz"),
    ]
    start(older)


def test_a_newer_database_is_left_alone(older: Settings, tmp_path: Path) -> None:
    from modelyard.control.backup import backup
    from modelyard.control.upgrade import upgrade

    upgrade(older)
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO django_migrations (app, name, applied) VALUES ('jobs', '9999_later', '2030-01-01')")
    before = rows()
    for act in (start, upgrade):
        with pytest.raises(Conflict, match=r"newer release.*jobs\.9999_later"):
            act(older)
    if older.database_url:
        with pytest.raises(Conflict, match="newer release"):
            backup(older, tmp_path / "never.tar.gz")
    else:
        backup(older, tmp_path / "newer.tar.gz")
        with pytest.raises(InvalidInput, match="newer release made this backup"):
            restore(Settings(home=str(tmp_path / "elsewhere")), tmp_path / "newer.tar.gz")
    assert rows() == before
    assert not (tmp_path / "elsewhere").exists()


def test_old_and_new_commands_of_the_shell_agree(older: Settings) -> None:
    """The command says each step once, and then that there is nothing to do."""
    command = [sys.executable, "-m", "modelyard.cli.main", "upgrade"]
    environment = environment_of(older) | {"LANG": "C.UTF-8", "PATH": os.environ["PATH"]}
    first, second = (
        subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=True)
        for _ in range(2)
    )
    assert "done: registry.0002" in first.stdout
    assert "before-upgrade" in first.stderr
    assert "nothing was to be done" in second.stdout
