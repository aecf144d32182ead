"""The shelf: equal content is one artifact, and no byte changes unseen."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.race import race
from kit.versions import CONTRACT
from modelyard.artifacts.manifest import FileEntry, Manifest
from modelyard.artifacts.store import MANIFEST, Shelf
from modelyard.contract.errors import InvalidInput, NotFound
from modelyard.contract.signature import Signature

EMPTY = Manifest("loans", "binary", "logistic", "onnx", "2026-01-01T00:00:00Z", {}, Signature((), ()), CONTRACT)
FILES = {"model.onnx": b"graph", "card.md": b"# Card", "empty": b""}


def test_what_is_stored_comes_back(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    digest = shelf.put(EMPTY, FILES)
    artifact = shelf.open(digest)
    assert {name: artifact.read(name) for name in artifact.manifest.files} == FILES
    assert msgspec.structs.replace(artifact.manifest, files={}) == EMPTY
    assert shelf.digests() == [digest]
    assert sorted(path.name for path in shelf.folder.iterdir()) == [digest], "nothing is left behind"
    with pytest.raises(NotFound, match="no file"):
        artifact.path("other")


def test_equal_content_is_one_artifact_and_any_difference_is_another(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    first = shelf.put(EMPTY, FILES)
    assert shelf.put(EMPTY, dict(reversed(FILES.items()))) == first
    assert Shelf(tmp_path / "elsewhere").put(EMPTY, FILES) == first
    others = {
        shelf.put(EMPTY, FILES | {"card.md": b"# Other"}),
        shelf.put(EMPTY, FILES | {"more": b""}),
        shelf.put(msgspec.structs.replace(EMPTY, model="other"), FILES),
    }
    assert len(others | {first}) == 4
    assert shelf.digests() == sorted(others | {first})


@settings(max_examples=60)
@given(st.data())
def test_no_byte_changes_unseen(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    shelf = Shelf(tmp_path_factory.mktemp("shelf"))
    digest = shelf.put(EMPTY, FILES)
    path = shelf.folder / digest / data.draw(st.sampled_from((MANIFEST, "model.onnx", "card.md")))
    changed = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        changed += b" "
    path.write_bytes(bytes(changed))
    with pytest.raises(InvalidInput, match="was changed"):
        shelf.open(digest)


def test_a_file_that_is_gone_is_missed(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    digest = shelf.put(EMPTY, FILES)
    (tmp_path / digest / "card.md").unlink()
    with pytest.raises(InvalidInput, match=r"card\.md"):
        shelf.open(digest)
    (tmp_path / digest / MANIFEST).unlink()
    with pytest.raises(NotFound):
        shelf.open(digest)


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/b", "..", ".", "", MANIFEST, "./a", "a/", "nul\0"])
def test_names_that_climb_are_refused(tmp_path: Path, name: str) -> None:
    shelf = Shelf(tmp_path / "shelf")
    with pytest.raises(InvalidInput):
        shelf.put(EMPTY, {name: b"x"})
    if name == MANIFEST:
        return
    entry = FileEntry("0" * 64, 1)
    head = msgspec.json.encode(msgspec.structs.replace(EMPTY, files={name: entry}))
    digest = hashlib.sha256(head).hexdigest()
    (shelf.folder / digest).mkdir(parents=True)
    (shelf.folder / digest / MANIFEST).write_bytes(head)
    with pytest.raises(InvalidInput, match="leaves the folder"):
        shelf.open(digest)


@pytest.mark.parametrize("digest", ["", "abc", "A" * 64, "../" + "a" * 61, "g" * 64, "a" * 65, "0" * 64])
def test_what_is_not_on_the_shelf_is_not_found(tmp_path: Path, digest: str) -> None:
    with pytest.raises(NotFound):
        Shelf(tmp_path).open(digest)


def test_an_empty_shelf_holds_nothing(tmp_path: Path) -> None:
    assert Shelf(tmp_path / "none yet").digests() == []


PREPARE = """
from pathlib import Path
from kit.versions import store
from modelyard.artifacts.store import Shelf
shelf = Shelf(Path(sys.argv[1]))
"""


def test_processes_that_store_the_same_at_once_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    digests = set(race(PREPARE, "print(store(shelf))", str(tmp_path / "shelf")))
    assert len(digests) == 1
    Shelf(tmp_path / "shelf").open(*digests)
    assert os.listdir(tmp_path / "shelf") == list(digests), "no staging folder is left"
