"""Request ids that prove, without any memory, who asked which endpoint.

An id is 32 hex digits: who made it (8), a block of ids (6), its place in the block (2), and a keyed hash over block,
principal and endpoint (16). A block belongs to one principal on one endpoint, so one hash serves 256 ids. Feedback
needs that proof, and a gateway has no database to look it up in.
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

_PLACES = tuple(f"{place:02x}" for place in range(256))
_REMEMBERED = 4096  # pairs of principal and endpoint with a block of their own in hand
_HEAD = 14  # hex digits of maker and block


class RequestIds:
    """Makes and checks request ids; all workers of a home share the key."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._prefix = secrets.token_hex(4)
        self._blocks = itertools.count(secrets.randbits(20))
        self._makers: dict[tuple[str, str], Iterator[str]] = {}

    def new(self, principal: str, endpoint: str) -> str:
        """An id for one call."""
        maker = self._makers.get((principal, endpoint))
        if maker is None:
            maker = self._ids(principal, endpoint)
            if len(self._makers) < _REMEMBERED:
                self._makers[principal, endpoint] = maker
        return next(maker)

    def proves(self, request_id: str, principal: str, endpoint: str) -> bool:
        """Whether this principal got this id from this endpoint."""
        head, place, proof = request_id[:_HEAD], request_id[_HEAD : _HEAD + 2], request_id[_HEAD + 2 :]
        return place in _PLACES and secrets.compare_digest(
            proof.encode(), self._proof(head, principal, endpoint).encode()
        )

    def _ids(self, principal: str, endpoint: str) -> Iterator[str]:
        while True:
            head = f"{self._prefix}{next(self._blocks) & 0xFFFFFF:06x}"
            proof = self._proof(head, principal, endpoint)
            for place in _PLACES:
                yield head + place + proof

    def _proof(self, head: str, principal: str, endpoint: str) -> str:
        message = f"{head}\0{principal}\0{endpoint}".encode()
        return blake2b(message, key=self._key, digest_size=8).hexdigest()


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


def known_request_ids(folder: Path) -> RequestIds | None:
    """The checker of this home's ids; None before any was made."""
    try:
        return RequestIds((folder / "request_id.key").read_bytes())
    except FileNotFoundError:
        return None
