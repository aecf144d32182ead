"""Reaching the database: every way to fail has a sentence that says what to do, and none of them tells the password."""

import builtins
import socket
import threading
from collections.abc import Iterator

import pytest

from kit.postgres import PASSWORD, USER, Server
from modelyard.contract.errors import Conflict, DeadlineExceeded, InvalidInput, ModelyardError, Overloaded
from modelyard.contract.home import Home
from modelyard.contract.settings import Settings
from modelyard.control.database import DatabaseAway, database_of, error_of, reach, shown
from modelyard.control.setup import active_settings, awake_elsewhere, start

POSTGRESQL_ONLY = pytest.mark.parametrize("home", ["postgresql"], indirect=True)


def refusal(settings: Settings) -> ModelyardError:
    """Why that database is not reached."""
    with awake_elsewhere(settings), pytest.raises(ModelyardError) as raised:
        reach(settings)
    assert PASSWORD not in str(raised.value)
    assert raised.value.__suppress_context__  # a traceback shows nothing of the driver's either
    return raised.value


@pytest.fixture
def elsewhere(home: Home, tmp_path) -> str:
    """Another home's folder, while this process is awake on the first."""
    return str(tmp_path / "elsewhere")


@POSTGRESQL_ONLY
def test_a_wrong_password_is_said(elsewhere: str, postgres: Server) -> None:
    error = refusal(Settings(home=elsewhere, database_url=postgres.url(password="wr0ng")))
    assert isinstance(error, InvalidInput)
    assert str(error) == f"database_url: PostgreSQL at 127.0.0.1:{postgres.port}: user or password is wrong"


@POSTGRESQL_ONLY
def test_no_password_is_said(elsewhere: str, postgres: Server) -> None:
    url = f"postgres://{USER}@127.0.0.1:{postgres.port}/postgres"
    assert "asks for a password" in str(refusal(Settings(home=elsewhere, database_url=url)))


@POSTGRESQL_ONLY
def test_a_missing_database_is_said(elsewhere: str, postgres: Server) -> None:
    error = refusal(Settings(home=elsewhere, database_url=postgres.url("nothing")))
    assert isinstance(error, InvalidInput)
    assert "no database of that name" in str(error)
    assert "createdb" in str(error)


@POSTGRESQL_ONLY
def test_an_unknown_user_is_said(elsewhere: str, postgres: Server) -> None:
    url = postgres.socket_url().replace(f"user={USER}", "user=nobody_here")
    assert "does not know this user" in str(refusal(Settings(home=elsewhere, database_url=url)))


@POSTGRESQL_ONLY
def test_an_unknown_option_is_said(elsewhere: str, postgres: Server) -> None:
    for option in ("pool=1", "flavour=sweet", "connect_timeout=soon"):
        error = refusal_of_option(elsewhere, f"{postgres.url()}?{option}")
        assert isinstance(error, InvalidInput)
        assert "option" in str(error)


def refusal_of_option(elsewhere: str, url: str) -> ModelyardError:
    """Some are refused when the URL is read, others by the driver."""
    settings = Settings(home=elsewhere, database_url=url)
    try:
        database_of(settings)
    except InvalidInput as error:
        return error
    return refusal(settings)


