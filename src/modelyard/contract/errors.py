"""Every failure that Modelyard raises on purpose, as codes; edges choose HTTP and gRPC statuses.

A message is always safe to show to a caller: it names fields, rules and limits, never a caller's values.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec


class ModelyardError(Exception):
    """Any failure we raise on purpose; `str(error)` is safe to show."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    is_counted = False  # in the metrics already, by the process that this one asked


class Violation(msgspec.Struct, frozen=True, omit_defaults=True):
    """One broken rule of a contract: where it is and what it asks, never the value that broke it."""

    rule: str  # required, unknown, type, whole, minimum, maximum, category, missing, finite
    message: str
    column: str | None = None
    row: int | None = None  # counts from 0, as the caller's list does


class InvalidInput(ModelyardError):
    """The input does not fit the contract."""

    code = "invalid_input"

    def __init__(self, message: str, violations: tuple[Violation, ...] = ()) -> None:
        super().__init__(message)
        self.violations = violations


class Undecodable(InvalidInput):
    """The input could not even be decoded (edges answer 400, not 422)."""


class Unauthenticated(ModelyardError):
    """No key where one is needed, or one that is unknown, expired or revoked."""

    code = "unauthenticated"


class Forbidden(ModelyardError):
    """A known caller without the scope that this needs."""

    code = "forbidden"


class NotFound(ModelyardError):
    """No such endpoint, model, version or request."""

    code = "not_found"


class Conflict(ModelyardError):
    """The name is taken, or the thing was changed meanwhile."""

    code = "conflict"


class TooLarge(ModelyardError):
    """A body, header, or number of rows above a limit that the message names."""

    code = "too_large"


class QuotaExceeded(ModelyardError):
    """A caller used up what the key allows; names the limit."""

    code = "quota_exceeded"

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Overloaded(ModelyardError):
    """A bounded queue is full; refused before queuing."""

    code, retryable = "overloaded", True
    retry_after_s = 1.0


class NotReady(ModelyardError):
    """Known, but no replica answers yet."""

    code, retryable = "not_ready", True
    retry_after_s = 1.0


class DeadlineExceeded(ModelyardError):
    """Nobody waits for the answer any more; dropped before computing where possible."""

    code, retryable = "deadline_exceeded", True


class ModelFailed(ModelyardError):
    """The model's own code raised; details are in the log under the request id."""

    code = "model_failed"


class Internal(ModelyardError):
    """Our own fault; details are in the log under the request id."""

    code = "internal"


def all_errors() -> list[type[ModelyardError]]:
    """Every class of this file, for the tests that walk them; rooms above may refine them, keeping the code."""
    found, todo = [], [ModelyardError]
    while todo:
        cls = todo.pop()
        todo += cls.__subclasses__()
        if cls is not ModelyardError and cls.__module__ == __name__:
            found.append(cls)
    return sorted(found, key=lambda cls: cls.__name__)
