"""Names on the shelf: which artifact `credit_scoring:champion` and `credit_scoring:1` mean, signed.

Control writes the whole list after each change; readers need neither control nor its database, only the home's public
key. The signature covers the exact bytes of the list.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from modelyard.contract.errors import InvalidInput, NotFound
from modelyard.contract.home import Home
from modelyard.secure.signing import Signer, verifier

DEFAULT_ALIAS = "champion"  # what a model's bare name means


class Names(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every `model:alias` and `model:version`, each with its artifact's digest."""

    names: dict[str, str]
    revision: int


class SignedNames(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What lies on disk: the list's exact bytes and an Ed25519 signature over them, in hex."""

    names: msgspec.Raw
    signature: str


def publish_names(home: Home, names: Mapping[str, str], signer: Signer) -> int:
    """Write the whole list, signed, and return its revision; the same list again changes nothing.

    One writer at a time: the caller holds a lock from reading its rows until this returns.
    """
    try:
        before = read_names(home)
    except InvalidInput:  # damaged, or another key's: it is replaced whole
        before = None
    if before is not None and before.names == names:
        return before.revision
    listed = Names(dict(sorted(names.items())), before.revision + 1 if before else 1)
    raw = msgspec.json.encode(listed)
    write_whole(home.names, msgspec.json.encode(SignedNames(msgspec.Raw(raw), signer.sign(raw))))
    return listed.revision


def read_names(home: Home) -> Names | None:
    """The list as it was published; None if there is none. Raises InvalidInput if it is not this home's own."""
    try:
        signed = msgspec.json.decode(home.names.read_bytes(), type=SignedNames)
        if not verifier(home.keys).accepts(bytes(signed.names), signed.signature):
            raise InvalidInput("names.json is not signed by this home's key; publish the names again")
        return msgspec.json.decode(signed.names, type=Names)
    except FileNotFoundError as error:
        if not home.names.exists():
            return None
        raise InvalidInput("this home has no public key (keys/plan.pub) to check names.json with") from error
    except msgspec.MsgspecError:
        raise InvalidInput("names.json cannot be read; publish the names again") from None


def resolve(home: Home, name: str) -> str:
    """The digest that `model:alias`, `model:version` or `model` (its champion) means.

    Raises NotFound, or InvalidInput if the list is not signed by this home's key.
    """
    wanted = name if ":" in name else f"{name}:{DEFAULT_ALIAS}"
    listed = read_names(home)
    if listed is None or wanted not in listed.names:
        raise NotFound(f"no registered version is called {wanted!r}; `modelyard models list` shows what there is")
    return listed.names[wanted]


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file so that a reader sees the old bytes or the new ones, and a crash loses neither. Mode 0600."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, staging = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # made 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(staging, path)
    except BaseException:
        Path(staging).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name itself must survive a power cut
    finally:
        os.close(folder)
