"""The blueprints by name, and their tables."""

from __future__ import annotations

from importlib import import_module
from importlib.resources import as_file, files

from modelyard.contract.errors import NotFound
from modelyard.data.sources import Source, read_source
from modelyard.train.recipe import Blueprint

_PACKAGES = {"credit_scoring": "modelyard.blueprints.credit_scoring"}


def blueprint_names() -> list[str]:
    """Every blueprint's name."""
    return sorted(_PACKAGES)


def blueprint(name: str) -> Blueprint:
    """The blueprint of that name. Raises NotFound that lists those there are."""
    if name not in _PACKAGES:
        raise NotFound(f"there is no blueprint {name!r}; there are: {', '.join(blueprint_names())}")
    found: Blueprint = import_module(_PACKAGES[name]).BLUEPRINT
    return found


def table_of(ready: Blueprint) -> Source:
    """The table that ships with a blueprint, with its digest."""
    with as_file(files(ready.package).joinpath(ready.resource)) as path:
        return read_source(path)
