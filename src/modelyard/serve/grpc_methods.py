"""The methods of the gRPC edge besides inference: what there is, health, and reflection.

What REST says of the same thing is said here in the protocol's messages; both come from one function.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from modelyard.contract.errors import InvalidInput, ModelyardError, NotFound, NotReady
from modelyard.contract.home import Home
from modelyard.secure.keys import allows
from modelyard.serve import repository, statistics, v2
from modelyard.serve.gateway import Gateway
from modelyard.serve.grpc import GrpcEdge, Known, Method, Receives, Unary
from modelyard.serve.grpc import Receiver as GrpcReceiver
from modelyard.serve.grpc_infer import Infer
from modelyard.serve.grpc_messages import POOL, SERVICES, Message, from_json, message_class, parsed
from modelyard.serve.http2 import NEVER, Http2Server, Stream
from modelyard.serve.repository import Evicted
from modelyard.serve.routing import Deployment, Route

INFERENCE, HEALTH = "inference.GRPCInferenceService", "grpc.health.v1.Health"
WATCH_S = 0.25  # how soon a watcher hears of a change
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3

_HEALTH_REQUEST = message_class("grpc.health.v1.HealthCheckRequest")
_HEALTH_RESPONSE = message_class("grpc.health.v1.HealthCheckResponse")

Answer = Callable[["Question"], bytes | None]  # None: the answer comes later


class Question(Unary):
    """A unary method besides inference."""

    __slots__ = ("_answer", "_kind", "request")

    def __init__(self, edge: GrpcEdge, stream: Stream, known: Known, kind: Message, answer: Answer) -> None:
        super().__init__(edge, stream, known)
        self._kind, self._answer = kind, answer
        self.request: Message = None

    def take(self, message: bytes | bytearray) -> None:
        """Answer it."""
        self.request = parsed(self._kind, message)
        if (answer := self._answer(self)) is not None:
            self.edge.reply(self.stream, answer)

    @property
    def gateway(self) -> Gateway:
        """Where it is asked."""
        return self.edge.gateway

    def route(self, name: str, verb: str = "infer") -> Route:
        """The endpoint that is asked for, if the caller may know it. Raises Forbidden or NotFound."""
        self.gateway.admission.check_scope(self.known.principal, verb, name)
        return self.gateway.routes.endpoint(name)

    def deployment(self, route: Route) -> Deployment:
        """The version that is asked for, or the one that answers most. Raises NotFound."""
        return route.pinned(self.request.version) if self.request.version else route.main

    @property
    def evicted(self) -> Evicted:
        """What of the plan is set aside."""
        return repository.evicted_in(Home(self.edge.settings.root).run)


def grpc_server(gateway: Gateway, loop: asyncio.AbstractEventLoop) -> Http2Server:
    """The server of one worker's gRPC port."""
    return GrpcEdge(gateway, methods(gateway), loop).server


