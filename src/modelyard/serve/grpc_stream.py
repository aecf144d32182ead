"""ModelStreamInfer: many requests on one stream, each a call of its own, answered in their order."""

from __future__ import annotations

import time
from collections import deque

from modelyard.contract.errors import DeadlineExceeded, ModelyardError, NotReady, Undecodable
from modelyard.serve.grpc import Admitted, GrpcEdge
from modelyard.serve.grpc_infer import Infer
from modelyard.serve.grpc_messages import Message
from modelyard.serve.grpc_repeated import Repeated
from modelyard.serve.grpc_response import error_in_stream, in_stream
from modelyard.serve.grpc_rpc import Rpc
from modelyard.serve.http2_stream import NEVER, Stream


class StreamedRequest:
    """One request of a stream: a caller of its own, as far as the story goes."""

    __slots__ = ("_stream", "body", "headers", "message", "repeated", "request_id", "response", "size")

    def __init__(self, stream: InferStream, body: bytes | bytearray, size: int) -> None:
        self._stream = stream
        self.headers = stream.headers
        self.body = body
        self.size = size  # on the wire
        self.message: Message | None = None
        self.repeated: Repeated | None = None
        self.request_id = ""
        self.response: bytes | None = None

    @property
    def is_gone(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._stream.is_gone

    def refuse(self, error: ModelyardError) -> None:
        """Answer with an error; the stream lives on."""
        self._stream.failed(self, error)

    def respond(self, status: int, body: bytes, content_type: bytes = b"", headers: bytes = b"") -> None:
        """Answer with a message; what HTTP says besides has no place here."""
        self._stream.answered(self, body)


class InferStream(Rpc):
    """A ModelStreamInfer: each message is a call of its own; answers leave in the order of their requests."""

    __slots__ = ("_in_turn", "_infer", "_is_partial", "_is_reading", "_is_stopping")

    def __init__(self, infer: Infer, edge: GrpcEdge, stream: Stream, admitted: Admitted) -> None:
        super().__init__(edge, stream, admitted)
        self._infer = infer
        self._in_turn: deque[StreamedRequest] = deque()  # whose answer has not left, oldest first
        self._is_reading = self._is_partial = self._is_stopping = False

    def receive(self) -> None:
        """Begin a call with each whole message, as long as not too many wait for their answers, or answers to leave."""
        stream = self.stream
        if self._is_reading or stream.is_ended:
            return  # an answer came at once: the loop below goes on by itself
        self._is_reading = True
        try:
            most = self.edge.settings.max_outstanding
            while self._has_room(most) and (found := self.next_message()) is not None:
                self._begin(*found)
            stream.want(more=self._has_room(most))
        finally:
            self._is_reading = False
        self._set_deadline()
        self._end_if_done()

    def _has_room(self, most: int) -> bool:
        stream = self.stream
        return len(self._in_turn) + len(stream.unsent) < most and not stream.is_closed and not stream.is_ended

    def sent(self) -> None:
        """There is room for a further request."""
        self.arrived()

    def _begin(self, body: bytes | bytearray, size: int) -> None:
        asked = StreamedRequest(self, body, size)
        self._in_turn.append(asked)
        try:
            self._infer.begin(asked, self.admitted.principal, self.deadline_ns)
        except ModelyardError as error:
            self.failed(asked, error)
        except Exception as error:
            self.failed(asked, self.edge.gateway.failed(error))

    def answered(self, asked: StreamedRequest, message: bytes) -> None:
        """One request's answer, which leaves when its turn comes."""
        asked.response = in_stream(message)
        self._flush()

    def failed(self, asked: StreamedRequest, error: ModelyardError) -> None:
        """One request's error; the stream lives on."""
        if asked.response is not None or self.is_gone:
            return
        request_id = asked.request_id or self.edge.gateway.ids.new("", "")
        self.edge.note(error, request_id)
        asked.response = error_in_stream(error, asked.message.id if asked.message is not None else "", request_id)
        self._flush()

    def _flush(self) -> None:
        waiting, stream = self._in_turn, self.stream
        while waiting and (response := waiting[0].response) is not None and not stream.is_closed:
            asked = waiting.popleft()
            self.reply(response, asked.request_id, is_last=False)
            stream.took(asked.size)
        if not stream.is_closed:
            self.arrived()  # what waits may begin now

    def _end_if_done(self) -> None:
        """The stream ends once nothing waits and nothing more will come."""
        if self._in_turn or self.is_gone or self.stream.is_ended:
            return
        if self._is_stopping:
            self.refuse(NotReady("the gateway stops; connect again"))
        elif self.stream.is_whole:
            if self.stream.body:
                raise Undecodable("the stream ends within a message")
            self.end()

    def _set_deadline(self) -> None:
        """Between messages the stream may be idle, within one it may not; a deadline of the caller's counts always."""
        settings, stream = self.edge.settings, self.stream
        was_partial, self._is_partial = self._is_partial, bool(stream.body) and stream.wants_more
        if stream.is_whole or (was_partial and self._is_partial):
            return  # a trickle of bytes does not extend it
        deadline = self.edge.now() + (settings.body_timeout_s if self._is_partial else settings.idle_timeout_s)
        if (self._in_turn or stream.unsent) and not self._is_partial:
            deadline = NEVER  # it waits for us
        if self.deadline_ns is not None:
            deadline = min(deadline, self.edge.now() + (self.deadline_ns - time.monotonic_ns()) / 1e9)
        stream.expire_at(deadline)

    def expired(self) -> None:
        """The peer sent nothing for long, or its own deadline has passed."""
        if self._is_partial or self.is_late:
            super().expired()
        else:
            self.refuse(DeadlineExceeded("idle_timeout_s has passed without a request; open the stream anew"))

    def stop(self) -> None:
        """The gateway stops: end after the answers that are due."""
        self._is_stopping = True
        self.arrived()
