"""Cloud events over HTTP, version 1.0: a request that is an event gets an answer that is one, of the same kind."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from modelyard.contract.errors import InvalidInput
from modelyard.serve.call import Call
from modelyard.serve.content import media_type
from modelyard.serve.forms import open_object, value_of
from modelyard.serve.problems import UnsupportedMedia

STRUCTURED = b"application/cloudevents+json"
_REQUIRED = ("id", "source", "type", "specversion")
_KNOWN = "1.0"
_ANSWER = "io.kserve.inference.response"  # the type by which KServe's consumers know an answer


def open_event(headers: dict[bytes, bytes], body: bytes | bytearray) -> tuple[Any, str]:
    """The data of a request (a body, or what was read of one), and which kind of event it is: `binary`,
    `structured`, or none. Raises InvalidInput, Undecodable or UnsupportedMedia."""
    media = media_type(headers)
    if media.startswith(b"application/cloudevents"):
        if media != STRUCTURED:
            raise UnsupportedMedia("a cloud event is sent alone, as application/cloudevents+json or with ce- headers")
        return _structured(body), "structured"
    if b"ce-specversion" not in headers:
        return body, ""
    _check({name: headers.get(b"ce-" + name.encode(), b"").decode("latin-1") for name in _REQUIRED})
    return body, "binary"


def say(call: Call, kind: str, body: bytes) -> None:
    """Answer with a JSON body: as it is, or as an event of this kind."""
    if not kind:
        call.exchange.respond(200, body)
        return
    attributes = {
        "specversion": _KNOWN,
        "id": call.request_id,
        "source": f"io.kserve.inference.{call.deployment.endpoint}",
        "type": _ANSWER,
        "time": datetime.now(UTC).isoformat(),
    }
    if kind == "binary":
        lines = "".join(f"ce-{name}: {value}\r\n" for name, value in attributes.items())
        call.exchange.respond(200, body, headers=lines.encode())
        return
    event = {**attributes, "datacontenttype": "application/json", "data": msgspec.Raw(body)}
    call.exchange.respond(200, msgspec.json.encode(event), STRUCTURED)


def _structured(body: bytes | bytearray) -> Any:
    parts = open_object(body)
    found = {name: value_of(parts.get(name, "")) for name in _REQUIRED}
    _check(found)
    if "data" not in parts:
        raise InvalidInput("the cloud event has no 'data', which holds the request as JSON")
    data = parts["data"]
    if isinstance(data, msgspec.Raw):
        return bytes(data)
    if not isinstance(data, dict):
        raise InvalidInput("the 'data' of the cloud event is a JSON object")
    return data


def _check(attributes: dict[str, Any]) -> None:
    for name in _REQUIRED:
        if not isinstance(attributes[name], str) or not attributes[name]:
            raise InvalidInput(f"the cloud event lacks the attribute {name!r}")
    if attributes["specversion"] != _KNOWN:
        raise InvalidInput(f"cloud events of specversion {_KNOWN} are read here")
