"""The gateway's paths: which handler a target means, who may use it, and the handlers that need no model."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

from modelyard.contract.errors import Forbidden, Internal, InvalidInput, ModelyardError, NotFound, Undecodable
from modelyard.contract.settings import Settings
from modelyard.secure.keys import allows
from modelyard.secure.request_ids import RequestIds
from modelyard.serve import docs_page, native, v2
from modelyard.serve.admission import Admission, Principal
from modelyard.serve.call import Answer, Call, Caller
from modelyard.serve.counters import exposition
from modelyard.serve.exchange import Exchange
from modelyard.serve.inference import Inference, Read
from modelyard.serve.log import log
from modelyard.serve.problems import UnsupportedMedia, WrongMethod, problem, status_of
from modelyard.serve.routing import Route, Routes, UnknownEndpoint
from modelyard.serve.telemetry import Telemetry

if TYPE_CHECKING:
    from modelyard.serve.admission import Admission

_CACHED_TARGETS = 4096
TIMEOUT = b"x-timeout-ms"  # how long the caller waits
_TEXT = b"text/plain; version=0.0.4; charset=utf-8"
_QUERY = {"reasons": ("auto", "all", "none"), "lang": ("en", "zh")}

Handler = Callable[["Gateway", Exchange, "Target", Principal], None]


class Target:
    """What a method and a request target mean; parsed once, then remembered."""

    __slots__ = ("asks_a_model", "endpoint", "handler", "is_open", "language", "pin", "reasons", "verb")

    def __init__(self, handler: Handler, verb: str = "", endpoint: str = "", pin: str | None = None) -> None:
        self.handler = handler
        self.verb = verb  # the scope that it needs
        self.endpoint = endpoint
        self.pin = pin  # a version or alias in the path
        self.asks_a_model = handler in (_predict, _explain, _v2_infer)
        self.is_open = False  # answers without a key: probes
        self.reasons = "auto"
        self.language = ""


class Gateway:
    """One worker's application: answers what is not inference itself, and starts the story of what is."""

    def __init__(
        self,
        settings: Settings,
        admission: Admission,
        telemetry: Telemetry,
        ids: RequestIds,
        counters_folder: Path,
    ) -> None:
        self.settings = settings
        self.admission = admission  # swapped whole with the plan
        self.routes = Routes(None, {})  # swapped whole with the plan
        self.telemetry = telemetry
        self.ids = ids
        self.inference = Inference(settings.max_rows)
        self.counters_folder = counters_folder
        self._deadline_ns = int(settings.deadline_s * 1e9)
        self._targets: dict[tuple[bytes, bytes], Target] = {}

    # --- what the edge asks

    def admit(self, exchange: Exchange) -> None:
        """Stop 1 of the walk. Raises the error that refuses the request before a byte of its body is parsed."""
        admission, headers = self.admission, exchange.headers
        memo = exchange.connection.memo
        if memo is not None and memo[0] is headers and memo[1] is admission and memo[2] is self.routes:
            target, principal = exchange.data = memo[3]  # a head seen before, under the same plan
            if principal.quota is not None and target.asks_a_model:
                principal.quota.charge(1)
            return
        admission.check_host(headers)
        if b"origin" in headers:
            exchange.extra = admission.check_origin(headers)
            if exchange.method == b"OPTIONS" and exchange.extra:
                exchange.data = (Target(_preflight), None)
                return
        known = self._targets.get((exchange.method, exchange.target))
        target = known or _parse(exchange.method, exchange.target)
        if target.is_open:
            exchange.data = (target, None)
            return
        principal = admission.identify(headers)
        if target.endpoint:
            admission.check_scope(principal, target.verb, target.endpoint)
            self.routes.endpoint(target.endpoint)
            if principal.quota is not None and target.asks_a_model:
                principal.quota.charge(1)
        elif target.verb:
            admission.check_scope(principal, target.verb, "")
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise UnsupportedMedia("Content-Encoding is not served; send the body as it is")
        if known is None and len(self._targets) < _CACHED_TARGETS and len(exchange.target) <= 256:
            self._targets[exchange.method, exchange.target] = target  # only what an admitted caller asked for
        exchange.data = (target, principal)
        if not exchange.extra and principal.expires_at is None:  # a key that expires is looked at each time
            exchange.connection.memo = (headers, admission, self.routes, exchange.data)

    def handle(self, exchange: Exchange) -> None:
        """The request is whole."""
        target, principal = exchange.data
        target.handler(self, exchange, target, principal)

    def refuse(self, exchange: Exchange, error: ModelyardError, status: int | None = None) -> None:
        """Answer with an error, in the dialect of the path."""
        protocol = exchange.target.startswith(b"/v2")
        status = status or status_of(error, protocol=protocol)
        if protocol and isinstance(error, UnknownEndpoint):
            error = NotFound(v2.unknown_model(error.name))
        request_id = self.ids.new("", "")
        body, content_type, headers = problem(error, status, request_id, protocol=protocol)
        self.telemetry.refused(error.code, status)
        if status >= 500:
            log.warning("refused", code=error.code, status=status, request_id=request_id, detail=str(error))
        exchange.respond(status, body, content_type, headers)

    def failed(self, error: BaseException) -> ModelyardError:
        """Log a fault of ours; callers learn that there was one."""
        log.error("fault", error=repr(error), trace=traceback.format_exception(error))
        return Internal("the gateway failed on this request; its log has the details")

    # --- inference

    def call(self, exchange: Exchange, target: Target, principal: Principal, read: Read, say: Answer) -> None:
        """Start the story of one call."""
        call = self.begin(exchange, principal, target.endpoint, say)
        call.reasons = target.reasons
        call.language = target.language
        call.wants_all = say is native.say_explanation
        self.inference.infer(call, self.routes.endpoint(target.endpoint), target.pin, read)

    def begin(self, exchange: Caller, principal: Principal, endpoint: str, say: Answer) -> Call:
        """A call at its start, whatever edge it came in by: its id, and until when it is wanted."""
        started_ns = time.monotonic_ns()
        call = Call(exchange, principal, say, self.telemetry, started_ns, started_ns + self._deadline_ns)
        call.request_id = self.ids.new(principal.name, endpoint)
        if (timeout := exchange.headers.get(TIMEOUT)) is not None:
            call.expire_in(_milliseconds(timeout) / 1000)
        return call


