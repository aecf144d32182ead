"""A backup of either database into either: every row, as it was, and ready for the next one."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from kit.postgres import PASSWORD, Server
from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import Conflict, InvalidInput
from modelyard.contract.home import Home
from modelyard.contract.settings import Settings
from modelyard.control.backup import backup
from modelyard.control.deployments.reading import read_plan
from modelyard.control.restore import restore
from modelyard.control.setup import active_settings, start

POSTGRESQL_ONLY = pytest.mark.parametrize("home", ["postgresql"], indirect=True)


@pytest.fixture
def filled(home: Home, register) -> Home:
    """A home with rows of many kinds, times that lie back, and texts of all alphabets."""
    from django.contrib.auth import get_user_model
    from django.contrib.auth.models import Permission

    from modelyard.control.accounts.services import create_key, create_token, ensure_admin
    from modelyard.control.deployments.services import deploy
    from modelyard.control.jobs.services import enqueue
    from modelyard.control.registry.services import set_alias

    ensure_admin()
    register(1)
    register(2)
    deploy("scores", 1, by="林")
    deploy("scores", 2, by="Øyvind \N{GRINNING FACE}")
    set_alias("scores", "stable", 1, by="test")
    create_key("somebody", ["infer"], by="test", rows_per_second=0.1)
    user = get_user_model().objects.get()
    user.user_permissions.add(Permission.objects.first())  # a table that no model of ours names
    create_token(user)
    enqueue("modelyard.control.training.work.table_job", {"run_id": 1, "text": "a\nb\u2028"}, by="test")
    return home


def all_rows() -> dict[str, list[dict[str, Any]]]:
    """Every row of every table, as Python has it."""
    from django.apps import apps

    return {
        kind._meta.label: list(kind._base_manager.order_by("pk").values())
        for kind in apps.get_models(include_auto_created=True)
        if not kind._meta.proxy
    }


def test_every_row_comes_through_and_life_goes_on(filled: Home, empty_database: str, tmp_path: Path) -> None:
    before, plan = all_rows(), read_plan(filled)
    assert sum(len(rows) > 0 for rows in before.values()) >= 14
    there = Settings(home=str(tmp_path / "there"), database_url=empty_database)
    assert restore(there, backup(active_settings(), tmp_path / "backup.tar.gz")) == []
    start(there)
    assert all_rows() == before
    assert read_plan(Home(there.root)) == plan
    assert set(Shelf(Home(there.root).shelf).digests()) == set(Shelf(filled.shelf).digests())
    from django.db import DatabaseError, connection

    from modelyard.control.accounts.models import AuditEvent
    from modelyard.control.accounts.services import create_key
    from modelyard.control.deployments.services import rollback

    numbers = list(AuditEvent.objects.order_by("pk").values_list("pk", flat=True))
    create_key("another", ["infer"], by="test")
    rollback("scores", by="test")
    more = list(AuditEvent.objects.order_by("pk").values_list("pk", flat=True))
    assert more == list(range(numbers[0], numbers[0] + len(more)))  # numbers go on after those that were brought
    assert len(more) >= len(numbers) + 2
    for statement in ("DELETE FROM accounts_auditevent", "UPDATE registry_event SET verb = ''"):
        with pytest.raises(DatabaseError, match="only grows"), connection.cursor() as cursor:
            cursor.execute(statement)


@POSTGRESQL_ONLY
def test_a_database_that_holds_something_is_not_overwritten(filled: Home, tmp_path: Path) -> None:
    from django.db import connection

    here = active_settings()
    archive, before = backup(here, tmp_path / "backup.tar.gz"), all_rows()
    elsewhere = Settings(home=str(tmp_path / "elsewhere"), database_url=here.database_url)
    with pytest.raises(Conflict, match=r"database is not empty.*--force"):
        restore(elsewhere, archive)
    assert not (tmp_path / "elsewhere").exists()
    assert all_rows() == before
    (moved,) = restore(elsewhere, archive, force=True)
    start(elsewhere)
    assert all_rows() == before
    schema = moved.split()[1]
    with connection.cursor() as cursor:
        cursor.execute(f'SELECT count(*) FROM "{schema}".accounts_auditevent')  # noqa: S608 - a name of ours
        assert cursor.fetchone() == (len(before["accounts.AuditEvent"]),)


@POSTGRESQL_ONLY
def test_a_restore_that_fails_changes_nothing(filled: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelyard.control import restore as room
    from modelyard.control.tables import table_names

    here = active_settings()
    archive, before, tables = backup(here, tmp_path / "backup.tar.gz"), all_rows(), table_names()

    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(room, "_swap", no_room)
    with pytest.raises(OSError, match="No space"):
        restore(here, archive, force=True)
    assert (table_names(), all_rows()) == (tables, before)


@POSTGRESQL_ONLY
def test_who_may_not_move_tables_is_told(filled: Home, postgres: Server, tmp_path: Path) -> None:
    here = active_settings()
    archive = backup(here, tmp_path / "backup.tar.gz")
    name = here.database_url.split("?")[0].rpartition("/")[2]
    role = f"guest_{name}"
    postgres.sql(f"CREATE ROLE {role} LOGIN")
    try:
        url = here.database_url.replace("user=yard", f"user={role}")
        with pytest.raises(InvalidInput, match="GRANT CREATE ON DATABASE"):
            restore(Settings(home=str(tmp_path / "there"), database_url=url), archive, force=True)
    finally:
        postgres.sql(f"DROP ROLE {role}")


@pytest.mark.parametrize(
    "written",
    [
        'workers = 3\ndatabase_url = "{url}"  # the yard\nmax_rows = 9\n',
        'workers = 3\nmax_rows = 9\ndatabase_url = """\\\n  {url}"""\n',
    ],
)
@POSTGRESQL_ONLY
def test_where_the_database_is_stays_with_the_place(filled: Home, tmp_path: Path, written: str, postgres) -> None:
    """Or a restored home would work on the database of the one that was saved, and its password would travel."""
    import tarfile

    here = active_settings()
    (filled.root / "modelyard.toml").write_text(written.format(url=postgres.url("yard")))
    archive = backup(here, tmp_path / "backup.tar.gz")
    with tarfile.open(archive) as opened:
        text = opened.extractfile("modelyard.toml").read().decode()
        assert tomllib.loads(text) == {"workers": 3, "max_rows": 9}
        everything = b"".join(opened.extractfile(entry).read() for entry in opened)
    assert postgres.url("yard").encode() not in everything
    assert PASSWORD.encode() not in everything
    restore(here, archive, force=True)
    kept = tomllib.loads((filled.root / "modelyard.toml").read_text())
    assert kept == {"workers": 3, "max_rows": 9, "database_url": postgres.url("yard")}
    assert (filled.root / "modelyard.toml").stat().st_mode & 0o777 == 0o600


def test_a_migrations_own_queries_go_to_the_database_that_is_migrated(filled: Home) -> None:
    from django.db import router

    from modelyard.control import transfer
    from modelyard.control.registry.models import Version

    assert (router.db_for_read(Version), router.db_for_write(Version)) == ("default", "default")
    before = transfer._migrated.set("archive")
    assert (router.db_for_read(Version), router.db_for_write(Version)) == ("archive", "archive")
    transfer._migrated.reset(before)
