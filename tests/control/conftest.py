"""A control plane with a home and a database of its own for each test; tables are made once and copied."""

import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kit.postgres import Server
from modelyard.artifacts.manifest import Lineage, Manifest
from modelyard.contract.features import Column, Contract
from modelyard.contract.home import Home
from modelyard.contract.settings import Settings
from modelyard.contract.signature import Signature, TensorSpec
from modelyard.control.setup import start

Register = Callable[..., int]


@pytest.fixture(scope="session")
def fresh_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SQLite as the first start leaves it."""
    home = tmp_path_factory.mktemp("fresh") / "home"
    made(Settings(home=str(home)))
    return Home(home).database


@pytest.fixture(scope="session")
def fresh_template(postgres: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """PostgreSQL as the first start leaves it: the name of a database to copy."""
    with postgres.database() as name:
        made(Settings(home=str(tmp_path_factory.mktemp("fresh") / "home"), database_url=postgres.socket_url(name)))
        yield name


def made(settings: Settings) -> None:
    """Start once, and leave nothing open."""
    start(settings)
    from django.conf import settings as django_settings
    from django.contrib.auth.hashers import get_hashers, get_hashers_by_algorithm
    from django.db import connections

    connections.close_all()
    django_settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # slow ones take most time
    get_hashers.cache_clear()
    get_hashers_by_algorithm.cache_clear()


@pytest.fixture(params=["sqlite", "postgresql"])
def home(own_home: Path, request: pytest.FixtureRequest) -> Iterator[Home]:
    """A home that the control plane is awake for, once with each database.

    Whoever can only mean one of them says so: `@pytest.mark.parametrize("home", ["sqlite"], indirect=True)`.
    """
    with on_sqlite(own_home, request) if request.param == "sqlite" else on_postgresql(own_home, request) as settings:
        start(settings)
        from django.core.cache import cache
        from django.db import connections

        cache.clear()
        for logger in (logging.getLogger("modelyard"), logging.getLogger("django")):
            for handler in logger.handlers:
                if type(handler) is logging.StreamHandler:
                    handler.stream = sys.stderr  # Django opened it in whichever test came first; that one's is closed
        yield Home(own_home)
        connections.close_all()


@contextmanager
def on_sqlite(root: Path, request: pytest.FixtureRequest) -> Iterator[Settings]:
    """A home with a file of its own."""
    place = Home(root).prepare()
    shutil.copy(request.getfixturevalue("fresh_file"), place.database)
    place.database.chmod(0o600)
    yield Settings(home=str(root))


@contextmanager
def on_postgresql(root: Path, request: pytest.FixtureRequest) -> Iterator[Settings]:
    """A home with a database of its own on the server."""
    server: Server = request.getfixturevalue("postgres")
    with server.database(request.getfixturevalue("fresh_template")) as name:
        yield Settings(home=str(root), database_url=server.socket_url(name))


def manifest_of(name: str, seed: int, columns: tuple[Column, ...] = (Column("age", "number"),)) -> Manifest:
    """What a packaged version says of itself; another seed is another artifact."""
    return Manifest(
        model=name,
        task="binary",
        framework="logistic",
        runtime="onnx",
        created_at="2026-01-01T00:00:00+00:00",
        files={},
        signature=Signature((TensorSpec("age", "FP64", (-1,)),), (TensorSpec("probability", "FP32", (-1,)),)),
        contract=Contract(columns),
        metrics={"auc": 0.84},
        lineage=Lineage(seed=seed),
    )


@pytest.fixture
def register(home: Home) -> Register:
    """Register version `seed` of a model (`scores`), and say which number it got."""

    def register(seed: int = 1, name: str = "scores", columns: tuple[Column, ...] = (Column("age", "number"),)) -> int:
        from modelyard.control.registry.work import register_packaged

        return register_packaged(manifest_of(name, seed, columns), {"model.onnx": b"graph %d" % seed})[1]

    return register
