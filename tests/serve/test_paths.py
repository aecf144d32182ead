"""What a method and a request target mean: one table, read for any path in the same way."""

from __future__ import annotations

import re

import pytest

from modelyard.contract.errors import InvalidInput, NotFound, Undecodable
from modelyard.serve import handlers
from modelyard.serve.paths import PATHS, parse
from modelyard.serve.problems import WrongMethod


@pytest.mark.parametrize(("method", "path", "handler", "scope"), PATHS, ids=[" ".join(row[:2]) for row in PATHS])
def test_every_row_of_the_table_is_found_with_and_without_a_version(
    method: str, path: str, handler: object, scope: str
) -> None:
    for spelled in {re.sub(r"\[.*\]", "", path), re.sub(r"[\[\]]", "", path)}:
        for end in ("", "/"):
            target = parse(method.encode(), (spelled.format(endpoint="loans", pin="champion") + end).encode())
            assert target.handler is handler
            assert target.verb == scope
            assert target.endpoint == ("loans" if "{endpoint}" in spelled else "")
            assert target.pin == ("champion" if "{pin}" in spelled else None)


@pytest.mark.parametrize(
    ("target", "handler", "endpoint", "pin"),
    [
        (b"/v2/models/stats", handlers.v2_stats, "", None),  # not a model of that name
        (b"/v1/models/loans/labels/champion", handlers.v1_model, "loans", "champion"),
        (b"/%6Coans", handlers.describe, "loans", None),
        (b"/a%2Fb", handlers.describe, "a/b", None),  # one part, however it is written
        (b"http://elsewhere/loans", handlers.describe, "loans", None),
        (b"//", handlers.index, "", None),
    ],
)
def test_paths_that_look_like_others(target: bytes, handler: object, endpoint: str, pin: str | None) -> None:
    found = parse(b"GET", target)
    assert (found.handler, found.endpoint, found.pin) == (handler, endpoint, pin)


@pytest.mark.parametrize(
    "target",
    [
        b"/v1", b"/v2/loans", b"/v2/versions/1", b"/v2/explain", b"/docs/a/b", b"/invocations/stream",
        b"/openapi.json/feedback", b"/loans/nothing", b"/loans/versions/1/feedback", b"/v2/models/loans/predict",
        b"/v1/models/loans:nothing", b"/v2/repository/models/loans/versions/1/load", b"/a/b/c/d/e/f/g/h",
    ],
)  # fmt: skip
def test_what_is_not_there_is_nobodys_endpoint(target: bytes) -> None:
    for method in (b"GET", b"POST"):
        with pytest.raises(NotFound, match="GET / lists"):
            parse(method, target)


def test_another_method_is_told_which_ones_there_are() -> None:
    for target, allowed in ((b"/loans", "GET, POST"), (b"/metrics", "GET"), (b"/v2/models/loans/infer", "POST")):
        with pytest.raises(WrongMethod, match=f"answers {allowed}$"):
            parse(b"DELETE", target)
    assert parse(b"HEAD", b"/healthz").handler is handlers.live


def test_only_probes_and_the_page_need_no_key() -> None:
    plain = {path: (method.encode(), re.sub(r"\[.*\]", "", path).encode()) for method, path, _, _ in PATHS}
    is_open = {path for path, asked in plain.items() if parse(*asked).is_open}
    assert is_open == {
        "/healthz", "/readyz", "/ping", "/health", "/v2/health/live", "/v2/health/ready", "/docs[/{pin}]"
    }  # fmt: skip


def test_the_query_of_a_prediction_is_read_and_no_other_is() -> None:
    target = parse(b"POST", b"/loans?reasons=all&lang=zh")
    assert (target.reasons, target.language) == ("all", "zh")
    assert parse(b"POST", b"/v2/models/loans/infer?reasons=loud").reasons == "auto"
    for query, says in ((b"reason=all", "no query parameter 'reason'"), (b"lang=fr", "one of: en, zh")):
        with pytest.raises(InvalidInput, match=says):
            parse(b"POST", b"/loans?" + query)
    with pytest.raises(InvalidInput, match="more than 16"):
        parse(b"POST", b"/loans?" + b"&".join([b"lang=en"] * 17))
    with pytest.raises(Undecodable):
        parse(b"GET", b"ftp://elsewhere/loans")
