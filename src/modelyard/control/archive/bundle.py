"""One version in one signed file: written here, registered elsewhere with the same digest.

The file holds the artifact, those of its members, and a label that the home's key has signed. The artifact proves
itself: its digest is the digest of its manifest, which holds the digest of every file. The signature says whose it is.
"""

import hashlib
import io
import os
import shutil
import tarfile
import tempfile
import time
from pathlib import Path, PurePosixPath

import msgspec

from modelyard import __version__
from modelyard.artifacts.store import MANIFEST, Shelf
from modelyard.contract.errors import Conflict, InvalidInput, NotFound
from modelyard.contract.home import Home
from modelyard.secure.signing import public_key, signer, verifies

FORMAT = 1
LABEL, SIGNATURE = "export.json", "export.sig"
MAX_LABEL_BYTES = 256 * 1024
MAX_ENTRIES = 10_000
MAX_BYTES = 64 * 1024**3  # of all files together, unpacked


class Label(msgspec.Struct, frozen=True):
    """What a bundle says of itself."""

    format: int
    modelyard: str  # the release that wrote it
    model: str
    version: int  # its number where it was exported; another home numbers it anew
    digests: tuple[str, ...]  # the version's artifact first, then those of its members
    exported_at: float  # seconds since 1970, UTC
    signer: str  # public key, hex


def fingerprint(key: str) -> str:
    """What people compare: the first 32 hex digits of a public key's SHA-256."""
    return hashlib.sha256(bytes.fromhex(key)).hexdigest()[:32]


def export(home: Home, model: str, version: int, digest: str, target: Path) -> Label:
    """Write the bundle of one artifact and its members. Raises Conflict if `target` exists."""
    if target.exists():
        raise Conflict(f"{target.name} exists; choose another name")
    shelf = Shelf(home.shelf)
    digests = with_members(shelf, digest)
    signing = signer(home.keys)
    label = Label(FORMAT, __version__, model, version, digests, round(time.time(), 3), public_key(home.keys))
    head = msgspec.json.encode(label)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, staging = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w:gz", compresslevel=3) as archive:
                _add(archive, LABEL, head)
                _add(archive, SIGNATURE, signing.sign(head).encode())
                for one in digests:
                    for name in (MANIFEST, *shelf.open(one).manifest.files):
                        archive.add(home.shelf / one / name, f"{one}/{name}", filter=_plainly)
            file.flush()
            os.fsync(file.fileno())
        os.link(staging, target)  # unlike a rename, it never replaces
    except FileExistsError:
        raise Conflict(f"{target.name} exists; choose another name") from None
    finally:
        Path(staging).unlink(missing_ok=True)
    return label


def with_members(shelf: Shelf, digest: str) -> tuple[str, ...]:
    """The artifact and everything that it is made of, each once. Raises NotFound."""
    found = [digest]
    for one in found:
        found += [member.digest for member in shelf.describe(one).manifest.members if member.digest not in found]
    return tuple(found)


