"""A contract as JSON Schema (draft 2020-12): for OpenAPI, forms and people."""

from __future__ import annotations

from typing import Any

from modelyard.contract.features import Column, Contract


def row_schema(contract: Contract) -> dict[str, Any]:
    """The schema of one row that the endpoint accepts."""
    used = [column for column in contract.columns if column.role == "feature"]
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {column.name: column_schema(column) for column in contract.columns},
        "required": [column.name for column in used if column.default is None],
        "additionalProperties": False,
    }
    if contract.example:
        schema["examples"] = [contract.example]
    return schema


def column_schema(column: Column) -> dict[str, Any]:
    """The schema of one column's value. Columns that no model sees accept anything and say so."""
    if column.role != "feature":
        return {"description": f"accepted and not used ({column.role})"}
    kind = {"number": "number", "integer": "integer", "category": "string", "boolean": "boolean"}[column.kind]
    schema: dict[str, Any] = {"title": column.title(), "type": [kind, "null"] if column.nullable else kind}
    if column.kind == "category":
        if column.unseen == "refuse":
            schema["enum"] = [*column.categories, None] if column.nullable else list(column.categories)
        else:
            schema["examples"] = list(column.categories[:20])
            if not column.nullable:
                schema["minLength"] = 1
    for name, value in (("minimum", column.minimum), ("maximum", column.maximum), ("default", column.default)):
        if value is not None:
            schema[name] = value
    if column.unit:
        schema["description"] = f"in {column.unit}"
    return schema
