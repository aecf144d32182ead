"""Large requests of the gRPC edge on their way to the bulk worker, which speaks REST: the same tensors, byte for byte.

Nothing is decoded here: raw contents become the binary part of a V2 request, and an answer's binary part raw contents.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import msgspec

from modelyard.contract.errors import Internal, ModelyardError, all_errors
from modelyard.serve import tensors, v2, v2_answers
from modelyard.serve.call import Caller
from modelyard.serve.grpc_messages import Message

LIGHTER = 16  # how many times `bulk_bytes` one tensor of raw numbers may have before it is large

_NOT_PASSED_ON = (b"content-", b"grpc-", b"accept-", b"inference-", b"want-")  # `Bulk` leaves the hop's own out
_ERRORS = {error.code: error for error in reversed(all_errors())}
_decode = msgspec.json.Decoder(v2_answers.InferAnswer).decode

Tell = Callable[[v2_answers.InferAnswer, list[memoryview]], None]


def is_heavy(message: Message, size: int, bulk_bytes: int) -> bool:
    """Whether reading a message of so many bytes would hold the others up. Typed contents are read where they are."""
    if size <= bulk_bytes or not message.raw_input_contents:
        return False
    # One tensor for each column is encoded column by column, texts are decoded one by one; one tensor of numbers is
    # looked at where it lies.
    is_light = len(message.inputs) == 1 and message.inputs[0].datatype != "BYTES"
    return not is_light or size > LIGHTER * bulk_bytes


class Forwarded:
    """One request as the bulk worker takes it, and the way back of its answer."""

    __slots__ = ("_caller", "_tell", "body", "extra", "headers", "method", "target")

    def __init__(
        self, caller: Caller, message: Message, parameters: tensors.Parameters, outputs: list[tensors.RequestedOutput],
        deadline_ns: int | None, tell: Tell,
    ) -> None:  # fmt: skip
        """`tell` is given the answer: its JSON part, and the bytes of each output."""
        self._caller, self._tell = caller, tell
        self.extra = b""
        self.method = b"POST"
        pin = f"/versions/{quote(message.model_version, safe='')}" if message.model_version else ""
        self.target = f"/v2/models/{quote(message.model_name, safe='')}{pin}/infer".encode()
        raw = message.raw_input_contents
        inputs = [_described(tensor, data) for tensor, data in zip(message.inputs, raw, strict=True)]
        said = {"id": message.id, "parameters": parameters, "inputs": inputs, "outputs": outputs}
        head = msgspec.json.encode(said)
        self.body = b"".join([head, *raw])
        self.headers = {name: value for name, value in caller.headers.items() if not name.startswith(_NOT_PASSED_ON)}
        self.headers[v2.LENGTH] = b"%d" % len(head)
        if deadline_ns is not None:
            self.headers[b"x-timeout-ms"] = b"%d" % max(1, (deadline_ns - time.monotonic_ns()) // 1_000_000)

    @property
    def is_gone(self) -> bool:
        """Whether nobody waits any more."""
        return self._caller.is_gone

    def refuse(self, error: ModelyardError) -> None:
        """The bulk worker could not be asked."""
        self._caller.refuse(error)

    def respond(self, status: int, body: bytes, content_type: bytes = b"", headers: bytes = b"") -> None:
        """What the bulk worker said."""
        if status != 200:
            self._caller.refuse(_error(body))
            return
        size = _json_size(headers, len(body))
        answer = _decode(body[:size])
        chunks, at = [], size
        for output in answer.outputs:
            end = at + (output.parameters or {}).get("binary_data_size", 0)
            chunks.append(memoryview(body)[at:end])
            at = end
        self._tell(answer, chunks)


def _described(tensor: Message, raw: bytes) -> dict[str, Any]:
    size = {"binary_data_size": len(raw)}
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape), "parameters": size}


def _json_size(headers: bytes, size: int) -> int:
    for line in headers.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == v2.LENGTH:
            return int(value)
    return size


def _error(body: bytes) -> ModelyardError:
    """The error that REST's body tells of."""
    try:
        said = msgspec.json.decode(body)
        error = _ERRORS[said["code"]](said["error"])
        error.is_counted = True
        return error
    except (msgspec.DecodeError, KeyError, TypeError):
        return Internal("the bulk worker failed on this request; its log has the details")
