"""Errors on the management API: every one is a problem+json document (RFC 9457)."""

import logging
import sys
from typing import Any

import msgspec
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.views import defaults
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import set_rollback

from modelyard.contract.errors import InvalidInput, ModelyardError, Undecodable
from modelyard.contract.wire import HTTP_STATUS
from modelyard.control.database import error_of

log = logging.getLogger("modelyard.control")

CONTENT_TYPE = "application/problem+json"
CODES = {
    400: "invalid_input",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    415: "unsupported_media_type",
    422: "invalid_input",
    429: "quota_exceeded",
}
TITLES = {
    "invalid_input": "The request does not fit",
    "unauthenticated": "Sign in first",
    "forbidden": "Not allowed",
    "not_found": "Not found",
    "method_not_allowed": "This address has no such method",
    "not_acceptable": "Only JSON is spoken here",
    "unsupported_media_type": "Only JSON is read here",
    "conflict": "Conflict",
    "too_large": "Too large",
    "quota_exceeded": "Too many attempts",
    "overloaded": "Too busy",
    "not_ready": "Not ready",
    "deadline_exceeded": "Too late",
    "model_failed": "The model failed",
    "internal": "Something broke here",
}


def status_of(error: ModelyardError) -> int:
    """The HTTP status of one of our errors."""
    return 400 if isinstance(error, Undecodable) else HTTP_STATUS[error.code]


def problem(status: int, code: str, detail: str, **more: Any) -> dict[str, Any]:
    """The document itself."""
    return {"type": "about:blank", "title": TITLES[code], "status": status, "code": code, "detail": detail, **more}


def problem_of(error: Exception, context: dict[str, Any]) -> Response | None:
    """REST framework's exception handler; what nobody raised on purpose goes on to `server_error`."""
    set_rollback()
    error = error_of(error) or error
    if isinstance(error, ModelyardError):
        return _of_ours(error)
    if isinstance(error, Http404):
        error = exceptions.NotFound()
    elif isinstance(error, PermissionDenied):
        error = exceptions.PermissionDenied()
    if not isinstance(error, exceptions.APIException):
        return None
    headers = {}
    if getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = error.auth_header
    if getattr(error, "wait", None):
        headers["Retry-After"] = str(int(error.wait) + 1)
    if isinstance(error, exceptions.ValidationError):
        body = problem(422, "invalid_input", "the body does not fit; see errors", errors=error.get_full_details())
        return Response(body, 422, headers=headers, content_type=CONTENT_TYPE)
    code = CODES.get(error.status_code, "internal")
    return Response(
        problem(error.status_code, code, str(error.detail)),
        error.status_code,
        headers=headers,
        content_type=CONTENT_TYPE,
    )


def answer_of(error: ModelyardError) -> HttpResponse:
    """One of our errors, outside of REST framework's views."""
    body, status, headers = _document(error)
    return JsonResponse(body, status=status, headers=headers, content_type=CONTENT_TYPE)


def _of_ours(error: ModelyardError) -> Response:
    body, status, headers = _document(error)
    return Response(body, status, headers=headers, content_type=CONTENT_TYPE)


def _document(error: ModelyardError) -> tuple[dict[str, Any], int, dict[str, str]]:
    status = status_of(error)
    more: dict[str, Any] = {"retryable": error.retryable}
    if isinstance(error, InvalidInput) and error.violations:
        more["violations"] = msgspec.to_builtins(error.violations)
    retry_after_s = getattr(error, "retry_after_s", None)
    headers = {"Retry-After": str(max(1, round(retry_after_s)))} if retry_after_s else {}
    return problem(status, error.code, str(error), **more), status, headers


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """404 outside of the views: a problem document below /api, Django's page elsewhere."""
    if not request.path.startswith("/api/"):
        return defaults.page_not_found(request, exception)
    return _json(404, "not_found", "there is nothing at this address; /api/v1/docs lists what there is")


def server_error(request: HttpRequest) -> HttpResponse:
    """500: Django has logged what happened; the caller learns nothing of the inside. 503 while the database is away."""
    if (known := error_of(sys.exception())) is not None:
        return answer_of(known)
    if not request.path.startswith("/api/"):
        return defaults.server_error(request)
    return _json(500, "internal", "the request could not be completed; the server's log says why")


def _json(status: int, code: str, detail: str) -> JsonResponse:
    return JsonResponse(problem(status, code, detail), status=status, content_type=CONTENT_TYPE)
