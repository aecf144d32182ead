"""The gateway's API as one OpenAPI 3.1 document, made from the contracts of what is served. Pure.

The document is put together from parts, one for each endpoint, made once for a plan and a language; what a caller gets
are the parts that its key may use. `openapi_schemas.py` says what an endpoint takes and
gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from modelyard import __version__
from modelyard.secure.keys import allows
from modelyard.serve import mlflow
from modelyard.serve.native import MAX_FEEDBACK
from modelyard.serve.openapi_examples import csv_example, example_row, forms_example, infer_example
from modelyard.serve.openapi_gateway import (
    GATEWAY_TAG,
    gateway_paths,
    index_operation,
    model_paths,
    shared_parameters,
    shared_schemas,
)
from modelyard.serve.openapi_operations import (
    ASKS,
    JSON,
    READS,
    TELLS,
    Item,
    Limits,
    error_responses,
    json_answer,
    operation,
    parameter,
)
from modelyard.serve.openapi_references import Schema, ref
from modelyard.serve.openapi_schemas import endpoint_schemas, one_or_many
from modelyard.serve.openapi_served import Held, Served, name_of
from modelyard.serve.openapi_texts import Texts

VERBS = ("infer", "explain", "feedback")

LINES = "application/x-ndjson"
_encode = msgspec.json.Encoder().encode


class Part(msgspec.Struct, frozen=True):
    """One endpoint's share of the document, encoded."""

    tag: msgspec.Raw
    versions: list[str]  # numbers and aliases that a path may name
    paths: dict[str, dict[str, msgspec.Raw]]  # verb of the scope that is needed -> path -> its operations
    schemas: dict[str, msgspec.Raw]
    bodies: dict[str, msgspec.Raw]


def document(
    parts: Mapping[str, Part],
    scopes: Iterable[str],
    limits: Limits,
    language: str = "en",
    *,
    only: str | None = None,
    with_paths: bool = True,
) -> bytes:
    """The document for a caller with these scopes, as JSON.

    `parts`: by endpoint, all in `language`. `only`: the one endpoint that is asked for. `with_paths`: False leaves out
    what is of one endpoint alone; `tags` still names the endpoints.
    """
    texts, scopes = Texts(language), frozenset(scopes)
    names = [name for name in parts if only in (None, name) and any(allows(scopes, verb, name) for verb in VERBS)]
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = dict(shared_schemas())
    bodies: dict[str, Any] = {}
    for name in names if with_paths else ():
        for verb, items in parts[name].paths.items():
            if allows(scopes, verb, name):
                paths |= items
        schemas |= parts[name].schemas
        bodies |= parts[name].bodies
    paths |= model_paths(names, scopes, limits, texts)
    if only is None:
        paths |= gateway_paths(names, scopes, limits, texts)
    title = "Modelyard" if only is None else f"Modelyard: {only}"
    about = texts("about", max_body_bytes=limits.max_body_bytes, max_rows=limits.max_rows, deadline_s=limits.deadline_s)
    return _encode(
        {
            "openapi": "3.1.0",
            "info": {"title": title, "version": __version__, "description": about},
            "servers": [{"url": "./" if only is None else "../"}],
            "tags": [parts[name].tag for name in names] + [{"name": GATEWAY_TAG, "description": texts("gateway_tag")}],
            "paths": paths,
            "components": {
                "securitySchemes": {
                    "bearer": {"type": "http", "scheme": "bearer", "description": texts("bearer")},
                    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": texts("bearer")},
                },
                "parameters": shared_parameters(names, parts[only].versions if only else [], texts),
                "responses": error_responses(texts),
                "requestBodies": bodies,
                "schemas": schemas,
            },
        }
    )


def endpoint_part(one: Served, limits: Limits, language: str = "en") -> Part:
    """One endpoint's operations, schemas and bodies, encoded."""
    writer = _Endpoint(one, limits, Texts(language))
    return Part(
        msgspec.Raw(_encode(writer.tag())),
        [*(str(held.number) for held in one.versions), *one.aliases],
        {verb: _encoded(items) for verb, items in writer.paths().items()},
        _encoded(endpoint_schemas(one, writer.texts, is_default=writer.is_default)),
        _encoded(writer.bodies()),
    )


def _encoded(items: dict[str, Any]) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(_encode(item)) for name, item in items.items()}


# --- one endpoint -------------------------------------------------------------------------------------------------


