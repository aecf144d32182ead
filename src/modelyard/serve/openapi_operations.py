"""One operation of the API document: who may ask for it, and what it ends in. Pure."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import msgspec

from modelyard.contract.errors import Undecodable, all_errors
from modelyard.contract.wire import HTTP_STATUS
from modelyard.serve.openapi_references import Schema, ref
from modelyard.serve.openapi_texts import ERRORS_ZH, Texts

ASKS = (400, 401, 403, 404, 413, 422, 429, 500, 503, 504)  # what a call of a model may end in
TELLS = (400, 401, 403, 404, 413, 422, 503)  # what telling it something may
READS = (401, 403, 404, 503)
JSON = "application/json"
RETRY_AFTER = {"schema": {"type": "integer", "minimum": 1}}

Item = dict[str, Any]


class Limits(msgspec.Struct, frozen=True):
    """What the gateway allows, as far as callers must know it."""

    max_body_bytes: int
    max_rows: int
    deadline_s: float
    needs_key: bool
    default_endpoint: str | None = None


def operation(
    name: str,
    summary: str,
    tag: str,
    limits: Limits,
    scope: str | None,
    answers: dict[int, Item],
    errors: Iterable[int],
    family: str = "Problem",
) -> Item:
    """One operation. `scope`: what its key must allow; empty: any key; None: it answers without a key."""
    responses: dict[str, Item] = {str(status): answer for status, answer in answers.items()}
    responses |= _refusals(family, tuple(errors))
    roles = [scope] if scope else []
    security: list[Item] = [] if scope is None else [{"bearer": roles}, {"api_key": roles}]
    if security and not limits.needs_key:
        security.append({})
    return {"operationId": name, "summary": summary, "tags": [tag], "security": security, "responses": responses}


@lru_cache(maxsize=64)
def _refusals(family: str, statuses: tuple[int, ...]) -> dict[str, Item]:
    if family != "Problem":
        statuses = tuple(status for status in statuses if status != 422)  # they know 400 for every invalid input
    return {str(status): ref("responses", f"{family}.{status}") for status in (*statuses, "default")}


def json_answer(description: str, schema: Schema) -> Item:
    return {"description": description, "content": {JSON: {"schema": schema}}}


def parameter(name: str, place: str, schema: Schema, description: str, *, required: bool = False) -> Item:
    return {"name": name, "in": place, "required": required, "schema": schema, "description": description}


def error_responses(texts: Texts) -> dict[str, Item]:
    """One answer for each status, in both forms; which codes it has, and what they mean."""
    found: dict[str, Item] = {}
    kinds = {
        "Problem": ("application/problem+json", "Problem"),
        "Protocol": (JSON, "ProtocolError"),
        "Scoring": (JSON, "ScoringError"),
    }
    for family, (media, schema) in kinds.items():
        content = {media: {"schema": ref("schemas", schema)}}
        codes: dict[int, list[str]] = {}
        for code, status, about in _codes(protocol=family != "Problem", texts=texts):
            codes.setdefault(status, []).append(f"`{code}`: {about}")
        for status, lines in sorted(codes.items()):
            answer: Item = {"description": "; ".join(lines), "content": content}
            if status in (429, 503):
                answer["headers"] = {"Retry-After": {"description": texts("retry_after"), **RETRY_AFTER}}
            if status == 401:
                answer["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
            found[f"{family}.{status}"] = answer
        found[f"{family}.415"] = {"description": texts("media"), "content": content}
        found[f"{family}.default"] = {"description": texts("other_errors"), "content": content}
    return found


def _codes(*, protocol: bool, texts: Texts) -> Iterable[tuple[str, int, str]]:
    """Code, status and meaning of every error that an operation may end in."""
    for kind in all_errors():
        status = HTTP_STATUS[kind.code]
        if kind is Undecodable or (protocol and kind.code == "invalid_input"):
            status = 400
        if kind is Undecodable and protocol:
            continue  # the same code and status as invalid input
        english = inspect.cleandoc(kind.__doc__ or "").partition("\n")[0].partition(" (")[0].rstrip(".")
        again = f" ({texts('retryable')})" if kind.retryable else ""
        yield kind.code, status, (english if texts.language == "en" else ERRORS_ZH[kind.code]) + again
