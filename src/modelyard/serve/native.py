"""Our own dialect: rows as JSON objects, answers with decision, score and reasons. Keeps no state."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from modelyard.contract.decision import Reason
from modelyard.contract.encoding import decode_any
from modelyard.contract.errors import InvalidInput, NotFound
from modelyard.contract.schema import row_schema
from modelyard.contract.telemetry import Feedback
from modelyard.contract.tensor import Matrix
from modelyard.serve import forms, multipart
from modelyard.serve.call import Batch, Call
from modelyard.serve.routing import Deployment, Route, Routes

MAX_FEEDBACK = 10_000  # truths in one request
_encode = msgspec.json.Encoder().encode


class Decided(msgspec.Struct, omit_defaults=True, gc=False):
    """What a version with a decision says of one row."""

    decision: str
    probability: float
    score: int
    reasons: list[Reason] | None = None


class DecidedAnswer(msgspec.Struct, omit_defaults=True, gc=False):
    """The same, as the whole answer to a single row."""

    request_id: str
    model: str
    version: int
    decision: str
    probability: float
    score: int
    reasons: list[Reason] | None = None


class BatchAnswer(msgspec.Struct, gc=False):
    """The answer to a list of rows, in its order."""

    request_id: str
    model: str
    version: int
    predictions: list[Any]


class Explanation(msgspec.Struct, gc=False):
    """What each column contributed, in log-odds; base and contributions sum to the row's log-odds."""

    probability: float
    base: float
    contributions: dict[str, float]


class Truth(msgspec.Struct, forbid_unknown_fields=True):
    """The truth that came later."""

    request_id: str
    truth: str | int | float | bool
    row: int = 0


_decode_truths = msgspec.json.Decoder(Truth | list[Truth]).decode


def read_rows(call: Call, max_rows: int) -> None:
    """The body as what the deployment takes. Raises InvalidInput, Undecodable or TooLarge."""
    loaded = call.deployment.replica.loaded
    if loaded.is_table:
        call.inputs, call.single = loaded.encoder.decode_json(call.exchange.body, max_rows)
        call.rows = len(call.inputs)
        return
    if multipart.is_form(call.exchange.headers):
        multipart.read_form(call, max_rows)
        return
    rows = decode_any(call.exchange.body)
    call.single = not isinstance(rows, list)
    forms.read_rows(call, [rows] if call.single else rows, max_rows)


def read_row(call: Call, max_rows: int) -> None:
    """The body as one row: a line of a stream."""
    read_rows(call, max_rows)
    if not call.single:
        raise InvalidInput("a line is one row: an object, not a list")


def say_prediction(call: Call, batch: Batch, start: int) -> None:
    """Answer with decisions, or with the outputs of a version that has none."""
    deployment = call.deployment
    if not call.single:
        predictions = [say_row(call, batch, start, row) for row in range(call.rows)]
        answer: Any = BatchAnswer(call.request_id, deployment.model, deployment.version, predictions)
    elif deployment.cutoff is not None:
        said = _decided(call, batch, start, call.matrix[0])
        answer = DecidedAnswer(
            call.request_id,
            deployment.model,
            deployment.version,
            said.decision,
            said.probability,
            said.score,
            said.reasons,
        )
    else:
        head = {"request_id": call.request_id, "model": deployment.model, "version": deployment.version}
        answer = head | _plain(call, batch, start)
    call.exchange.respond(200, _encode(answer))


def say_row(call: Call, batch: Batch, start: int, row: int) -> Any:
    """What is said of one of the call's rows, counted from 0."""
    if call.deployment.cutoff is not None:
        return _decided(call, batch, start + row, call.matrix[row])
    return _plain(call, batch, start + row)


def say_explanation(call: Call, batch: Batch, start: int) -> None:
    """Answer with every column's contribution."""
    names = call.deployment.replica.loaded.encoder.names
    explanations = []
    for at in range(start, start + call.rows):
        if (row := batch.contributions.get(at)) is None:
            raise NotFound(f"version {call.deployment.version} of {call.deployment.endpoint} has no explanation")
        values = row.tolist()
        probability = batch.column("probability")[at]
        explanations.append(Explanation(probability, values[-1], dict(zip(names, values, strict=False))))
    head = {"request_id": call.request_id, "model": call.deployment.model, "version": call.deployment.version}
    body = head | msgspec.to_builtins(explanations[0]) if call.single else head | {"explanations": explanations}
    call.exchange.respond(200, _encode(body))


