"""API keys: how one is made, what of it is kept, and what its scopes allow.

A key is 256 random bits, so its SHA-256 alone is safe to keep and quick to check; no slow password hash is needed.
"""

from __future__ import annotations

import hashlib
import secrets

from modelyard.contract.errors import InvalidInput

PREFIX = "my_"  # lets secret scanners find a leaked one
SCOPES = ("infer", "explain", "feedback", "feedback:any", "metrics", "repository")


def new_key() -> str:
    """A fresh secret, shown once to whoever asked for it."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(key: str | bytes) -> str:
    """What is kept of a key: its SHA-256 in hex."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).hexdigest()


def check_scope(scope: str) -> str:
    """`scope` if it is one: a verb, or a verb and an endpoint (`infer:credit_scoring`)."""
    if scope.partition(":")[0] not in SCOPES:
        raise InvalidInput(f"a scope is one of {', '.join(SCOPES)}, or one of them with ':endpoint'")
    return scope


def allows(scopes: tuple[str, ...] | frozenset[str], verb: str, endpoint: str) -> bool:
    """Whether these scopes allow `verb` on `endpoint`: the verb alone allows it everywhere."""
    if verb == "feedback" and "feedback:any" in scopes:  # who may speak of every call may speak
        return True
    return verb in scopes or f"{verb}:{endpoint}" in scopes
