"""What both planes say over HTTP alike, and over gRPC: the status of each error code."""

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

# gRPC's numbers: 3 INVALID_ARGUMENT, 4 DEADLINE_EXCEEDED, 5 NOT_FOUND, 7 PERMISSION_DENIED, 8 RESOURCE_EXHAUSTED,
# 10 ABORTED, 13 INTERNAL, 14 UNAVAILABLE, 16 UNAUTHENTICATED.
GRPC_STATUS = {
    "invalid_input": 3,
    "unauthenticated": 16,
    "forbidden": 7,
    "not_found": 5,
    "conflict": 10,
    "too_large": 8,
    "quota_exceeded": 8,
    "overloaded": 14,
    "not_ready": 14,
    "deadline_exceeded": 4,
    "model_failed": 13,
    "internal": 13,
}
