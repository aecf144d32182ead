"""What each path does with a whole request: one small function for each; calls of models only start here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelyard import __version__
from modelyard.contract.errors import Forbidden, ModelyardError
from modelyard.contract.home import Home
from modelyard.secure.keys import allows
from modelyard.serve import dialects, docs_page, native, repository, statistics, v1, v2_metadata
from modelyard.serve.admission import Principal
from modelyard.serve.counters import exposition
from modelyard.serve.exchange import Exchange
from modelyard.serve.repository import Evicted
from modelyard.serve.routing import Route

if TYPE_CHECKING:
    from modelyard.serve.gateway import Gateway
    from modelyard.serve.paths import Target

_TEXT = b"text/plain; version=0.0.4; charset=utf-8"


# --- handlers that need no model


def index(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    exchange.respond(200, native.index(gateway.routes))


def live(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    exchange.respond(200, b'{"live":true}')


def ready(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    if gateway.routes.plan is None or exchange.connection.server.draining:
        exchange.respond(503, b'{"ready":false,"live":true}', headers=b"retry-after: 1\r\n")
    else:
        exchange.respond(200, b'{"ready":true,"live":true}')


def metrics(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    exchange.respond(200, exposition(gateway.counters_folder), _TEXT)


def preflight(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    exchange.extra += (
        b"access-control-allow-methods: GET, POST\r\n"
        b"access-control-allow-headers: authorization, content-type, x-api-key, x-request-id\r\n"
        b"access-control-max-age: 600\r\n"
    )
    exchange.respond(204, b"")


def v2_server(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    exchange.respond(200, v2_metadata.server_metadata())


def v2_list(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    exchange.respond(200, v2_metadata.model_list(gateway.routes))


def v2_model(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    route = gateway.routes.endpoint(target.endpoint)
    exchange.respond(200, v2_metadata.model_metadata(route, route.pinned(target.pin) if target.pin else route.main))


def v2_model_ready(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    route = gateway.routes.endpoint(target.endpoint)
    deployment = route.pinned(target.pin) if target.pin else route.main
    if _evicted(gateway).is_evicted(route.name, deployment.version):
        raise repository.not_ready(route.name, deployment.version)
    exchange.respond(200, v2_metadata.model_ready(deployment))


def describe(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    route = gateway.routes.endpoint(target.endpoint)
    exchange.respond(200, native.describe(route, route.pinned(target.pin) if target.pin else route.main))


def feedback(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    route: Route = gateway.routes.endpoint(target.endpoint)
    truths = native.read_truths(exchange.body, route, principal.name)
    if not allows(principal.scopes, "feedback:any", target.endpoint):
        for truth in truths:
            if not gateway.ids.proves(truth.request_id, principal.name, target.endpoint):
                raise Forbidden("a request_id is not one that this caller got from this endpoint")
    gateway.telemetry.feedback(truths)
    exchange.respond(202, b'{"accepted":%d}' % len(truths))


# --- handlers that ask a model


def predict(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    gateway.call(exchange, target, principal, dialects.NATIVE)


def predict_default(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    gateway.call(exchange, gateway.named(target, principal), principal, dialects.NATIVE)


def explain(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    gateway.call(exchange, target, principal, dialects.NATIVE_EXPLAIN)


def predict_in_pieces(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    gateway.call_in_pieces(exchange, target, principal)


def v2_infer(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    gateway.call(exchange, target, principal, dialects.V2)


# --- what the gateway shows of itself


def openapi(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    wish = docs_page.wish_of(exchange.target, principal.scopes, target.endpoint or None)
    docs_page.answer_document(exchange, gateway.routes, gateway.settings, wish)


def docs(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    docs_page.answer_page(exchange, target.pin)


def v1_list(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    exchange.respond(200, v1.model_list(gateway.routes))


def v1_model(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    route = gateway.routes.endpoint(target.endpoint)
    draining = exchange.connection.server.draining
    exchange.respond(200, v1.model_status(route, target.pin, draining=draining))


def v1_predict(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    gateway.call(exchange, target, principal, dialects.V1)


def v1_explain(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    gateway.call(exchange, target, principal, dialects.V1_EXPLAIN)


def mlflow_version(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    exchange.respond(200, __version__.encode(), b"text/plain; charset=utf-8")


def mlflow_invocations(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    named = gateway.named(target, principal)
    gateway.call(exchange, named, principal, dialects.MLFLOW)


# --- V2 beside inference: configuration, statistics, repository


def v2_config(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    route = gateway.routes.endpoint(target.endpoint)
    deployment = route.pinned(target.pin) if target.pin else route.main
    exchange.respond(200, v2_metadata.model_config(route, deployment, gateway.settings.max_rows))


def v2_stats(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    names = [target.endpoint] if target.endpoint else gateway.routes.names
    routes = [gateway.routes.endpoint(name) for name in names if allows(principal.scopes, "infer", name)]
    if target.pin:
        deployments = [routes[0].pinned(target.pin)]
    else:
        deployments = [route.deployments[version] for route in routes for version in sorted(route.deployments)]
    exchange.respond(200, statistics.model_stats(deployments, gateway.counters_folder))


def v2_index(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    ready_only = repository.wants_ready_only(exchange.body)
    exchange.respond(200, repository.index(gateway.routes, _evicted(gateway), ready_only=ready_only))


def v2_load(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    repository.check_load(exchange.body)
    route = gateway.routes.endpoint(target.endpoint)
    revision = _evicted(gateway).restore(route.name, route.deployments)
    _v2_followed(gateway, exchange, revision, repository.said(route, "load"))


def v2_unload(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    repository.check_unload(exchange.body)
    route = gateway.routes.endpoint(target.endpoint)
    revision = _evicted(gateway).evict(route.name, route.deployments)
    _v2_followed(gateway, exchange, revision, repository.said(route, "unload"))


def _v2_followed(gateway: Gateway, exchange: Exchange, revision: int, answer: bytes) -> None:
    """Answer once every worker follows the change."""

    def done(error: ModelyardError | None) -> None:
        if error is None:
            exchange.respond(200, answer)
        else:
            exchange.refuse(error)

    loop = exchange.connection.server.loop
    state = Home(gateway.settings.root).gateway_state
    repository.when_followed(state, revision, done, loop, gateway.settings.deadline_s)


def _evicted(gateway: Gateway) -> Evicted:
    return repository.evicted_in(Home(gateway.settings.root).run)
