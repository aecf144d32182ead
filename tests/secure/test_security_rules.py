"""Keys, request ids, quotas and signatures: what each proves, and what it never lets pass."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.race import race
from modelyard.contract.errors import InvalidInput
from modelyard.secure.keys import PREFIX, SCOPES, allows, check_scope, digest_of, new_key
from modelyard.secure.limits import take
from modelyard.secure.request_ids import RequestIds, request_ids
from modelyard.secure.signing import signer, verifier

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)

# --- keys


def test_a_key_is_fresh_and_only_its_digest_is_kept() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    for key in keys:
        assert key.startswith(PREFIX)
        assert len(key) >= len(PREFIX) + 43  # 256 bits
        assert digest_of(key) == digest_of(key.encode())
        assert len(digest_of(key)) == 64
        assert key not in digest_of(key)


@pytest.mark.parametrize("scope", [*SCOPES, "infer:loans", "feedback:any", "explain:a.b-c"])
def test_scopes_that_are(scope: str) -> None:
    assert check_scope(scope) == scope


@pytest.mark.parametrize("scope", ["", "admin", "Infer", "infer ", ":loans", "*", "inferences:loans"])
def test_scopes_that_are_not(scope: str) -> None:
    with pytest.raises(InvalidInput, match="infer"):
        check_scope(scope)


@pytest.mark.parametrize(
    ("scopes", "verb", "endpoint", "allowed"),
    [
        (("infer",), "infer", "loans", True),
        (("infer:loans",), "infer", "loans", True),
        (("infer:loans",), "infer", "loans2", False),
        (("infer:loans",), "infer", "", False),
        (("infer",), "explain", "loans", False),
        (("feedback",), "feedback:any", "loans", False),
        (("feedback:loans",), "feedback:any", "loans", False),
        (("feedback:any",), "feedback:any", "loans", True),
        (("feedback:any",), "feedback", "loans", True),
        ((), "infer", "loans", False),
        (("metrics",), "metrics", "", True),
    ],
)
def test_what_scopes_allow(scopes: tuple[str, ...], verb: str, endpoint: str, allowed: bool) -> None:
    assert allows(scopes, verb, endpoint) is allowed
    assert allows(frozenset(scopes), verb, endpoint) is allowed


# --- request ids

IDS = RequestIds(b"k" * 32)


@given(TEXT, TEXT, TEXT, TEXT)
def test_an_id_proves_its_own_principal_and_endpoint_only(
    principal: str, endpoint: str, other_principal: str, other_endpoint: str
) -> None:
    made = IDS.new(principal, endpoint)
    assert len(made) == 32
    assert set(made) <= set("0123456789abcdef")
    assert IDS.proves(made, principal, endpoint)
    assert RequestIds(b"k" * 32).proves(made, principal, endpoint), "every worker of the home can tell"
    assert not RequestIds(b"j" * 32).proves(made, principal, endpoint), "another home cannot"
    if "\0" not in principal + endpoint + other_principal + other_endpoint:  # names never hold it
        same = (principal, endpoint) == (other_principal, other_endpoint)
        assert IDS.proves(made, other_principal, other_endpoint) is same


@given(st.data(), TEXT)
def test_a_forged_or_cut_id_never_proves(data: st.DataObject, anything: str) -> None:
    made = IDS.new("anna", "loans")
    assert not IDS.proves(made[: data.draw(st.integers(0, 31))], "anna", "loans")
    assert not IDS.proves(made + data.draw(st.sampled_from("0af \0")), "anna", "loans")
    at = data.draw(st.integers(0, 31).filter(lambda at: at not in (14, 15)))  # a place in anna's own block
    letter = data.draw(st.sampled_from([x for x in "0123456789abcdef" if x != made[at]]))
    assert not IDS.proves(made[:at] + letter + made[at + 1 :], "anna", "loans")
    assert not IDS.proves(anything, "anna", "loans")
    assert not IDS.proves(made.upper() if made != made.upper() else "", "anna", "loans")


def test_a_block_belongs_to_one_principal_and_endpoint() -> None:
    blocks = {asker: {IDS.new(*asker)[:14] for _ in range(1_000)} for asker in (("a", "x"), ("a", "y"), ("b", "x"))}
    assert all(3 < len(block) < 6 for block in blocks.values())
    assert not set.intersection(*blocks.values())


def test_ids_are_never_given_twice() -> None:
    assert len({IDS.new("a", "b") for _ in range(10_000)}) == 10_000


# --- quotas

STEP = st.tuples(st.integers(0, 300), st.integers(1, 8))  # ms since the last call, rows


@given(st.lists(STEP, max_size=60), st.integers(1, 200), st.integers(1, 20))
def test_over_any_window_no_more_than_burst_and_rate_pass(steps: list[tuple[int, int]], rate: int, burst: int) -> None:
    interval = int(1e9 / rate)
    arrival, now = 0, 10**9
    passed: list[tuple[int, int]] = []
    for pause, rows in steps:
        now += pause * 1_000_000
        before = arrival
        arrival, wait = take(arrival, now, rows, interval, burst)
        if wait:
            assert arrival == before, "a refusal costs nothing"
            if rows <= burst:
                assert take(arrival, now + wait, rows, interval, burst)[1] == 0, "the wait that is named is enough"
        else:
            passed.append((now, rows))
    for first in range(len(passed)):
        total = 0
        for at, rows in passed[first:]:
            total += rows
            assert total * interval <= burst * interval + (at - passed[first][0])


@given(st.integers(1, 1000), st.integers(1, 50))
def test_one_caller_alone_gets_the_whole_limit(rate: int, burst: int) -> None:
    interval = int(1e9 / rate)
    arrival, now = 0, 10**9
    for _ in range(burst):
        arrival, wait = take(arrival, now, 1, interval, burst)
        assert not wait
    assert take(arrival, now, 1, interval, burst)[1] > 0
    for _ in range(20):
        now += interval
        arrival, wait = take(arrival, now, 1, interval, burst)
        assert not wait


# --- signatures


@settings(max_examples=30)
@given(st.binary(min_size=1, max_size=64), st.data())
def test_a_signature_is_over_exactly_these_bytes(
    tmp_path_factory: pytest.TempPathFactory, message: bytes, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "one-home"
    mark = signer(folder).sign(message)
    check = verifier(folder)
    assert check.accepts(message, mark)
    at = data.draw(st.integers(0, len(message) - 1))
    changed = bytearray(message)
    changed[at] ^= data.draw(st.integers(1, 255))
    assert not check.accepts(bytes(changed), mark)
    assert not check.accepts(message + b"x", mark)
    forged = bytearray.fromhex(mark)
    forged[data.draw(st.integers(0, 63))] ^= data.draw(st.integers(1, 255))
    assert not check.accepts(message, forged.hex())
    assert not check.accepts(message, data.draw(TEXT))


def test_another_homes_signature_is_not_ours(tmp_path: Path) -> None:
    mark = signer(tmp_path / "theirs").sign(b"plan")
    signer(tmp_path / "ours")
    assert not verifier(tmp_path / "ours").accepts(b"plan", mark)


def test_before_control_has_made_its_keys_nothing_is_verified(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        verifier(tmp_path)


def test_secrets_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        signer(tmp_path / "keys")
        request_ids(tmp_path / "keys")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()}
    assert modes == {"plan.key": 0o600, "plan.pub": 0o644, "request_id.key": 0o600}


MAKE = """
import json
from pathlib import Path
from modelyard.secure.request_ids import request_ids
from modelyard.secure.signing import signer, verifier
folder = Path(sys.argv[1])
"""
SIGN = """
mark = signer(folder).sign(b"plan")
made = request_ids(folder).new("anna", "loans")
print(json.dumps([mark, made, verifier(folder).accepts(b"plan", mark)]))
"""


def test_processes_that_race_to_make_the_keys_agree(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    answers = [json.loads(line) for line in race(MAKE, SIGN, str(folder))]
    assert len({mark for mark, _, _ in answers}) == 1, "Ed25519 signs alike with one key"
    assert all(own for _, _, own in answers)
    ids = request_ids(folder)
    assert all(ids.proves(made, "anna", "loans") for _, made, _ in answers)
    assert sorted(path.name for path in folder.iterdir()) == ["plan.key", "plan.pub", "request_id.key"]
