"""Modelyard: from a table or a trained model to a governed, watched, fast API.

Importing the package costs nothing: the two names below wake their rooms when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load", "register"]

if TYPE_CHECKING:
    from modelyard.optimise.register import register
    from modelyard.runtimes.load import load

_ROOMS = {"load": "modelyard.runtimes.load", "register": "modelyard.optimise.register"}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'modelyard' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_ROOMS[name]), name)
