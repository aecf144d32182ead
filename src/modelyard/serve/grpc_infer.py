"""ModelInfer: from a message to the story of one call, as `v2.py` does for REST, and on to the bulk worker if large."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from modelyard.serve import sticky
from modelyard.serve.call import Call, Caller
from modelyard.serve.grpc import Admitted, GrpcEdge
from modelyard.serve.grpc_bulk import Forwarded, is_heavy
from modelyard.serve.grpc_messages import Message, parsed
from modelyard.serve.grpc_repeated import Repeated, RepeatedRequests
from modelyard.serve.grpc_request import REQUEST, check_raw, read_copy, read_message, wishes
from modelyard.serve.grpc_response import Responses
from modelyard.serve.grpc_rpc import Unary
from modelyard.serve.http2_stream import Stream
from modelyard.serve.inference import Dialect
from modelyard.serve.v2_answers import InferAnswer

if TYPE_CHECKING:
    from modelyard.serve.admission import Principal
    from modelyard.serve.gateway import Gateway


class Asked(Caller, Protocol):
    """One request for inference, which has a stream for itself or is one of many on it."""

    message: Message | None  # the body, once it had to be parsed
    repeated: Repeated | None  # what the body repeats
    request_id: str


class Infer:
    """One worker's inference over gRPC, and what it keeps between calls."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._repeated = RepeatedRequests()
        self._responses = Responses()
        self._dialect = Dialect(self._read, self._responses.say, sticky.in_message, read_copy)
        self._routes = gateway.routes  # for which both were kept

    def begin(self, asked: Asked, principal: Principal, deadline_ns: int | None) -> None:
        """Start the story of one call. Raises the error that refuses it."""
        gateway, body = self._gateway, asked.body
        if gateway.routes is not self._routes:
            self._repeated.clear()
            self._responses.forget_deployments()
            self._routes = gateway.routes
        repeated = asked.repeated = self._repeated.find(body)
        if repeated is not None:
            model, pin = repeated.model, repeated.pin
        else:
            message = asked.message = parsed(REQUEST, body)
            model, pin = message.model_name, message.model_version or None
        gateway.admission.check_scope(principal, "infer", model)
        route = gateway.routes.endpoint(model)
        if principal.quota is not None:
            principal.quota.charge(1)
        if gateway.bulk is not None and len(body) > gateway.settings.bulk_bytes and self._forward(asked, deadline_ns):
            return
        call = gateway.begin(asked, principal, model, self._dialect.say)
        if deadline_ns is not None:
            call.deadline_ns = min(call.deadline_ns, deadline_ns)
        asked.request_id = call.request_id
        gateway.inference.infer(call, route, pin, self._dialect)

    def _forward(self, asked: Asked, deadline_ns: int | None) -> bool:
        """Whether the bulk worker answers, because reading this request here would hold the others up."""
        bulk, bulk_bytes = self._gateway.bulk, self._gateway.settings.bulk_bytes
        message = _message_of(asked)
        if bulk is None or not is_heavy(message, len(asked.body), bulk_bytes):
            return False
        check_raw(message)
        parameters, outputs = wishes(message)

        def tell(answer: InferAnswer, chunks: list[memoryview]) -> None:
            asked.request_id = (answer.parameters or {}).get("request_id", "")
            described = [(one.name, one.datatype, tuple(one.shape)) for one in answer.outputs]
            raw = [bytes(chunk) for chunk in chunks]
            model, version = answer.model_name, answer.model_version
            asked.respond(200, self._responses.written(model, version, described, raw, answer.id, asked.request_id))

        bulk.take(Forwarded(asked, message, parameters, outputs, deadline_ns, tell))  # type: ignore[arg-type]
        return True

    def _read(self, call: Call, max_rows: int) -> None:
        asked: Asked = call.exchange  # type: ignore[assignment]
        repeated = asked.repeated
        if repeated is not None and (way := repeated.ways.get(call.deployment)) is not None:
            repeated.read(call, way)
            return
        message = _message_of(asked)
        read_message(call, message, max_rows)
        if (repeated := repeated or self._repeated.keep(message, asked.body)) is not None:
            repeated.learn(call, message)


def _message_of(asked: Asked) -> Message:
    if asked.message is None:
        asked.message = parsed(REQUEST, asked.body)
    return asked.message


class InferCall(Unary):
    """A ModelInfer: one request on a stream of its own."""

    __slots__ = ("_infer", "body", "message", "repeated")

    def __init__(self, infer: Infer, edge: GrpcEdge, stream: Stream, admitted: Admitted) -> None:
        super().__init__(edge, stream, admitted)
        self._infer = infer
        self.body: bytes | bytearray = b""
        self.message: Message | None = None
        self.repeated: Repeated | None = None

    def take(self, message: bytes | bytearray) -> None:
        """Start the call."""
        self.body = message
        self._infer.begin(self, self.admitted.principal, self.deadline_ns)
