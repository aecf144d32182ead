"""Which artifact a name means: signed, whole, and readable without a registry."""

from __future__ import annotations

import stat
from pathlib import Path

import msgspec
import pytest

from modelyard.artifacts.names import SignedNames, publish_names, read_names, resolve, write_whole
from modelyard.contract.errors import InvalidInput, NotFound
from modelyard.contract.home import Home
from modelyard.secure.signing import signer

LISTED = {"loans:1": "a" * 64, "loans:2": "b" * 64, "loans:champion": "b" * 64}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


def test_names_are_published_and_mean_what_they_say(home: Home) -> None:
    assert read_names(home) is None
    assert publish_names(home, LISTED, signer(home.keys)) == 1
    assert resolve(home, "loans") == resolve(home, "loans:champion") == resolve(home, "loans:2") == "b" * 64
    assert resolve(home, "loans:1") == "a" * 64
    for unknown in ("loans:3", "loan", "loans:", ":champion", ""):
        with pytest.raises(NotFound, match="models list"):
            resolve(home, unknown)
    assert stat.S_IMODE(home.names.stat().st_mode) == 0o600


def test_the_revision_grows_with_each_change_only(home: Home) -> None:
    sign = signer(home.keys)
    assert publish_names(home, LISTED, sign) == 1
    assert publish_names(home, dict(reversed(LISTED.items())), sign) == 1
    assert publish_names(home, {}, sign) == 2
    assert publish_names(home, LISTED, sign) == 3


def test_before_anything_is_published_no_name_means_anything(home: Home) -> None:
    with pytest.raises(NotFound):
        resolve(home, "loans")


def test_a_changed_or_foreign_list_is_refused_and_then_replaced(home: Home, tmp_path: Path) -> None:
    sign = signer(home.keys)
    publish_names(home, LISTED, sign)
    good = home.names.read_bytes()
    raw = msgspec.json.encode({"names": {"loans:champion": "c" * 64}, "revision": 9})
    foreign = msgspec.json.encode(SignedNames(msgspec.Raw(raw), signer(tmp_path / "other").sign(raw)))
    for bad in (good.replace(b"b" * 64, b"c" * 64), foreign, b"", b"{", good[:-5], b"[]"):
        home.names.write_bytes(bad)
        with pytest.raises(InvalidInput):
            resolve(home, "loans")
    assert publish_names(home, LISTED, sign) == 1
    assert resolve(home, "loans") == "b" * 64
    (home.keys / "plan.pub").unlink()
    with pytest.raises(InvalidInput, match="public key"):
        resolve(home, "loans")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    write_whole(path, b"one")
    with pytest.raises(TypeError):
        write_whole(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"one"
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]
