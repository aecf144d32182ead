"""The API document is valid, whole and true: each example is posted to a real gateway, each answer held to it."""

from __future__ import annotations

import json
import string
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from kit.contracts import any_rows, contracts
from kit.forms import a_plan, store_all
from kit.gateway import Gateway, gateway
from kit.versions import CONTRACT, DATATYPES, store
from modelyard.artifacts.manifest import Manifest
from modelyard.artifacts.store import Shelf
from modelyard.contract.decision import Decision
from modelyard.contract.encoding import Encoder
from modelyard.contract.errors import InvalidInput, all_errors
from modelyard.contract.features import Column, Contract
from modelyard.contract.home import Home
from modelyard.contract.plan import PlannedEndpoint, PlannedVersion, TrafficSplit
from modelyard.contract.signature import Signature, TensorSpec
from modelyard.serve import openapi_texts
from modelyard.serve.openapi import document, endpoint_part
from modelyard.serve.openapi_examples import example_row
from modelyard.serve.openapi_operations import Limits
from modelyard.serve.openapi_rows import row_schema
from modelyard.serve.openapi_served import Held, Served
from modelyard.serve.openapi_texts import LANGUAGES, Texts
from modelyard.serve.paths import parse
from modelyard.serve.problems import status_of

FLOAT32_MAX = 3.4028234663852886e38
LIMITS = Limits(8 * 1024 * 1024, 10_000, 30.0, needs_key=False)
SCOPES = ("infer", "explain", "feedback", "metrics")
TWICE = (*CONTRACT.columns, Column("region", "category", categories=("north", "south"), default="north"))
OTHER = Contract(TWICE, CONTRACT.target, CONTRACT.example)  # a second version that takes one column more


def manifest(contract: Contract = CONTRACT, **changes: Any) -> Manifest:
    """A version of a table, as its manifest says it."""
    inputs = tuple(TensorSpec(column.name, DATATYPES[column.kind], (-1,)) for column in contract.features)
    fields: dict[str, Any] = {
        "model": "loans",
        "task": "binary",
        "framework": "logistic",
        "runtime": "onnx",
        "created_at": "2026-01-01T00:00:00Z",
        "files": {},
        "signature": Signature(inputs, (TensorSpec("probability", "FP32", (-1,)),)),
        "contract": contract,
        "decision": Decision(0.3, "decline", "approve", "probability of default"),
    }
    return Manifest(**fields | changes)


def served(*manifests: Manifest, name: str = "loans", **more: Any) -> Served:
    """An endpoint on these versions, shown from the first."""
    held = [Held(number, one, one.decision.cutoff if one.decision else None) for number, one in enumerate(manifests, 1)]
    return Served(name, name, held[0], tuple(held[1:]), **more)


def made(*endpoints: Served, scopes: tuple[str, ...] = SCOPES, language: str = "en", **more: Any) -> dict[str, Any]:
    """The document of these endpoints."""
    parts = {one.name: endpoint_part(one, LIMITS, language) for one in endpoints}
    return json.loads(document(parts, scopes, LIMITS, language, **more))  # type: ignore[no-any-return]


def operations(doc: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any], list[Any]]]:
    """Path, method, operation and the path's own parameters."""
    for path, item in doc["paths"].items():
        for method in ("get", "post"):
            if method in item:
                yield path, method, item[method], item.get("parameters", [])


def resolved(doc: dict[str, Any], part: Any) -> Any:
    """What a reference means."""
    while "$ref" in part:
        at: Any = doc
        for key in part["$ref"][2:].split("/"):
            at = at[unquote(key).replace("~1", "/").replace("~0", "~")]
        part = at
    return part


def complaints(doc: dict[str, Any], schema: Any, value: Any) -> list[str]:
    """What a value has against a schema of the document."""
    return [error.message[:300] for error in Draft202012Validator({**doc, **schema}).iter_errors(value)]


# --- as a value


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_document_is_valid_openapi(language: str) -> None:
    tensors = Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "INT64", (-1, -1)),), "tensors")
    plain = manifest(Contract(()), signature=tensors, task="tensor", decision=None)
    both = served(manifest(), manifest(OTHER), aliases={"champion": 1})
    doc = made(both, served(plain, name="vectors"), language=language)
    OpenAPIV31SpecValidator(doc).validate()
    assert {"/loans", "/vectors", "/v2/models/loans/infer", "/v1/models/loans:predict"} <= doc["paths"].keys()
    assert "/vectors/explain" not in doc["paths"]  # tensors have no columns to explain by