@POSTGRESQL_ONLY
def test_a_server_that_is_away_is_said(elsewhere: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    error = refusal(Settings(home=elsewhere, database_url=f"postgres://me:{'x' * 12}@127.0.0.1:{port}/yard"))
    assert isinstance(error, DatabaseAway)
    assert (error.code, error.retryable, error.retry_after_s) == ("not_ready", True, 5.0)
    assert str(error) == f"PostgreSQL at 127.0.0.1:{port} does not answer; start it, or set database_url right"


@POSTGRESQL_ONLY
def test_a_server_that_accepts_and_says_nothing_is_given_up(elsewhere: str) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"postgres://me@127.0.0.1:{silent.getsockname()[1]}/yard"
        error = refusal(Settings(home=elsewhere, database_url=url, database_connect_s=2.0))
    assert isinstance(error, DatabaseAway)


@POSTGRESQL_ONLY
def test_a_full_server_is_said(elsewhere: str, postgres: Server) -> None:
    with postgres.database() as name:
        postgres.sql(f'ALTER DATABASE "{name}" CONNECTION LIMIT 0')
        postgres.sql(f"CREATE ROLE one_of_many_{name} LOGIN")
        url = postgres.socket_url(name).replace(f"user={USER}", f"user=one_of_many_{name}")
        error = refusal(Settings(home=elsewhere, database_url=url))
        postgres.sql(f"DROP ROLE one_of_many_{name}")
    assert isinstance(error, DatabaseAway)
    assert "no connection free" in str(error)


@POSTGRESQL_ONLY
def test_an_old_server_is_said(elsewhere: str, postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.db.backends.postgresql.features import DatabaseFeatures

    monkeypatch.setattr(DatabaseFeatures, "minimum_database_version", (99,))
    error = refusal(Settings(home=elsewhere, database_url=postgres.url()))
    assert isinstance(error, InvalidInput)
    assert "PostgreSQL 99 or later is required" in str(error)


def test_a_missing_driver_is_named_with_its_extra(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = builtins.__import__

    def without_psycopg(name: str, *others: object, **options: object) -> object:
        if name == "psycopg":
            raise ModuleNotFoundError(name)
        return whole(name, *others, **options)

    monkeypatch.setattr(builtins, "__import__", without_psycopg)
    with pytest.raises(InvalidInput, match=r"pip install 'modelyard\[postgres\]'"):
        start(Settings(home=str(tmp_path / "never"), database_url="postgres://db.example/yard"))
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    "url",
    [
        "mysql://host/name",
        "postgres://host",
        "postgres://host:port/name",
        "postgres://host:123456/name",
        "nonsense",
        "postgres://me:12/34@host/name",  # signs of the password that were not escaped
        "postgres://me:12#34@host/name",
        "postgres://me:12?34@host/name",
        "postgres://me:a[b@host/name",
        "postgres://host/name/of",
        "postgres://host/name?pool=true",
    ],
)
def test_what_cannot_be_meant_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="database_url") as raised:
        database_of(Settings(database_url=url))
    assert "12" not in str(raised.value)
    assert "34" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgres://me:secret@db.example:6432/yard?sslpassword=secret", "postgres://***@db.example:6432/yard"),
        ("postgres:///yard?host=/run/postgresql&password=secret", "postgres:///yard"),
        ("postgres://me:se/cret@db.example/yard", "***"),
        ("secret", "***"),
    ],
)
def test_what_is_shown_of_a_url_holds_no_secret(url: str, said: str) -> None:
    assert shown(url) == said


def test_limits_are_the_settings(tmp_path) -> None:
    url = "postgres://me@db.example/yard?options=-c%20search_path%3Dyard&tcp_user_timeout=7"
    settings = Settings(database_url=url, database_timeout_s=1.5, database_wait_s=0.25, database_connect_s=2.5)
    options = database_of(settings)["OPTIONS"]
    assert options["connect_timeout"] == "3"
    assert options["tcp_user_timeout"] == "7"  # who writes it into the URL knows better
    assert "statement_timeout=1500 " in options["options"]
    assert "lock_timeout=250 " in options["options"]
    assert options["options"].endswith("-c search_path=yard")
    assert database_of(Settings(database_wait_s=0.25))["OPTIONS"]["timeout"] == 0.25


# --- what a failure means to whoever asked ----------------------------------------------------------------------


@pytest.fixture
def other(home: Home) -> Iterator:
    """A second connection to the same database."""
    from django.db import connections

    other = connections.create_connection("default")
    yield other
    other.close()