def _milliseconds(text: bytes) -> int:
    if not text.isdigit() or len(text) > 9:
        raise InvalidInput("the header 'x-timeout-ms' is a whole number of milliseconds")
    return int(text)


# --- what a target means


def _parse(method: bytes, raw: bytes) -> Target:
    """What a method and a request target mean. Raises NotFound, WrongMethod, InvalidInput or Undecodable."""
    path, _, query = raw.decode("latin-1").partition("?")
    if not path.startswith("/"):
        scheme, _, rest = path.partition("://")
        if scheme.lower() not in ("http", "https"):
            raise Undecodable("a request target is a path")
        path = "/" + rest.partition("/")[2]
    parts = [unquote(part) for part in path.split("/")[1:]]
    if parts[-1] == "" and len(parts) > 1:
        parts.pop()  # a trailing slash is fine
    target = _find(parts, "GET" if method == b"HEAD" else method.decode("latin-1"))
    _read_query(target, query, parts)
    return target


def _find(parts: list[str], method: str) -> Target:
    """The handler of a path; raises NotFound or WrongMethod."""
    match parts:
        case [""]:
            return _only(method, GET=Target(_index), POST=Target(_predict_default))
        case ["healthz"] | ["ping"] | ["v2", "health", "live"]:
            return _open(_only(method, GET=Target(_live)))
        case ["readyz"] | ["v2", "health", "ready"]:
            return _open(_only(method, GET=Target(_ready)))
        case ["metrics"]:
            return _only(method, GET=Target(_metrics, "metrics"))
        case ["v2"]:
            return _only(method, GET=Target(_v2_server))
        case ["v2", "models"]:
            return _only(method, GET=Target(_v2_list))
        case ["v2", "models", name]:
            return _only(method, GET=Target(_v2_model, "infer", name))
        case ["v2", "models", name, "versions", version]:
            return _only(method, GET=Target(_v2_model, "infer", name, version))
        case ["v2", "models", name, "ready"]:
            return _only(method, GET=Target(_v2_model_ready, "infer", name))
        case ["v2", "models", name, "versions", version, "ready"]:
            return _only(method, GET=Target(_v2_model_ready, "infer", name, version))
        case ["v2", "models", name, "infer"]:
            return _only(method, POST=Target(_v2_infer, "infer", name))
        case ["v2", "models", name, "versions", version, "infer"]:
            return _only(method, POST=Target(_v2_infer, "infer", name, version))
        case ["docs"] | ["docs", _]:
            return _open(_only(method, GET=Target(_docs)))
        case ["openapi.json"]:
            return _only(method, GET=Target(_openapi))
        case ["v1" | "v2" | "docs" | "invocations" | "openapi.json", *_]:
            raise NotFound("no such path; GET / lists what is here")
        case [name]:
            return _only(method, GET=Target(_describe, "infer", name), POST=Target(_predict, "infer", name))
        case [name, "openapi.json"]:
            return _only(method, GET=Target(_openapi, "infer", name))
        case [name, "explain"]:
            return _only(method, POST=Target(_explain, "explain", name))
        case [name, "feedback"]:
            return _only(method, POST=Target(_feedback, "feedback", name))
        case [name, "versions", version]:
            return _only(
                method,
                GET=Target(_describe, "infer", name, version),
                POST=Target(_predict, "infer", name, version),
            )
        case [name, "versions", version, "explain"]:
            return _only(method, POST=Target(_explain, "explain", name, version))
    raise NotFound("no such path; GET / lists what is here")


