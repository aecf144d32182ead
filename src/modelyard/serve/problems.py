"""Errors as HTTP says them: a status for each code, and a body in the dialect of the path."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Literal

import msgspec

from modelyard.contract.errors import InvalidInput, ModelyardError, Undecodable, Violation
from modelyard.contract.wire import HTTP_STATUS

PROBLEM = b"application/problem+json"
JSON = b"application/json"

Dialect = Literal["native", "protocol", "mlflow"]
_DIALECTS: dict[bytes, Dialect] = {b"v1": "protocol", b"v2": "protocol", b"invocations": "mlflow"}
# The names by which MLflow's clients know errors; all others are BAD_REQUEST.
_MLFLOW_CODES = {
    "unauthenticated": "UNAUTHENTICATED",
    "forbidden": "PERMISSION_DENIED",
    "not_found": "ENDPOINT_NOT_FOUND",
    "conflict": "RESOURCE_CONFLICT",
    "quota_exceeded": "REQUEST_LIMIT_EXCEEDED",
    "overloaded": "TEMPORARILY_UNAVAILABLE",
    "not_ready": "TEMPORARILY_UNAVAILABLE",
    "deadline_exceeded": "DEADLINE_EXCEEDED",
    "model_failed": "INTERNAL_ERROR",
    "internal": "INTERNAL_ERROR",
}


class Problem(msgspec.Struct, omit_defaults=True):
    """RFC 9457, with our code, the request id, and every broken rule."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str = ""
    violations: tuple[Violation, ...] = ()


class ProtocolError(msgspec.Struct, omit_defaults=True):
    """What the Open Inference Protocol and its V1 call an error, and ours beside it."""

    error: str
    code: str
    request_id: str = ""
    violations: tuple[Violation, ...] = ()


class ScoringError(msgspec.Struct, omit_defaults=True):
    """What MLflow's scoring protocol calls an error, and ours beside it; never a stack trace."""

    error_code: str
    message: str
    code: str
    request_id: str = ""
    violations: tuple[Violation, ...] = ()


class WrongMethod(InvalidInput):
    """The path is known, this method on it is not."""

    def __init__(self, allowed: str) -> None:
        super().__init__(f"this path answers {allowed}")
        self.allowed = allowed


class UnsupportedMedia(InvalidInput):
    """A body in a form that is not read here."""


def dialect_of(target: bytes) -> Dialect:
    """In which form errors of this request target are said."""
    first = target[1:].partition(b"?")[0].partition(b"/")[0]
    return _DIALECTS.get(first, "native")


def status_of(error: ModelyardError, dialect: Dialect = "native") -> int:
    """The HTTP status. Clients of the field's protocols know 400 for every invalid input."""
    if isinstance(error, WrongMethod):
        return 405
    if isinstance(error, UnsupportedMedia):
        return 415
    if isinstance(error, Undecodable) or (dialect != "native" and error.code == "invalid_input"):
        return 400
    return HTTP_STATUS[error.code]


def problem(
    error: ModelyardError, status: int, request_id: str, dialect: Dialect = "native"
) -> tuple[bytes, bytes, bytes]:
    """(body, content type, further header lines) of an error."""
    violations = error.violations if isinstance(error, InvalidInput) else ()
    said: ProtocolError | ScoringError | Problem
    if dialect == "protocol":
        said = ProtocolError(str(error), error.code, request_id, violations)
    elif dialect == "mlflow":
        name = _MLFLOW_CODES.get(error.code, "BAD_REQUEST")
        said = ScoringError(name, str(error), error.code, request_id, violations)
    else:
        kind = f"urn:modelyard:problem:{error.code}"
        said = Problem(kind, HTTPStatus(status).phrase, status, str(error), error.code, request_id, violations)
    return msgspec.json.encode(said), PROBLEM if dialect == "native" else JSON, _headers(error, status)


def _headers(error: ModelyardError, status: int) -> bytes:
    headers = b""
    if status in (429, 503):
        wait = getattr(error, "retry_after_s", 1.0)
        headers = b"retry-after: %d\r\n" % max(1, math.ceil(wait))
    if status == 401:
        headers += b'www-authenticate: Bearer realm="modelyard"\r\n'
    if isinstance(error, WrongMethod):
        headers += b"allow: %b\r\n" % error.allowed.encode()
    return headers