@pytest.fixture
def impatient(home: Home) -> Home:
    """The same home, for somebody who waits for nothing."""
    import msgspec

    start(msgspec.structs.replace(active_settings(), database_wait_s=0.2, database_timeout_s=0.5))
    return home


def failure(act) -> ModelyardError | None:
    """What the failure of `act` means."""
    from django.db import Error

    with pytest.raises(Error) as raised:
        act()
    return error_of(raised.value)


def test_a_change_that_waits_too_long_is_told_to_come_again(impatient: Home, other) -> None:
    from modelyard.control.accounts.services import create_key

    create_key("somebody", ["infer"], by="test")
    other.set_autocommit(False)
    with other.cursor() as cursor:
        cursor.execute("UPDATE deployments_publication SET committed = committed")
    error = failure(lambda: create_key("another", ["infer"], by="test"))
    other.rollback()
    assert isinstance(error, Overloaded)
    assert "database_wait_s" in str(error)
    create_key("another", ["infer"], by="test")


@POSTGRESQL_ONLY
def test_a_query_that_takes_too_long_is_cancelled(impatient: Home) -> None:
    from django.db import connection

    def sleep() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(30)")

    error = failure(sleep)
    assert isinstance(error, DeadlineExceeded)
    assert "database_timeout_s" in str(error)


def test_the_same_thing_made_twice_is_a_conflict(home: Home) -> None:
    from modelyard.control.accounts.models import Principal

    Principal.objects.create(name="somebody")
    assert isinstance(failure(lambda: Principal.objects.create(name="somebody")), Conflict)


def test_a_row_that_breaks_its_own_rule_is_a_fault_of_ours(home: Home) -> None:
    from modelyard.control.deployments.models import Publication

    assert failure(lambda: Publication.objects.create(pk=2)) is None
    assert error_of(ValueError("of something else")) is None


@POSTGRESQL_ONLY
def test_who_loses_a_deadlock_is_told_of_a_conflict(home: Home, other) -> None:
    from django.db import DatabaseError, connection, transaction

    from modelyard.control.accounts.models import Principal

    for name in ("one", "two"):
        Principal.objects.create(name=name)
    held, errors = threading.Event(), []

    def change(with_connection, name: str) -> None:
        with with_connection.cursor() as cursor:
            cursor.execute("UPDATE accounts_principal SET active = active WHERE name = %s", [name])

    def neighbour() -> None:
        other.set_autocommit(False)
        try:
            change(other, "two")
            held.set()
            change(other, "one")
        except DatabaseError as error:
            errors.append(error)
        other.rollback()

    thread = threading.Thread(target=neighbour)
    other.inc_thread_sharing()
    try:
        with transaction.atomic():
            change(connection, "one")
            thread.start()
            held.wait(10)
            change(connection, "two")
    except DatabaseError as error:
        errors.append(error)
    thread.join(20)
    assert [type(error_of(error)) for error in errors] == [Conflict]


@POSTGRESQL_ONLY
def test_what_cannot_be_kept_is_wrong_input(home: Home) -> None:
    from modelyard.control.accounts.models import Principal

    for name in ("a\0b", "x" * 64):
        assert isinstance(failure(lambda name=name: Principal.objects.create(name=name)), InvalidInput)


def test_a_job_may_say_anything(home: Home) -> None:
    from modelyard.control.jobs import services

    services.enqueue("modelyard.control.training.work.table_job", {}, by="test", max_attempts=1)
    job = services.claim("a")
    services.report(job, "a\0b", 0.5)
    services.keep_log(job, ["first", "a\0b \N{GRINNING FACE}"])
    services.fail(job, "broken: \0")
    job = services.find_job(job.pk)
    assert job.log == "first\na\N{REPLACEMENT CHARACTER}b \N{GRINNING FACE}"
    assert (job.step, job.error) == ("a\N{REPLACEMENT CHARACTER}b", "broken: \N{REPLACEMENT CHARACTER}")