def _only(method: str, **targets: Target) -> Target:
    if (target := targets.get(method)) is None:
        raise WrongMethod(", ".join(sorted(targets)))
    return target


def _open(target: Target) -> Target:
    target.is_open = True
    return target


def _read_query(target: Target, query: str, parts: list[str]) -> None:
    if parts[0] == "v2" or target.handler not in (_predict, _predict_default, _explain):
        return
    try:
        fields = parse_qsl(query, keep_blank_values=True, max_num_fields=16)
    except ValueError:
        raise InvalidInput("there are more than 16 query parameters") from None
    for key, value in fields:
        if key not in _QUERY:
            raise InvalidInput(f"there is no query parameter {key[:32]!r}; known are {', '.join(_QUERY)}")
        if value not in _QUERY[key]:
            raise InvalidInput(f"the query parameter {key!r} is one of: {', '.join(_QUERY[key])}")
        if key == "reasons":
            target.reasons = value
        else:
            target.language = value


# --- handlers that need no model


def _index(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    exchange.respond(200, native.index(gateway.routes))


def _live(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    exchange.respond(200, b'{"live":true}')


def _ready(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    if gateway.routes.plan is None or exchange.connection.server.draining:
        exchange.respond(503, b'{"ready":false,"live":true}', headers=b"retry-after: 1\r\n")
    else:
        exchange.respond(200, b'{"ready":true,"live":true}')


def _metrics(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    exchange.respond(200, exposition(gateway.counters_folder), _TEXT)


def _preflight(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    exchange.extra += (
        b"access-control-allow-methods: GET, POST\r\n"
        b"access-control-allow-headers: authorization, content-type, x-api-key, x-request-id\r\n"
        b"access-control-max-age: 600\r\n"
    )
    exchange.respond(204, b"")


def _v2_server(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    exchange.respond(200, v2.server_metadata())


def _v2_list(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    exchange.respond(200, v2.model_list(gateway.routes))


def _v2_model(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    route = gateway.routes.endpoint(target.endpoint)
    exchange.respond(200, v2.model_metadata(route, route.pinned(target.pin) if target.pin else route.main))


def _v2_model_ready(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    route = gateway.routes.endpoint(target.endpoint)
    if target.pin:
        route.pinned(target.pin)
    exchange.respond(200, b'{"name":"%b","ready":true}' % target.endpoint.encode())


def _describe(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    route = gateway.routes.endpoint(target.endpoint)
    exchange.respond(200, native.describe(route, route.pinned(target.pin) if target.pin else route.main))


def _feedback(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    route: Route = gateway.routes.endpoint(target.endpoint)
    truths = native.read_truths(exchange.body, route, principal.name)
    if not allows(principal.scopes, "feedback:any", target.endpoint):
        for truth in truths:
            if not gateway.ids.proves(truth.request_id, principal.name, target.endpoint):
                raise Forbidden("a request_id is not one that this caller got from this endpoint")
    gateway.telemetry.feedback(truths)
    exchange.respond(202, b'{"accepted":%d}' % len(truths))


# --- handlers that ask a model


def _predict(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    gateway.call(exchange, target, principal, native.read_rows, native.say_prediction)


def _predict_default(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    name = gateway.routes.default()
    gateway.admission.check_scope(principal, "infer", name)
    if principal.quota is not None:
        principal.quota.charge(1)
    named = Target(_predict, "infer", name)
    named.reasons, named.language = target.reasons, target.language
    gateway.call(exchange, named, principal, native.read_rows, native.say_prediction)


def _explain(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    gateway.call(exchange, target, principal, native.read_rows, native.say_explanation)


def _v2_infer(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    gateway.call(exchange, target, principal, v2.read_infer, v2.say_infer)


# --- what the gateway shows of itself


def _openapi(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    wish = docs_page.wish_of(exchange.target, principal.scopes, target.endpoint or None)
    docs_page.answer_document(exchange, docs_page.documents_of(gateway.routes, gateway.settings), wish)


def _docs(gateway: Gateway, exchange: Exchange, target: Target, principal: Principal) -> None:
    docs_page.answer_page(exchange)