def test_every_text_is_there_in_both_languages_and_takes_the_same_values() -> None:
    fields = string.Formatter()
    for name, texts in openapi_texts._TEXTS.items():
        english, chinese = ({field for _, field, _, _ in fields.parse(text) if field} for text in texts)
        assert all(texts), name
        assert english == chinese, name
    assert openapi_texts.ERRORS_ZH.keys() == {error.code for error in all_errors()}


def test_every_path_of_the_document_is_one_that_the_gateway_knows() -> None:
    limits = msgspec.structs.replace(LIMITS, default_endpoint="loans")
    part = endpoint_part(served(manifest(), manifest(OTHER)), limits)
    doc = json.loads(document({"loans": part}, SCOPES, limits))
    assert "/invocations" in doc["paths"]
    for path, method, _, _ in operations(doc):
        target = path.replace("{endpoint}", "loans").replace("{model}", "loans").replace("{version}", "1")
        parse(method.upper().encode(), target.encode())


def test_every_error_is_described_with_its_status() -> None:
    responses = made(served(manifest()))["components"]["responses"]
    for kind in all_errors():
        error = kind("")
        for family, dialect in (("Problem", "native"), ("Protocol", "protocol"), ("Scoring", "mlflow")):
            answer = responses[f"{family}.{status_of(error, dialect)}"]  # type: ignore[arg-type]
            assert f"`{kind.code}`" in answer["description"]


def test_a_key_sees_only_what_it_may_use() -> None:
    both = (served(manifest()), served(manifest(), name="other"))
    mine = made(*both, scopes=("infer:loans",))
    assert "/loans" in mine["paths"]
    assert not any("explain" in path or "feedback" in path or "metrics" in path for path in mine["paths"])
    assert "other" not in json.dumps(mine["paths"])
    assert mine["components"]["parameters"]["Model"]["schema"]["enum"] == ["loans"]
    assert [tag["name"] for tag in mine["tags"]] == ["loans", "gateway"]
    assert "/other/feedback" in made(*both, scopes=("feedback:any",))["paths"]
    assert made(*both, scopes=())["tags"] == [mine["tags"][-1]]


def test_one_endpoint_alone_and_the_shared_paths_alone() -> None:
    both = (served(manifest()), served(manifest(), name="other"))
    assert "/other" not in made(*both, only="loans")["paths"]
    shared = made(*both, with_paths=False)
    assert "/loans" not in shared["paths"]
    assert [tag["name"] for tag in shared["tags"]] == ["loans", "other", "gateway"]


def test_a_version_with_another_contract_is_shown_where_it_is_pinned() -> None:
    doc = made(served(manifest(), manifest(OTHER), aliases={"next": 2}))
    row = {**CONTRACT.example, "region": "south"}
    plain, pinned = (doc["paths"][path]["post"]["requestBody"] for path in ("/loans", "/loans/versions/{version}"))
    assert complaints(doc, resolved(doc, plain)["content"]["application/json"]["schema"], row)
    assert not complaints(doc, resolved(doc, pinned)["content"]["application/json"]["schema"], row)
    assert doc["paths"]["/loans/versions/{version}"]["parameters"][0]["schema"]["enum"] == ["1", "2", "next"]


def test_a_version_that_differs_in_what_was_fitted_only_has_no_schemas_of_its_own() -> None:
    fitted = tuple(msgspec.structs.replace(column, typical=1.0, note="fitted anew") for column in CONTRACT.columns)
    again = manifest(Contract(fitted, CONTRACT.target, CONTRACT.example))
    assert made(served(manifest(), again))["components"]["schemas"].keys() == (
        made(served(manifest()))["components"]["schemas"].keys()
    )


def test_labels_and_units_speak_the_language_that_is_asked_for() -> None:
    schemas = made(served(manifest()), language="zh")["components"]["schemas"]
    assert schemas["loans.Row"]["properties"]["age"]["title"] == "年龄"
    assert "years" in schemas["loans.Row"]["properties"]["age"]["description"]


