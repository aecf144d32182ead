"""`grpc.reflection`: services, and the files that describe them, for clients that bring no description of their own."""

from __future__ import annotations

from functools import partial
from typing import Any

from modelyard.contract.errors import NotReady
from modelyard.serve.grpc import Admitted, GrpcEdge, Method
from modelyard.serve.grpc_messages import POOL, SERVICES, Message, message_class, parsed
from modelyard.serve.grpc_rpc import Rpc
from modelyard.serve.http2_stream import Stream


class Reflection(Rpc):
    """A ServerReflectionInfo: each message is answered at once."""

    __slots__ = ("_request", "_response")

    def __init__(self, request: Message, response: Message, edge: GrpcEdge, stream: Stream, admitted: Admitted) -> None:
        """`request`, `response`: the messages' classes."""
        super().__init__(edge, stream, admitted)
        self._request, self._response = request, response
        self._wait()

    def receive(self) -> None:
        """Answer what is asked."""
        while not self.is_gone and (found := self.next_message()) is not None:
            request = parsed(self._request, found[0])
            response = self._response(valid_host=request.host, original_request=request, **_reflect(request))
            self.reply(response.SerializeToString(), is_last=False)
            self.stream.took(found[1])
        if self.stream.is_whole and not self.is_gone:
            self.end()
        elif not self.stream.body:
            self._wait()

    def _wait(self) -> None:
        if not self.stream.is_whole and self.deadline_ns is None:
            self.stream.expire_at(self.edge.now() + self.edge.settings.idle_timeout_s)

    def stop(self) -> None:
        """The gateway stops."""
        self.refuse(NotReady("the gateway stops; connect again"))


def reflection(version: str) -> Method:
    """The method of one version of the protocol."""
    request = message_class(f"grpc.reflection.{version}.ServerReflectionRequest")
    response = message_class(f"grpc.reflection.{version}.ServerReflectionResponse")
    return Method(partial(Reflection, request, response))


def _reflect(request: Message) -> dict[str, Any]:
    """The part of the answer that depends on the question."""
    kind = request.WhichOneof("message_request")
    try:
        if kind == "list_services":
            return {"list_services_response": {"service": [{"name": name} for name in SERVICES]}}
        if kind == "file_by_filename":
            return _files(POOL.FindFileByName(request.file_by_filename))
        if kind == "file_containing_symbol":
            return _files(_file_of(request.file_containing_symbol))
    except KeyError:
        return {"error_response": {"error_code": 5, "error_message": "there is no such file or symbol"}}
    return {"error_response": {"error_code": 12, "error_message": "extensions are not in use"}}


def _file_of(symbol: str) -> Any:
    """The file that describes a service, a method, a message or a field. Raises KeyError."""
    try:
        return POOL.FindFileContainingSymbol(symbol)
    except KeyError:  # methods are not found by their own names
        service, _, method = symbol.rpartition(".")
        found = POOL.FindServiceByName(service)
        return found.methods_by_name[method].containing_service.file


def _files(file: Any) -> dict[str, Any]:
    """A file and all that it needs, itself first."""
    found, todo = {file.name: file}, [file]
    while todo:
        for needed in todo.pop().dependencies:
            if needed.name not in found:
                found[needed.name] = needed
                todo.append(needed)
    return {"file_descriptor_response": {"file_descriptor_proto": [one.serialized_pb for one in found.values()]}}
