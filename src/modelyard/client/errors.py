"""The one failure that only a caller sees, and how a server's refusal becomes a typed error here."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from time import time
from typing import Any, ClassVar

import msgspec

from modelyard.contract import errors
from modelyard.contract.errors import ModelyardError, Violation


class Unreachable(ModelyardError):
    """Nothing answers at the address, or the connection broke before the answer was whole."""

    code: ClassVar[str] = "unreachable"
    retryable: ClassVar[bool] = True


_BY_CODE: dict[str, type[ModelyardError]] = {
    kind.code: kind
    for kind in (
        errors.Unauthenticated,
        errors.Forbidden,
        errors.NotFound,
        errors.Conflict,
        errors.TooLarge,
        errors.Overloaded,
        errors.NotReady,
        errors.DeadlineExceeded,
        errors.ModelFailed,
        errors.Internal,
    )
}
# What a status means when the body does not say: an answer of a proxy in between, for instance.
_CODE_OF_STATUS = {
    400: "invalid_input",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    409: "conflict",
    413: "too_large",
    422: "invalid_input",
    429: "quota_exceeded",
    502: "not_ready",
    503: "overloaded",
    504: "deadline_exceeded",
}


def refusal_of(status: int, body: bytes, retry_after: str | None) -> ModelyardError:
    """The typed error that a reply above 399 stands for; its request id, if there is one, is added as a note."""
    said = _said(body)
    code = said.get("code") or _CODE_OF_STATUS.get(status, "internal")
    message = str(said.get("detail") or said.get("error") or said.get("title") or f"the server answered {status}")
    error = _typed(str(code), status, message, said)
    wait_s = _seconds(retry_after)
    if wait_s is not None and isinstance(error, errors.QuotaExceeded | errors.Overloaded | errors.NotReady):
        error.retry_after_s = wait_s
    if said.get("request_id"):
        error.add_note(f"request id {said['request_id']}")
    return error


def _typed(code: str, status: int, message: str, said: dict[str, Any]) -> ModelyardError:
    if code == "invalid_input":
        kind = errors.Undecodable if status == 400 else errors.InvalidInput
        return kind(message, _violations(said.get("violations")))
    if code == "quota_exceeded":
        return errors.QuotaExceeded(message)
    return _BY_CODE.get(code, errors.Internal)(message)


def _said(body: bytes) -> dict[str, Any]:
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return said if isinstance(said, dict) else {}


def _violations(listed: Any) -> tuple[Violation, ...]:
    try:
        return msgspec.convert(listed or (), type=tuple[Violation, ...])
    except msgspec.ValidationError:
        return ()


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After is a number of seconds or a date (RFC 9110, 10.2.3)."""
    if not retry_after:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time())
    except (TypeError, ValueError):
        return None
