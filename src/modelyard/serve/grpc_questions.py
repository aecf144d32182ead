"""What a caller may ask besides inference: one message in, one out.

What REST says of the same thing is said here in the protocol's messages; both come from one function.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from modelyard.contract.errors import ModelyardError, NotFound, NotReady
from modelyard.contract.home import Home
from modelyard.secure.keys import allows
from modelyard.serve import repository, statistics, v2_metadata
from modelyard.serve.gateway import Gateway
from modelyard.serve.grpc import Admitted, GrpcEdge
from modelyard.serve.grpc_messages import Message, from_json, message_class, parsed
from modelyard.serve.grpc_rpc import Unary
from modelyard.serve.http2_stream import Stream
from modelyard.serve.repository import Evicted
from modelyard.serve.routing import Deployment, Route

_ServerLive = message_class("inference.ServerLiveResponse")
_ServerReady = message_class("inference.ServerReadyResponse")
_ModelReady = message_class("inference.ModelReadyResponse")
_ServerMetadata = message_class("inference.ServerMetadataResponse")
_ModelMetadata = message_class("inference.ModelMetadataResponse")
_ModelConfig = message_class("inference.ModelConfigResponse")
_ModelStatistics = message_class("inference.ModelStatisticsResponse")
_RepositoryIndex = message_class("inference.RepositoryIndexResponse")

Answer = Callable[["Question"], Message | None]  # None: the answer comes later


class Question(Unary):
    """One call of such a method."""

    __slots__ = ("_answer", "_request_class", "request")

    def __init__(
        self, request_class: Message, answer: Answer, edge: GrpcEdge, stream: Stream, admitted: Admitted
    ) -> None:
        super().__init__(edge, stream, admitted)
        self._request_class, self._answer = request_class, answer
        self.request: Message = None

    def take(self, message: bytes | bytearray) -> None:
        """Answer it."""
        self.request = parsed(self._request_class, message)
        if (answer := self._answer(self)) is not None:
            self.reply(answer.SerializeToString())

    @property
    def gateway(self) -> Gateway:
        """Where it is asked."""
        return self.edge.gateway

    def route(self, name: str, verb: str = "infer") -> Route:
        """The endpoint that is asked for, if the caller may know it. Raises Forbidden or NotFound."""
        self.gateway.admission.check_scope(self.admitted.principal, verb, name)
        return self.gateway.routes.endpoint(name)

    def deployment(self, route: Route) -> Deployment:
        """The version that is asked for, or the one that answers most. Raises NotFound."""
        return route.pinned(self.request.version) if self.request.version else route.main

    @property
    def evicted(self) -> Evicted:
        """What of the plan is set aside."""
        return repository.evicted_in(Home(self.edge.settings.root).run)


def _server_live(question: Question) -> Message:
    return _ServerLive(live=True)


def _server_ready(question: Question) -> Message:
    return _ServerReady(ready=question.edge.is_ready)


def _model_ready(question: Question) -> Message:
    try:
        deployment = question.deployment(question.route(question.request.name))
        is_evicted = question.evicted.is_evicted(deployment.endpoint, deployment.version)
        is_ready = question.edge.is_ready and not is_evicted
    except (NotFound, NotReady):
        is_ready = False
    return _ModelReady(ready=is_ready)


def _server_metadata(question: Question) -> Message:
    return from_json(_ServerMetadata, v2_metadata.server_metadata())


def _model_metadata(question: Question) -> Message:
    route = question.route(question.request.name)
    return from_json(_ModelMetadata, v2_metadata.model_metadata(route, question.deployment(route)))


def _model_config(question: Question) -> Message:
    route = question.route(question.request.name)
    config = v2_metadata.model_config(route, question.deployment(route), question.edge.settings.max_rows)
    return from_json(_ModelConfig, b'{"config":%b}' % config)


def _model_statistics(question: Question) -> Message:
    request, routes = question.request, question.gateway.routes
    if request.name:
        asked = [question.route(request.name)]
    else:
        scopes = question.admitted.principal.scopes
        asked = [routes.endpoint(name) for name in routes.names if allows(scopes, "infer", name)]
    if request.name and request.version:
        deployments = [question.deployment(asked[0])]
    else:
        deployments = [route.deployments[version] for route in asked for version in sorted(route.deployments)]
    return from_json(_ModelStatistics, statistics.model_stats(deployments, question.gateway.counters_folder))


def _repository_index(question: Question) -> Message:
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


QUESTIONS: dict[str, Answer] = {
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
