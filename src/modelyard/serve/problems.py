"""Errors as HTTP says them: a status for each code, and a body in the dialect of the path."""

from __future__ import annotations

import math
from http import HTTPStatus

import msgspec

from modelyard.contract.errors import InvalidInput, ModelyardError, Undecodable, Violation
from modelyard.contract.wire import HTTP_STATUS

PROBLEM = b"application/problem+json"


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
    """What the Open Inference Protocol calls an error, and ours beside it."""

    error: str
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


def status_of(error: ModelyardError, *, protocol: bool) -> int:
    """The HTTP status. The protocol's clients know 400 for every invalid input."""
    if isinstance(error, WrongMethod):
        return 405
    if isinstance(error, UnsupportedMedia):
        return 415
    if isinstance(error, Undecodable) or (protocol and error.code == "invalid_input"):
        return 400
    return HTTP_STATUS[error.code]


def problem(error: ModelyardError, status: int, request_id: str, *, protocol: bool) -> tuple[bytes, bytes, bytes]:
    """(body, content type, further header lines) of an error."""
    violations = error.violations if isinstance(error, InvalidInput) else ()
    headers = b""
    if status in (429, 503):
        wait = getattr(error, "retry_after_s", 1.0)
        headers = b"retry-after: %d\r\n" % max(1, math.ceil(wait))
    if status == 401:
        headers += b'www-authenticate: Bearer realm="modelyard"\r\n'
    if isinstance(error, WrongMethod):
        headers += b"allow: %b\r\n" % error.allowed.encode()
    if protocol:
        return (
            msgspec.json.encode(ProtocolError(str(error), error.code, request_id, violations)),
            b"application/json",
            headers,
        )
    kind = f"urn:modelyard:problem:{error.code}"
    body = Problem(kind, HTTPStatus(status).phrase, status, str(error), error.code, request_id, violations)
    return msgspec.json.encode(body), PROBLEM, headers
