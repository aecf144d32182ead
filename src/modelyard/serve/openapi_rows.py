"""Rows as schemas: the columns that a version takes, what it says of a row, why, and the truth that comes later."""

from __future__ import annotations

from modelyard.contract.decision import MAX_REASONS
from modelyard.contract.features import Column
from modelyard.contract.schema import column_schema
from modelyard.serve.openapi_examples import example_row
from modelyard.serve.openapi_references import Schema, ref
from modelyard.serve.openapi_served import Held, Served
from modelyard.serve.openapi_tensors import nested
from modelyard.serve.openapi_texts import Texts


def row_schema(held: Held, texts: Texts) -> Schema:
    """One row: the contract's columns, or a version of tensors' own inputs without their first axis."""
    if not held.is_table:
        inputs = held.manifest.signature.inputs
        return {
            "type": "object",
            "properties": {spec.name: nested(spec) for spec in inputs},
            "required": [spec.name for spec in inputs],
            "additionalProperties": False,
            "examples": [example_row(held)],
        }
    contract = held.manifest.contract
    return {
        "type": "object",
        "properties": {column.name: column_in(column, texts) for column in contract.columns},
        "required": [column.name for column in contract.features if column.default is None],
        "additionalProperties": False,
        "examples": [example_row(held)],
    }


def column_in(column: Column, texts: Texts) -> Schema:
    """One column's schema, with what people call it in their language."""
    schema = column_schema(column)
    notes = []
    if column.role != "feature":
        return {"title": column.title(texts.language), "description": texts("dropped")}
    schema["title"] = column.title(texts.language)
    if column.unit:
        notes.append(texts("unit", unit=column.unit))
    if column.kind == "category" and column.unseen == "missing":
        notes.append(texts("other_missing"))
        if not column.nullable:
            schema["minLength"] = 1  # an empty text would be a missing value
    if column.pii != "none":
        notes.append(texts("private"))
    if column.kind == "number":
        schema["format"] = "float"
    schema.pop("description", None)
    if notes:
        schema["description"] = "; ".join(notes)
    return schema


def prediction_schema(held: Held, texts: Texts) -> Schema:
    """What is said of one row: decision, probability and score; or the version's outputs by name."""
    decision, target = held.manifest.decision, held.manifest.contract.target
    if decision is None or held.cutoff is None:
        outputs = held.manifest.signature.outputs
        properties: Schema = {spec.name: nested(spec, may_miss=True) for spec in outputs}
        return {"type": "object", "properties": properties, "required": list(properties)}
    positive = target.positive if target and target.positive else decision.positive
    scale = decision.scale
    return {
        "type": "object",
        "required": ["decision", "probability", "score"],
        "properties": {
            "decision": {
                "enum": [decision.negative, decision.positive],
                "description": texts("decision", positive=decision.positive, cutoff=held.cutoff),
            },
            "probability": {
                "type": "number",
                "minimum": 0,
                "maximum": 1,
                "description": decision.meaning
                if decision.meaning and texts.language == "en"
                else texts("probability", positive=positive),
            },
            "score": {
                "type": "integer",
                "description": texts("score", points=scale.points, odds=scale.odds, double=scale.double),
            },
            "reasons": {
                "type": "array",
                "maxItems": MAX_REASONS,
                "items": ref("schemas", "Reason"),
                "description": texts("reasons_answer", limit=MAX_REASONS, positive=positive),
            },
        },
    }


def explanation_schema(held: Held, texts: Texts) -> Schema:
    contributions = {
        column.name: {"type": "number", "title": column.title(texts.language)}
        for column in held.manifest.contract.features
    }
    return {
        "type": "object",
        "required": ["probability", "base", "contributions"],
        "properties": {
            "probability": {"type": "number", "minimum": 0, "maximum": 1},
            "base": {"type": "number", "description": texts("base")},
            "contributions": {
                "type": "object",
                "description": texts("contribution"),
                "properties": contributions,
                "required": list(contributions),
                "additionalProperties": False,
            },
        },
    }


def feedback_schema(served: Served, texts: Texts) -> Schema:
    target = served.main.manifest.contract.target
    truth: Schema = {"type": ["string", "number", "boolean"], "maxLength": 256}
    if target and target.classes:
        truth = {"enum": list(target.classes)}
    return {
        "type": "object",
        "required": ["request_id", "truth"],
        "properties": {
            "request_id": {"type": "string", "description": texts("request_id")},
            "truth": truth | {"description": texts("truth")},
            "row": {"type": "integer", "minimum": 0, "default": 0, "description": texts("truth_row")},
        },
        "additionalProperties": False,
    }