def _decided(call: Call, batch: Batch, at: int, row: Matrix) -> Decided:
    deployment = call.deployment
    decision = deployment.decision
    probability = batch.column("probability")[at]
    is_positive = probability >= deployment.cutoff
    reasons = None
    if decision is None:
        raise InvalidInput("this version has no decision")
    if call.reasons != "none" and (contributions := batch.contributions.get(at)) is not None:
        features = deployment.replica.loaded.encoder.features
        language = call.language or _language(call.exchange.headers)
        reasons = decision.reasons_for(contributions[:-1], row, features, language)
    said = decision.positive if is_positive else decision.negative
    return Decided(said, probability, decision.scale.points_at(probability), reasons)


def _language(headers: dict[bytes, bytes]) -> str:
    return "zh" if headers.get(b"accept-language", b"")[:2].lower() == b"zh" else "en"


def _plain(call: Call, batch: Batch, at: int) -> dict[str, Any]:
    said = {name: batch.column(name)[at] for name in batch.outputs}
    for name in call.deployment.json_outputs:
        said[name] = msgspec.Raw(said[name].encode())
    return said


def read_truths(body: bytes | bytearray, route: Route, principal: str) -> list[Feedback]:
    """The truths in a feedback request, checked against the classes of the endpoint's target."""
    try:
        truths = _decode_truths(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        decode_any(body)  # not JSON at all says so itself
        raise InvalidInput(
            'feedback is {"request_id": "...", "truth": ..., "row": 0} or a list of such objects'
        ) from None
    if not isinstance(truths, list):
        truths = [truths]
    if not 0 < len(truths) <= MAX_FEEDBACK:
        raise InvalidInput(f"feedback holds 1 to {MAX_FEEDBACK} truths")
    target = route.main.replica.loaded.manifest.contract.target
    classes = target.classes if target else ()
    now = time.time_ns()
    found = []
    for index, truth in enumerate(truths):
        text = str(truth.truth).lower() if isinstance(truth.truth, bool) else str(truth.truth)
        if classes and text not in classes:
            raise InvalidInput(f"truth {index} must be one of: {', '.join(classes)}")
        if truth.row < 0 or len(text) > 256:
            raise InvalidInput(f"truth {index}: row counts from 0 and a truth has at most 256 characters")
        found.append(Feedback(truth.request_id, now, route.name, principal, text, truth.row))
    return found


def index(routes: Routes) -> bytes:
    """`GET /`: what is here."""
    endpoints = [
        {"name": name, "url": f"/{name}", "describe": f"GET /{name}", "predict": f"POST /{name}"}
        for name in routes.names
    ]
    protocols = {"v1": "/v1", "v2": "/v2", "mlflow": "/invocations"}
    # KServe's client asks here whether the server lives.
    said = {"name": "modelyard", "status": "alive", "endpoints": endpoints, "protocols": protocols}
    return _encode(said | {"metrics": "/metrics", "openapi": "/openapi.json", "docs": "/docs"})


def describe(route: Route, deployment: Deployment) -> bytes:
    """`GET /{endpoint}`: the columns, their rules, and an example that works as posted."""
    manifest = deployment.replica.loaded.manifest
    contract = manifest.contract
    columns = [
        {
            key: value
            for key, value in {
                "name": column.name,
                "kind": column.kind,
                "required": column.role == "feature" and column.default is None,
                "nullable": column.nullable,
                "default": column.default,
                "minimum": column.minimum,
                "maximum": column.maximum,
                "categories": list(column.categories) or None,
                "other_categories": "taken as missing" if column.categories and column.unseen == "missing" else None,
                "unit": column.unit or None,
                "label": column.label or None,
                "used": column.role == "feature",
            }.items()
            if value is not None
        }
        for column in contract.columns
    ]
    decision = manifest.decision
    answer = None
    if decision is not None:
        answer = {
            "decision": [decision.negative, decision.positive],
            "cutoff": deployment.cutoff,
            "probability": decision.meaning
            or f"probability of {contract.target.positive if contract.target else 'positive'}",
            "score": f"{decision.scale.points:g} points at odds {decision.scale.odds:g}:1, "
            f"{decision.scale.double:g} more double the odds; higher is better",
        }
    body = {
        "name": route.name,
        "model": route.model,
        "version": deployment.version,
        "versions": sorted(route.deployments),
        "aliases": route.aliases,
        "task": manifest.task,
        "target": contract.target,
        "columns": columns if contract.columns else None,
        "inputs": None if contract.columns else manifest.signature.inputs,
        "outputs": None if contract.columns else manifest.signature.outputs,
        "answer": answer,
        "example": contract.example or None,
        "schema": row_schema(contract) if contract.columns else None,
        "metrics": manifest.metrics,
        "calls": {
            "predict": f"POST /{route.name}",
            **({"explain": f"POST /{route.name}/explain"} if manifest.may_explain else {}),
            "feedback": f"POST /{route.name}/feedback",
            "pinned": f"POST /{route.name}/versions/{deployment.version}",
        },
    }
    return _encode({key: value for key, value in body.items() if value is not None})
