"""Registered versions that become parts of another one: found by name, opened, laid out for trying; what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import msgspec

from modelyard.artifacts.manifest import Manifest
from modelyard.artifacts.names import read_names, resolve
from modelyard.artifacts.store import Artifact, Shelf
from modelyard.contract.home import Home
from modelyard.runtimes.version import LoadedVersion

Files = dict[str, bytes]


class Part(msgspec.Struct, frozen=True):
    """A registered version that is to be a member."""

    name: str  # model:number
    artifact: Artifact

    @property
    def manifest(self) -> Manifest:
        """What it says of itself."""
        return self.artifact.manifest


class Composed(msgspec.Struct, frozen=True):
    """An ensemble or a pipeline that is ready to be registered, after what it needs that is not registered yet."""

    manifest: Manifest
    files: Files
    before: tuple[tuple[Manifest, Files], ...] = ()  # a stacking's own small model


def part_named(home: Home, name: str) -> Part:
    """The version that `model:number`, `model:alias` or `model` (its champion) means. Raises NotFound."""
    digest = resolve(home, name)
    listed = read_names(home)
    model = name.partition(":")[0]
    known = listed.names.items() if listed else ()
    numbers = [full for full, meant in known if meant == digest and full.rpartition(":")[0] == model]
    numbered = [full for full in numbers if full.rpartition(":")[2].isdigit()]
    return Part(numbered[0] if numbered else name, Shelf(home.shelf).open(digest))


def register_composed(composed: Composed, by: str = "local", note: str = "") -> tuple[str, int]:
    """Register what it needs, then itself; the model's name and the new version's number."""
    # The one seam to the control plane: this room must not import it, and only who registers wants it.
    work = import_module("modelyard.control.registry.work")
    for manifest, files in composed.before:
        work.register_packaged(manifest, files, by=by, note=f"for {composed.manifest.model}")
    registered: tuple[str, int] = work.register_packaged(composed.manifest, composed.files, by=by, note=note)
    return registered


@contextmanager
def loaded(artifact: Artifact) -> Iterator[LoadedVersion]:
    """A version in memory for as long as it is needed."""
    version_ = LoadedVersion(artifact)
    try:
        yield version_
    finally:
        version_.close()


def workshop(folder: Path, parts: Sequence[Part]) -> Shelf:
    """A shelf for trying out: it holds the parts, and what they are made of, as links."""
    todo = [part.artifact for part in parts]
    while todo:
        artifact = todo.pop()
        link = folder / artifact.digest
        if not link.exists():
            link.symlink_to(artifact.folder.resolve())
            shelf = Shelf(artifact.folder.parent)
            todo += [shelf.open(member.digest) for member in artifact.manifest.members]
    return Shelf(folder)
