"""A head that comes again is not parsed again: that must never show, except in the time it takes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kit.gateway import Gateway, gateway, plan
from kit.lines import Line, request
from kit.versions import CONTRACT, expected, store
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.contract.plan import PlannedKey
from modelyard.secure.keys import digest_of

pytestmark = pytest.mark.xdist_group("known-heads")

KEYS = tuple(
    PlannedKey(name, digest_of(name), name, ("infer",), rate, burst)
    for name, rate, burst in (("my_one", None, None), ("my_two", None, None), ("my_few", 0.001, 3))
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    root = tmp_path_factory.mktemp("heads") / "home"
    digest = store(Shelf(Home(root).prepare().shelf))
    with gateway(root, plan(1, {1: digest}, keys=KEYS, require_keys=True), workers=1, max_body_bytes=2000) as one:
        yield one


class Talk:
    """One keep-alive connection on which the same headers are said again and again."""

    def __init__(self, line: Line, key: str) -> None:
        self.line, self.key = line, key

    def say(self, body: bytes, cut: int | None = None, then: bytes = b"") -> None:
        whole = request("/loans", body, X_API_Key=self.key) + then
        for part in (whole[:cut], whole[cut:]) if cut else (whole,):
            self.line.send(part)

    def hear(self) -> tuple[int, Any]:
        reply = self.line.read()
        return reply.status, reply.json()


@pytest.fixture
def talk(running: Gateway) -> Iterator[Callable[[str], Talk]]:
    with contextlib.ExitStack() as lines:
        yield lambda key: Talk(lines.enter_context(Line(running.port)), key)


def row(age: int, income: float | None) -> dict[str, Any]:
    return CONTRACT.example | {"age": age, "income": income}


def test_bodies_of_every_length_get_their_own_answers(talk: Callable[[str], Talk]) -> None:
    line = talk("my_one")
    for turn in range(40):
        asked = row(18 + turn, None if turn % 3 == 0 else 10.0**turn % 9999)
        line.say(json.dumps(asked).encode())
        status, answer = line.hear()
        assert status == 200
        assert answer["probability"] == pytest.approx(expected(asked), abs=1e-6)


@pytest.mark.parametrize("cut", [5, 30, 70, 120, 150])
def test_a_known_head_that_comes_in_two_pieces_is_one_request(talk: Callable[[str], Talk], cut: int) -> None:
    line = talk("my_one")
    body = json.dumps(row(40, 50.0)).encode()
    for piece in (None, None, cut, None):
        line.say(body, cut=piece)
        assert line.hear()[0] == 200


def test_what_follows_a_known_head_is_not_swallowed(talk: Callable[[str], Talk]) -> None:
    line = talk("my_one")
    body = json.dumps(row(40, 50.0)).encode()
    line.say(body)
    assert line.hear()[0] == 200
    line.say(body, then=b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert line.hear()[0] == 200
    assert line.hear() == (200, {"live": True})


def test_limits_hold_for_known_heads(talk: Callable[[str], Talk]) -> None:
    line = talk("my_one")
    line.say(json.dumps(row(40, 50.0)).encode())
    assert line.hear()[0] == 200
    line.say(b"[" * 3000)
    assert line.hear()[0] == 413


def test_bad_bodies_are_refused_and_the_next_is_answered(talk: Callable[[str], Talk]) -> None:
    line = talk("my_one")
    for body, status in ((b"{}", 422), (b"{", 400), (json.dumps(row(40, 1.0)).encode(), 200), (b"[]", 422)):
        line.say(body)
        assert line.hear()[0] == status


def test_a_quota_counts_known_heads(talk: Callable[[str], Talk]) -> None:
    line = talk("my_few")
    statuses = []
    for _ in range(5):
        line.say(json.dumps(row(40, 50.0)).encode())
        statuses.append(line.hear()[0])
    assert statuses == [200, 200, 200, 429, 429]


def test_a_key_that_is_revoked_is_refused_on_a_connection_that_knows_it(
    running: Gateway, talk: Callable[[str], Talk]
) -> None:
    line = talk("my_two")
    body = json.dumps(row(40, 50.0)).encode()
    for _ in range(3):
        line.say(body)
        assert line.hear()[0] == 200
    digest = running.shelf.digests()[0]
    running.publish(plan(2, {1: digest}, keys=KEYS[:1], require_keys=True))
    line.say(body)
    assert line.hear()[0] == 401
    running.publish(plan(3, {1: digest}, keys=KEYS, require_keys=True))
    line.say(body)
    assert line.hear()[0] == 200
