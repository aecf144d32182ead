"""A control plane with a home and a database of its own for each test; tables are made once and copied."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelyard.artifacts.manifest import Lineage, Manifest
from modelyard.contract.features import Column, Contract
from modelyard.contract.home import Home
from modelyard.contract.settings import Settings
from modelyard.contract.signature import Signature, TensorSpec
from modelyard.control.setup import start

Register = Callable[..., int]


@pytest.fixture(scope="session")
def fresh_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as the first start leaves it."""
    home = tmp_path_factory.mktemp("fresh") / "home"
    start(Settings(home=str(home)))
    from django.conf import settings
    from django.contrib.auth.hashers import get_hashers, get_hashers_by_algorithm
    from django.db import connections

    connections.close_all()
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # slow ones would be most of the time
    get_hashers.cache_clear()
    get_hashers_by_algorithm.cache_clear()
    return Home(home).database


@pytest.fixture
def home(own_home: Path, fresh_database: Path) -> Iterator[Home]:
    """A home that the control plane is awake for."""
    place = Home(own_home).prepare()
    shutil.copy(fresh_database, place.database)
    place.database.chmod(0o600)
    start(Settings(home=str(own_home)))
    from django.core.cache import cache
    from django.db import connections

    cache.clear()
    yield place
    connections.close_all()


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
