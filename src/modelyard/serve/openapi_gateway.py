"""What the API document says of the gateway itself, and of every endpoint alike. Pure."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import msgspec

from modelyard.contract.decision import Reason
from modelyard.secure.keys import allows
from modelyard.serve.openapi_operations import (
    JSON,
    READS,
    RETRY_AFTER,
    Item,
    Limits,
    json_answer,
    operation,
    parameter,
)
from modelyard.serve.openapi_references import Schema, ref
from modelyard.serve.openapi_texts import Texts
from modelyard.serve.problems import Problem, ProtocolError, ScoringError

GATEWAY_TAG = "gateway"

_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean"}


def index_operation(limits: Limits, texts: Texts) -> Item:
    """`GET /`."""
    said = json_answer(texts("ok"), _object(name=_TEXT, endpoints=_list({"type": "object"})))
    return operation("index", texts("index"), GATEWAY_TAG, limits, "", {200: said}, (401,))


def gateway_paths(names: list[str], scopes: frozenset[str], limits: Limits, texts: Texts) -> dict[str, Item]:
    """What belongs to no endpoint."""

    def get(what: str, said: Item, scope: str | None = "", *, name: str = "", family: str = "Problem") -> Item:
        errors = () if scope is None else (401, 403) if scope else (401,)
        made = operation(name or what, texts(what), GATEWAY_TAG, limits, scope, {200: said}, errors, family)
        return {"get": made}

    def json(**properties: Schema) -> Item:
        return json_answer(texts("ok"), _object(**properties))

    def plain(media: str) -> Item:
        return {"description": texts("ok"), "content": {media: {"schema": _TEXT}}}

    def live(name: str, family: str = "Problem") -> Item:
        return get("live", json(live=_FLAG), None, name=name, family=family)

    def ready(name: str, family: str = "Problem") -> Item:
        item = get("ready", json(ready=_FLAG, live=_FLAG), None, name=name, family=family)
        not_yet = json_answer(texts("not_ready_answer"), _object(ready=_FLAG, live=_FLAG))
        item["get"]["responses"]["503"] = not_yet | {"headers": {"Retry-After": RETRY_AFTER}}
        return item

    document = get("openapi", json(openapi=_TEXT, paths={"type": "object"}))
    document["get"]["parameters"] = [
        ref("parameters", "DocumentLanguage"),
        parameter("only", "query", {"enum": ["shared"]}, texts("only")),
    ]
    statistics = json_answer(texts("ok"), ref("schemas", "Statistics"))
    models = json(object=_TEXT, data=_list({"type": "object"}), models=_list(_TEXT))
    paths = {
        "/healthz": live("live"),
        "/readyz": ready("ready"),
        "/health": ready("health"),
        "/ping": ready("ping"),
        "/version": get("version", plain("text/plain")),
        "/docs": get("docs", plain("text/html"), None),
        "/openapi.json": document,
        "/v1/models": get("v1_list", models, family="Protocol"),
        "/v2": get("v2_server", json(name=_TEXT, version=_TEXT, extensions=_list(_TEXT)), family="Protocol"),
        "/v2/health/live": live("v2_live", "Protocol"),
        "/v2/health/ready": ready("v2_ready_gateway", "Protocol"),
        "/v2/models": get("v2_list", json(models=_list(_TEXT)), family="Protocol"),
        "/v2/models/stats": get("v2_stats_all", statistics, family="Protocol"),
        "/v2/repository/index": {"post": _repository_index(limits, texts)},
    }
    if limits.default_endpoint not in names:
        paths["/"] = {"get": index_operation(limits, texts)}
    if allows(scopes, "metrics", ""):
        paths["/metrics"] = get("metrics", plain("text/plain"), "metrics")
    return paths


def _repository_index(limits: Limits, texts: Texts) -> Item:
    states = {"enum": ["READY", "UNAVAILABLE", "LOADING", "UNLOADING"]}
    line = _object(name=_TEXT, version=_TEXT, state=states, reason=_TEXT)
    answers = {200: json_answer(texts("ok"), _list(line))}
    made = operation("v2_index", texts("v2_index"), GATEWAY_TAG, limits, "", answers, (400, 401), "Protocol")
    body = {"type": "object", "properties": {"ready": _FLAG}}
    examples = {"ready": {"summary": "READY", "value": {"ready": True}}}
    return made | {"requestBody": {"content": {JSON: {"schema": body, "examples": examples}}}}


def model_paths(names: list[str], scopes: frozenset[str], limits: Limits, texts: Texts) -> dict[str, Item]:
    """What is said of every endpoint alike; its name is a parameter of the path."""

    def get(what: str, schema: Schema, *parameters: str, family: str = "Protocol") -> Item:
        name = f"{what}_pinned" if "Version" in parameters else what
        said = {200: json_answer(texts("ok"), schema)}
        made = operation(name, texts(what), GATEWAY_TAG, limits, "infer", said, READS, family)
        return {"parameters": [ref("parameters", one) for one in parameters], "get": made}

    document = get("openapi_one", _object(openapi=_TEXT, paths={"type": "object"}), "Endpoint", family="Problem")
    document["get"]["parameters"] = [ref("parameters", "DocumentLanguage")]
    paths = {"/{endpoint}/openapi.json": document}
    for path, what, schema in (
        ("/v1/models/{model}%s", "v1_model", "ModelStatus"),
        ("/v2/models/{model}%s", "v2_metadata", "ModelMetadata"),
        ("/v2/models/{model}%s/ready", "v2_ready", "ModelReady"),
        ("/v2/models/{model}%s/config", "v2_config", "ModelConfig"),
        ("/v2/models/{model}%s/stats", "v2_stats", "Statistics"),
    ):
        paths[path % ""] = get(what, ref("schemas", schema), "Model")
        paths[path % "/versions/{version}"] = get(what, ref("schemas", schema), "Model", "Version")
    if any(allows(scopes, "repository", name) for name in names):
        for verb in ("load", "unload"):
            said = {200: json_answer(texts("ok"), _object(name=_TEXT, versions=_list(_TEXT)))}
            errors: Iterable[int] = (400, *READS, 504)
            name = f"v2_{verb}"
            made = operation(name, texts(name), GATEWAY_TAG, limits, "repository", said, errors, "Protocol")
            model = [ref("parameters", "Model")]
            paths[f"/v2/repository/models/{{model}}/{verb}"] = {"parameters": model, "post": made}
    return paths


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


@functools.cache
def shared_schemas() -> dict[str, Schema]:
    """What endpoints have in common: errors, reasons, and what V1 and V2 say of models. Not to be changed."""
    specs = _list(_object(name=_TEXT, datatype=_TEXT, shape=_list({"type": "integer"})))
    kinds = (Problem, ProtocolError, ScoringError, Reason)
    _, found = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    metadata = _object(name=_TEXT, platform=_TEXT, inputs=specs, outputs=specs)
    metadata["properties"]["versions"] = _list(_TEXT)
    config = _object(name=_TEXT, platform=_TEXT, max_batch_size={"type": "integer"})
    tensors = _list(_object(name=_TEXT, data_type=_TEXT, dims=_list({"type": "integer"})))
    config["properties"] |= {"input": tensors, "output": tensors}
    counts = {"inference_count": {"type": "integer"}, "execution_count": {"type": "integer"}}
    return found | {
        "Head": _object(request_id=_TEXT, model=_TEXT, version={"type": "integer"}),
        "Parameters": {
            "type": "object",
            "additionalProperties": {"type": ["string", "number", "boolean"]},
            "properties": {
                "binary_data_output": _FLAG,
                "priority": {"type": "integer", "minimum": 0},
                "timeout": {"type": "integer", "minimum": 1},
            },
        },
        "ModelMetadata": metadata,
        "ModelReady": _object(name=_TEXT, ready=_FLAG),
        "ModelStatus": _object(
            name=_TEXT, ready=_FLAG, model_version_status=_list(_object(version=_TEXT, state=_TEXT))
        ),
        "ModelConfig": config,
        "Statistics": _object(model_stats=_list(_object(name=_TEXT, version=_TEXT, **counts))),
    }


def shared_parameters(names: list[str], versions: list[str], texts: Texts) -> dict[str, Item]:
    """Parameters that several operations take; `names` are the endpoints that the caller may use.

    `versions`: numbers and aliases of the only endpoint; empty where there are several.
    """
    language = {"enum": ["en", "zh"]}
    reasons = {"enum": ["auto", "all", "none"], "default": "auto"}
    name: Schema = _TEXT | ({"enum": names} if names else {})
    version: Schema = _TEXT | ({"enum": versions} if versions else {})
    length, about = {"type": "integer", "minimum": 0}, texts("binary_length")
    return {
        "Reasons": parameter("reasons", "query", reasons, texts("reasons")),
        "Language": parameter("lang", "query", language, texts("lang")),
        "DocumentLanguage": parameter("lang", "query", language, texts("lang_document")),
        "Endpoint": parameter("endpoint", "path", name, texts("model_parameter"), required=True),
        "Model": parameter("model", "path", name, texts("model_parameter"), required=True),
        "Version": parameter("version", "path", version, texts("version_parameter"), required=True),
        "BinaryLength": parameter("Inference-Header-Content-Length", "header", length, about),
        "Timeout": parameter("X-Timeout-Ms", "header", {"type": "integer", "minimum": 1}, texts("timeout")),
    }
