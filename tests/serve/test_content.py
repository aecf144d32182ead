"""Bodies compressed and digested: what comes back is what was sent, and nothing inflates beyond its limit."""

from __future__ import annotations

import gzip
import hashlib
import tracemalloc
import zlib
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.contract.errors import TooLarge, Undecodable
from modelyard.serve.content import (
    MAX_BYTES,
    MAX_MEMBERS,
    MIN_BYTES,
    check_digest,
    deflated,
    digest_line,
    inflated,
)
from modelyard.serve.problems import UnsupportedMedia

LIMIT = 1 << 20
TEXT = b'{"data":[0.25,0.5,0.75]}' * 200
PACK = {b"gzip": gzip.compress, b"x-gzip": gzip.compress, b"deflate": zlib.compress}


def opened(body: bytes, coding: bytes = b"gzip", limit: int = LIMIT) -> bytes:
    return bytes(inflated(body, {b"content-encoding": coding}, limit))


@pytest.mark.parametrize("coding", list(PACK))
@given(body=st.binary(max_size=50_000))
def test_any_body_comes_back(coding: bytes, body: bytes) -> None:
    assert opened(PACK[coding](body), coding) == body


@given(parts=st.lists(st.binary(max_size=20_000), min_size=1, max_size=8))
def test_a_gzip_body_may_have_several_members(parts: list[bytes]) -> None:
    assert opened(b"".join(map(gzip.compress, parts))) == b"".join(parts)


@given(body=st.binary(min_size=1, max_size=3000), cut=st.integers(1, 10**6))
def test_a_body_cut_off_anywhere_is_refused(body: bytes, cut: int) -> None:
    packed = gzip.compress(body)
    with pytest.raises(Undecodable):
        opened(packed[: cut % len(packed)])


@given(body=st.binary(max_size=3000), garbage=st.binary(min_size=1, max_size=50))
def test_what_follows_the_end_is_refused(body: bytes, garbage: bytes) -> None:
    with pytest.raises(Undecodable):
        opened(zlib.compress(body) + garbage, b"deflate")
    if garbage[:2] != b"\x1f\x8b":
        with pytest.raises(Undecodable):
            opened(gzip.compress(body) + garbage)


@given(body=st.binary(max_size=5000), limit=st.integers(1, 6000))
def test_the_limit_is_exact(body: bytes, limit: int) -> None:
    if len(body) <= limit:
        assert opened(gzip.compress(body), limit=limit) == body
    else:
        with pytest.raises(TooLarge, match=f"max_inflated_bytes={limit}"):
            opened(gzip.compress(body), limit=limit)


@pytest.mark.parametrize("coding", [b"gzip", b"deflate"])
def test_a_bomb_costs_no_memory_beyond_the_limit(coding: bytes) -> None:
    bomb = PACK[coding](bytes(200 * LIMIT))
    tracemalloc.start()
    with pytest.raises(TooLarge):
        opened(bomb, coding)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * LIMIT


def test_a_flood_of_empty_members_is_refused() -> None:
    with pytest.raises(Undecodable):
        opened(gzip.compress(b"") * (MAX_MEMBERS + 1))


@pytest.mark.parametrize("coding", [b"br", b"zstd", b"gzip, gzip", b"gzip, identity", b"compress"])
def test_other_codings_are_refused(coding: bytes) -> None:
    with pytest.raises(UnsupportedMedia, match="gzip, deflate or identity"):
        opened(b"x", coding)


@pytest.mark.parametrize("headers", [{}, {b"content-encoding": b"identity"}, {b"content-encoding": b" Identity "}])
def test_without_a_coding_the_body_is_the_same_object(headers: dict[bytes, bytes]) -> None:
    body = bytearray(b"abc")
    assert inflated(body, headers, 1) is body