def test_what_answers_with_a_key_says_so_and_with_which_scope() -> None:
    needs = json.loads(document({}, SCOPES, msgspec.structs.replace(LIMITS, needs_key=True)))
    assert needs["paths"]["/metrics"]["get"]["security"] == [{"bearer": ["metrics"]}, {"api_key": ["metrics"]}]
    assert needs["paths"]["/healthz"]["get"]["security"] == []
    assert {} in made()["paths"]["/metrics"]["get"]["security"]


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_the_schema_of_a_row_allows_what_the_encoder_takes_and_nothing_else(data: st.DataObject) -> None:
    contract = data.draw(contracts())
    row = data.draw(any_rows(contract))
    held = Held(1, manifest(contract), None)
    allows = Draft202012Validator(row_schema(held, Texts("en"))).is_valid(row)
    try:
        Encoder(contract).encode_rows([row])
        takes = True
    except InvalidInput:
        takes = False
    if allows:  # `format: float` is what says that a number must fit 32 bits
        assert takes or any(type(value) in (int, float) and abs(value) > FLOAT32_MAX for value in row.values())
    elif takes:  # beyond the schema: an empty text is a missing value, and 0 and 1 are booleans
        booleans = [row.get(column.name) for column in contract.features if column.kind == "boolean"]
        assert "" in row.values() or any(type(value) in (int, float) for value in booleans)


@given(contracts())
@settings(max_examples=100, deadline=None)
def test_every_contract_has_an_example_that_its_schema_and_its_encoder_take(contract: Contract) -> None:
    held = Held(1, manifest(contract), None)
    row = example_row(held)
    Draft202012Validator(row_schema(held, Texts("en"))).validate(row)
    Encoder(contract).encode_rows([row])


