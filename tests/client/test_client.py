"""The client against a real server that misbehaves: both flavours, one set of promises."""

import asyncio
import logging
import socket
from collections.abc import Callable
from time import monotonic
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from modelyard.client import AsyncClient, Client, Unreachable, exchange
from modelyard.contract import errors

from .conftest import Script, answered, problem

Call = Callable[..., Any]


def sync_call(url: str, verb: str, *args: Any, **options: Any) -> Any:
    with Client(url, **options) as client:
        return getattr(client.endpoint("m"), verb)(*args)


def async_call(url: str, verb: str, *args: Any, **options: Any) -> Any:
    async def run() -> Any:
        async with AsyncClient(url, **options) as client:
            return await getattr(client.endpoint("m"), verb)(*args)

    return asyncio.run(run())


@pytest.fixture(params=[sync_call, async_call], ids=["sync", "async"])
def call(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.setattr(exchange, "FIRST_BACKOFF_S", 0.001)
    flavour: Call = request.param
    return flavour


def test_busy_then_answered(script: Script, call: Call) -> None:
    script.then(problem(503, "overloaded", retry_after="0"), problem(503, "not_ready"), answered)
    assert call(script.url, "predict", {"x": 0.5}).probability == 0.5
    assert len(script.seen) == 3


def test_the_wait_that_was_asked_for_is_kept(script: Script, call: Call) -> None:
    script.then(problem(429, "quota_exceeded", retry_after="0.2"), answered)
    start = monotonic()
    call(script.url, "predict", {"x": 0.5})
    assert monotonic() - start >= 0.2


def test_a_quota_that_comes_back_too_late_is_raised_at_once(script: Script, call: Call) -> None:
    script.then(problem(429, "quota_exceeded", retry_after="60"))
    with pytest.raises(errors.QuotaExceeded) as caught:
        call(script.url, "predict", {"x": 0.5}, timeout_s=5)
    assert (caught.value.retry_after_s, len(script.seen)) == (60.0, 1)


def test_a_broken_connection_is_tried_again(script: Script, call: Call) -> None:
    script.then("reset", "reset", answered)
    assert call(script.url, "predict", [{"x": 0.5}])[0].probability == 0.5


def test_a_server_that_drips_is_late(script: Script, call: Call) -> None:
    script.then("drip")
    start = monotonic()
    with pytest.raises(errors.DeadlineExceeded):
        call(script.url, "predict", {"x": 0.5}, timeout_s=0.3)
    assert monotonic() - start < 3


def test_nobody_there(call: Call) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # taken, but nobody listens
        with pytest.raises(Unreachable, match=r"nothing answers at http://127\.0\.0\.1"):
            call(f"http://127.0.0.1:{held.getsockname()[1]}", "predict", {"x": 0.5}, retries=1)


def test_a_wrong_row_is_named_and_not_sent_again(script: Script, call: Call) -> None:
    script.then(
        problem(422, "invalid_input", violations=[{"rule": "minimum", "message": "must be at least 0", "row": 0}])
    )
    with pytest.raises(errors.InvalidInput) as caught:
        call(script.url, "predict", {"x": -1})
    assert caught.value.violations[0].rule == "minimum"
    assert len(script.seen) == 1


FRAME = {"x": [0.25, np.nan, 0.75], "job": ["fixed", None, "free"]}


@pytest.mark.parametrize(
    "rows",
    [
        pd.DataFrame(FRAME),
        pd.DataFrame(FRAME, index=[7, 7, 7]).astype({"job": "category"}),
        pl.DataFrame(FRAME),
        pl.DataFrame(FRAME).to_arrow(),
        [
            {"x": np.float32(0.25), "job": "fixed"},
            {"x": float("nan"), "job": pd.NA},
            {"x": np.float64(0.75), "job": "free"},
        ],
    ],
    ids=["pandas", "pandas categories", "polars", "arrow", "dicts"],
)
def test_frames_and_dicts_say_the_same(script: Script, call: Call, rows: Any) -> None:
    script.then(answered)
    call(script.url, "predict", rows)
    assert script.seen[0].body == [{"x": 0.25, "job": "fixed"}, {"x": None, "job": None}, {"x": 0.75, "job": "free"}]


def test_a_series_is_one_row(script: Script, call: Call) -> None:
    script.then(answered)
    assert call(script.url, "predict", pd.DataFrame({"x": [0.5]}).iloc[0]).probability == 0.5


def test_a_long_table_goes_in_parts_and_comes_back_in_order(
    script: Script, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "CHUNK_ROWS", 10)
    script.then(lambda body: problem(413, "too_large") if len(body) > 6 else answered(body))
    answers = call(script.url, "predict", [{"x": number} for number in range(25)])
    assert [answer.probability for answer in answers] == list(range(25))
    assert [answer.row for answer in answers[:6]] == [0, 1, 2, 3, 4, 0]  # as `feedback` counts


def test_infinity_is_refused_here_not_sent_as_missing(script: Script, call: Call) -> None:
    with pytest.raises(errors.InvalidInput, match="row 1: column 'x' must be a finite number"):
        call(script.url, "predict", [{"x": 1.0}, {"x": float("inf")}])
    assert script.seen == []


def test_explain_feedback_and_describe(script: Script, call: Call) -> None:
    explained = {"request_id": "r", "model": "m", "version": 1, "base": -1.5, "contributions": {"x": 0.5}}
    script.then((200, explained, {}), (202, b"", {}), (200, {"columns": []}, {}))
    assert call(script.url, "explain", {"x": 1}).contributions == {"x": 0.5}
    call(script.url, "feedback", "r", "good", 2)
    assert call(script.url, "describe") == {"columns": []}
    assert script.seen[1].body == {"request_id": "r", "truth": "good", "row": 2}
    assert [(seen.method, seen.path) for seen in script.seen] == [
        ("POST", "/m/explain"),
        ("POST", "/m/feedback"),
        ("GET", "/m"),
    ]


def test_the_key_is_sent_and_shown_nowhere(script: Script, call: Call, caplog: pytest.LogCaptureFixture) -> None:
    script.then(problem(401, "unauthenticated"))
    secret = "my_verysecretindeed"
    with caplog.at_level(logging.DEBUG), pytest.raises(errors.Unauthenticated) as caught:
        call(script.url, "predict", {"x": 1}, key=secret)
    assert script.seen[0].headers["Authorization"] == f"Bearer {secret}"
    with Client(script.url, key=secret) as client:
        shown = [repr(client), repr(client.endpoint("m")), repr(vars(client)), str(caught.value), caplog.text]
    assert not any(secret in text for text in shown)


def test_a_proxy_of_the_environment_is_passed_by_on_this_machine(
    script: Script, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    script.then(answered)
    assert call(script.url, "predict", {"x": 0.5}).version == 7
