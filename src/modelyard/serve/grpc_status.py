"""Errors as gRPC says them: a status, a text, and the fields that end a stream."""

from __future__ import annotations

from urllib.parse import quote

from modelyard.contract.errors import InvalidInput, ModelyardError
from modelyard.contract.wire import GRPC_STATUS
from modelyard.serve import v2_metadata
from modelyard.serve.http2_heads import field
from modelyard.serve.routing import UnknownEndpoint

MAX_STATUS_TEXT = 1024  # characters of grpc-message
UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 12, 13, 14

_ENCODINGS = b"identity,deflate,gzip"
_PLAIN = "".join(chr(sign) for sign in range(0x20, 0x7F) if sign != 0x25)  # what grpc-message says as it is


class Unimplemented(InvalidInput):
    """A method or coding that is not served here."""


def status_of(error: ModelyardError) -> int:
    """The gRPC status of an error."""
    return UNIMPLEMENTED if isinstance(error, Unimplemented) else GRPC_STATUS[error.code]


def message_of(error: ModelyardError) -> str:
    """An error's text, in the protocol's own words where it has some."""
    return v2_metadata.unknown_model(error.name) if isinstance(error, UnknownEndpoint) else str(error)


def trailers_of(error: ModelyardError, request_id: str) -> bytes:
    """The header block that ends a stream with an error."""
    fields = [
        field(b"grpc-status", b"%d" % status_of(error)),
        field(b"grpc-message", quote(message_of(error)[:MAX_STATUS_TEXT], safe=_PLAIN).encode()),
        field(b"modelyard-code", error.code.encode()),
        field(b"modelyard-request-id", request_id.encode()),
    ]
    if (wait := getattr(error, "retry_after_s", None)) is not None:
        fields.append(field(b"grpc-retry-pushback-ms", b"%d" % max(1, int(wait * 1000))))
    if isinstance(error, Unimplemented):
        fields.append(field(b"grpc-accept-encoding", _ENCODINGS))
    return b"".join(fields)