@given(contracts())
@settings(max_examples=30, deadline=None)
def test_any_contract_makes_valid_schemas_whose_references_all_lead_somewhere(contract: Contract) -> None:
    doc = made(served(manifest(contract)))
    for schema in doc["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    for reference in references(doc):
        resolved(doc, {"$ref": reference})


def references(part: Any) -> Iterator[str]:
    """Every reference in a document."""
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def test_a_thousand_endpoints_are_described_in_small_steps() -> None:
    one = served(manifest())
    start = time.process_time()
    parts = {f"e{at}": endpoint_part(msgspec.structs.replace(one, name=f"e{at}"), LIMITS) for at in range(1000)}
    between = time.process_time()
    whole = document(parts, SCOPES, LIMITS)
    end = time.process_time()
    assert (between - start) / 1000 < 0.02  # seconds of one step: 0.001 where nothing else runs
    assert end - between < 2.0
    assert len(whole) < 32e6
    shared = document(parts, SCOPES, LIMITS, with_paths=False)
    assert len(shared) < 1e6  # what a page needs first


# --- against a real gateway


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    root = tmp_path_factory.mktemp("openapi") / "home"
    shelf = Shelf(Home(root).prepare().shelf)
    plan = a_plan(1, store_all(shelf))
    versions = (
        PlannedVersion(1, store(shelf, name="mixed")),
        PlannedVersion(2, store(shelf, 1.0, TAKES_MORE, "mixed")),
    )
    mixed = PlannedEndpoint("mixed", "mixed", versions, TrafficSplit({1: 100, 2: 0}), {"next": 2})
    with gateway(root, msgspec.structs.replace(plan, endpoints=(*plan.endpoints, mixed))) as one:
        yield one


# The same five features, so that the same graph serves it; other rules.
TAKES_MORE = Contract(
    tuple(msgspec.structs.replace(column, nullable=True) for column in CONTRACT.columns),
    CONTRACT.target,
    CONTRACT.example,
)


@pytest.fixture(scope="module")
def doc(running: Gateway) -> dict[str, Any]:
    return running.get("/openapi.json").json()  # type: ignore[no-any-return]


def test_every_example_works_as_posted_and_is_answered_as_the_document_says(
    running: Gateway, doc: dict[str, Any]
) -> None:
    OpenAPIV31SpecValidator(doc).validate()
    posted = 0
    with httpx.Client(base_url=running.url, timeout=30) as line:
        for path, method, operation, shared in operations(doc):
            if method != "post" or "requestBody" not in operation:
                continue
            for media, content in resolved(doc, operation["requestBody"])["content"].items():
                for name, example in content.get("examples", {}).items():
                    body = example["value"]
                    if "schema" in content:
                        assert not complaints(doc, content["schema"], body), (path, media, name)
                    if path.endswith("/feedback"):  # its request id must be one that this caller has got
                        asked = doc["paths"][path.removesuffix("/feedback")]["post"]["requestBody"]
                        row = resolved(doc, asked)["content"]["application/json"]["examples"]["row"]["value"]
                        known = line.post(path.removesuffix("/feedback"), content=json.dumps(row)).json()["request_id"]
                        body = {**body, "request_id": known}
                    for target in targets(doc, path, shared):
                        raw = body if isinstance(body, str) else json.dumps(body)
                        answer = line.post(target, content=raw, headers={"Content-Type": media})
                        assert answer.status_code in (200, 202), (target, media, name, answer.text)
                        held_to(doc, operation, answer)
                        posted += 1
    assert posted > 60


def test_every_get_is_answered_as_the_document_says(running: Gateway, doc: dict[str, Any]) -> None:
    asked = 0
    with httpx.Client(base_url=running.url, timeout=30) as line:
        for path, method, operation, shared in operations(doc):
            if method == "get":
                for target in targets(doc, path, shared):
                    held_to(doc, operation, line.get(target))
                    asked += 1
    assert asked > 30


def targets(doc: dict[str, Any], path: str, parameters: list[Any]) -> Iterator[str]:
    """The path with every value that its parameters may have; where they are open, with versions and an endpoint."""
    name = next((one["name"] for one in map(lambda part: resolved(doc, part), parameters) if one["in"] == "path"), None)
    if name is None or f"{{{name}}}" not in path:
        yield path
        return
    parameter = next(one for one in map(lambda part: resolved(doc, part), parameters) if one["name"] == name)
    for value in parameter["schema"].get("enum", ["1"]):
        rest = [part for part in parameters if resolved(doc, part)["name"] != name]
        yield from targets(doc, path.replace(f"{{{name}}}", value), rest)


def held_to(doc: dict[str, Any], operation: dict[str, Any], answer: httpx.Response) -> None:
    """The answer's status, media type and body are ones that the document names."""
    where = str(answer.request.url)
    status = str(answer.status_code)
    assert status in operation["responses"], (where, answer.text)
    content = resolved(doc, operation["responses"][status])["content"]
    media = answer.headers["content-type"].partition(";")[0]
    assert media in content, (where, media)
    if media == "application/x-ndjson":
        for line in answer.text.splitlines():
            assert not complaints(doc, content[media]["x-line-schema"], json.loads(line)), (where, line)
    elif "schema" in content[media] and media.endswith("json"):
        assert not complaints(doc, content[media]["schema"], answer.json()), (where, answer.text[:500])


BROKEN = (
    ("/loans", "{", 400),
    ("/loans", '{"age": 17}', 422),
    ("/loans?reasons=never", "{}", 422),
    ("/v2/models/loans/infer", "{}", 400),
    ("/v1/models/loans:predict", '{"instances": 1}', 400),
    ("/invocations", "{}", 400),
    ("/loans/feedback", '{"request_id": "0", "truth": "good"}', 403),
)


@pytest.mark.parametrize(("target", "body", "status"), BROKEN)
def test_what_is_refused_is_refused_as_the_document_says(
    running: Gateway, doc: dict[str, Any], target: str, body: str, status: int
) -> None:
    answer = httpx.post(running.url + target, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    held_to(doc, doc["paths"][target.partition("?")[0]]["post"], answer)


def test_a_stream_answers_lines_and_says_what_is_wrong_with_one(running: Gateway, doc: dict[str, Any]) -> None:
    lines = [json.dumps(CONTRACT.example), '{"age": 17}', json.dumps(CONTRACT.example)]
    headers = {"Content-Type": "application/x-ndjson"}
    answer = httpx.post(f"{running.url}/loans", content="\n".join(lines), headers=headers)
    assert [("decision" in line, "violations" in line) for line in map(json.loads, answer.text.splitlines())] == [
        (True, False),
        (False, True),
        (True, False),
    ]
    held_to(doc, doc["paths"]["/loans"]["post"], answer)


def test_reasons_and_explanations_are_as_the_document_says(running: Gateway, doc: dict[str, Any]) -> None:
    for query in ("reasons=all", "reasons=none", "reasons=all&lang=zh"):
        for body in (CONTRACT.example, [CONTRACT.example] * 3):
            answer = running.post(f"/loans?{query}", body)
            held_to(doc, doc["paths"]["/loans"]["post"], answer)


def test_the_document_of_one_endpoint_is_its_part_of_the_whole(running: Gateway, doc: dict[str, Any]) -> None:
    one = running.get("/loans/openapi.json").json()
    OpenAPIV31SpecValidator(one).validate()
    assert one["paths"]["/loans"] == doc["paths"]["/loans"]
    assert running.get("/nothing/openapi.json").status_code == 404
    zh = running.get("/loans/openapi.json?lang=zh").json()
    assert zh["paths"]["/loans"]["post"]["summary"] == "预测"


def test_an_unknown_query_parameter_is_refused(running: Gateway) -> None:
    for query, word in (("colour=red", "colour"), ("lang=fr", "lang"), ("only=mine", "only")):
        refused = running.get(f"/openapi.json?{query}")
        assert refused.status_code == 422
        assert word in refused.json()["detail"]
    assert running.get("/loans/openapi.json?only=shared").status_code == 422