def methods(gateway: Gateway) -> dict[bytes, Method]:
    """What each path means."""
    infer = Infer(gateway)
    found = {
        f"/{INFERENCE}/ModelInfer": Method(infer.unary),
        f"/{INFERENCE}/ModelStreamInfer": Method(infer.streaming),
        f"/{HEALTH}/Check": Method(_asked("grpc.health.v1.HealthCheckRequest", _check), is_open=True),
        f"/{HEALTH}/Watch": Method(Watcher, is_open=True),
    }
    for name, answer in _QUESTIONS.items():
        is_open = name in ("ServerLive", "ServerReady")
        found[f"/{INFERENCE}/{name}"] = Method(_asked(f"inference.{name}Request", answer), is_open=is_open)
    for version in ("v1", "v1alpha"):
        found[f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"] = Method(_reflected(version))
    return {path.encode(): method for path, method in found.items()}


def _asked(kind: str, answer: Answer) -> Receives:
    message = message_class(kind)

    def receive(edge: GrpcEdge, stream: Stream, known: Known) -> Question:
        return Question(edge, stream, known, message, answer)

    return receive


# --- what there is


def _server_live(question: Question) -> bytes:
    return _ServerLive(live=True).SerializeToString()  # type: ignore[no-any-return]


def _server_ready(question: Question) -> bytes:
    return _ServerReady(ready=question.edge.is_ready).SerializeToString()  # type: ignore[no-any-return]


def _model_ready(question: Question) -> bytes:
    try:
        deployment = question.deployment(question.route(question.request.name))
        is_evicted = question.evicted.is_evicted(deployment.endpoint, deployment.version)
        is_ready = question.edge.is_ready and not is_evicted
    except (NotFound, NotReady):
        is_ready = False
    return _ModelReady(ready=is_ready).SerializeToString()  # type: ignore[no-any-return]


def _server_metadata(question: Question) -> bytes:
    return from_json(_ServerMetadata, v2.server_metadata())


def _model_metadata(question: Question) -> bytes:
    route = question.route(question.request.name)
    return from_json(_ModelMetadata, v2.model_metadata(route, question.deployment(route)))


def _model_config(question: Question) -> bytes:
    route = question.route(question.request.name)
    config = v2.model_config(route, question.deployment(route), question.edge.settings.max_rows)
    return from_json(_ModelConfig, b'{"config":%b}' % config)


def _model_statistics(question: Question) -> bytes:
    request, routes = question.request, question.gateway.routes
    if request.name:
        asked = [question.route(request.name)]
    else:
        scopes = question.known.principal.scopes
        asked = [routes.endpoint(name) for name in routes.names if allows(scopes, "infer", name)]
    if request.name and request.version:
        deployments = [question.deployment(asked[0])]
    else:
        deployments = [route.deployments[version] for route in asked for version in sorted(route.deployments)]
    return from_json(_ModelStatistics, statistics.model_stats(deployments, question.gateway.counters_folder))


def _repository_index(question: Question) -> bytes:
    index = repository.index(question.gateway.routes, question.evicted, ready_only=question.request.ready)
    return from_json(_RepositoryIndex, b'{"models":%b}' % index)


def _repository_load(question: Question) -> None:
    route = question.route(question.request.model_name, "repository")
    repository.check_load(_change(question.request))
    _when_followed(question, question.evicted.restore(route.name, route.deployments))


def _repository_unload(question: Question) -> None:
    route = question.route(question.request.model_name, "repository")
    repository.check_unload(_change(question.request))
    _when_followed(question, question.evicted.evict(route.name, route.deployments))


def _change(request: Message) -> bytes:
    """The parameters of a change as REST's body says them; what is sent as bytes is refused by its name."""
    said = {}
    for name, parameter in request.parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        said[name] = getattr(parameter, kind) if kind not in (None, "bytes_param") else ""
    return msgspec.json.encode({"parameters": said})


def _when_followed(question: Question, revision: int) -> None:
    """Answer once every worker follows the change; both answers are empty messages."""

    def done(error: ModelyardError | None) -> None:
        if error is None:
            question.respond(200, b"")
        else:
            question.refuse(error)

    settings, loop = question.edge.settings, asyncio.get_running_loop()
    repository.when_followed(Home(settings.root).gateway_state, revision, done, loop, settings.deadline_s)


_ModelStatistics = message_class("inference.ModelStatisticsResponse")
_RepositoryIndex = message_class("inference.RepositoryIndexResponse")
_ServerLive = message_class("inference.ServerLiveResponse")
_ServerReady = message_class("inference.ServerReadyResponse")
_ModelReady = message_class("inference.ModelReadyResponse")
_ServerMetadata = message_class("inference.ServerMetadataResponse")
_ModelMetadata = message_class("inference.ModelMetadataResponse")
_ModelConfig = message_class("inference.ModelConfigResponse")
_QUESTIONS: dict[str, Answer] = {
    "ServerLive": _server_live,
    "ServerReady": _server_ready,
    "ModelReady": _model_ready,
    "ServerMetadata": _server_metadata,
    "ModelMetadata": _model_metadata,
    "ModelConfig": _model_config,
    "ModelStatistics": _model_statistics,
    "RepositoryIndex": _repository_index,
    "RepositoryModelLoad": _repository_load,
    "RepositoryModelUnload": _repository_unload,
}


# --- health


def _check(question: Question) -> bytes:
    status = _health(question.edge, question.request.service)
    if status == SERVICE_UNKNOWN:
        raise NotFound("there is no such service; the empty name asks for the whole gateway")
    return _HEALTH_RESPONSE(status=status).SerializeToString()  # type: ignore[no-any-return]


def _health(edge: GrpcEdge, service: str) -> int:
    if service not in ("", *SERVICES):
        return SERVICE_UNKNOWN
    return SERVING if edge.is_ready else NOT_SERVING


class Watcher(GrpcReceiver):
    """A Watch: the status now, and again whenever it changes, until the caller leaves or the gateway stops."""

    __slots__ = ("_service", "_status", "_timer")

    def __init__(self, edge: GrpcEdge, stream: Stream, known: Known) -> None:
        super().__init__(edge, stream, known)
        self._service: str | None = None
        self._status = 0
        self._timer: asyncio.TimerHandle | None = None

    def receive(self) -> None:
        """The one request says which service."""
        if self._service is None and (found := self.next_message()) is not None:
            self._service = parsed(_HEALTH_REQUEST, found[0]).service
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
        status = _health(self.edge, self._service)
        if status != self._status:
            self._status = status
            self.edge.reply(self.stream, _HEALTH_RESPONSE(status=status).SerializeToString(), is_last=False)
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


# --- reflection


class Reflection(GrpcReceiver):
    """A ServerReflectionInfo: each message is answered at once."""

    __slots__ = ("_request", "_response")

    def __init__(self, edge: GrpcEdge, stream: Stream, known: Known, request: Message, response: Message) -> None:
        super().__init__(edge, stream, known)
        self._request, self._response = request, response
        self._wait()

    def receive(self) -> None:
        """Answer what is asked."""
        while not self.is_gone and (found := self.next_message()) is not None:
            request = parsed(self._request, found[0])
            response = self._response(valid_host=request.host, original_request=request, **_reflect(request))
            self.edge.reply(self.stream, response.SerializeToString(), is_last=False)
            self.stream.took(found[1])
        if self.stream.is_whole and not self.is_gone:
            self.edge.end(self.stream)
        elif not self.stream.body:
            self._wait()

    def _wait(self) -> None:
        if not self.stream.is_whole and self.deadline_ns is None:
            self.stream.expire_at(self.edge.now() + self.edge.settings.idle_timeout_s)

    def stop(self) -> None:
        """The gateway stops."""
        self.refuse(NotReady("the gateway stops; connect again"))


def _reflected(version: str) -> Receives:
    request = message_class(f"grpc.reflection.{version}.ServerReflectionRequest")
    response = message_class(f"grpc.reflection.{version}.ServerReflectionResponse")

    def receive(edge: GrpcEdge, stream: Stream, known: Known) -> Reflection:
        return Reflection(edge, stream, known, request, response)

    return receive


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
