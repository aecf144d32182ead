"""Where a plan comes from: signed, newer than the last, and the last good one when it is not."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import pytest

from kit.gateway import plan, publish
from modelyard.contract.errors import InvalidInput
from modelyard.contract.home import Home
from modelyard.contract.plan import ServingPlan, SignedPlan
from modelyard.secure.signing import signer
from modelyard.serve.plans import PlanFile, read_plan


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home").prepare()
    signer(made.keys)
    return made


def numbered(revision: int) -> ServingPlan:
    return plan(revision, {1: "a" * 64})


def foreign(home: Home, folder: Path) -> bytes:
    """A plan of a higher revision, signed by somebody else."""
    raw = msgspec.json.encode(numbered(99))
    return msgspec.json.encode(SignedPlan(msgspec.Raw(raw), signer(folder).sign(raw)))


def test_each_newer_plan_is_seen_once(home: Home) -> None:
    plans = PlanFile(home)
    assert plans.first() is None
    for revision in (1, 2, 7):
        publish(home, numbered(revision))
        assert plans.changed().revision == revision  # type: ignore[union-attr]
        assert plans.changed() is None


def test_an_older_or_equal_revision_is_ignored(home: Home) -> None:
    plans = PlanFile(home)
    publish(home, numbered(5))
    assert plans.first().revision == 5  # type: ignore[union-attr]
    for revision in (4, 5, 1):
        publish(home, numbered(revision))
        assert plans.changed() is None
    publish(home, numbered(6))
    assert plans.changed().revision == 6  # type: ignore[union-attr]


BAD = {
    "not JSON": lambda home, other: b"{",
    "empty": lambda home, other: b"",
    "another's signature": foreign,
    "one byte changed": lambda home, other: home.plan.read_bytes().replace(b'"loans"', b'"loons"'),
    "no signature": lambda home, other: msgspec.json.encode({"plan": {}, "signature": ""}),
    "nested beyond reason": lambda home, other: b'{"plan":' + b"[" * 100_000,
}


@pytest.mark.parametrize("damage", BAD)
def test_a_plan_that_is_not_ours_is_refused_once_and_the_last_good_one_kept(
    home: Home, tmp_path: Path, damage: str
) -> None:
    plans = PlanFile(home)
    publish(home, numbered(3))
    assert plans.first().revision == 3  # type: ignore[union-attr]
    plans.keep()
    home.plan.write_bytes(BAD[damage](home, tmp_path / "other"))
    with pytest.raises(InvalidInput, match=r"plan\.json"):
        plans.changed()
    assert plans.changed() is None, "one bad file is told of once"
    restarted = PlanFile(home)
    assert restarted.first() == read_plan(home.run / "plan.good.json", home.keys)
    assert restarted.newest == 3
    publish(home, numbered(4))
    assert plans.changed().revision == 4  # type: ignore[union-attr]
    assert restarted.changed().revision == 4  # type: ignore[union-attr]


def test_a_plan_that_vanishes_changes_nothing(home: Home) -> None:
    plans = PlanFile(home)
    publish(home, numbered(3))
    plans.first()
    plans.keep()
    home.plan.unlink()
    assert plans.changed() is None
    assert PlanFile(home).first().revision == 3, "a restarted worker serves what its siblings serve"  # type: ignore[union-attr]


def test_without_a_good_one_the_bad_one_is_told_of(home: Home) -> None:
    home.plan.write_bytes(b"{")
    with pytest.raises(InvalidInput):
        PlanFile(home).first()


def test_what_is_kept_is_what_was_read_not_what_lies_there_since(home: Home) -> None:
    plans = PlanFile(home)
    publish(home, numbered(3))
    plans.first()
    home.plan.write_bytes(b"damaged while revision 3 was loading")
    plans.keep()
    assert read_plan(home.run / "plan.good.json", home.keys).revision == 3
    assert stat.S_IMODE((home.run / "plan.good.json").stat().st_mode) == 0o600
    assert [name for name in os.listdir(home.run) if name.startswith("plan")] == ["plan.good.json"]


def test_a_gateway_without_the_homes_key_trusts_no_plan(home: Home) -> None:
    publish(home, numbered(1))
    (home.keys / "plan.pub").unlink()
    assert PlanFile(home).first() is None
