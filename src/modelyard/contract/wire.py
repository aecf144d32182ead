"""What both planes say over HTTP alike: the status of each error code."""

from __future__ import annotations

HTTP_STATUS = {
    "invalid_input": 422,  # 400 where the input could not even be decoded
    "unauthenticated": 401,
    "forbidden": 403,
    "not_found": 404,
    "conflict": 409,
    "too_large": 413,
    "quota_exceeded": 429,
    "overloaded": 503,
    "not_ready": 503,
    "deadline_exceeded": 504,
    "model_failed": 500,
    "internal": 500,
}
