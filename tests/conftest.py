"""What every test may lean on: the same random cases each time in CI, a home of its own, and a real PostgreSQL."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from kit.postgres import Server, shared_server

settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """MODELYARD_HOME of this test alone; no test ever touches the one of the person who runs it."""
    home = tmp_path / "home"
    monkeypatch.setenv("MODELYARD_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Server:
    """One server for the whole test run, however many workers it has; started when a test first asks."""
    own = tmp_path_factory.getbasetemp()
    return shared_server((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "postgres")


def each_database(request: pytest.FixtureRequest) -> Iterator[str]:
    """The setting `database_url`: empty for SQLite, or the address of an empty PostgreSQL that is gone afterwards."""
    if request.param == "sqlite":
        yield ""
        return
    server: Server = request.getfixturevalue("postgres")
    with server.database() as name:
        yield server.url(name)


DATABASES = ["sqlite", "postgresql"]
empty_database = pytest.fixture(params=DATABASES)(each_database)  # for each test
database_url = pytest.fixture(scope="module", params=DATABASES)(each_database)  # for a story that a module tells
