"""Ed25519 signatures: who published a plan or a list of names."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from modelyard.contract.errors import Conflict


class Signer:
    """The private half; control holds it."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    def sign(self, message: bytes) -> str:
        """The signature in hex."""
        return self._key.sign(message).hex()


class Verifier:
    """The public half; gateways hold it."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key

    def accepts(self, message: bytes, signature: str) -> bool:
        """Whether `signature` is the holder's own over exactly these bytes."""
        try:
            self._key.verify(bytes.fromhex(signature), message)
        except (InvalidSignature, ValueError):
            return False
        return True


def signer(folder: Path) -> Signer:
    """The signer of this home; makes its key pair (`plan.key`, `plan.pub`) the first time.

    Raises Conflict when the private half was lost: a new one would sign what no gateway believes.
    """
    path = folder / "plan.key"
    if not path.exists() and (folder / "plan.pub").exists():
        raise Conflict("keys/plan.key is gone: gateways, which know keys/plan.pub, would trust no new plan; restore it")
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = Ed25519PrivateKey.generate()
        _write_once(path, key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()), 0o600)
    key = Ed25519PrivateKey.from_private_bytes(path.read_bytes())
    public = folder / "plan.pub"
    if not public.exists():
        _write_once(public, key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw), 0o644)
    return Signer(key)


def verifier(folder: Path) -> Verifier:
    """The verifier of this home. Raises FileNotFoundError before control has made the key pair."""
    return Verifier(Ed25519PublicKey.from_public_bytes((folder / "plan.pub").read_bytes()))


def _write_once(path: Path, data: bytes, mode: int) -> None:
    """Write a whole file that did not exist; whoever comes second keeps the first one's."""
    staging = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(staging, path)
    except FileExistsError:
        pass
    finally:
        staging.unlink()


def public_key(folder: Path) -> str:
    """The public half of this home's key pair, 64 hex digits. Raises FileNotFoundError before there is one."""
    return (folder / "plan.pub").read_bytes().hex()


def verifies(key: str, message: bytes, signature: str) -> bool:
    """Whether the holder of that public key (hex) signed exactly these bytes."""
    try:
        return Verifier(Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))).accepts(message, signature)
    except ValueError:
        return False
