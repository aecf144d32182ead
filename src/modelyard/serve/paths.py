"""What a method and a request target mean: which handler, of which endpoint, and the scope that it needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

from modelyard.contract.errors import InvalidInput, NotFound, Undecodable
from modelyard.serve import handlers
from modelyard.serve.admission import Principal
from modelyard.serve.exchange import Exchange
from modelyard.serve.problems import WrongMethod

if TYPE_CHECKING:
    from modelyard.serve.gateway import Gateway

_QUERY = {"reasons": ("auto", "all", "none"), "lang": ("en", "zh")}

Handler = Callable[["Gateway", Exchange, "Target", Principal], None]


_MAY_BE_BULK = frozenset((
    handlers.predict, handlers.predict_default, handlers.explain, handlers.v1_predict, handlers.v1_explain,
    handlers.v2_infer, handlers.mlflow_invocations,
))  # fmt: skip


class Target:
    """What a method and a request target mean; parsed once, then remembered."""

    __slots__ = (
        "asks_a_model", "endpoint", "handler", "is_open", "language", "may_be_bulk", "may_stream", "pin", "reasons",
        "verb",
    )  # fmt: skip

    def __init__(self, handler: Handler, verb: str = "", endpoint: str = "", pin: str | None = None) -> None:
        self.handler = handler
        self.verb = verb  # the scope that it needs
        self.endpoint = endpoint
        self.pin = pin  # a version or alias in the path
        self.may_be_bulk = handler in _MAY_BE_BULK
        self.may_stream = handler in (handlers.predict, handlers.predict_default)
        # The default endpoint's calls are charged once it is known.
        self.asks_a_model = bool(endpoint) and (self.may_be_bulk or handler is handlers.predict_in_pieces)
        self.is_open = False  # answers without a key: probes
        self.reasons = "auto"
        self.language = ""


def parse(method: bytes, raw: bytes) -> Target:
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
    match _in_parts(parts):
        case [""]:
            return _only(method, GET=Target(handlers.index), POST=Target(handlers.predict_default))
        case ["healthz"] | ["v2", "health", "live"]:
            return _open(_only(method, GET=Target(handlers.live)))
        case ["readyz"] | ["ping"] | ["health"] | ["v2", "health", "ready"]:  # SageMaker's and MLflow's mean ready
            return _open(_only(method, GET=Target(handlers.ready)))
        case ["metrics"]:
            return _only(method, GET=Target(handlers.metrics, "metrics"))
        case ["version"]:
            return _only(method, GET=Target(handlers.mlflow_version))
        case ["invocations"]:
            return _only(method, POST=Target(handlers.mlflow_invocations))
        case ["v1", "models"]:
            return _only(method, GET=Target(handlers.v1_list))
        case ["v1", "models", name]:
            return _only(method, GET=Target(handlers.v1_model, "infer", name))
        case ["v1", "models", name, "versions", version]:
            return _only(method, GET=Target(handlers.v1_model, "infer", name, version))
        case ["v1", "models", name, ":predict"]:
            return _only(method, POST=Target(handlers.v1_predict, "infer", name))
        case ["v1", "models", name, "versions", version, ":predict"]:
            return _only(method, POST=Target(handlers.v1_predict, "infer", name, version))
        case ["v1", "models", name, ":explain"]:
            return _only(method, POST=Target(handlers.v1_explain, "explain", name))
        case ["v1", "models", name, "versions", version, ":explain"]:
            return _only(method, POST=Target(handlers.v1_explain, "explain", name, version))
        case ["v2"]:
            return _only(method, GET=Target(handlers.v2_server))
        case ["v2", "models"]:
            return _only(method, GET=Target(handlers.v2_list))
        case ["v2", "models", "stats"]:
            return _only(method, GET=Target(handlers.v2_stats))
        case ["v2", "models", name]:
            return _only(method, GET=Target(handlers.v2_model, "infer", name))
        case ["v2", "models", name, "versions", version]:
            return _only(method, GET=Target(handlers.v2_model, "infer", name, version))
        case ["v2", "models", name, "ready"]:
            return _only(method, GET=Target(handlers.v2_model_ready, "infer", name))
        case ["v2", "models", name, "versions", version, "ready"]:
            return _only(method, GET=Target(handlers.v2_model_ready, "infer", name, version))
        case ["v2", "models", name, "stats"]:
            return _only(method, GET=Target(handlers.v2_stats, "infer", name))
        case ["v2", "models", name, "versions", version, "stats"]:
            return _only(method, GET=Target(handlers.v2_stats, "infer", name, version))
        case ["v2", "models", name, "config"]:
            return _only(method, GET=Target(handlers.v2_config, "infer", name))
        case ["v2", "models", name, "versions", version, "config"]:
            return _only(method, GET=Target(handlers.v2_config, "infer", name, version))
        case ["v2", "repository", "index"]:
            return _only(method, POST=Target(handlers.v2_index))
        case ["v2", "repository", "models", name, "load"]:
            return _only(method, POST=Target(handlers.v2_load, "repository", name))
        case ["v2", "repository", "models", name, "unload"]:
            return _only(method, POST=Target(handlers.v2_unload, "repository", name))
        case ["v2", "models", name, "infer"]:
            return _only(method, POST=Target(handlers.v2_infer, "infer", name))
        case ["v2", "models", name, "versions", version, "infer"]:
            return _only(method, POST=Target(handlers.v2_infer, "infer", name, version))
        case ["docs"]:
            return _open(_only(method, GET=Target(handlers.docs)))
        case ["docs", file]:
            return _open(_only(method, GET=Target(handlers.docs, pin=file)))
        case ["openapi.json"]:
            return _only(method, GET=Target(handlers.openapi))
        case ["v1" | "v2" | "docs" | "invocations" | "openapi.json", *_]:
            raise NotFound("no such path; GET / lists what is here")
        case [name]:
            return _only(
                method, GET=Target(handlers.describe, "infer", name), POST=Target(handlers.predict, "infer", name)
            )
        case [name, "openapi.json"]:
            return _only(method, GET=Target(handlers.openapi, "infer", name))
        case [name, "explain"]:
            return _only(method, POST=Target(handlers.explain, "explain", name))
        case [name, "stream"]:
            return _only(method, POST=Target(handlers.predict_in_pieces, "infer", name))
        case [name, "versions", version, "stream"]:
            return _only(method, POST=Target(handlers.predict_in_pieces, "infer", name, version))
        case [name, "feedback"]:
            return _only(method, POST=Target(handlers.feedback, "feedback", name))
        case [name, "versions", version]:
            return _only(
                method,
                GET=Target(handlers.describe, "infer", name, version),
                POST=Target(handlers.predict, "infer", name, version),
            )
        case [name, "versions", version, "explain"]:
            return _only(method, POST=Target(handlers.explain, "explain", name, version))
    raise NotFound("no such path; GET / lists what is here")


def _in_parts(parts: list[str]) -> list[str]:
    """V1 writes what to do with a model behind a colon: here it is a part of its own. A label of it is an alias."""
    if parts[0] != "v1":
        return parts
    which, colon, verb = parts[-1].partition(":")
    parts = [*parts[:-1], which, colon + verb] if colon else parts
    return [*parts[:3], "versions", *parts[4:]] if parts[3:4] == ["labels"] else parts


def _only(method: str, **targets: Target) -> Target:
    if (target := targets.get(method)) is None:
        raise WrongMethod(", ".join(sorted(targets)))
    return target


def _open(target: Target) -> Target:
    target.is_open = True
    return target


def _read_query(target: Target, query: str, parts: list[str]) -> None:
    if parts[0] == "v2" or target.handler not in (handlers.predict, handlers.predict_default, handlers.explain):
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
