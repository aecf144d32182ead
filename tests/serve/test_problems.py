"""Every error has a status, a body in each dialect, and a line in the reference."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from modelyard.contract.encoding import MAX_VIOLATIONS
from modelyard.contract.errors import (
    InvalidInput,
    ModelyardError,
    NotReady,
    Overloaded,
    QuotaExceeded,
    Unauthenticated,
    Violation,
    all_errors,
)
from modelyard.contract.wire import HTTP_STATUS
from modelyard.serve.problems import Dialect, UnsupportedMedia, WrongMethod, dialect_of, problem, status_of

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "errors.md").read_text("utf-8")
ROWS = {
    (code, int(status), retry)
    for code, status, retry in re.findall(r"^\| `(\w+)` \| (\d+) \| (no|yes|later) \|", PAGE, re.MULTILINE)
}
ERRORS = [*all_errors(), WrongMethod, UnsupportedMedia]  # the edge refines two of them
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)


def an(cls: type[ModelyardError]) -> ModelyardError:
    return cls("GET") if issubclass(cls, WrongMethod) else cls("the sentence")


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__name__)
def test_every_error_has_a_status_and_a_line_in_the_reference(cls: type[ModelyardError]) -> None:
    assert cls.__doc__
    for dialect in DIALECTS:
        status = status_of(an(cls), dialect)
        assert 400 <= status < 600
        retry = "later" if cls.code == "quota_exceeded" else ("yes" if cls.retryable else "no")
        assert (cls.code, status, retry) in ROWS


def test_the_reference_lists_nothing_that_is_never_said() -> None:
    said = {(cls.code, status_of(an(cls), dialect)) for cls in ERRORS for dialect in DIALECTS}
    assert {(code, status) for code, status, _ in ROWS} == said
    assert {cls.code for cls in ERRORS} == set(HTTP_STATUS)


def test_the_reference_lists_every_rule_and_the_bound() -> None:
    for rule in ("required", "unknown", "type", "whole", "minimum", "maximum", "category", "missing", "finite"):
        assert f"`{rule}`" in PAGE
    assert f"At most {MAX_VIOLATIONS} violations" in PAGE


def test_a_problem_is_rfc_9457() -> None:
    error = InvalidInput("row 0: no", (Violation("minimum", "must be at least 18", "age", 0),))
    body, content_type, headers = problem(error, 422, "the-id")
    assert content_type == b"application/problem+json"
    assert headers == b""
    assert json.loads(body) == {
        "type": "urn:modelyard:problem:invalid_input",
        "title": "Unprocessable Entity",
        "status": 422,
        "detail": "row 0: no",
        "code": "invalid_input",
        "request_id": "the-id",
        "violations": [{"rule": "minimum", "message": "must be at least 18", "column": "age", "row": 0}],
    }


def test_the_protocol_has_its_own_body() -> None:
    error = InvalidInput("no", (Violation("type", "must be text"),))
    body, content_type, _ = problem(error, 400, "the-id", "protocol")
    assert content_type == b"application/json"
    assert json.loads(body) == {
        "error": "no",
        "code": "invalid_input",
        "request_id": "the-id",
        "violations": [{"rule": "type", "message": "must be text"}],
    }
    assert json.loads(problem(Overloaded("full"), 503, "x", "protocol")[0]) == {
        "error": "full", "code": "overloaded", "request_id": "x",
    }  # fmt: skip


def test_mlflow_has_its_own_body_and_names() -> None:
    error = InvalidInput("no", (Violation("type", "must be text"),))
    body, content_type, _ = problem(error, 400, "the-id", "mlflow")
    assert content_type == b"application/json"
    assert json.loads(body) == {
        "error_code": "BAD_REQUEST",
        "message": "no",
        "code": "invalid_input",
        "request_id": "the-id",
        "violations": [{"rule": "type", "message": "must be text"}],
    }
    names = {cls.code: json.loads(problem(an(cls), 500, "x", "mlflow")[0])["error_code"] for cls in ERRORS}
    assert set(names) == set(HTTP_STATUS)
    assert [code for code, name in sorted(names.items()) if name == "BAD_REQUEST"] == ["invalid_input", "too_large"]


@pytest.mark.parametrize(
    ("target", "dialect"),
    [
        (b"/v1/models/loans:predict", "protocol"),
        (b"/v2/models/loans/infer", "protocol"),
        (b"/v2", "protocol"),
        (b"/invocations", "mlflow"),
        (b"/invocations?x=1", "mlflow"),
        (b"/loans", "native"),
        (b"/v1loans", "native"),  # an endpoint whose name begins so
        (b"/", "native"),
        (b"*", "native"),
    ],
)
def test_the_first_part_of_a_path_says_the_dialect(target: bytes, dialect: Dialect) -> None:
    assert dialect_of(target) == dialect


@pytest.mark.parametrize(
    ("error", "header"),
    [
        (QuotaExceeded("used up", 2.2), b"retry-after: 3\r\n"),
        (QuotaExceeded("used up", 0.001), b"retry-after: 1\r\n"),
        (Overloaded("full"), b"retry-after: 1\r\n"),
        (NotReady("soon"), b"retry-after: 1\r\n"),
        (Unauthenticated("a key is required"), b'www-authenticate: Bearer realm="modelyard"\r\n'),
        (WrongMethod("GET, POST"), b"allow: GET, POST\r\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_headers_that_go_with_an_error(error: ModelyardError, header: bytes) -> None:
    for dialect in DIALECTS:
        assert problem(error, status_of(error, dialect), "x", dialect)[2] == header
