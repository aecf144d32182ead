"""The talk between caller and gateway, without a socket: what is sent, what is waited for, what comes out."""

from typing import Any

import pytest

from modelyard.client import exchange
from modelyard.client.errors import Unreachable, refusal_of
from modelyard.client.exchange import Ask, Broken, Late, Patience, Pause, Reply
from modelyard.contract import errors
from modelyard.contract.errors import InvalidInput, ModelyardError


def play(talk: Any, *outcomes: Any) -> tuple[Any, list[Any]]:
    """Give the outcomes one by one; return the result and the steps that were asked for."""
    steps: list[Any] = []
    waiting = list(outcomes)
    said = None
    try:
        while True:
            step = talk.send(said)
            steps.append(step)
            said = None if isinstance(step, Pause) else waiting.pop(0)
    except StopIteration as done:
        return done.value, steps


ONE = Reply(200, b'{"request_id":"r","model":"m","version":3,"decision":"approve","probability":0.25,"score":612}')
BUSY = Reply(503, b'{"code":"overloaded","detail":"queue full"}', "2")


def test_one_row_is_one_post_and_one_prediction() -> None:
    answer, steps = play(exchange.predict("credit", {"x": 1}, Patience(), None, "zh"), ONE)
    assert (answer.version, answer.decision, answer.probability, answer.score) == (3, "approve", 0.25, 612)
    assert [(step.method, step.path, step.body) for step in steps] == [("POST", "/credit?lang=zh", b'{"x":1}')]


def test_what_the_server_asks_to_wait_is_waited_and_a_little_more() -> None:
    _, steps = play(exchange.predict("credit", {"x": 1}, Patience(), None, None), BUSY, ONE)
    assert [type(step) for step in steps] == [Ask, Pause, Ask]
    assert 2.0 < steps[1].seconds <= 2.0 + exchange.FIRST_BACKOFF_S


def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    talk = exchange.predict("credit", {"x": 1}, Patience(timeout_s=1.5), None, None)
    with pytest.raises(errors.Overloaded) as caught:
        play(talk, BUSY)
    assert caught.value.retry_after_s == 2.0


@pytest.mark.parametrize(
    ("outcome", "raised"),
    [
        (Reply(422, b'{"code":"invalid_input","detail":"no"}'), errors.InvalidInput),
        (Reply(400, b'{"code":"invalid_input","detail":"no"}'), errors.Undecodable),
        (Reply(401, b"{}"), errors.Unauthenticated),
        (Reply(403, b"<html>"), errors.Forbidden),
        (Reply(404, b"[]"), errors.NotFound),
        (Reply(500, b"\xff"), errors.Internal),
        (Reply(302, b""), errors.Internal),
        (Late(), errors.DeadlineExceeded),
    ],
)
def test_what_cannot_get_better_is_not_tried_again(outcome: Any, raised: type[ModelyardError]) -> None:
    with pytest.raises(raised):
        play(exchange.describe("credit", Patience(timeout_s=0.001)), outcome)


def test_retries_are_counted() -> None:
    with pytest.raises(Unreachable):
        play(exchange.describe("credit", Patience(retries=2)), *[Broken("gone")] * 3)


@pytest.mark.parametrize("code", [kind.code for kind in errors.all_errors() if kind.__module__ == errors.__name__])
def test_every_code_comes_back_as_its_own_class(code: str) -> None:
    error = refusal_of(422, b'{"code":"%s","detail":"d"}' % code.encode(), None)
    assert error.code == code


def test_a_request_id_travels_with_the_error_and_retry_after_may_be_a_date() -> None:
    body = b'{"code":"quota_exceeded","detail":"rows_per_second=5","request_id":"r9"}'
    error = refusal_of(429, body, "Wed, 21 Oct 2015 07:28:00 GMT")
    assert isinstance(error, errors.QuotaExceeded)
    assert (error.retry_after_s, error.__notes__) == (0.0, ["request id r9"])


def test_a_chunk_that_is_too_large_is_halved() -> None:
    small = Reply(200, b'{"request_id":"r","version":1,"predictions":[{"probability":0.5}]}')
    answers, steps = play(
        exchange.predict("m", [{"x": 1}, {"x": 2}], Patience(), None, None), Reply(413, b"{}"), small, small
    )
    assert [step.body for step in steps] == [b'[{"x":1},{"x":2}]', b'[{"x":1}]', b'[{"x":2}]']
    assert [answer.probability for answer in answers] == [0.5, 0.5]


def test_rows_in_a_violation_count_as_the_callers_list_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "CHUNK_ROWS", 1)
    good = Reply(200, b'{"request_id":"r","version":1,"predictions":[{"probability":0.5}]}')
    bad = Reply(
        422, b'{"code":"invalid_input","violations":[{"rule":"type","message":"is text","column":"x","row":0}]}'
    )
    with pytest.raises(InvalidInput, match="row 1: column 'x' is text") as caught:
        play(exchange.predict("m", [{"x": 1}, {"x": "a"}], Patience(), None, None), good, bad)
    assert caught.value.violations[0].row == 1


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{}",
        b"not json",
        b'{"version":1}',
        b'{"version":1,"predictions":[]}',
        b'{"version":"x","predictions":[1]}',
    ],
)
def test_an_answer_of_another_kind_is_an_error_not_a_crash(body: bytes) -> None:
    with pytest.raises(errors.Internal):
        play(exchange.predict("m", [{"x": 1}], Patience(), None, None), Reply(200, body))


@pytest.mark.parametrize(
    "url", ["ftp://x", "localhost:8000", "http://", "http://a:b@host", "http://h:99999", "http://h?q"]
)
def test_an_address_that_cannot_be_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        exchange.address(url, None, "agent")


@pytest.mark.parametrize("key", ["", "my key", "my_\nx", "my_ключ"])
def test_a_key_that_cannot_be_is_refused_without_being_repeated(key: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        exchange.address("http://127.0.0.1", key, "agent")
    assert not key or key not in str(caught.value)
