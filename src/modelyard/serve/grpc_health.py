"""`grpc.health.v1`: whether the gateway, or one of its services, answers; now, and whenever that changes."""

from __future__ import annotations

import asyncio

from modelyard.contract.errors import InvalidInput, NotFound, NotReady
from modelyard.serve.grpc import Admitted, GrpcEdge
from modelyard.serve.grpc_messages import SERVICES, Message, message_class, parsed
from modelyard.serve.grpc_questions import Question
from modelyard.serve.grpc_rpc import Rpc
from modelyard.serve.http2_stream import NEVER, Stream

WATCH_S = 0.25  # how soon a watcher hears of a change
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
REQUEST = message_class("grpc.health.v1.HealthCheckRequest")

_RESPONSE = message_class("grpc.health.v1.HealthCheckResponse")


def check(question: Question) -> Message:
    """A Check: the status now. Raises NotFound for a service that is not ours."""
    status = _status_of(question.edge, question.request.service)
    if status == SERVICE_UNKNOWN:
        raise NotFound("there is no such service; the empty name asks for the whole gateway")
    return _RESPONSE(status=status)


def _status_of(edge: GrpcEdge, service: str) -> int:
    if service not in ("", *SERVICES):
        return SERVICE_UNKNOWN
    return SERVING if edge.is_ready else NOT_SERVING


class Watcher(Rpc):
    """A Watch: the status now, and again whenever it changes, until the caller leaves or the gateway stops."""

    __slots__ = ("_service", "_status", "_timer")

    def __init__(self, edge: GrpcEdge, stream: Stream, admitted: Admitted) -> None:
        super().__init__(edge, stream, admitted)
        self._service: str | None = None
        self._status = 0
        self._timer: asyncio.TimerHandle | None = None

    def receive(self) -> None:
        """The one request says which service."""
        if self._service is None and (found := self.next_message()) is not None:
            self._service = parsed(REQUEST, found[0]).service
            self.stream.expire_at(NEVER if self.deadline_ns is None else self.stream.deadline)
            self._look()
        if self.stream.is_whole and self._service is None:
            raise InvalidInput("a Watch has one message")

    def _look(self) -> None:
        if self.is_gone or self._service is None:
            return
        if self.is_late:
            self.expired()
            return
        status = _status_of(self.edge, self._service)
        if status != self._status:
            self._status = status
            self.reply(_RESPONSE(status=status).SerializeToString(), is_last=False)
        self._timer = asyncio.get_running_loop().call_later(WATCH_S, self._look)

    def left(self) -> None:
        """Nobody watches any more."""
        if self._timer is not None:
            self._timer.cancel()

    def stop(self) -> None:
        """The last thing to say."""
        self._look()
        self.left()
        self.refuse(NotReady("the gateway stops; connect again"))
