"""Request ids that prove, without any memory, who asked which endpoint.

An id is 32 hex digits: who made it (8), its number (8), and a keyed hash over both, the principal and the endpoint
(16). Feedback needs that proof, and a gateway has no database to look it up in.
"""

from __future__ import annotations

import itertools
import os
import secrets
from hashlib import blake2b
from pathlib import Path
from typing import Any

_REMEMBERED = 4096  # pairs of principal and endpoint


class RequestIds:
    """Makes and checks request ids; all workers of a home share the key."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._begun: dict[tuple[str, str], Any] = {}  # the hash so far, for callers seen before: half the work
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(secrets.randbits(28))

    def new(self, principal: str, endpoint: str) -> str:
        """An id for one call."""
        head = f"{self._prefix}{next(self._numbers) & 0xFFFFFFFF:08x}"
        return head + self._proof(head, principal, endpoint)

    def proves(self, request_id: str, principal: str, endpoint: str) -> bool:
        """Whether this principal got this id from this endpoint."""
        head, proof = request_id[:16], request_id[16:]
        return secrets.compare_digest(proof.encode(), self._proof(head, principal, endpoint).encode())

    def _proof(self, head: str, principal: str, endpoint: str) -> str:
        begun = self._begun.get((principal, endpoint))
        if begun is None:
            begun = blake2b(f"{principal}\0{endpoint}\0".encode(), key=self._key, digest_size=8)
            if len(self._begun) < _REMEMBERED:
                self._begun[principal, endpoint] = begun
        proof = begun.copy()
        proof.update(head.encode())
        return proof.hexdigest()


def request_ids(folder: Path) -> RequestIds:
    """The maker of this home; its key (`request_id.key`, 0600) is made the first time."""
    path = folder / "request_id.key"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        staging = path.with_name(f"request_id.{os.getpid()}")
        with open(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
        try:
            os.link(staging, path)  # whoever comes second keeps the first one's
        except FileExistsError:
            pass
        finally:
            staging.unlink()
    return RequestIds(path.read_bytes())
