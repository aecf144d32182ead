"""The shelf: a folder of artifacts, each named by its digest, written once, verified when opened.

Nothing on the shelf is executed: manifests, graphs, arrays, trees and text. The exception is marked in its manifest: a
pickle that was trusted when it was registered, which is opened in model workers only. `names.json` (signed) says
which digest a name means, for readers without a registry, such as `modelyard.load`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import msgspec

from modelyard.artifacts.manifest import FileEntry, Manifest
from modelyard.contract.errors import InvalidInput, NotFound

MANIFEST = "manifest.json"


class Artifact(msgspec.Struct, frozen=True):
    """One opened artifact: its digest, its manifest, and the folder that holds its files."""

    digest: str
    manifest: Manifest
    folder: Path

    def path(self, name: str) -> Path:
        """The verified path of one of its files. Raises NotFound if the manifest does not list it."""
        if name not in self.manifest.files:
            raise NotFound(f"artifact {self.digest[:12]} holds no file {name!r}")
        return self.folder / name

    def read(self, name: str) -> bytes:
        """The bytes of one of its files."""
        return self.path(name).read_bytes()


class Shelf:
    """Artifacts under one folder. Many processes may read and write it at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, manifest: Manifest, files: dict[str, bytes]) -> str:
        """Store an artifact and return its digest. `manifest.files` is filled in here. Storing twice is harmless."""
        entries = {name: FileEntry(hashlib.sha256(data).hexdigest(), len(data)) for name, data in sorted(files.items())}
        for name in files:
            if not _is_plain(name) or name == MANIFEST:
                raise InvalidInput(f"{name!r} cannot be the name of a file in an artifact")
        head = msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(manifest, files=entries)))
        digest = hashlib.sha256(head).hexdigest()
        if (self.folder / digest).exists():
            return digest
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=self.folder))
        try:
            for name, data in [*files.items(), (MANIFEST, head)]:
                with open(staging / name, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            try:
                staging.rename(self.folder / digest)
            except OSError:  # another process was faster: its folder has the same bytes
                if not (self.folder / digest).exists():
                    raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return digest

    def open(self, digest: str) -> Artifact:
        """The artifact of that digest, every byte verified. Raises NotFound, or InvalidInput if a byte differs."""
        artifact = self.describe(digest)
        for name, entry in artifact.manifest.files.items():
            if _sha256(artifact.folder / name) != entry.sha256:
                raise InvalidInput(f"artifact {digest[:12]}: {name} was changed after it was stored")
        return artifact

    def describe(self, digest: str) -> Artifact:
        """The artifact by its verified manifest alone, its files not looked at: for who asks what it is. See `open`."""
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise NotFound("an artifact's digest is 64 hex digits")
        folder = self.folder / digest
        try:
            head = (folder / MANIFEST).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"no artifact {digest[:12]} on the shelf") from None
        if hashlib.sha256(head).hexdigest() != digest:
            raise InvalidInput(f"artifact {digest[:12]}: the manifest was changed after it was stored")
        manifest = msgspec.json.decode(head, type=Manifest)
        if not all(map(_is_plain, manifest.files)):
            raise InvalidInput(f"artifact {digest[:12]}: a file name leaves the folder")
        return Artifact(digest, manifest, folder)

    def bytes_of(self, digest: str) -> int:
        """The size of an artifact's files and of all that it is made of. Raises as `describe`."""
        manifest = self.describe(digest).manifest
        members = {member.digest for member in manifest.members}
        return sum(entry.size for entry in manifest.files.values()) + sum(map(self.bytes_of, members))

    def digests(self) -> list[str]:
        """Every artifact on the shelf."""
        if not self.folder.exists():
            return []
        return sorted(entry.name for entry in self.folder.iterdir() if len(entry.name) == 64)


def _is_plain(name: str) -> bool:
    """Whether this names a file in the artifact's own folder."""
    return Path(name).name == name and name not in ("", "..") and "\0" not in name


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""
