"""Which names models, endpoints and aliases may bear."""

from __future__ import annotations

import re

from modelyard.contract.errors import InvalidInput

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")

# First path segments that the gateway keeps for itself, today's and planned ones.
RESERVED = frozenset(
    [
        "admin",
        "any",
        "api",
        "docs",
        "favicon.ico",
        "health",
        "healthz",
        "invocations",
        "livez",
        "metrics",
        "modelyard",
        "openai",
        "openapi.json",
        "ping",
        "readyz",
        "stats",
        "repository",
        "static",
        "v1",
        "v2",
        "version",
    ]
)


def check_name(kind: str, name: str) -> str:
    """`name` if it may name a `kind` (model, endpoint, alias); otherwise InvalidInput says what is allowed."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"a {kind} name starts with a letter and has at most 63 letters, digits, '_', '.', '-'")
    if kind == "endpoint" and name.lower() in RESERVED:
        raise InvalidInput(f"endpoint name {name!r} is reserved: it is a path that the gateway answers itself")
    if kind == "alias" and name.isdigit():
        raise InvalidInput("an alias is not a number: numbers are versions")
    return name