@POSTGRESQL_ONLY
def test_a_standby_takes_no_changes(home: Home) -> None:
    from django.db import connection

    from modelyard.control.accounts.models import Principal

    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")
    assert isinstance(failure(lambda: Principal.objects.create(name="somebody")), DatabaseAway)


@pytest.mark.parametrize("home", ["sqlite"], indirect=True)
def test_a_damaged_file_is_said(home: Home) -> None:
    with home.database.open("rb"):  # its inode stays taken, so that the new file is another one
        for path in home.root.glob("control.sqlite3*"):
            path.unlink()
        home.database.write_bytes(b"this is no database" * 100)
        with pytest.raises(InvalidInput, match="modelyard restore"):
            start(active_settings())


# --- while it is away -------------------------------------------------------------------------------------------


@pytest.fixture
def closed(home: Home, postgres: Server) -> Iterator:
    """A switch: closes this test's database to everybody, cutting every connection, and opens it again."""
    name = active_settings().database_url.split("?")[0].rpartition("/")[2]

    def close(shut: bool = True) -> None:
        postgres.sql(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS {not shut}')
        if shut:
            postgres.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")  # noqa: S608

    yield close
    close(False)


@POSTGRESQL_ONLY
def test_every_door_says_try_again_and_works_when_it_is_back(
    home: Home, closed, capfd: pytest.CaptureFixture[str]
) -> None:
    from django.contrib.auth import get_user_model
    from django.db import close_old_connections, connection
    from django.test import Client

    from modelyard.control import release
    from modelyard.control.accounts.services import create_token, ensure_admin

    ensure_admin()
    user = get_user_model().objects.get()
    client = Client(headers={"host": "localhost:8080", "Authorization": f"Bearer {create_token(user)[1]}"})
    person = Client(headers={"host": "localhost:8080"})
    person.force_login(user)
    closed()
    name = str(connection.settings_dict["NAME"])
    for look_is_due in (True, False):  # the middleware meets it first, or the view does
        for door, path in ((client, "/api/v1/models"), (client, "/api/v1/plan"), (person, "/admin/registry/model/")):
            release._looked_at = {} if look_is_due else {name: release.time.monotonic()}
            answer = door.get(path)
            assert answer.status_code == 503, (path, look_is_due)
            assert answer.headers["Retry-After"] == "5"
            assert answer.json() == {
                "type": "about:blank",
                "title": "Not ready",
                "status": 503,
                "code": "not_ready",
                "detail": "the database does not answer; gateways serve on, try again shortly",
                "retryable": True,
            }
            close_old_connections()  # as the end of every request does
        assert client.get("/healthz").status_code == 200
    assert "Traceback" not in capfd.readouterr().err
    closed(False)
    assert client.get("/api/v1/models").status_code == 200
    assert person.get("/admin/registry/model/").status_code == 200


@POSTGRESQL_ONLY
def test_the_runner_outlives_it(home: Home, closed) -> None:
    from modelyard.control.jobs import services
    from modelyard.control.runner import Runner

    runner = Runner(active_settings())
    closed()
    turns = []

    def turn() -> bool:
        turns.append(len(turns))
        if len(turns) == 3:
            closed(False)
        if len(turns) == 5:
            runner.stopping.set()
        return Runner.turn(runner)

    runner.turn = turn
    runner.run()
    assert len(turns) == 5
    assert services.claim("another") is None  # the database answers again


@POSTGRESQL_ONLY
def test_a_start_without_it_is_said_in_a_line(home: Home, closed, capsys: pytest.CaptureFixture[str]) -> None:
    import subprocess
    import sys

    from modelyard.control.setup import environment_of

    closed()
    for module in ("modelyard.control.main", "modelyard.control.runner"):
        done = subprocess.run(
            [sys.executable, "-m", module],
            env=environment_of(active_settings()), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert "lets nobody into this database now" in done.stderr
        assert "Traceback" not in done.stderr