def unpack(home: Home, source: Path, known_signer: str | None, *, trust: bool) -> Label:
    """Check every byte of a bundle and put its artifacts on the shelf; its label comes back.

    known_signer: the fingerprint that the sender has told, needed unless this home exported it. trust: take versions
    that hold or name code. Raises NotFound, and InvalidInput that says what is wrong; the shelf is then as it was.
    """
    home.shelf.mkdir(parents=True, exist_ok=True, mode=0o700)
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=home.shelf))
    try:
        label = _extract(source, staging)
        _check_signer(home, label, known_signer)
        arrived = Shelf(staging)
        if sorted(arrived.digests()) != sorted(label.digests):
            raise InvalidInput(f"{source.name} does not hold the artifacts that its label names")
        for digest in label.digests:
            artifact = arrived.open(digest)
            if {path.name for path in artifact.folder.iterdir()} != {MANIFEST, *artifact.manifest.files}:
                raise InvalidInput(f"artifact {digest[:12]} holds other files than its manifest lists")
            if artifact.manifest.trusted and not trust:
                raise InvalidInput(
                    f"{artifact.manifest.model} holds or names code, which would run here; --trust takes it"
                )
        if set(with_members(arrived, label.digests[0])) != set(label.digests):
            raise InvalidInput(f"{source.name} lacks a member of its version, or holds what is none")
        for digest in reversed(label.digests):  # members first: whoever finds the version finds them
            if not (home.shelf / digest).exists():
                (staging / digest).rename(home.shelf / digest)
        return label
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check_signer(home: Home, label: Label, known_signer: str | None) -> None:
    signer(home.keys)  # a fresh home makes its key here
    if label.signer == public_key(home.keys):
        return
    found = fingerprint(label.signer)
    if known_signer is None:
        raise InvalidInput(
            f"this bundle is signed by {found}, which is not this home; ask the sender for his fingerprint, and if it "
            f"is the same, give it: --signer {found}"
        )
    if known_signer.replace(":", "").lower() != found:
        raise InvalidInput(f"this bundle is signed by {found}, not by the signer that was named; nothing was imported")


def _extract(source: Path, folder: Path) -> Label:
    """The label, verified, and its artifacts' files; nothing in the archive chooses where it lands."""
    try:
        with tarfile.open(source, mode="r:gz") as archive:
            head = _read(archive, LABEL, source)
            signature = _read(archive, SIGNATURE, source).decode("ascii", "replace")
            label = _label(head, signature, source)
            entries = size = 0
            for entry in archive:
                if entry.name in (LABEL, SIGNATURE):
                    continue
                entries, size = entries + 1, size + entry.size
                digest, name = _place(entry, source)
                if digest not in label.digests or entries > MAX_ENTRIES or size > MAX_BYTES:
                    raise InvalidInput(f"{source.name} holds more than its label names; nothing was imported")
                _copy_out(archive, entry, folder / digest / name)
    except FileNotFoundError:
        raise NotFound(f"there is no file {source.name!r}; check the path") from None
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InvalidInput(f"{source.name} cannot be read: {type(error).__name__}; nothing was imported") from None
    return label


def _read(archive: tarfile.TarFile, name: str, source: Path) -> bytes:
    entry = archive.next()
    data = archive.extractfile(entry) if entry and entry.name == name and entry.size <= MAX_LABEL_BYTES else None
    if data is None:
        raise InvalidInput(f"{source.name} is not an exported version of Modelyard")
    return data.read()


def _label(head: bytes, signature: str, source: Path) -> Label:
    try:
        label = msgspec.json.decode(head, type=Label)
        if label.format != FORMAT:
            raise InvalidInput(f"{source.name} has a format that Modelyard {__version__} does not read")
        if not label.digests or not verifies(label.signer, head, signature):
            raise InvalidInput(f"{source.name}: the signature is not its signer's; nothing was imported")
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidInput(f"{source.name}: its label cannot be read: {type(error).__name__}") from None
    return label


def _place(entry: tarfile.TarInfo, source: Path) -> tuple[str, str]:
    parts = PurePosixPath(entry.name).parts
    is_plain = len(parts) == 2 and "/".join(parts) == entry.name and not any(part.startswith(".") for part in parts)
    if not entry.isreg() or not is_plain or len(parts[0]) != 64:
        raise InvalidInput(f"{source.name} holds an entry that no export has; nothing was imported")
    return parts[0], parts[1]


def _copy_out(archive: tarfile.TarFile, entry: tarfile.TarInfo, path: Path) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    data = archive.extractfile(entry)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        if data is not None:
            shutil.copyfileobj(data, file, 1024 * 1024)
        file.flush()
        os.fsync(file.fileno())


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o600
    archive.addfile(entry, io.BytesIO(data))


def _plainly(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without who owned it and when: the same version makes the same entries."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode, entry.mtime = 0o600, 0
    return entry
