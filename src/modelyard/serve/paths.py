"""What a method and a request target mean: which handler, of which endpoint, and the scope that it needs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, unquote

from modelyard.contract.errors import InvalidInput, NotFound, Undecodable
from modelyard.serve import handlers
from modelyard.serve.admission import Principal
from modelyard.serve.exchange import Exchange
from modelyard.serve.problems import WrongMethod

if TYPE_CHECKING:
    from modelyard.serve.gateway import Gateway

Handler = Callable[["Gateway", Exchange, "Target", Principal], None]

_QUERY = {"reasons": ("auto", "all", "none"), "lang": ("en", "zh")}
_RESERVED = frozenset(("v1", "v2", "docs", "invocations", "openapi.json"))  # no endpoint is called so
_MAY_BE_BULK = frozenset((
    handlers.predict, handlers.predict_default, handlers.explain, handlers.v1_predict, handlers.v1_explain,
    handlers.v2_infer, handlers.mlflow_invocations,
))  # fmt: skip
_OPEN = frozenset((handlers.live, handlers.ready, handlers.docs))  # answer without a key: probes, and the empty page

# Method, path, handler, scope. What stands in [] may be left out; a {pin} is a version or an alias, or a file's name.
PATHS: tuple[tuple[str, str, Handler, str], ...] = (
    ("GET", "/", handlers.index, ""),
    ("POST", "/", handlers.predict_default, ""),
    ("GET", "/healthz", handlers.live, ""),
    ("GET", "/readyz", handlers.ready, ""),
    ("GET", "/metrics", handlers.metrics, "metrics"),
    ("GET", "/docs[/{pin}]", handlers.docs, ""),
    ("GET", "/openapi.json", handlers.openapi, ""),
    # MLflow's, and SageMaker's
    ("GET", "/ping", handlers.ready, ""),
    ("GET", "/health", handlers.ready, ""),
    ("GET", "/version", handlers.mlflow_version, ""),
    ("POST", "/invocations", handlers.mlflow_invocations, ""),
    # V1
    ("GET", "/v1/models", handlers.v1_list, ""),
    ("GET", "/v1/models/{endpoint}[/versions/{pin}]", handlers.v1_model, "infer"),
    ("POST", "/v1/models/{endpoint}[/versions/{pin}]:predict", handlers.v1_predict, "infer"),
    ("POST", "/v1/models/{endpoint}[/versions/{pin}]:explain", handlers.v1_explain, "explain"),
    # V2
    ("GET", "/v2", handlers.v2_server, ""),
    ("GET", "/v2/health/live", handlers.live, ""),
    ("GET", "/v2/health/ready", handlers.ready, ""),
    ("GET", "/v2/models", handlers.v2_list, ""),
    ("GET", "/v2/models/stats", handlers.v2_stats, ""),
    ("GET", "/v2/models/{endpoint}[/versions/{pin}]", handlers.v2_model, "infer"),
    ("GET", "/v2/models/{endpoint}[/versions/{pin}]/ready", handlers.v2_model_ready, "infer"),
    ("GET", "/v2/models/{endpoint}[/versions/{pin}]/stats", handlers.v2_stats, "infer"),
    ("GET", "/v2/models/{endpoint}[/versions/{pin}]/config", handlers.v2_config, "infer"),
    ("POST", "/v2/models/{endpoint}[/versions/{pin}]/infer", handlers.v2_infer, "infer"),
    ("POST", "/v2/repository/index", handlers.v2_index, ""),
    ("POST", "/v2/repository/models/{endpoint}/load", handlers.v2_load, "repository"),
    ("POST", "/v2/repository/models/{endpoint}/unload", handlers.v2_unload, "repository"),
    # an endpoint itself
    ("GET", "/{endpoint}[/versions/{pin}]", handlers.describe, "infer"),
    ("POST", "/{endpoint}[/versions/{pin}]", handlers.predict, "infer"),
    ("POST", "/{endpoint}[/versions/{pin}]/explain", handlers.explain, "explain"),
    ("POST", "/{endpoint}[/versions/{pin}]/stream", handlers.predict_in_pieces, "infer"),
    ("POST", "/{endpoint}/feedback", handlers.feedback, "feedback"),
    ("GET", "/{endpoint}/openapi.json", handlers.openapi, "infer"),
)


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
        self.is_open = handler in _OPEN
        self.may_be_bulk = handler in _MAY_BE_BULK
        self.may_stream = handler in (handlers.predict, handlers.predict_default)
        # The default endpoint's calls are charged once it is known.
        self.asks_a_model = bool(endpoint) and (self.may_be_bulk or handler is handlers.predict_in_pieces)
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


class Form(NamedTuple):
    """Paths of one length that have the same free parts: at which places, and what each of them answers."""

    places: dict[int, str]  # place -> "endpoint" or "pin"
    answers: dict[tuple[str, ...], dict[str, tuple[Handler, str]]]  # the path, free parts empty -> by method


def _forms() -> dict[int, list[Form]]:
    """`PATHS` by their length; of each, the forms with the fewest free parts first."""
    found: dict[tuple[int, ...], Form] = {}
    for method, path, handler, scope in PATHS:
        for spelled in {re.sub(r"\[.*\]", "", path), re.sub(r"[\[\]]", "", path)}:
            parts = _in_parts(spelled.split("/")[1:])
            places = {at: part.strip("{}") for at, part in enumerate(parts) if part.startswith("{")}
            form = found.setdefault((len(parts), *places), Form(places, {}))
            key = tuple("" if at in places else part for at, part in enumerate(parts))
            form.answers.setdefault(key, {})[method] = (handler, scope)
    forms: dict[int, list[Form]] = {}
    for (length, *_), form in sorted(found.items(), key=lambda pair: len(pair[1].places)):
        forms.setdefault(length, []).append(form)
    return forms


def _find(parts: list[str], method: str) -> Target:
    """The handler of a path; raises NotFound or WrongMethod."""
    parts = _in_parts(parts)
    for places, answers in _FORMS.get(len(parts), ()):
        if 0 in places and parts[0] in _RESERVED:
            continue
        key = parts.copy()
        for at in places:
            key[at] = ""
        if (by_method := answers.get(tuple(key))) is not None:
            if method not in by_method:
                raise WrongMethod(", ".join(sorted(by_method)))
            handler, scope = by_method[method]
            return Target(handler, scope, **{name: parts[at] for at, name in places.items()})
    raise NotFound("no such path; GET / lists what is here")


def _in_parts(parts: list[str]) -> list[str]:
    """V1 writes what to do with a model behind a colon: here it is a part of its own. A label of it is an alias."""
    if parts[0] != "v1":
        return parts
    which, colon, verb = parts[-1].partition(":")
    parts = [*parts[:-1], which, colon + verb] if colon else parts
    return [*parts[:3], "versions", *parts[4:]] if parts[3:4] == ["labels"] else parts


_FORMS = _forms()


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