class _Endpoint:
    """Writes the operations of one endpoint."""

    def __init__(self, one: Served, limits: Limits, texts: Texts) -> None:
        self.one, self.texts = one, texts
        self.limits = limits if one.max_rows is None else msgspec.structs.replace(limits, max_rows=one.max_rows)
        self.is_default = limits.default_endpoint == one.name
        self.explainers = [held for held in one.versions if held.explains]

    def tag(self) -> Item:
        """The endpoint in a few words, and what a page wants to know of it."""
        main = self.one.main
        decision, target = main.manifest.decision, main.manifest.contract.target
        about = {
            "model": self.one.model,
            "version": main.number,
            "versions": [held.number for held in self.one.versions],
            "aliases": self.one.aliases,
            "task": main.manifest.task,
            "framework": main.manifest.framework,
            "target": target.name if target else None,
            "cutoff": main.cutoff,
            "meaning": decision.meaning if decision else None,
            "decision": [decision.negative, decision.positive] if decision else None,
            "explains": main.explains,
            "row": f"#/components/schemas/{name_of(self.one, main, 'Row')}",
        }
        description = self.texts("about_endpoint", model=self.one.model, version=main.number)
        return {"name": self.one.name, "description": description, "x-endpoint": about}

    def paths(self) -> dict[str, dict[str, Item]]:
        """Path items by the verb of the scope that they need."""
        name, pinned = self.one.name, f"/{self.one.name}/versions/{{version}}"
        model, v1 = f"/v2/models/{name}", f"/v1/models/{name}"
        version = self._version(self.one.versions)
        explain, infer = {}, {
            f"/{name}": {"get": self._describe("describe"), "post": self._predict("predict", False)},
            pinned: version | {"get": self._describe("describe_pinned"), "post": self._predict("predict_pinned", True)},
            f"{model}/infer": {"post": self._infer("v2_infer", False)},
            f"{model}/versions/{{version}}/infer": version | {"post": self._infer("v2_infer_pinned", True)},
            f"{v1}:predict": {"post": self._v1("v1_predict", False)},
            f"{v1}/versions/{{version}}:predict": version | {"post": self._v1("v1_predict_pinned", True)},
        }  # fmt: skip
        if self.is_default:
            index = index_operation(self.limits, self.texts)
            infer["/"] = {"post": self._predict("predict_default", False), "get": index}
            infer["/invocations"] = {"post": self._invocations()}
        if self.one.main.explains:
            explain[f"/{name}/explain"] = {"post": self._explain("explain", False)}
            explain[f"{v1}:explain"] = {"post": self._v1("v1_explain", False)}
        if self.explainers:
            item = self._version(self.explainers)
            explain[f"{pinned}/explain"] = item | {"post": self._explain("explain_pinned", True)}
            explain[f"{v1}/versions/{{version}}:explain"] = item | {"post": self._v1("v1_explain_pinned", True)}
        return {"infer": infer, "explain": explain, "feedback": {f"/{name}/feedback": {"post": self._feedback()}}}

    def bodies(self) -> dict[str, Item]:
        """What operations take: of the endpoint, and of any of its versions where these differ."""
        kinds = {"Rows": self._rows, "Stream": self._stream, "Infer": self._tensors, "Instances": self._instances}
        found = {f"{self.one.name}.{kind}": write([self.one.main]) for kind, write in kinds.items()}
        if self._differ:
            found |= {f"{self.one.name}.Any{kind}": write(self.one.versions) for kind, write in kinds.items()}
        return found

    @property
    def _differ(self) -> bool:
        return len(self._names(self.one.versions, "Row")) > 1

    def _names(self, versions: Iterable[Held], what: str) -> list[str]:
        return list(dict.fromkeys(name_of(self.one, held, what) for held in versions))

    def _any(self, versions: Iterable[Held], what: str) -> Schema:
        names = self._names(versions, what)
        return ref("schemas", names[0]) if len(names) == 1 else {"anyOf": [ref("schemas", name) for name in names]}

    def _version(self, versions: Iterable[Held]) -> Item:
        numbers = [held.number for held in versions]
        known = [*map(str, numbers), *(alias for alias, number in self.one.aliases.items() if number in numbers)]
        schema = {"type": "string", "enum": known}
        return {"parameters": [parameter("version", "path", schema, self.texts("version_parameter"), required=True)]}

    def _rows(self, versions: Iterable[Held]) -> Item:
        names = self._names(versions, "Row")
        schema = one_or_many(names[0]) if len(names) == 1 else {"anyOf": [one_or_many(name) for name in names]}
        row = example_row(self.one.main)
        examples = {
            "row": {"summary": self.texts("row_example"), "value": row},
            "rows": {"summary": self.texts("rows_example"), "value": [row, row]},
        }
        about = self.texts("rows", max_rows=self.limits.max_rows, max_body_bytes=self.limits.max_body_bytes)
        return {"required": True, "description": about, "content": {JSON: {"schema": schema, "examples": examples}}}

    def _stream(self, versions: Iterable[Held]) -> Item:
        """Rows, also as lines of a stream."""
        found = self._rows(versions)
        line = msgspec.json.encode(example_row(self.one.main)).decode()
        lines = {"summary": self.texts("lines_example"), "value": f"{line}\n{line}\n"}
        found["content"][LINES] = {"schema": {"type": "string"}, "examples": {"lines": lines}}
        found["description"] = f"{found['description']} `{LINES}`: {self.texts('lines')}"
        return found

    def _tensors(self, versions: Iterable[Held]) -> Item:
        schema = self._any(versions, "InferRequest")
        row = {"summary": self.texts("infer_example"), "value": infer_example(self.one.main)}
        about = self.texts("infer_request", max_rows=self.limits.max_rows, max_body_bytes=self.limits.max_body_bytes)
        return {
            "required": True,
            "description": f"{about} {self.texts('binary')}",
            "content": {JSON: {"schema": schema, "examples": {"row": row}}, "application/octet-stream": {}},
        }

    def _instances(self, versions: Iterable[Held]) -> Item:
        examples = self._forms("instances", "inputs")
        about = self.texts("infer_request", max_rows=self.limits.max_rows, max_body_bytes=self.limits.max_body_bytes)
        content = {JSON: {"schema": self._any(versions, "Instances"), "examples": examples}}
        return {"required": True, "description": about, "content": content}

    def _forms(self, *forms: str) -> Item:
        return {form: {"summary": form, "value": forms_example(self.one.main, form)} for form in forms}

    def _describe(self, what: str) -> Item:
        told = ["columns", "schema"] if self.one.main.is_table else ["inputs", "outputs"]
        answer = {"type": "object", "required": ["name", "model", "version", *told]}
        return self._operation(what, "infer", {200: json_answer(self.texts("ok"), answer)}, READS)

    def _predict(self, what: str, pinned: bool) -> Item:
        schema = self._any(self.one.versions, "Answer")
        answer = json_answer(self.texts("ok"), schema)
        line = {"anyOf": [schema, ref("schemas", "Problem")]}
        answer["content"][LINES] = {"schema": {"type": "string"}, "x-line-schema": line}
        operation = self._operation(what, "infer", {200: answer}, ASKS, body="AnyStream" if pinned else "Stream")
        operation["parameters"] += [ref("parameters", "Reasons"), ref("parameters", "Language")]
        return operation

    def _explain(self, what: str, pinned: bool) -> Item:
        versions = self.explainers if pinned else [self.one.main]
        answer = json_answer(self.texts("ok"), self._any(versions, "Explanations"))
        return self._operation(what, "explain", {200: answer}, ASKS, body="AnyRows" if pinned else "Rows")

    def _infer(self, what: str, pinned: bool) -> Item:
        answer = json_answer(self.texts("ok"), self._any(self.one.versions, "InferResponse"))
        answer["content"]["application/octet-stream"] = {}
        body = "AnyInfer" if pinned else "Infer"
        operation = self._operation(what, "infer", {200: answer}, ASKS, body=body, family="Protocol")
        operation["parameters"].append(ref("parameters", "BinaryLength"))
        return operation

    def _v1(self, what: str, pinned: bool) -> Item:
        explains = "explain" in what
        versions = self.one.versions if pinned and not explains else self.explainers if pinned else [self.one.main]
        answer = json_answer(self.texts("ok"), self._any(versions, "Explained" if explains else "Predictions"))
        body, scope = "AnyInstances" if pinned else "Instances", "explain" if explains else "infer"
        return self._operation(what, scope, {200: answer}, ASKS, body=body, family="Protocol")

    def _invocations(self) -> Item:
        answer = json_answer(self.texts("ok"), self._any(self.one.versions, "Predictions"))
        found = self._operation("invocations", "infer", {200: answer}, ASKS, family="Scoring")
        examples = self._forms(*mlflow.FORMS)
        content: Item = {JSON: {"schema": ref("schemas", f"{self.one.name}.Frame"), "examples": examples}}
        if self.one.main.is_table:
            row = {"summary": self.texts("row_example"), "value": csv_example(self.one.main)}
            content["text/csv"] = {"schema": {"type": "string"}, "examples": {"row": row}}
        return found | {"requestBody": {"required": True, "content": content}}

    def _feedback(self) -> Item:
        accepted = {"type": "object", "required": ["accepted"], "properties": {"accepted": {"type": "integer"}}}
        target = self.one.main.manifest.contract.target
        truth = target.classes[-1] if target and target.classes else 1
        name = f"{self.one.name}.Feedback"
        many = {"type": "array", "minItems": 1, "maxItems": MAX_FEEDBACK, "items": ref("schemas", name)}
        example = {"request_id": "0" * 32, "truth": truth, "row": 0}
        operation = self._operation("feedback", "feedback", {202: json_answer(self.texts("accepted"), accepted)}, TELLS)
        content = {
            "schema": {"anyOf": [ref("schemas", name), many]},
            "examples": {"truth": {"summary": self.texts("one_example"), "value": example}},
        }
        operation["description"] = self.texts("feedback_about", limit=MAX_FEEDBACK)
        return operation | {"requestBody": {"required": True, "content": {JSON: content}}}

    def _operation(
        self,
        what: str,
        scope: str,
        answers: dict[int, Item],
        errors: Iterable[int],
        *,
        body: str = "",
        family: str = "Problem",
    ) -> Item:
        summary = self.texts(what, endpoint=self.one.name) if what == "predict_default" else self.texts(what)
        found = operation(
            f"{what}_{self.one.name}", summary, self.one.name, self.limits, scope, answers, errors, family
        )
        if errors is ASKS:  # it waits for a model
            found["parameters"] = [ref("parameters", "Timeout")]
        if body:
            name = body if self._differ else body.removeprefix("Any")
            found["requestBody"] = ref("requestBodies", f"{self.one.name}.{name}")
        return found