@pytest.mark.parametrize(
    ("accepts", "coding"),
    [
        (b"gzip", b"gzip"),
        (b"deflate", b"deflate"),
        (b"gzip, deflate, br", b"gzip"),
        (b"GZIP;Q=0.5", b"gzip"),
        (b"gzip;q=0.1, deflate;q=0.9", b"deflate"),
        (b"gzip;q=0, *", b"deflate"),
        (b"*", b"gzip"),
        (b"*;q=0", None),
        (b"gzip;q=0", None),
        (b"gzip;q=0.0, deflate;q=0.000", None),
        (b"identity, gzip;q=0.5", None),
        (b"identity;q=0, gzip;q=0.001", b"gzip"),
        (b"gzip;q=lots", None),
        (b"br", None),
        (b"", None),
    ],
)
def test_the_answer_is_sent_as_the_caller_likes_it_best(accepts: bytes, coding: bytes | None) -> None:
    body, lines = deflated(TEXT, {b"accept-encoding": accepts})
    assert lines.endswith(b"vary: accept-encoding\r\n")
    if coding is None:
        assert (body, lines) == (TEXT, b"vary: accept-encoding\r\n")
    else:
        assert b"content-encoding: " + coding + b"\r\n" in lines
        assert len(body) < len(TEXT)
        assert opened(body, coding) == TEXT


def test_small_huge_and_unasked_answers_go_as_they_are() -> None:
    asks = {b"accept-encoding": b"gzip"}
    for body in (b"x" * (MIN_BYTES - 1), b"x" * (MAX_BYTES + 1)):
        assert deflated(body, asks) == (body, b"")
    assert deflated(TEXT, {}) == (TEXT, b"")
    assert deflated(b"x" * MIN_BYTES, asks)[1].startswith(b"content-encoding")


def test_what_does_not_shrink_goes_as_it_is() -> None:
    noise = hashlib.shake_256(b"noise").digest(4096)
    assert deflated(noise, {b"accept-encoding": b"gzip"}) == (noise, b"vary: accept-encoding\r\n")


def line_of(body: bytes) -> bytes:
    return b"sha-256=:" + b64encode(hashlib.sha256(body).digest()) + b":"


@given(body=st.binary(max_size=200), other=st.binary(max_size=200))
def test_a_digest_is_held_to(body: bytes, other: bytes) -> None:
    check_digest(body, {b"content-digest": line_of(body)})
    check_digest(bytearray(body), {b"content-digest": b"sha-512=:AAAA:, " + line_of(body) + b";note=1"})
    if other != body:
        with pytest.raises(Undecodable, match="Content-Digest"):
            check_digest(other, {b"content-digest": line_of(body)})


@pytest.mark.parametrize("value", [b"sha-256=", b"sha-256=::", b"sha-256=abc", b"sha-256=:####:", b"sha-256=:AAAA:"])
def test_a_digest_that_is_none_is_refused(value: bytes) -> None:
    with pytest.raises(Undecodable, match="sha-256=:BASE64:"):
        check_digest(b"", {b"content-digest": value})


@pytest.mark.parametrize("value", [b"", b"md5=:AAAA:", b"sha-512=:AAAA:", b"not-sha-256=:AAAA:", b"what"])
def test_unknown_algorithms_are_ignored(value: bytes) -> None:
    check_digest(b"anything", {b"content-digest": value})


@pytest.mark.parametrize(
    ("wants", "given"),
    [
        (b"sha-256=10", True),
        (b"sha-512=3, sha-256=1", True),
        (b"sha-256=0", False),
        (b"sha-256=11", False),
        (b"sha-256=", False),
        (b"sha-256=-1", False),
        (b"sha-512=10", False),
        (b"", False),
    ],
)
def test_a_digest_is_returned_when_it_is_wanted(wants: bytes, given: bool) -> None:
    line = digest_line(TEXT, {b"want-content-digest": wants})
    assert line == (b"content-digest: " + line_of(TEXT) + b"\r\n" if given else b"")


def test_nobody_who_did_not_ask_gets_a_digest() -> None:
    assert digest_line(TEXT, {}) == b""
